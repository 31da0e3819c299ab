#!/usr/bin/env bash
# One would guess: an event whose data is JSON, encoded by the application (bytes, datacontenttype application/json), goes as JSON from one official
#   CloudEvents SDK to the other, or at worst arrives as the same bytes.
# Really, cloudevents 2.2.0 (PyPI) writes bytes as data_base64 even under datacontenttype application/json, and cloudevents 10.0.0 (npm) reads
#   data_base64 into a Uint32Array, one number for each byte: event.data.amount is undefined, the array's buffer has four times the bytes, and
#   JSON.stringify(event.data) has the keys "0", "1", "2". No error on either side. With a dict in place of the bytes all is well.
# Seen with those, Node.js 20 and Python 3.11 on 2026-11-30. Needs nothing else.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v && v/bin/pip -q install cloudevents==2.2.0
npm init -y >/dev/null && npm install --silent --no-audit --no-fund --ignore-scripts cloudevents@10.0.0 >/dev/null
cat >write.py <<'PY'
import json
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
data = {"amount": "10000.00"}
attributes = {"id": "1", "source": "/qris", "type": "canceled", "specversion": "1.0", "datacontenttype": "application/json"}
for kind, value in {"bytes": json.dumps(data).encode(), "dict": data}.items():
    with open(kind, "wb") as file:
        file.write(JSONFormat().write(CloudEvent(attributes, value)))
PY
v/bin/python write.py
cat >read.js <<'JS'
const fs = require('fs'), { HTTP } = require('cloudevents');
const read = (kind) => {
  const body = fs.readFileSync(kind, 'utf8'), member = 'data_base64' in JSON.parse(body) ? 'data_base64' : 'data';
  const { data } = HTTP.toEvent({ headers: { 'content-type': 'application/cloudevents+json' }, body });
  const encoded = JSON.stringify(data);
  console.log(`Python ${kind}: sent as "${member}", read as ${data.constructor.name}, amount ${data.amount}, JSON.stringify ${encoded.slice(0, 30)}`);
  return { member, data, encoded };
};
console.log('cloudevents 2.2.0 (PyPI) to cloudevents 10.0.0 (npm), node', process.version);
const bytes = read('bytes'), dict = read('dict');
const text = '{"amount": "10000.00"}';
console.log(`${text.length} bytes were written; the array has ${bytes.data.length} numbers in ${bytes.data.buffer.byteLength} bytes`);
const asSeen = bytes.member === 'data_base64' && bytes.data instanceof Uint32Array && bytes.data.length === text.length &&
  bytes.data.buffer.byteLength === 4 * text.length && bytes.data.amount === undefined && bytes.encoded.startsWith('{"0":123,') &&
  Buffer.from(bytes.data).toString() === text && dict.member === 'data' && dict.data.amount === '10000.00';
console.log(asSeen ? 'as seen on 2026-11-30' : 'CHANGED');
process.exit(asSeen ? 0 : 1);
JS
node read.js
