//! Copies of events for requesters: best effort, on a connection of their own. What a requester writes into `reply_to` can make the
//! broker end the connection that publishes to it, so nothing else is published there.

use super::{AmqpError, intake::close, session::connect};
use crate::{pauses::Pauses, worker::Worker};
use base64::{Engine, prelude::BASE64_STANDARD};
use lapin::{BasicProperties, Channel, Connection, options::BasicPublishOptions};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::Instant};
use tracing::debug;

/// A copy waits no longer, as its command is not acknowledged before.
const WITHIN: Duration = Duration::from_secs(2);
/// A connection that held this long was a good one: the next may be opened soon again.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);

/// The connection for one session.
pub struct Replies {
    worker: Arc<Worker>,
    line: Mutex<Line>,
}

struct Line {
    open: Option<Open>,
    /// Nothing is opened before.
    opens_at: Instant,
    /// 1 s, 2 s, 4 s, … 30 s: a requester who has each connection ended costs the broker two a minute.
    pauses: Pauses,
}

struct Open {
    connection: Connection,
    channel: Channel,
    since: Instant,
}

/// Why a copy was not sent.
#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("the connection for courtesy copies has ended, and is not opened again yet")]
    NotYet,
    #[error(transparent)]
    Connect(#[from] AmqpError),
    #[error(transparent)]
    Broker(#[from] lapin::Error),
}

impl Replies {
    pub fn new(worker: Arc<Worker>) -> Self {
        let pauses = Pauses::new(Duration::from_secs(1), Duration::from_secs(30), 2.0);
        Self { worker, line: Mutex::new(Line { open: None, opens_at: Instant::now(), pauses }) }
    }

    /// Sends a copy, if that goes well and soon.
    pub async fn send(&self, queue: &str, body: &[u8], properties: BasicProperties) {
        match tokio::time::timeout(WITHIN, self.publish(queue, body, properties)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, reply_to = queue, "the courtesy copy was not taken"),
            Err(_) => debug!(reply_to = queue, "the courtesy copy took too long"),
        }
    }

    async fn publish(&self, queue: &str, body: &[u8], properties: BasicProperties) -> Result<(), NotSent> {
        let mut line = self.line.lock().await;
        // Taken out, so that a connection on which a copy takes too long goes with that copy.
        let open = match line.open.take() {
            Some(open) if open.connection.status().connected() => open.with_a_channel().await?,
            ended => line.open(ended, &self.worker).await?,
        };
        // Without confirms, and so without waiting for a queue that does not take it.
        let options = BasicPublishOptions::default();
        open.channel.basic_publish("".into(), queue.into(), options, body, properties).await?.await?;
        line.open = Some(open);
        Ok(())
    }

    /// Closes the connection, if there is one.
    pub async fn close(&self) {
        if let Some(open) = self.line.lock().await.open.take() {
            close(&open.connection).await;
        }
    }
}

impl Line {
    async fn open(&mut self, ended: Option<Open>, worker: &Worker) -> Result<Open, NotSent> {
        if ended.is_some_and(|ended| ended.since.elapsed() > GOOD_CONNECTION) {
            self.pauses.reset();
        }
        if Instant::now() < self.opens_at {
            return Err(NotSent::NotYet);
        }
        self.opens_at = Instant::now() + self.pauses.next_pause();
        let connection = connect(worker, "sends courtesy copies").await?;
        let channel = connection.create_channel().await?;
        Ok(Open { connection, channel, since: Instant::now() })
    }
}

impl Open {
    /// A queue that may not be written to costs the channel only.
    async fn with_a_channel(self) -> lapin::Result<Self> {
        if self.channel.status().connected() {
            return Ok(self);
        }
        let channel = self.connection.create_channel().await?;
        Ok(Self { channel, ..self })
    }
}

/// Whether this is an address for direct replies, if it claims to be one: some texts that are none end the broker's connection.
pub fn is_direct(queue: &str) -> Option<bool> {
    let token = queue.strip_prefix("amq.rabbitmq.reply-to.")?;
    Some(token.split_once('.').is_some_and(|(process, key)| is_process(process) && is_key(key)))
}

/// A process of Erlang as RabbitMQ 3.10 to 4.3 write it: version, the process's kind, its node (a hash behind a fixed name) with its
/// length, and three numbers of four bytes.
fn is_process(text: &str) -> bool {
    const NUMBERS: usize = 12;
    let Ok(bytes) = BASE64_STANDARD.decode(text) else { return false };
    let [131, 88, 118, high, low, rest @ ..] = &bytes[..] else { return false };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let Some(node) = rest.get(..length).filter(|_| rest.len() == length + NUMBERS) else { return false };
    let Some(hash) = [b"generated@".as_slice(), b"reply@"].iter().find_map(|name| node.strip_prefix(*name)) else {
        return false;
    };
    // Of 27 bits.
    (1..=9).contains(&hash.len()) && hash.iter().all(u8::is_ascii_digit)
}

/// Sixteen bytes that nobody guesses.
fn is_key(text: &str) -> bool {
    BASE64_STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(node: &str, more: &[u8]) -> String {
        let mut process = vec![131, 88, 118, 0, node.len() as u8];
        process.extend(node.as_bytes());
        process.extend([0; 12]);
        process.extend(more);
        format!("amq.rabbitmq.reply-to.{}.{}", BASE64_STANDARD.encode(process), BASE64_STANDARD.encode([7; 16]))
    }

    #[test]
    fn a_direct_address_is_taken_only_in_the_form_that_the_broker_makes() {
        for good in [token("reply@12345678", &[]), token("generated@1", &[])] {
            assert_eq!(is_direct(&good), Some(true), "{good}");
        }
        assert_eq!(is_direct("replies.mine"), None);
        assert_eq!(is_direct("amq.rabbitmq.reply-to"), None);
        let good = token("reply@12345678", &[]);
        for bad in [
            "amq.rabbitmq.reply-to.".to_owned(),
            "amq.rabbitmq.reply-to..".to_owned(),
            "amq.rabbitmq.reply-to.nonsense".to_owned(),
            "amq.rabbitmq.reply-to.bm9uc2Vuc2U=.bm9uc2Vuc2U=".to_owned(),
            token("reply@", &[]),
            token("reply@1234567890", &[]),
            token("reply@12a", &[]),
            token("rabbit@12", &[]),
            token("reply@12", &[0]),
            format!("{good}."),
            format!("{good}.x"),
            good.replace("BwcH", "Bw"),
            good[..good.len() - 4].to_owned(),
            good.replace("to.", "to. "),
        ] {
            assert_eq!(is_direct(&bad), Some(false), "{bad}");
        }
    }
}
