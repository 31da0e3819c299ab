// Says what AsyncAPI's own parser finds wrong with the document on standard input, a line each; nothing if it is good.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(0, "utf8"));
// Severity 0 is an error, 1 a warning; below are hints of taste.
const problems = diagnostics.filter(({ severity }) => severity <= 1);
for (const { severity, code, path, message } of problems) console.log(`${severity} ${code} at ${path.join(".")}: ${message}`);
if (!document && problems.length === 0) console.log("no document came out");
