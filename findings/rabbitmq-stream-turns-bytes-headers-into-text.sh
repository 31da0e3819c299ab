#!/usr/bin/env bash
# One would guess: a header reaches the readers of a stream as it reaches those of a queue. Tables and arrays are known to be dropped; a byte array
#   (a hash, a signature, a key) is as simple as a string, and 3.10 keeps it.
# Really, RabbitMQ 4 stores it as a string, for it has one type for both: the reader gets the type "long string" with bytes that are not UTF-8. A
#   client that decodes strings, such as amqplib, replaces them: 00 ff 80 fe is then 00 ef bf bd ef bf bd ef bf bd, and the signature is lost. The
#   queue that is bound beside the stream gets the bytes.
# Seen with RabbitMQ 3.10.8 (bytes stay bytes), 4.0.5 and 4.3.6 (they do not), amqplib 2.3.1 (npm), Node.js 20 on 2026-11-30.
# Needs a RabbitMQ: AMQP_URL=amqp://user:pw@host:port/%2f
set -euo pipefail
: "${AMQP_URL:?set it to the AMQP URL of a RabbitMQ 3.10, 4.0 or 4.3}"
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null && npm install --silent --no-audit --no-fund --ignore-scripts amqplib@2.3.1 >/dev/null
cat >try.js <<'JS'
const amqp = require('amqplib');
(async () => {
  const connection = await amqp.connect(process.env.AMQP_URL), { version } = connection.connection.serverProperties;
  console.log('RabbitMQ', version, 'amqplib 2.3.1 node', process.version);
  const exchange = 'finding.bytes', publisher = await connection.createConfirmChannel();
  await publisher.assertExchange(exchange, 'fanout');
  for (const kind of ['quorum', 'stream']) {
    await publisher.deleteQueue(`${exchange}.${kind}`);
    await publisher.assertQueue(`${exchange}.${kind}`, { durable: true, arguments: { 'x-queue-type': kind } });
    await publisher.bindQueue(`${exchange}.${kind}`, exchange, '');
  }
  const signature = Buffer.from('00ff80fe', 'hex');
  publisher.publish(exchange, '', Buffer.from('{}'), { headers: { signature, text: 'é' } });
  await publisher.waitForConfirms();

  const read = async (kind) => {
    const reader = await connection.createChannel();
    await reader.prefetch(1);
    const options = kind === 'stream' ? { arguments: { 'x-stream-offset': 'first' } } : {};
    const { properties: { headers } } = await new Promise((came) => reader.consume(`${exchange}.${kind}`, came, options));
    await reader.close();
    await publisher.deleteQueue(`${exchange}.${kind}`);
    const type = Buffer.isBuffer(headers.signature) ? 'bytes' : typeof headers.signature;
    console.log(`${kind}: text "${headers.text}", signature as ${type} ${Buffer.from(headers.signature).toString('hex')}`);
    return `${headers.text} ${type} ${Buffer.from(headers.signature).toString('hex')}`;
  };
  const queue = await read('quorum'), stream = await read('stream');
  await publisher.deleteExchange(exchange);
  await connection.close();
  const asSeen = queue === 'é bytes 00ff80fe' && stream === (version.startsWith('3.') ? queue : 'é string 00efbfbdefbfbdefbfbd');
  console.log(asSeen ? 'as seen on 2026-11-30' : 'CHANGED');
  process.exit(asSeen ? 0 : 1);
})();
JS
node try.js
