"""Reads the log of result events again, since a point in time, into the database of reconciliation.py.

For when that database was lost or restored from yesterday's copy. What is counted already is not counted again, so it may run
beside reconciliation.py, twice, or be killed and started again. It ends when it has reached the present.

    pip install -r requirements.txt
    export AMQP_URL=amqp://localhost
    python replay.py results.db --since 2026-11-20T00:00:00Z
"""

import argparse
import json
import os
from datetime import datetime, timedelta, timezone

import pika

from reconciliation import open_database, record

# A worker's clock may be ahead of ours.
CLOCKS_DIFFER = timedelta(seconds=30)


def replay(db, channel, log, since, idle):
    """How many events were read."""
    begun = datetime.now(timezone.utc)
    channel.basic_qos(prefetch_count=100)  # a stream is only delivered with one, and goes on as it is acknowledged
    # A stream is kept in chunks: it begins with the one of that time, so some events are older.
    arguments = {"x-stream-offset": since}
    read = 0
    for method, _, body in channel.consume(log, arguments=arguments, inactivity_timeout=idle):
        if method is None:
            break  # nothing has come for a while
        record(db, body)
        channel.basic_ack(method.delivery_tag)
        read += 1
        if decided_at(body) >= begun + CLOCKS_DIFFER:
            break  # it came after we began, and so after all that was there then
    return read


def decided_at(body):
    try:
        return datetime.fromisoformat(json.loads(body)["time"])
    except (ValueError, KeyError, TypeError):
        return datetime.min.replace(tzinfo=timezone.utc)


def moment(text):
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text} has no offset: end it with Z or +07:00")
    return time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database")
    parser.add_argument("--since", type=moment, required=True, help="like 2026-11-20T07:00:00+07:00")
    parser.add_argument("--idle", type=float, default=5, help="end when no event has come for so many seconds")
    parser.add_argument("--prefix", default="qris.cancel", help="names on the broker begin with this")
    arguments = parser.parse_args()
    db = open_database(arguments.database)
    with pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])) as connection:
        read = replay(db, connection.channel(), f"{arguments.prefix}.results.log", arguments.since, arguments.idle)
    print(f"{read} events read")


if __name__ == "__main__":
    main()
