#!/usr/bin/env bash
# One would guess: a passive declaration only looks, so it needs no permission and answers "ok" or 404. A program with few permissions can find out
#   at its start whether somebody else's queue is there.
# Really, so it is on 3.10 and 4.0. On 4.3 a user with none of the three permissions for that name gets 403 whether the queue exists or not, and the text
#   names the permission "configure", although each of the three is enough: with only "read" the answer is ok or 404. A check that takes 403
#   for "it is there" finds every queue.
# Seen with RabbitMQ 3.10.8, 4.0.5 and 4.3.6, pika 1.3.2, on 2026-11-30. Needs a RabbitMQ: AMQP_URL=amqp://admin:pw@host:port/%2f, and
#   RABBITMQCTL, a command that reaches it ("rabbitmqctl", or "scripts/rabbitmq ctl DIR"), for a user that it makes and removes
set -euo pipefail
: "${AMQP_URL:?set it to the AMQP URL of a RabbitMQ 3.10, 4.0 or 4.3}" "${RABBITMQCTL:?set it to the command that reaches the same broker}"
dir=$(mktemp -d)
user="finding-$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')"
trap '$RABBITMQCTL delete_user "$user" >/dev/null 2>&1 || :; rm -rf "$dir"' EXIT
python3 -m venv "$dir/v" && "$dir/v/bin/pip" -q install pika==1.3.2
$RABBITMQCTL add_user "$user" "$user" >/dev/null 2>&1
FINDING_USER=$user "$dir/v/bin/python" - <<'PY'
import os, shlex, subprocess, sys, pika
admin = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
version, user = admin._impl.server_properties["version"], os.environ["FINDING_USER"]
print("RabbitMQ", version, "pika", pika.__version__)
queues = {"exists": "finding.there", "missing": "finding.gone"}
admin.channel().queue_declare(queues["exists"], durable=True)

def answers(configure, write, read):
    """What a passive declaration of each queue says to a user with these permissions."""
    subprocess.run([*shlex.split(os.environ["RABBITMQCTL"]), "set_permissions", user, configure, write, read], check=True, stdout=subprocess.DEVNULL)
    parameters = pika.URLParameters(os.environ["AMQP_URL"])
    parameters.credentials = pika.PlainCredentials(user, user)
    connection, got = pika.BlockingConnection(parameters), []
    for name, queue in queues.items():
        try:
            connection.channel().queue_declare(queue, passive=True)
            code, text = 200, "ok"
        except pika.exceptions.ChannelClosedByBroker as closed:
            code, text = closed.reply_code, f"{closed.reply_code} {closed.reply_text[:60]}"
        print(f"  {name:8}{text}")
        got.append(code)
    connection.close()
    return got

print("no permission for these names:")
nothing = answers("^$", "^$", "^$")
one = []
for place, name in enumerate(("configure", "write", "read")):
    print(f"only {name}:")
    one.append(answers(*(r"^finding\." if place == index else "^$" for index in range(3))))
admin.channel().queue_delete(queues["exists"])
as_seen = one == [[200, 404]] * 3 and nothing == ([403, 403] if version.startswith("4.3.") else [200, 404])
print("as seen on 2026-11-30" if as_seen else "CHANGED")
sys.exit(not as_seen)
PY
