#!/usr/bin/env bash
# One would guess: AMQP handles a channel's methods in order, so acknowledgements that are sent before channel.close are done when close-ok comes.
# Really, a quorum queue takes about 34 of them and forgets the rest: of 1,000 deliveries acknowledged one by one and the channel closed at once,
#   966 are back in the queue, and their work is done a second time. No error shows on either side. A classic queue takes all of them, and so does a
#   quorum queue if one acknowledgement covers all ("multiple"), or if the channel stays open for a moment longer.
# Seen with RabbitMQ 3.10.8 and 4.3.6 alike, amqplib 2.3.1 (npm), Node.js 20 on 2026-11-30. Needs a RabbitMQ: AMQP_URL=amqp://user:pw@host:port/%2f
set -euo pipefail
: "${AMQP_URL:?set it to the AMQP URL of a RabbitMQ 3.10 or later}"
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null && npm install --silent --no-audit --no-fund --ignore-scripts amqplib@2.3.1 >/dev/null
cat >try.js <<'JS'
const amqp = require('amqplib');
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// How many of n messages are in the queue again after all were acknowledged and the channel was closed in good order.
async function back(connection, kind, n, acknowledge) {
  const queue = `finding.acks.${kind}`, publisher = await connection.createConfirmChannel();
  await publisher.deleteQueue(queue);
  await publisher.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': kind } });
  for (let i = 0; i < n; i++) publisher.sendToQueue(queue, Buffer.from(`${i}`), { persistent: true });
  await publisher.waitForConfirms();
  const consumer = await connection.createChannel(), came = [];
  await consumer.prefetch(n);
  await new Promise((all) => consumer.consume(queue, (message) => came.push(message) === n && all()));
  await acknowledge(consumer, came);
  await consumer.close(); // resolves with the broker's close-ok
  await pause(2000);
  let again = 0;
  while (await publisher.get(queue, { noAck: true })) again++;
  await publisher.deleteQueue(queue);
  return again;
}

const each = (consumer, came) => came.forEach((message) => consumer.ack(message));
const cases = [ // queue type, messages, how they are acknowledged, whether all of them are expected to stay acknowledged
  ['classic', 1000, 'one by one', each, true],
  ['quorum', 32, 'one by one', each, true],
  ['quorum', 128, 'one by one', each, false],
  ['quorum', 1000, 'one by one', each, false],
  ['quorum', 1000, 'one for all', (consumer, came) => consumer.ack(came.at(-1), true), true],
  ['quorum', 1000, 'one by one, then 3 s', async (consumer, came) => { each(consumer, came); await pause(3000); }, true],
];
(async () => {
  const connection = await amqp.connect(process.env.AMQP_URL);
  console.log('RabbitMQ', connection.connection.serverProperties.version, 'amqplib 2.3.1 node', process.version);
  let asSeen = true;
  for (const [kind, n, how, acknowledge, kept] of cases) {
    const again = await back(connection, kind, n, acknowledge);
    console.log(`${kind.padEnd(8)}${how.padEnd(22)}${String(again).padStart(4)} of ${n} came back`);
    asSeen &&= kept ? again === 0 : again > n / 2;
  }
  await connection.close();
  console.log(asSeen ? 'as seen on 2026-11-30' : 'CHANGED');
  process.exit(asSeen ? 0 : 1);
})();
JS
node try.js
