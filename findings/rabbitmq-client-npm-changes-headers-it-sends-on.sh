#!/usr/bin/env bash
# One would guess: a worker that publishes a message again, with the headers as its client gave them (a retry, a move to another queue), leaves
#   them as they were; where a client cannot keep a value, it says so.
# Really, rabbitmq-client 5.0.8 (npm) sends on what it has read in another type: bytes become a table with the keys "0", "1", "2"; a timestamp
#   becomes an integer; a decimal becomes a table of scale and value; an integer above 2^53 is rounded. amqplib 2.3.1 keeps the first three
#   and rounds too. A Date that the worker adds itself ("retriedAt: new Date()") becomes an empty table with both of them. Nothing reports an error.
# Seen with those and pika 1.3.2 as publisher and reader, Node.js 20, RabbitMQ 3.10.8 and 4.3.6 alike, on 2026-11-30.
# Needs a RabbitMQ: AMQP_URL=amqp://user:pw@host:port/%2f
set -euo pipefail
: "${AMQP_URL:?set it to the AMQP URL of a RabbitMQ 3.10 or later}"
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v && v/bin/pip -q install pika==1.3.2
npm init -y >/dev/null && npm install --silent --no-audit --no-fund --ignore-scripts rabbitmq-client@5.0.8 amqplib@2.3.1 >/dev/null
cat >rabbitmq-client.js <<'JS'
const { Connection } = require('rabbitmq-client');
(async () => {
  const connection = new Connection(process.env.AMQP_URL), channel = await connection.acquire();
  const message = await channel.basicGet({ queue: 'finding.in', noAck: true });
  await channel.basicPublish({ routingKey: 'finding.out', headers: { ...message.headers, retriedAt: new Date() } }, message.body);
  await channel.close();
  await connection.close();
})();
JS
cat >amqplib.js <<'JS'
require('amqplib').connect(process.env.AMQP_URL).then(async (connection) => {
  const channel = await connection.createConfirmChannel(), { content, properties } = await channel.get('finding.in', { noAck: true });
  channel.sendToQueue('finding.out', content, { ...properties, headers: { ...properties.headers, retriedAt: new Date() } });
  await channel.waitForConfirms();
  await connection.close();
});
JS
v/bin/python - <<'PY'
import os, subprocess, sys, pika
from datetime import datetime
from decimal import Decimal
con = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])); ch = con.channel()
print("RabbitMQ", con._impl.server_properties["version"], "pika", pika.__version__, "rabbitmq-client 5.0.8 amqplib 2.3.1")
sent = {"hash": b"\x00\xff\x80", "dueAt": datetime(2026, 11, 30, 10), "amount": Decimal("10000.25"), "number": 2**53 + 1, "text": "é", "count": 5}

def sent_on(client):
    for queue in ("finding.in", "finding.out"):
        ch.queue_delete(queue); ch.queue_declare(queue)
    ch.basic_publish("", "finding.in", b"{}", pika.BasicProperties(headers=sent))
    subprocess.run(["node", f"{client}.js"], check=True, timeout=60)
    _, properties, _ = ch.basic_get("finding.out", auto_ack=True)
    for queue in ("finding.in", "finding.out"):
        ch.queue_delete(queue)
    for name, value in properties.headers.items():
        print(f"  {client}: {name} {sent.get(name, 'a Date')!r} -> {value!r}")
    return properties.headers

rounded = {**sent, "number": 2**53, "retriedAt": {}}
wrong = {**rounded, "hash": {"0": 0, "1": 255, "2": 128}, "dueAt": 1796032800, "amount": {"scale": 2, "value": 1000025}}
as_seen = [sent_on("rabbitmq-client"), sent_on("amqplib")] == [wrong, rounded]
print("as seen on 2026-11-30" if as_seen else "CHANGED")
sys.exit(not as_seen)
PY
