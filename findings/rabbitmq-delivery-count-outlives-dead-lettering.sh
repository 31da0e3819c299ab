#!/usr/bin/env bash
# One would guess: the delivery limit belongs to a queue, so a message that one queue has given up begins with a count of zero in its dead-letter
#   queue, and a chain of queues with limits of 10 and 3 gives it eleven chances and then four more.
# Really, on RabbitMQ 4.3 the count goes with the message: it arrives in the second queue with ten and more, so there the first return is the last,
#   and whatever the second queue dead-letters to (or nothing) has it. On 3.10 and 4.0 each queue counts anew.
# Seen with RabbitMQ 3.10.8, 4.0.5 and 4.3.6, pika 1.3.2, on 2026-12-01. Needs a RabbitMQ: AMQP_URL=amqp://user:pw@host:port/%2f
set -euo pipefail
: "${AMQP_URL:?set it to the AMQP URL of a RabbitMQ 3.10, 4.0 or 4.3}"
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/v" && "$dir/v/bin/pip" -q install pika==1.3.2
"$dir/v/bin/python" - <<'PY'
import os, sys, time, pika
con = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])); ch = con.channel()
version = con._impl.server_properties["version"]
print("RabbitMQ", version, "pika", pika.__version__)

def declare(queue, limit=None, dead=None):
    ch.queue_delete(queue)
    arguments = {"x-queue-type": "quorum"}
    if limit:
        arguments |= {"x-delivery-limit": limit, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    ch.queue_declare(queue, durable=True, arguments=arguments)

first, second, last = "finding.count.first", "finding.count.second", "finding.count.last"
declare(last); declare(second, 3, last); declare(first, 10, second)
time.sleep(2)
ch.basic_publish("", first, b"x", pika.BasicProperties(delivery_mode=2))

def deliveries(queue, target):
    """How often the message is delivered by this queue until it is in the next."""
    count, since = 0, time.time()
    while time.time() - since < 30:
        if ch.queue_declare(target, passive=True).method.message_count:
            return count
        got, _, _ = ch.basic_get(queue)
        if got:
            count += 1
            ch.basic_reject(got.delivery_tag, requeue=True)
        time.sleep(0.05)
    sys.exit(f"it does not leave {queue}")

seen = [deliveries(first, second), deliveries(second, last)]
print(f"limit 10: {seen[0]} deliveries; then limit 3: {seen[1]}")
for queue in (first, second, last):
    ch.queue_delete(queue)
wanted = {"3.10": [11, 4], "4.0": [11, 4], "4.3": [11, 1]}[".".join(version.split(".")[:2])]
print("as seen on 2026-12-01" if seen == wanted else f"CHANGED: {seen}, was {wanted}")
sys.exit(seen != wanted)
PY
