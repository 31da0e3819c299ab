#!/usr/bin/env bash
# One would guess: an SDK that reads a CloudEvent gives the attributes that the sender wrote. `time` is optional: where the sender gave none, the event
#   has none, and a relay that reads an event and writes it again leaves it as it was.
# Really, two official SDKs put the reader's own clock into `time` where the sender gave none: the same event read twice has two times, and a relay
#   sends on a time that nobody stated, as if the thing had happened then. The one for Node.js rewrites a time that is there as well: 10:00 at +07:00
#   with microseconds becomes 03:00 UTC, cut to milliseconds. The one for Python keeps it.
# Seen with cloudevents 2.2.0 (PyPI) and 10.0.0 (npm), Python 3.11, Node.js 20, on 2026-11-30. Needs nothing else.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v && v/bin/pip -q install cloudevents==2.2.0
npm init -y >/dev/null && npm install --silent --no-audit --no-fund --ignore-scripts cloudevents@10.0.0 >/dev/null
# Each relay reads the event of its first argument twice, two seconds apart, and prints the time that it sends on.
cat >relay.py <<'PY'
import json, sys, time
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
for pause in (0, 2):
    time.sleep(pause)
    print(json.loads(JSONFormat().write(JSONFormat().read(CloudEvent, sys.argv[1]))).get("time"))
PY
cat >relay.js <<'JS'
const { HTTP } = require('cloudevents');
const relay = () => console.log(JSON.parse(HTTP.structured(HTTP.toEvent({ headers: { 'content-type': 'application/cloudevents+json' }, body: process.argv[2] })).body).time);
relay();
setTimeout(relay, 2000);
JS
event='"specversion":"1.0","id":"1","source":"/qris","type":"canceled","data":{}'
given=2026-11-30T10:00:00.123456+07:00
echo "cloudevents 2.2.0 (PyPI), cloudevents 10.0.0 (npm), $(v/bin/python -V), node $(node -v)"
seen=
for relay in "v/bin/python relay.py" "node relay.js"; do
  mapfile -t without < <($relay "{$event}")
  mapfile -t with < <($relay "{$event,\"time\":\"$given\"}")
  echo "$relay: no time is sent on as ${without[0]}, two seconds later as ${without[1]}; $given as ${with[0]}"
  first=$(date -d "${without[0]}" +%s); second=$(date -d "${without[1]}" +%s); now=$(date +%s)
  ((now - first < 60 && second - first >= 1)) && seen+="made up, ${with[0]}; "
done
[ "$seen" = "made up, $given; made up, 2026-11-30T03:00:00.123Z; " ] || { echo "CHANGED: $seen"; exit 1; }
echo "as seen on 2026-11-30"
