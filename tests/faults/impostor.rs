//! Stands before the sandbox and answers some calls itself, as no provider should.

use serde_json::json;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// What the sandbox says.
    Truth,
    /// A hundred megabytes, to every cancel.
    Megabytes,
    /// That a transaction is cancelled, and it is another one.
    AnotherTransaction,
    /// That the cancel is accepted, which then never takes effect.
    Accepted,
}

pub struct Impostor {
    pub address: SocketAddr,
    says: watch::Sender<Says>,
    pub answers: Arc<AtomicU64>,
}

impl Impostor {
    pub async fn start(sandbox: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (says, now) = watch::channel(Says::Truth);
        let answers = Arc::<AtomicU64>::default();
        let (sandbox, counted) = (sandbox.to_owned(), answers.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (says, sandbox, counted) = (*now.borrow(), sandbox.clone(), counted.clone());
                // The caller may go away in the middle.
                tokio::spawn(async move { answer(stream, says, &sandbox, &counted).await.ok() });
            }
        });
        Self { address, says, answers }
    }

    pub fn set(&self, says: Says) {
        self.says.send_replace(says);
    }
}

/// Answers one request, and closes the connection.
async fn answer(mut stream: TcpStream, says: Says, sandbox: &str, counted: &AtomicU64) -> std::io::Result<()> {
    let mut request = Vec::new();
    let is_whole = |request: &[u8]| {
        let text = String::from_utf8_lossy(request);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
        (body.len() >= length.parse().ok()?).then_some(())
    };
    while is_whole(&request).is_none() {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let (line, rest) = text.split_once("\r\n").unwrap();
    if says == Says::Truth || !line.contains("cancel HTTP") {
        let mut server = TcpStream::connect(sandbox).await?;
        server.write_all(format!("{line}\r\nconnection: close\r\n{rest}").as_bytes()).await?;
        tokio::io::copy(&mut server, &mut stream).await?;
        return Ok(());
    }
    counted.fetch_add(1, Ordering::Relaxed);
    let (status, body) = match says {
        Says::AnotherTransaction => (
            200,
            json!({ "responseCode": "2007700", "responseMessage": "Successful", "originalReferenceNo": "SOMEBODY-ELSES" }),
        ),
        _ => (202, json!({ "responseCode": "2027700", "responseMessage": "Request In Progress" })),
    };
    if says == Says::Megabytes {
        let length = 100 << 20;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let part = vec![b' '; 1 << 20];
        for _ in 0..100 {
            stream.write_all(&part).await?;
        }
        return Ok(());
    }
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await
}
