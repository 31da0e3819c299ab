// An order service that asks for cancels and loses none: an outbox in an append-only journal.
//
// One line of the journal holds an order's new state and the cancel command that goes with it, and is on the disk before anything
// is published. What the broker has confirmed is noted by another line. The program can be killed at any time and started again: at
// worst a command is published twice, which is one command, as its jobId is the same.
//
//     npm ci
//     export AMQP_URL=amqp://localhost
//     echo '{"order": "4711", "account": "ifortepay", "reference": "R-1", "partnerReference": "P-1"}' |
//         node order-service.mjs orders.jsonl
//
// It ends when its input has ended and the broker has everything. PREFIX=… if names on the broker do not begin with qris.cancel.

import { open } from "node:fs/promises";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import amqp from "amqplib";

/** So many are published before the first of them is confirmed. */
const IN_HAND = 20;

/** Orders being cancelled and commands not sent yet, as a file of JSON lines that only grows. */
class Journal {
  #file;
  #written = Promise.resolve();
  orders = new Set();
  outbox = new Map(); // job id → { account, command }

  static async open(path) {
    const journal = new Journal();
    journal.#file = await open(path, "a+");
    const text = await journal.#file.readFile("utf8");
    const whole = text.slice(0, text.lastIndexOf("\n") + 1);
    await journal.#file.truncate(Buffer.byteLength(whole)); // a last line that a crash has cut off was never in force
    for (const line of whole.split("\n").filter(Boolean)) journal.#apply(JSON.parse(line));
    return journal;
  }

  /** In force when it is on the disk; one line after the other. */
  write(entry) {
    this.#written = this.#written.then(() => this.#append(entry));
    return this.#written;
  }

  async #append(entry) {
    try {
      await this.#file.appendFile(JSON.stringify(entry) + "\n");
      await this.#file.datasync();
    } catch (error) {
      console.error(`the journal cannot be written, and without it nothing may go on: ${error.message}`);
      process.exit(74);
    }
    this.#apply(entry);
  }

  #apply(entry) {
    if (entry.sent) return this.outbox.delete(entry.sent);
    this.orders.add(entry.order);
    this.outbox.set(entry.command.jobId, entry);
  }
}

async function cancelOrder(journal, { order, account, reference, partnerReference, qrExpiresAt, reason = "customer left" }) {
  if (journal.orders.has(order)) return;
  const command = {
    jobId: `cancel-${order}`, // the same however often this order is cancelled
    originalReferenceNo: reference,
    originalPartnerReferenceNo: partnerReference,
    reason,
    qrExpiresAt, // without it an expired QR is for a person
    metadata: { order },
  };
  await journal.write({ order, state: "cancelling", account, command });
}

/** Publishes, persistent; done when the broker has it in safe keeping. */
function publish(channel, exchange, { account, command }) {
  return new Promise((done, failed) => {
    const options = { persistent: true, contentType: "application/json", messageId: command.jobId };
    const content = Buffer.from(JSON.stringify(command));
    channel.publish(exchange, account, content, options, (error) => (error ? failed(error) : done()));
  });
}

/** Sends what waits, over whatever happens to the broker, until there is nothing more to come. */
async function relay(journal, url, exchange, isComplete) {
  for (let pause = 500; ; pause = Math.min(2 * pause, 30_000)) {
    let connection;
    try {
      connection = await amqp.connect(url);
      connection.on("error", () => {}); // what was in hand fails by itself
      const channel = await connection.createConfirmChannel();
      channel.on("error", () => {});
      for (;;) {
        const isLast = isComplete(); // asked first: what comes later is seen in the next round
        const waiting = [...journal.outbox.values()].slice(0, IN_HAND);
        await Promise.all(
          waiting.map(async (entry) => {
            await publish(channel, exchange, entry);
            await journal.write({ sent: entry.command.jobId });
            console.log(entry.command.jobId);
          }),
        );
        if (waiting.length > 0) pause = 500;
        else if (isLast) return await connection.close();
        else await sleep(50);
      }
    } catch (error) {
      console.error(`the broker did not take it, again in ${pause} ms: ${error.message}`);
      await connection?.close().catch(() => {}); // it may be gone
      await sleep(pause);
    }
  }
}

const journal = await Journal.open(process.argv[2] ?? "orders.jsonl");
const prefix = process.env.PREFIX ?? "qris.cancel";
let ended = false;
const relaying = relay(journal, process.env.AMQP_URL, `${prefix}.commands`, () => ended);
for await (const line of createInterface({ input: process.stdin })) {
  if (line.trim()) await cancelOrder(journal, JSON.parse(line));
}
ended = true;
await relaying;
