//! What `send`, `watch` and `parked` share: a connection of an order service or a reconciler, and result events as they read them.

use super::{Failure, plain, tell};
use crate::{
    amqp::{connect, topology::Names},
    settings::{Amqp, Settings},
};
use anstyle::{AnsiColor, Style};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use lapin::{
    Channel, Connection, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use std::{future::Future, path::Path, time::Duration};
use tokio::time::timeout;

/// Events that wait to be read, each some 2 KB: 200 MB of the broker's, which it writes to its disk.
const MOST_WAITING: u32 = 100_000;
/// Events after which the queue's length is looked at: a hundredth, so that hardly any note is one too many.
const LOOK_AFTER: u32 = 1_000;
/// Events that come unasked: enough that none is waited for, and 1 MB of this process's memory.
const PREFETCH: u16 = 500;
/// Where events are that are not shown.
const MISSED: &str = "watch --since shows them from the log";

/// A connection with a channel.
pub struct Broker {
    pub names: Names,
    pub channel: Channel,
    pub accounts: Vec<String>,
    limit: Duration,
    /// A channel lives as long as its connection.
    connection: Connection,
}

impl Broker {
    pub async fn reach(config: Option<&Path>, prefix: Option<&str>, purpose: &str) -> Result<Self, Failure> {
        let (amqp, accounts): (Amqp, _) = Settings::load_amqp(config)?;
        let names = Names::new(prefix.unwrap_or(&amqp.prefix));
        let connection = connect(&amqp, purpose).await?;
        let limit = amqp.confirm_timeout;
        let channel = within(limit, connection.create_channel()).await?;
        Ok(Self { names, channel, accounts, limit, connection })
    }

    pub async fn another_channel(&self) -> Result<Channel, Failure> {
        self.within(self.connection.create_channel()).await
    }

    /// What the broker answers, if it does so in time: in alarm it takes no messages, and a queue without a majority says nothing.
    pub async fn within<T>(&self, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, Failure> {
        within(self.limit, answer).await
    }

    /// How long an answer may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// How many messages of a queue nobody has in hand, and how many consumers it has.
    pub async fn depth(&self, queue: &str) -> Result<(u32, u32), Failure> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.within(self.channel.queue_declare(queue.into(), passive, FieldTable::default())).await?;
        Ok((queue.message_count(), queue.consumer_count()))
    }

    /// How many messages lie in a queue that may be missing, or not be for us to see. On a channel of its own, which an error ends.
    pub async fn depth_if_any(&self, queue: &str) -> Result<Option<u32>, Failure> {
        let channel = self.another_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let answer = timeout(self.limit, channel.queue_declare(queue.into(), passive, FieldTable::default())).await;
        Ok(answer.ok().and_then(Result::ok).map(|queue| queue.message_count()))
    }

    /// Events from now on, in a queue that goes with this connection. They come once a routing key is bound.
    pub async fn results(&self) -> Result<Events<'_>, Failure> {
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        // Without a limit, what nobody reads here would fill the broker, and then it takes no message from anybody.
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MOST_WAITING.into()));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        let queue = self.within(self.channel.queue_declare("".into(), options, arguments)).await?;
        self.events(queue.name().as_str().to_owned(), FieldTable::default(), true).await
    }

    /// The log's events: a stream is read from a second on, by chunks, so that earlier events can come first.
    pub async fn log(&self, since: DateTime<Utc>) -> Result<Events<'_>, Failure> {
        let mut offset = FieldTable::default();
        let seconds = u64::try_from(since.timestamp()).unwrap_or_default();
        offset.insert("x-stream-offset".into(), AMQPValue::Timestamp(seconds));
        self.events(self.names.results_log(), offset, false).await
    }

    async fn events(&self, queue: String, arguments: FieldTable, is_limited: bool) -> Result<Events<'_>, Failure> {
        self.within(self.channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let options = BasicConsumeOptions::default();
        let consumer = self.channel.basic_consume(queue.as_str().into(), "".into(), options, arguments);
        let consumer = self.within(consumer).await?;
        Ok(Events { broker: self, queue, consumer, is_limited, since_look: 0, was_full: false })
    }
}

