//! A connection to the broker, made within a limit.
//!
//! lapin is given a connection of TCP or TLS that is ready: an attempt of its own could not be given up, and it would trust the system's
//! authorities beside those of the settings. An AMQP handshake that is given up ends as its socket does; left to itself, its thread and
//! its buffers would stay for as long as the other side says nothing.

use super::AmqpError;
use crate::settings::{Amqp, AmqpTls};
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    tcp::{RustlsConnector, RustlsConnectorConfig},
    uri::{AMQPScheme, AMQPUri},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use secrecy::ExposeSecret;
use std::{
    io,
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
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
    let mut uri: AMQPUri = settings.url.expose_secret().parse().map_err(|_| AmqpError::Address)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    let place = format!("{}:{}", uri.authority.host, uri.authority.port);
    let limit = settings.connect_timeout;
    match timeout(limit, dial(uri, &settings.tls, purpose)).await {
        Err(_) => Err(AmqpError::NoAnswer { asked: format!("the broker at {place}"), limit }),
        Ok(connected) => connected.map_err(|error| AmqpError::Connect { place, error }),
    }
}

async fn dial(uri: AMQPUri, tls: &AmqpTls, purpose: &str) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    let host = uri.authority.host.as_str();
    let addresses: Vec<_> = lookup_host((host, uri.authority.port)).await?.collect();
    let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
    let mut socket = Socket(match &stream {
        AsyncTcpStream::Plain(plain) => Some(plain.get_ref().as_fd().try_clone_to_owned()?.into()),
        _ => None,
    });
    let stream = match uri.scheme {
        AMQPScheme::AMQP => stream,
        AMQPScheme::AMQPS => stream.into_rustls(&connector(tls)?, host).await?,
    };
    let (stream, name) = (Mutex::new(Some(stream)), format!("qris-cancel-worker {purpose}"));
    // lapin asks once: its own recovery is off.
    let hand_over = async move |_, _| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted).into())
    };
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connection = Connection::connector(uri, runtime, hand_over, properties).await?;
    socket.0 = None;
    Ok(connection)
}

/// Trusts the authorities of the settings, or the system's where they name none.
fn connector(tls: &AmqpTls) -> io::Result<RustlsConnector> {
    let unreadable = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let certificates = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let config = match &tls.ca {
        None => RustlsConnectorConfig::new_with_platform_verifier(),
        Some(ca) => {
            let mut config = RustlsConnectorConfig::default();
            config.add_parsable_certificates(certificates(ca.as_bytes()).map_err(unreadable)?);
            config
        }
    };
    match &tls.client {
        None => config.connector_with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes()).map_err(unreadable)?;
            config.connector_with_single_cert(certificates(chain).map_err(unreadable)?, key)
        }
    }
}

/// The socket of an attempt, until there is a connection.
struct Socket(Option<TcpStream>);

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take()
            && let Err(error) = socket.shutdown(Shutdown::Both)
        {
            debug!(%error, "an attempt to connect had ended already");
        }
    }
}
