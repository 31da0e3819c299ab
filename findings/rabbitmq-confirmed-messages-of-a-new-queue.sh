#!/usr/bin/env bash
# One would guess: a publisher confirm of a persistent message in a durable quorum queue says that the message is on disk, so it outlives the
#   node's process, whatever the age of the queue.
# Really, for about the first second of a queue's life it does not. Ten messages confirmed, SIGKILL at once, start again: on RabbitMQ 4.3.6 the
#   queue is there and empty, with no error for anybody, while a queue whose last publish is two seconds old keeps all ten. So what a deployment
#   declares and fills in one go is not safe yet. (A kill of the node's process, not of the machine.)
# Seen with RabbitMQ 4.3.6, one node, pika 1.3.2, on 2026-11-30. For 4.3 only. Needs its program, of which ../scripts/rabbitmq starts a
#   private node: RABBITMQ_SERVER=/path/of/rabbitmq-server
set -euo pipefail
: "${RABBITMQ_SERVER:?set it to the program rabbitmq-server of RabbitMQ 4.3}"
dir=$(mktemp -d); broker=$(realpath "$(dirname "$0")/../scripts/rabbitmq")
trap '"$broker" clean "$dir/node" || :; rm -rf "$dir"' EXIT
python3 -m venv "$dir/v" && "$dir/v/bin/pip" -q install pika==1.3.2
cat >"$dir/try.py" <<'PY'
import sys, time, pika

def version(url):
    print(pika.BlockingConnection(pika.URLParameters(url))._impl.server_properties["version"])

def fill(url, queue, pause):
    """Declares the queue, publishes ten messages, each confirmed, and waits."""
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.confirm_delivery() # from here each publish returns when the broker has confirmed it, or raises
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    for number in range(10):
        channel.basic_publish("", queue, b"%d" % number, pika.BasicProperties(delivery_mode=2), mandatory=True)
    time.sleep(float(pause))

def left(url, queue):
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.queue_declare(queue, passive=True) # raises if there is no such queue
    print(sum(1 for _ in iter(lambda: channel.basic_get(queue, auto_ack=True)[0], None)))

globals()[sys.argv[1]](*sys.argv[2:])
PY
try() { timeout 60 "$dir/v/bin/python" "$dir/try.py" "$@"; }

url=$("$broker" start "$dir/node")
version=$(try version "$url")
echo "RabbitMQ $version pika 1.3.2"
[[ $version = 4.3.* ]] || { echo "this is for RabbitMQ 4.3"; exit 1; }
result=
for pause in 0 2; do
  try fill "$url" "finding.$pause" $pause
  "$broker" kill "$dir/node"
  url=$("$broker" start "$dir/node")
  left=$(try left "$url" "finding.$pause")
  echo "10 messages confirmed, killed $pause s later, started again: $left of 10 are in the queue"
  result+="$left "
done
[ "$result" = "0 10 " ] || { echo "CHANGED"; exit 1; }
echo "as seen on 2026-11-30"
