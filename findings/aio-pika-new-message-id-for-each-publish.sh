#!/usr/bin/env bash
# One would guess: a message has one message_id. A publisher that gets no confirm in time publishes the same Message object again, and a consumer
#   that knows messages by their message_id sees that it is the same.
# Really, aio-pika 10.2.1 makes a message_id for a message that has none, but anew for each publish, and does not write it into the object: the
#   second publish has another id, and the application cannot learn either of them. Only an id that the application sets stays.
# Seen with aio-pika 10.2.1 (PyPI), Python 3.11, RabbitMQ 3.10.8 and 4.3.6, on 2026-11-30. Needs a RabbitMQ: AMQP_URL=amqp://user:pw@host:port/%2f
set -euo pipefail
: "${AMQP_URL:?set it to the AMQP URL of a RabbitMQ}"
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/v" && "$dir/v/bin/pip" -q install aio-pika==10.2.1
"$dir/v/bin/python" - <<'PY'
import asyncio, os, sys, aio_pika

async def ids(channel, message):
    """The ids with which one Message object arrives when it is published twice."""
    queue = await channel.declare_queue(exclusive=True)
    for _ in range(2):
        await channel.default_exchange.publish(message, queue.name) # returns when the broker has confirmed it
    got = [(await queue.get(no_ack=True)).message_id for _ in range(2)]
    print(f"  first {got[0]}, second {got[1]}, the object says {message.message_id}")
    return got

async def main():
    connection = await aio_pika.connect(os.environ["AMQP_URL"])
    channel = await connection.channel()
    version = connection.transport.connection.server_properties["version"]
    print("RabbitMQ", version, "aio-pika 10.2.1")
    unset = aio_pika.Message(b"{}")
    print("one Message object without an id, published twice:")
    first, second = await ids(channel, unset)
    print("with an id of the application:")
    kept = await ids(channel, aio_pika.Message(b"{}", message_id="job-1"))
    await connection.close()
    return bool(first and second and first != second and unset.message_id is None and kept == ["job-1", "job-1"])

as_seen = asyncio.run(main())
print("as seen on 2026-11-30" if as_seen else "CHANGED")
sys.exit(not as_seen)
PY
