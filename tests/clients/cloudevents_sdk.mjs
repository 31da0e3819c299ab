// The official SDK of CloudEvents for JavaScript, a line in and a line out: `read` tells what it makes of an event in structured
// mode, `write` wraps a command into one.
import { createInterface } from "node:readline";
import { CloudEvent, HTTP } from "cloudevents";

for await (const line of createInterface({ input: process.stdin })) {
  const given = JSON.parse(line);
  if (process.argv[2] === "read") {
    const event = HTTP.toEvent({ headers: { "content-type": given.contentType }, body: given.body });
    event.validate();
    console.log(JSON.stringify(event));
  } else {
    const event = new CloudEvent({ id: given.id, source: "/orders", type: "com.example.orders.cancel-qr", data: given.data });
    const { headers, body } = HTTP.structured(event);
    console.log(JSON.stringify({ contentType: headers["content-type"], body }));
  }
}
