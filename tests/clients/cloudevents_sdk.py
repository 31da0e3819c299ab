"""The official SDK of CloudEvents for Python, a line in and a line out: `read` tells what it makes of an event in structured mode,
`write` wraps a command into one."""

import json
import sys

from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_structured_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

for line in sys.stdin:
    given = json.loads(line)
    if sys.argv[1] == "read":
        event = from_structured_event(RabbitMQMessage({}, given["contentType"], given["body"].encode()))
        print(json.dumps({**event.get_attributes(), "data": event.get_data()}, default=lambda time: time.isoformat()))
    else:
        attributes = {"id": given["id"], "source": "/orders", "type": "com.example.orders.cancel-qr", "specversion": "1.0"}
        message = to_structured_event(CloudEvent(attributes, given["data"]))
        print(json.dumps({"contentType": message.content_type, "body": message.body.decode()}))
