//! What `send`, `watch` and `parked` share: a connection of an order service or a reconciler, and result events as they read them.

use super::{Failure, plain};
use crate::{
    amqp::{connect, topology::Names},
    settings::{Amqp, Settings},
};
use anstyle::{AnsiColor, Style};
use lapin::{
    Channel, Connection, Consumer,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::Value;
use std::{future::Future, path::Path, time::Duration};

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

    /// How many messages of a queue nobody has in hand.
    pub async fn ready(&self, queue: &str) -> Result<u32, Failure> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        Ok(self.within(self.channel.queue_declare(queue.into(), passive, FieldTable::default())).await?.message_count())
    }

    /// Events from now on with these routing keys, in a queue that goes with this connection.
    pub async fn results(&self, routing_keys: &[String]) -> Result<Consumer, Failure> {
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let queue = self.within(self.channel.queue_declare("".into(), options, FieldTable::default())).await?;
        for key in routing_keys {
            let (exchange, key) = (self.names.results().into(), key.as_str().into());
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            self.within(self.channel.queue_bind(queue.name().clone(), exchange, key, options, none)).await?;
        }
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        self.within(self.channel.basic_consume(queue.name().clone(), "".into(), options, FieldTable::default())).await
    }
}

async fn within<T>(limit: Duration, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => {
            let why = "has it an alarm, or a queue no majority? rabbitmqctl status says so";
            Err(Failure::Unavailable(format!("the broker has not answered within {limit:?}: {why}")))
        }
    }
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
