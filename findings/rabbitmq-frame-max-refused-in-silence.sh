#!/usr/bin/env bash
# One would guess: a broker that does not accept a client's frame_max says so with connection.close and a reason, as AMQP 0-9-1 has it, and 0 in
#   tune-ok means "no limit". A client that has worked with each RabbitMQ since version 2 can at least connect.
# Really, RabbitMQ 4.3 refuses a frame_max below 8192 by silence: it sends nothing for three seconds, not even a close frame, then ends TCP. The
#   reason stands in the broker's log alone. amqplib 0.10.5, whose default is 4096, cannot connect, and all that it says is "read ECONNRESET" - as
#   it would for a proxy or a firewall. 3.10 and 4.0 accept 4096. All of them refuse, by the same silence, 0 ("no limit") for frame_max or channel_max.
# Seen with RabbitMQ 3.10.8, 4.0.5 and 4.3.6, amqplib 0.10.5 (npm), Node.js 20 on 2026-11-30. Needs a RabbitMQ: AMQP_URL=amqp://user:pw@host:port/%2f
set -euo pipefail
: "${AMQP_URL:?set it to the AMQP URL of a RabbitMQ 3.10, 4.0 or 4.3}"
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null && npm install --silent --no-audit --no-fund --ignore-scripts amqplib@0.10.5 >/dev/null
cat >try.js <<'JS'
const amqp = require('amqplib'), net = require('net'), url = new URL(process.env.AMQP_URL);
const long = (...parts) => { const all = Buffer.concat(parts), size = Buffer.alloc(4); size.writeUInt32BE(all.length); return Buffer.concat([size, all]); };
const short = (text) => Buffer.from([text.length, ...Buffer.from(text)]);
const method = (id, ...parts) => Buffer.concat([Buffer.from([1, 0, 0]), long(Buffer.from([0, 10, 0, id]), ...parts), Buffer.from([0xce])]);

// The opening by hand: what the broker sends after tune-ok with this frame_max and open, and when it ends the connection.
const byHand = (frameMax, channelMax) => new Promise((told) => {
  const socket = net.connect(url.port || 5672, url.hostname, () => socket.write('AMQP\0\0\x09\x01'));
  let sent = 0, after = '', begun;
  const end = () => { socket.destroy(); told({ after, ms: Date.now() - begun }); };
  socket.on('data', (data) => {
    if (sent++ === 0) {
      const plain = Buffer.from(`\0${decodeURIComponent(url.username)}\0${decodeURIComponent(url.password)}`);
      socket.write(method(11, long(), short('PLAIN'), long(plain), short('en_US')));
    } else if (sent === 2) { // tune
      begun = Date.now();
      const limits = Buffer.alloc(8); // the last two bytes: no heartbeat
      limits.writeUInt16BE(channelMax);
      limits.writeUInt32BE(frameMax, 2);
      socket.write(Buffer.concat([method(31, limits), method(40, short('/'), short(''), Buffer.from([0]))]));
    } else {
      after = data[10] === 41 ? 'open-ok' : `method ${data[10]}`;
      end();
    }
  }).on('error', end).on('close', end).setTimeout(10000, end);
});

(async () => {
  const probe = await amqp.connect(`${url.href}?frameMax=131072`), version = probe.connection.serverProperties.version;
  await probe.close();
  console.log('RabbitMQ', version, 'amqplib 0.10.5 node', process.version);
  let asSeen = true;
  for (const [frameMax, channelMax] of [[131072, 100], [8192, 100], [8191, 100], [4096, 100], [0, 100], [131072, 0]]) {
    const { after, ms } = await byHand(frameMax, channelMax);
    const accepted = channelMax && (frameMax >= 8192 || (frameMax && /^(3|4\.0)\./.test(version)));
    console.log(`frame_max ${frameMax}, channel_max ${channelMax}: ${after || 'not a byte, TCP ended'} after ${(ms / 1000).toFixed(1)} s`);
    asSeen &&= accepted ? after === 'open-ok' : after === '' && ms > 2500 && ms < 5000;
  }
  const said = await amqp.connect(url.href).then((connection) => connection.close().then(() => 'connected'), (error) => error.message);
  console.log(`amqplib 0.10.5 with its defaults: ${said}`);
  asSeen &&= said === (/^(3|4\.0)\./.test(version) ? 'connected' : 'read ECONNRESET');
  console.log(asSeen ? 'as seen on 2026-11-30' : 'CHANGED');
  process.exit(asSeen ? 0 : 1);
})();
JS
node try.js
