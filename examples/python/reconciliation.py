"""Keeps what became of every cancel, each event counted once.

Its queue is durable and its own, so that events wait for it while it is away. An event is acknowledged when it is in the database,
where its id stands once: the broker may deliver it again, and this program may be killed, at any time.

    pip install -r requirements.txt
    export AMQP_URL=amqp://localhost
    python reconciliation.py results.db run
    python reconciliation.py results.db report         # as JSON: how many jobs ended how, and which are for a person
"""

import argparse
import json
import os
import sqlite3
import sys
import time

import pika
from pika.exceptions import AMQPError

QUEUE = "reconciliation.results"
# Should a provider's own answers differ over time, the higher one counts. The others are for a person until one of these comes.
RANK = {"paid": 4, "canceled": 3, "closed": 2, "refused": 1}

TABLES = """
CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, account TEXT, job TEXT, outcome TEXT, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (account TEXT, job TEXT, state TEXT, cause TEXT, in_doubt INTEGER,
    PRIMARY KEY (account, job));
CREATE TABLE IF NOT EXISTS unreadable (body BLOB PRIMARY KEY);
"""


def open_database(path):
    db = sqlite3.connect(path, timeout=30)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # what is acknowledged survives a power cut
    db.executescript(TABLES)
    return db


def record(db, body):
    """Counts an event, unless it is counted already: then nothing happens."""
    try:
        event = json.loads(body)
        data = event["data"]
        # A command that nobody could read has no job id; its bytes have a digest.
        key = (data["account"], data.get("jobId") or data["commandDigest"])
        row = (event["id"], *key, data["outcome"], body)
        cause, in_doubt = data["cause"], data.get("mayHaveTakenEffect", False)
        if not all(isinstance(text, str) for text in (*row[:-1], cause)):
            raise TypeError("its ids and outcome are texts")
    except (ValueError, KeyError, TypeError):
        with db:
            db.execute("INSERT OR IGNORE INTO unreadable VALUES (?)", [body])
        return
    with db:  # one transaction
        is_new = db.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?)", row).rowcount == 1
        if in_doubt:  # an event that says so is right, even as a repeat of one that did not
            db.execute("UPDATE jobs SET in_doubt = 1 WHERE account = ? AND job = ? AND state = ?", (*key, data["outcome"]))
        if not is_new:
            return
        before = db.execute("SELECT state FROM jobs WHERE account = ? AND job = ?", key).fetchone()
        if before is None or counts_more(data["outcome"], before[0]):
            db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?)", (*key, data["outcome"], cause, in_doubt))


def counts_more(outcome, than):
    return RANK.get(outcome, 0) > RANK.get(than, 0)


def consume(db, channel, exchange):
    channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_bind(QUEUE, exchange, routing_key="#")  # or "ifortepay.*", "*.paid", …
    channel.basic_qos(prefetch_count=100)
    for method, _, body in channel.consume(QUEUE):
        record(db, body)
        channel.basic_ack(method.delivery_tag)  # only now: it is committed


def run(db, url, exchange):
    """Consumes for ever, over whatever happens to the broker."""
    while True:
        try:
            with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                consume(db, connection.channel(), exchange)
        except AMQPError as error:
            print(f"again in 1 s: {error!r}", file=sys.stderr)
            time.sleep(1)


def report(db):
    events, unreadable = (db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("events", "unreadable"))
    jobs = dict(db.execute("SELECT state, count(*) FROM jobs GROUP BY state ORDER BY state"))
    # The last column: whether a cancel may have worked all the same.
    rows = db.execute("SELECT account, job, state, cause, in_doubt = 1 FROM jobs ORDER BY job")
    unsettled = [row for row in rows if row[2] not in RANK]
    return {"events": events, "jobs": jobs, "forAPerson": unsettled, "unreadable": unreadable}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database")
    parser.add_argument("action", choices=["run", "report"])
    parser.add_argument("--prefix", default="qris.cancel", help="names on the broker begin with this")
    arguments = parser.parse_args()
    db = open_database(arguments.database)
    if arguments.action == "run":
        run(db, os.environ["AMQP_URL"], f"{arguments.prefix}.results")
    else:
        print(json.dumps(report(db), indent=2))


if __name__ == "__main__":
    main()
