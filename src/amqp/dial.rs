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
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::lookup_host,
    time::timeout,
};
use tokio_util::compat::FuturesAsyncReadCompatExt;
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

/// The version of a RabbitMQ, which it says before anybody logs in; none where it says none. lapin does not show what it says, so this
/// is a connection that goes no further.
///
/// # Errors
/// When the broker is not there, or says nothing within the limit.
pub async fn version(settings: &Amqp) -> io::Result<Option<String>> {
    let uri: AMQPUri = settings.url.expose_secret().parse().map_err(io::Error::other)?;
    let asking = async {
        let runtime = lapin::runtime::default_runtime().map_err(io::Error::other)?;
        let stream = AsyncTcpStream::connect(&runtime, addresses(&uri).await?).await?;
        let mut stream = match uri.scheme {
            AMQPScheme::AMQP => stream,
            AMQPScheme::AMQPS => stream.into_rustls(&connector(&settings.tls)?, &uri.authority.host).await?,
        }
        .compat();
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        stream.flush().await?;
        let mut said = Vec::new();
        while said.len() < LONGEST_GREETING && !is_whole(&said) && stream.read_buf(&mut said).await? > 0 {}
        Ok(version_in(&said))
    };
    timeout(settings.connect_timeout, asking).await?
}

/// A broker's greeting has some 500 bytes.
const LONGEST_GREETING: usize = 64 * 1024;

/// Whether these are all bytes of a frame.
fn is_whole(said: &[u8]) -> bool {
    const AROUND: usize = 8;
    let length = said.get(3..7).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes);
    length.is_some_and(|length| said.len() >= length as usize + AROUND)
}

/// What stands in the table of a greeting.
fn version_in(greeting: &[u8]) -> Option<String> {
    let text = |name: &[u8]| {
        // The name with its length, `S` for a text, and the text with its length.
        let key = [&[name.len() as u8], name, b"S"].concat();
        let at = greeting.windows(key.len()).position(|window| window == key)? + key.len();
        let length = u32::from_be_bytes(greeting.get(at..at + 4)?.try_into().ok()?) as usize;
        String::from_utf8(greeting.get(at + 4..at + 4 + length)?.to_vec()).ok()
    };
    text(b"version").filter(|_| text(b"product").is_some_and(|product| product == "RabbitMQ"))
}

/// Whether one message of a publisher can end the dead-lettering of a node of this version, and with it every retry.
pub fn is_before_3_13(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map_while(|number| number.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) < (3, 13))
}

async fn addresses(uri: &AMQPUri) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((uri.authority.host.as_str(), uri.authority.port)).await?.collect())
}

async fn dial(uri: AMQPUri, tls: &AmqpTls, purpose: &str) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    let stream = AsyncTcpStream::connect(&runtime, addresses(&uri).await?).await?;
    let mut socket = Socket(match &stream {
        AsyncTcpStream::Plain(plain) => Some(plain.get_ref().as_fd().try_clone_to_owned()?.into()),
        _ => None,
    });
    let stream = match uri.scheme {
        AMQPScheme::AMQP => stream,
        AMQPScheme::AMQPS => stream.into_rustls(&connector(tls)?, &uri.authority.host).await?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_a_greeting_of_rabbitmq_alone() {
        let greeting = |product: &str| {
            let text = |name: &str, value: &str| {
                let (name, value) = (name.as_bytes(), value.as_bytes());
                [&[name.len() as u8], name, b"S", &(value.len() as u32).to_be_bytes(), value].concat()
            };
            let table = [text("product", product), text("version", "3.12.14")].concat();
            let frame = [&[1, 0, 0], &(table.len() as u32).to_be_bytes()[..], &table, &[0xce]].concat();
            assert!(is_whole(&frame) && (0..frame.len()).all(|length| !is_whole(&frame[..length])));
            frame
        };
        assert_eq!(version_in(&greeting("RabbitMQ")).as_deref(), Some("3.12.14"));
        assert_eq!(version_in(&greeting("another")), None);
        let whole = greeting("RabbitMQ");
        assert!((0..whole.len() - 1).all(|length| version_in(&whole[..length]).is_none()));
        for old in ["3.8.9", "3.10.8", "3.12.14", "3.12.0-rc.1"] {
            assert!(is_before_3_13(old), "{old}");
        }
        for not_old in ["3.13.0", "4.0.5", "4.3.6", "", "nonsense", "3"] {
            assert!(!is_before_3_13(not_old), "{not_old}");
        }
    }
}
