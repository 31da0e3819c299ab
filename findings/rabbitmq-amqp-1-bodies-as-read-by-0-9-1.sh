#!/usr/bin/env bash
# One would guess: a message that an AMQP 1.0 client sends with content type application/json and the JSON text, or its bytes, as its body arrives
#   at an AMQP 0-9-1 consumer of the same RabbitMQ as that JSON; the broker converts between the two.
# Really, only a "data" section arrives so. rhea, the AMQP 1.0 client of Node.js, sends a plain body (text, Buffer or object) as an "amqp-value", and the
#   consumer gets its AMQP 1.0 encoding: 00 53 77 a1 07 before the text, a0 for bytes, and no JSON at all for an object. The content type
#   still says application/json; the only hint is the property type, "amqp-1.0". With rhea.message.data_section(bytes) it is JSON.
# Seen with RabbitMQ 4.0.5 and 4.3.6, rhea 3.0.5 and amqplib 2.3.1 (npm), Node.js 20, on 2026-11-30.
# Needs a RabbitMQ 4 (3.x speaks AMQP 1.0 by a plugin only): AMQP_URL=amqp://user:pw@host:port/%2f
set -euo pipefail
: "${AMQP_URL:?set it to the AMQP URL of a RabbitMQ 4}"
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null && npm install --silent --no-audit --no-fund --ignore-scripts rhea@3.0.5 amqplib@2.3.1 >/dev/null
cat >try.js <<'JS'
const rhea = require('rhea'), amqp = require('amqplib'), url = new URL(process.env.AMQP_URL), queue = 'finding.bodies';
const json = '{"a":1}', bodies = { text: json, Buffer: Buffer.from(json), object: { a: 1 }, data_section: rhea.message.data_section(Buffer.from(json)) };
(async () => {
  const connection = await amqp.connect(url.href), consumer = await connection.createChannel();
  console.log('RabbitMQ', connection.connection.serverProperties.version, 'rhea 3.0.5 amqplib 2.3.1 node', process.version);
  await consumer.deleteQueue(queue);
  await consumer.assertQueue(queue, { durable: true });
  const client = rhea.create_container().connect({ host: url.hostname, port: Number(url.port || 5672), reconnect: false,
    username: decodeURIComponent(url.username), password: decodeURIComponent(url.password) });
  const sender = client.open_sender(`/queues/${queue}`);
  await new Promise((ready) => sender.once('sendable', ready));
  const got = {};
  for (const [kind, body] of Object.entries(bodies)) {
    sender.send({ body, content_type: 'application/json' });
    await new Promise((done) => sender.once('accepted', done));
    const { content, properties } = await consumer.get(queue, { noAck: true });
    got[kind] = `${content.toString('hex').replace(Buffer.from(json).toString('hex'), json)} type ${properties.type}`;
    console.log(`${kind.padEnd(13)}${got[kind]}, content type ${properties.contentType}`);
  }
  await new Promise((closed) => { client.once('connection_close', closed); client.close(); });
  await consumer.deleteQueue(queue);
  await connection.close();
  const asSeen = got.text === '005377a107{"a":1} type amqp-1.0' && got.Buffer === '005377a007{"a":1} type amqp-1.0' &&
    got.object.startsWith('005377d1') && got.data_section === '{"a":1} type undefined';
  console.log(asSeen ? 'as seen on 2026-11-30' : 'CHANGED');
  process.exit(asSeen ? 0 : 1);
})();
JS
timeout 60 node try.js