/// Result events as they come. Those that are not taken stay with the broker, but for so many as come unasked.
pub struct Events<'a> {
    broker: &'a Broker,
    queue: String,
    consumer: Consumer,
    /// Whether the queue drops the oldest when it is full.
    is_limited: bool,
    /// How many were taken since its length was looked at.
    since_look: u32,
    was_full: bool,
}

impl Events<'_> {
    /// Events with this routing key, too.
    pub async fn bind(&self, key: &str) -> Result<(), Failure> {
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let (queue, exchange) = (self.queue.as_str().into(), self.broker.names.results().into());
        self.broker.within(self.broker.channel.queue_bind(queue, exchange, key.into(), options, none)).await
    }

    /// The next event. The waiting can be given up; an event that was returned has to be taken.
    pub async fn next(&mut self) -> Result<Delivery, Failure> {
        match self.consumer.next().await {
            Some(delivery) => Ok(delivery?),
            None => Err(Failure::Unavailable(format!(
                "the broker ended the reading: is the connection lost, or was nothing read here for longer than its \
                 consumer timeout? {MISSED}"
            ))),
        }
    }

    /// Lets one more come.
    pub async fn take(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        if !self.broker.within(delivery.acker.ack(BasicAckOptions::default())).await? {
            return Err(Failure::Unavailable(format!("the connection is lost; {MISSED}")));
        }
        self.since_look += 1;
        if self.is_limited && self.since_look >= LOOK_AFTER {
            self.since_look = 0;
            // A full queue gets shorter only by what is taken here: none was full unseen.
            let is_full = self.broker.depth(&self.queue).await?.0 + LOOK_AFTER >= MOST_WAITING;
            if is_full && !self.was_full {
                let why = "events come faster than they are read here, and of more than";
                tell(format_args!("note: {why} {MOST_WAITING} the oldest are dropped: some may be missed. {MISSED}"));
            }
            self.was_full = is_full;
        }
        Ok(())
    }
}

async fn within<T>(limit: Duration, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, Failure> {
    match timeout(limit, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(no_answer(limit)),
    }
}

pub fn no_answer(limit: Duration) -> Failure {
    let why = "has it an alarm, or a queue no majority? rabbitmqctl status says so";
    Failure::Unavailable(format!("the broker has not answered within {limit:?}: {why}"))
}

/// Green is done, yellow wants a look, red a person.
fn colour(outcome: &str) -> Style {
    let colour = match outcome {
        "canceled" | "closed" => AnsiColor::Green,
        "paid" => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    };
    colour.on_default()
}

/// A result event in one line.
pub fn line(event: &Value) -> String {
    let text = |value: &Value| plain(value.as_str().unwrap_or("-"));
    let data = &event["data"];
    let said = match (data["responseCode"].as_str(), data["responseMessage"].as_str()) {
        (Some(code), Some(message)) => format!("  {} {}", plain(code), plain(message)),
        (Some(code), None) => format!("  {}", plain(code)),
        _ => String::new(),
    };
    let violations = data["violations"].as_array().map_or(String::new(), |violations| {
        violations
            .iter()
            .map(|v| format!("  {} {}", text(&v["field"]), text(&v["rule"])).replace("   ", "  "))
            .collect()
    });
    let effect = if data["mayHaveTakenEffect"] == true { "  may have taken effect" } else { "" };
    let colour = colour(data["outcome"].as_str().unwrap_or_default());
    format!(
        "{}  {:12} {colour}{:10}{colour:#} {:22} {}  attempts {}, calls {}{said}{effect}{violations}",
        text(&event["time"]),
        text(&data["account"]),
        text(&data["outcome"]),
        text(&data["cause"]),
        text(&data["jobId"]),
        data["attempts"],
        data["callsTotal"],
    )
}
