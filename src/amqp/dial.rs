//! A connection to the broker, made within a limit.
//!
//! lapin goes on with an attempt whose caller has given it up: its thread, its socket and its buffers would stay for as long as the
//! other side says nothing, and more of them with each attempt. Without its socket it ends.

use super::AmqpError;
use crate::settings::Amqp;
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPScheme, AMQPUri},
};
use secrecy::ExposeSecret;
use std::{
    io,
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{net::lookup_host, time::timeout};
use tracing::debug;

/// A broker that says nothing for twice this many seconds is taken for lost, unless the address says otherwise.
const HEARTBEAT_S: u16 = 10;

/// Connects, within the limit, under a name that operators see in RabbitMQ.
///
/// # Errors
/// When the broker is not there, or does not let us in.
pub async fn connect(settings: &Amqp, purpose: &str) -> Result<Connection, AmqpError> {
    let mut uri: AMQPUri = settings.url.expose_secret().parse().map_err(AmqpError::Address)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    let place = format!("{}:{}", uri.authority.host, uri.authority.port);
    let limit = settings.connect_timeout;
    let identity = settings
        .tls
        .client
        .as_ref()
        .map(|(pem, key)| OwnedIdentity::PKCS8 { pem: pem.clone(), key: key.expose_secret().as_bytes().to_vec() });
    let tls = OwnedTLSConfig { identity, cert_chain: settings.tls.ca.clone() };
    let properties =
        ConnectionProperties::default().with_connection_name(format!("qris-cancel-worker {purpose}").into());

    let attempt = Attempt::default();
    let _ends = Ends(attempt.clone());
    let dialled = attempt.clone();
    let connecting = Connection::connector(
        uri,
        lapin::runtime::default_runtime()?,
        async move |uri: AMQPUri, runtime| {
            let addresses: Vec<_> = lookup_host((uri.authority.host.as_str(), uri.authority.port)).await?.collect();
            let connecting = timeout(limit, AsyncTcpStream::connect(&runtime, addresses));
            let stream = connecting.await.map_err(io::Error::from)??;
            if let AsyncTcpStream::Plain(plain) = &stream {
                dialled.holds(plain.get_ref())?;
            }
            Ok(match uri.scheme {
                AMQPScheme::AMQP => stream,
                AMQPScheme::AMQPS => stream.into_tls(&uri.authority.host, tls.as_ref()).await?,
            })
        },
        properties,
    );
    match timeout(limit, connecting).await {
        Err(_) => Err(AmqpError::NoAnswer { asked: format!("the broker at {place}"), limit }),
        Ok(Err(error)) => Err(AmqpError::Connect { place, error }),
        Ok(Ok(connection)) => {
            attempt.is_done();
            Ok(connection)
        }
    }
}

/// An attempt to connect, as both sides of it see it.
#[derive(Clone, Default)]
struct Attempt(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    socket: Option<TcpStream>,
    given_up: bool,
}

impl Attempt {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self, socket: &impl AsFd) -> io::Result<()> {
        let mut state = self.state();
        if state.given_up {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        state.socket = Some(socket.as_fd().try_clone_to_owned()?.into());
        Ok(())
    }

    fn is_done(&self) {
        self.state().socket = None;
    }
}

/// Gives an attempt up, unless it is done.
struct Ends(Attempt);

impl Drop for Ends {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.given_up = true;
        if let Some(socket) = state.socket.take()
            && let Err(error) = socket.shutdown(Shutdown::Both)
        {
            debug!(%error, "an attempt to connect had ended already");
        }
    }
}
