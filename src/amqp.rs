//! The broker in a page.
//!
//! Commands come in through one queue an account, are acknowledged last of all, and leave as events, retries or parked
//! copies that the broker has confirmed. The broker holds all state: a worker can die at any moment.
//!
//! - [`topology`]: every exchange, queue and binding, with the reason for each option.
//! - [`dial`]: a connection, within a limit.
//! - [`session`]: connects to publish, runs the intakes, and on any fault begins again.
//! - [`intake`]: one queue, consumed on a connection of its own.
//! - [`consumer`]: deliveries in, bounded work, acknowledgement out; the only file that acknowledges.
//! - [`outbox`]: messages out; returns only when the broker has confirmed.
//! - [`replies`]: copies for requesters, on a connection that may end.
//! - [`headers`]: what a message carries, and how much of it is believed.
//!
//! lapin's own recovery stays off: with it, a channel error leaves a consumer silent for ever and a lost connection is not
//! seen. Without it every fault shows as an error, and a session is made anew.

pub mod consumer;
mod dial;
pub mod headers;
pub mod intake;
pub mod outbox;
mod replies;
pub mod session;
pub mod topology;

pub use dial::{connect, is_before_3_13, version};

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// How long a channel stays open after its last acknowledgement. RabbitMQ holds those of a quorum queue back while 32 are not yet in the
/// queue's log, and forgets what it holds back when the channel ends: of 128 acknowledged and a channel closed at once, 95 came again.
pub const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(2);

/// Why the broker could not be used. It never shows the address, which holds a password.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// Of the broker itself, or for one of its objects: a quorum queue without a majority never answers.
    #[error("{asked} did not answer within {limit:?}")]
    NoAnswer { asked: String, limit: Duration },
    #[error("amqp.url is no AMQP address")]
    Address,
    #[error("the broker at {place}: {error}{}", hint(error))]
    Connect { place: String, error: lapin::Error },
    #[error(transparent)]
    Broker(#[from] lapin::Error),
    /// Objects that are missing or differ.
    #[error("{0}")]
    Topology(String),
    #[error("an intake failed: {0}")]
    Panicked(#[from] tokio::task::JoinError),
    #[error(
        "a message in {0} cannot be read: one of its properties is not UTF-8. Take it out as docs/RUNBOOK.md says under \
         QrisCancelUnreadable, and try again"
    )]
    UnreadableInUpgrade(String),
    #[error("{queue}: {reason}")]
    Consuming { queue: String, reason: &'static str },
    #[error("{queue}: a message was left unacknowledged, so that the broker delivers it again")]
    LeftUnacknowledged { queue: String },
    /// A message that cannot be read has ended the connection on which it was delivered.
    #[error("{queue}: a message cannot be read: {error}")]
    Unreadable { queue: String, error: lapin::Error },
}

/// What to look at.
fn hint(error: &lapin::Error) -> &'static str {
    if error.to_string().contains("ACCESS_REFUSED") { "; look at user and password in amqp.url" } else { "" }
}

impl AmqpError {
    /// What has ended a connection that consumes: a message that lapin cannot parse or that the broker cannot write, or something else. A
    /// broker that stops says 320, and one that is gone says nothing.
    fn of_consumer(queue: &str, error: lapin::Error) -> Self {
        use lapin::protocol::{AMQPErrorKind::Hard, AMQPHardError};
        let is_about_a_message = match error.kind() {
            lapin::ErrorKind::ParsingError(_) => true,
            lapin::ErrorKind::ProtocolError(said) => matches!(
                said.kind(),
                Hard(AMQPHardError::INTERNALERROR | AMQPHardError::FRAMEERROR | AMQPHardError::UNEXPECTEDFRAME)
            ),
            _ => false,
        };
        if is_about_a_message { Self::Unreadable { queue: queue.to_owned(), error } } else { error.into() }
    }

    fn session_is_broken(queue: &str) -> Self {
        Self::Consuming { queue: queue.to_owned(), reason: "the session is broken" }
    }
}

/// How we stand with the broker, over all sessions.
#[derive(Debug, Default)]
pub struct Standing {
    connected: AtomicBool,
    blocked: AtomicBool,
}

impl Standing {
    /// There is a connection to publish on.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// The broker takes no messages now (memory or disk alarm).
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    pub fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }
}
