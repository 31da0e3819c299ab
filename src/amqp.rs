//! The broker in a page.
//!
//! Commands come in through one queue an account, are acknowledged last of all, and leave as events, retries or parked
//! copies that the broker has confirmed. The broker holds all state: a worker can die at any moment.
//!
//! - [`topology`]: every exchange, queue and binding, with the reason for each option.
//! - [`session`]: connects to publish, runs the intakes, and on any fault begins again.
//! - [`intake`]: one queue, consumed on a connection of its own.
//! - [`consumer`]: deliveries in, bounded work, acknowledgement out; the only file that acknowledges.
//! - [`outbox`]: messages out; returns only when the broker has confirmed.
//! - [`headers`]: what a message carries, and how much of it is believed.
//!
//! lapin's own recovery stays off: with it, a channel error leaves a consumer silent for ever and a lost connection is not
//! seen. Without it every fault shows as an error, and a session is made anew.

pub mod consumer;
pub mod headers;
pub mod intake;
pub mod outbox;
pub mod session;
pub mod topology;

use crate::settings::Amqp;
use lapin::{
    Connection, ConnectionProperties,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::AMQPUri,
};
use secrecy::ExposeSecret;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// A broker that says nothing for twice this many seconds is taken for lost, unless the address says otherwise.
const HEARTBEAT_S: u16 = 10;

/// How long a channel stays open after its last acknowledgement. RabbitMQ holds those of a quorum queue back while 32 are not yet in the
/// queue's log, and forgets what it holds back when the channel ends: of 128 acknowledged and a channel closed at once, 95 came again.
pub const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(2);

/// Why the broker could not be used. It never shows the address, which holds a password.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    #[error("the broker at {place} did not answer within {limit:?}")]
    NoAnswer { place: String, limit: Duration },
    #[error("the broker at {place}: {error}{}", hint(error))]
    Connect { place: String, error: lapin::Error },
    #[error(transparent)]
    Broker(#[from] lapin::Error),
    #[error("{0}")]
    Topology(String),
    #[error("{queue}: {reason}")]
    Consuming { queue: String, reason: &'static str },
}

/// What to look at.
fn hint(error: &lapin::Error) -> &'static str {
    if error.to_string().contains("ACCESS_REFUSED") { "; look at user and password in amqp.url" } else { "" }
}

impl AmqpError {
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

/// Connects, within the limit, under a name that operators see in RabbitMQ.
///
/// # Errors
/// When the broker is not there, or does not let us in.
pub async fn connect(settings: &Amqp, purpose: &str) -> Result<Connection, AmqpError> {
    let mut uri: AMQPUri = settings.url.expose_secret().parse().map_err(AmqpError::Topology)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    uri.query.connection_timeout.get_or_insert(settings.connect_timeout.as_millis() as u64);
    let place = format!("{}:{}", uri.authority.host, uri.authority.port);
    let identity = settings
        .tls
        .client
        .as_ref()
        .map(|(pem, key)| OwnedIdentity::PKCS8 { pem: pem.clone(), key: key.expose_secret().as_bytes().to_vec() });
    let tls = OwnedTLSConfig { identity, cert_chain: settings.tls.ca.clone() };
    let properties =
        ConnectionProperties::default().with_connection_name(format!("qris-cancel-worker {purpose}").into());
    let connecting = Connection::connect_uri_with_config(uri, properties, tls, lapin::runtime::default_runtime()?);
    match tokio::time::timeout(settings.connect_timeout, connecting).await {
        Err(_) => Err(AmqpError::NoAnswer { place, limit: settings.connect_timeout }),
        Ok(Err(error)) => Err(AmqpError::Connect { place, error }),
        Ok(Ok(connection)) => Ok(connection),
    }
}
