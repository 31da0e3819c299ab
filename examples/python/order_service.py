r"""An order service that asks for cancels and loses none: a transactional outbox in SQLite.

An order and its cancel command are written in one transaction. The relay publishes what is not sent yet, persistent and
confirmed by the broker, and then marks it sent. Either can be killed at any time: at worst a command is published twice, which
is one command, as its jobId is the same.

    pip install -r requirements.txt
    export AMQP_URL=amqp://localhost
    echo '{"order": "4711", "account": "ifortepay", "reference": "R-1", "partnerReference": "P-1",'\
         '"qrExpiresAt": "2026-11-21T11:00:00+07:00"}' |
        python order_service.py orders.db cancel
    python order_service.py orders.db relay            # for ever; with --once, until nothing waits
"""

import argparse
import json
import os
import sqlite3
import sys
import time

import pika
from pika.exceptions import AMQPError

TABLES = """
CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY, job_id TEXT NOT NULL UNIQUE, account TEXT NOT NULL, body TEXT NOT NULL, sent_at TEXT
);
"""


def open_database(path):
    db = sqlite3.connect(path, timeout=30)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # what is committed survives a power cut
    db.executescript(TABLES)
    return db


def cancel_order(db, order):
    """The order's new state and the command that goes with it: both are kept, or neither."""
    command = {
        "jobId": f"cancel-{order['order']}",  # the same however often this order is cancelled
        "originalReferenceNo": order["reference"],
        "originalPartnerReferenceNo": order["partnerReference"],
        "reason": order.get("reason", "customer left"),
        "metadata": {"order": order["order"]},
    }
    if "qrExpiresAt" in order:  # without it an expired QR is for a person
        command["qrExpiresAt"] = order["qrExpiresAt"]
    with db:  # one transaction
        new = db.execute("INSERT INTO orders VALUES (?, 'cancelling') ON CONFLICT DO NOTHING", [order["order"]]).rowcount
        if new:
            row = [command["jobId"], order["account"], json.dumps(command)]
            db.execute("INSERT INTO outbox (job_id, account, body) VALUES (?, ?, ?)", row)


def relay(db, url, exchange, once):
    """Publishes what waits in the outbox, over whatever happens to the broker."""
    pause = 0.5
    while True:
        try:
            with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                channel = connection.channel()
                channel.confirm_delivery()
                while True:
                    sent = publish_waiting(db, channel, exchange)
                    pause = 0.5
                    if once and not sent:
                        return
                    connection.sleep(0 if sent else 0.5)
        except AMQPError as error:
            print(f"the broker did not take it, again in {pause:.1f} s: {error!r}", file=sys.stderr)
            time.sleep(pause)
            pause = min(2 * pause, 30)


def publish_waiting(db, channel, exchange):
    """How many were sent, of at most 100."""
    waiting = db.execute("SELECT id, job_id, account, body FROM outbox WHERE sent_at IS NULL ORDER BY id LIMIT 100").fetchall()
    for row, job_id, account, body in waiting:
        properties = pika.BasicProperties(
            delivery_mode=pika.DeliveryMode.Persistent, content_type="application/json", message_id=job_id
        )
        # Returns when the broker has it in safe keeping, and raises if it does not take it.
        channel.basic_publish(exchange, account, body.encode(), properties, mandatory=True)
        with db:
            db.execute("UPDATE outbox SET sent_at = datetime('now') WHERE id = ?", [row])
        print(job_id, flush=True)
    return len(waiting)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database")
    parser.add_argument("action", choices=["cancel", "relay"])
    parser.add_argument("--once", action="store_true", help="relay: end when nothing waits")
    parser.add_argument("--prefix", default="qris.cancel", help="names on the broker begin with this")
    arguments = parser.parse_args()
    db = open_database(arguments.database)
    if arguments.action == "cancel":
        for line in sys.stdin:
            order = json.loads(line)
            cancel_order(db, order)
            print(order["order"], flush=True)
    else:
        relay(db, os.environ["AMQP_URL"], f"{arguments.prefix}.commands", arguments.once)


if __name__ == "__main__":
    main()
