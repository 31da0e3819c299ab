#!/usr/bin/env bash
# One would guess: x-delivery-limit=-1 of a quorum queue means "no limit" (RabbitMQ 4 documents it so, and without it 4's default of 20 applies),
#   so a queue that must never give up on a message declares it, and an older broker refuses what it does not know.
# Really, RabbitMQ 3.10 takes the same declaration without a word and gives up on the message the first time it comes back: one delivery, then the
#   dead-letter queue, or, without one, gone. What comes back includes all that a lost connection held. Where both versions are in use, only a
#   large positive number keeps messages on both.
# Seen with RabbitMQ 3.10.8, 4.0.5 and 4.3.6, pika 1.3.2, on 2026-11-30. Needs a RabbitMQ: AMQP_URL=amqp://user:pw@host:port/%2f
set -euo pipefail
: "${AMQP_URL:?set it to the AMQP URL of a RabbitMQ 3.10, 4.0 or 4.3}"
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/v" && "$dir/v/bin/pip" -q install pika==1.3.2
"$dir/v/bin/python" - <<'PY'
import os, sys, time, pika
con = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])); ch = con.channel()
version = con._impl.server_properties["version"]
print("RabbitMQ", version, "pika", pika.__version__)
QUEUE, DEAD, MOST = "finding.limit", "finding.limit.dead", 40

def deliveries(limit, lose_channel):
    """How often a message comes, at most 40 times, when each delivery is returned; and whether it is dead-lettered then."""
    for queue in (QUEUE, DEAD):
        ch.queue_delete(queue)
    ch.queue_declare(DEAD, durable=True)
    arguments = {"x-queue-type": "quorum", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
    if limit is not None:
        arguments["x-delivery-limit"] = limit
    ch.queue_declare(QUEUE, durable=True, arguments=arguments)
    ch.basic_publish("", QUEUE, b"x")
    came, reader, quiet = 0, con.channel(), time.time() + 3
    while came < MOST and time.time() < quiet:
        method, _, _ = reader.basic_get(QUEUE)
        if method is None:
            time.sleep(0.05)
            continue
        came, quiet = came + 1, time.time() + 3
        if lose_channel:
            reader.close(); reader = con.channel()
        else:
            reader.basic_reject(method.delivery_tag, requeue=True)
    dead = ch.queue_declare(DEAD, passive=True).method.message_count
    print(f"x-delivery-limit={limit}, {'channel closed' if lose_channel else 'rejected'} each time: delivered {came}x,",
          "dead-lettered" if dead else f"still there after {MOST}")
    for queue in (QUEUE, DEAD):
        ch.queue_delete(queue)
    return came, dead

got = [deliveries(limit, lost) for limit in (-1, None, 1_000_000) for lost in (False, True)]
old = [(1, 1)] * 2 + [(MOST, 0)] * 4
new = [(MOST, 0)] * 2 + [(21, 1)] * 2 + [(MOST, 0)] * 2
as_seen = got == (old if version.startswith("3.") else new)
print("as seen on 2026-11-30" if as_seen else f"CHANGED: {got}")
sys.exit(not as_seen)
PY
