//! What stands between worker and providers, and listens: a relay that keeps every byte, in clear or behind TLS, and a proxy.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// All bytes that went through, in both directions.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<Vec<u8>>>>);

impl Heard {
    pub fn text(&self) -> String {
        let streams = self.0.lock().unwrap();
        streams.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned() + "\n").collect()
    }

    /// What stood behind a header's or a JSON field's name, each value once.
    pub fn values(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let (header, field) = (format!("{name}: "), format!("\"{name}\":\""));
        let of_headers = text.lines().filter_map(|line| {
            line.get(..header.len()).filter(|start| start.eq_ignore_ascii_case(&header)).map(|_| &line[header.len()..])
        });
        let of_fields = text.split(&field).skip(1).filter_map(|rest| rest.split('"').next());
        let mut values: Vec<_> = of_headers.chain(of_fields).map(|value| value.trim().to_owned()).collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    async fn copy(self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let at = {
            let mut streams = self.0.lock().unwrap();
            streams.push(Vec::new());
            streams.len() - 1
        };
        let mut chunk = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            self.0.lock().unwrap()[at].extend_from_slice(&chunk[..count]);
            if to.write_all(&chunk[..count]).await.is_err() {
                break;
            }
        }
        to.shutdown().await.ok();
    }
}

/// Relays to `target` and keeps what it hears.
pub async fn relay(target: String, tls: Option<TlsAcceptor>, heard: Heard) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (target, tls, heard) = (target.clone(), tls.clone(), heard.clone());
            tokio::spawn(async move {
                let there = TcpStream::connect(target).await.unwrap();
                match tls {
                    Some(tls) => {
                        let Ok(here) = tls.accept(stream).await else { return };
                        join(here, there, heard).await;
                    }
                    None => join(stream, there, heard).await,
                }
            });
        }
    });
    address
}

async fn join(here: impl AsyncRead + AsyncWrite + Unpin, there: TcpStream, heard: Heard) {
    let (from_here, to_here) = tokio::io::split(here);
    let (from_there, to_there) = there.into_split();
    tokio::join!(heard.clone().copy(from_here, to_there), heard.copy(from_there, to_here));
}

/// A proxy that keeps the heads of its CONNECTs, and lets through or not.
pub async fn proxy(lets_through: bool, heard: Heard) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let target = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned();
                heard.0.lock().unwrap().push(head);
                if !lets_through {
                    stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.ok();
                    return;
                }
                let mut there = TcpStream::connect(target).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                tokio::io::copy_bidirectional(&mut stream, &mut there).await.ok();
            });
        }
    });
    address
}
