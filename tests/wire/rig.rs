//! Servers that do as they are told.

use qris_cancel_worker::snap::{
    Operation, Reply, SendError,
    client::{Client, Options},
    request::SignedRequest,
};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub const TIMEOUT: Duration = Duration::from_millis(600);

pub fn options() -> Options {
    Options { connect_timeout: Duration::from_millis(300), timeout: TIMEOUT, ..Options::default() }
}

pub fn client() -> Client {
    Client::new(&options()).unwrap()
}

pub fn request(url: &str) -> SignedRequest {
    SignedRequest {
        operation: Operation::Cancel,
        url: url.to_owned(),
        headers: vec![("X-PARTNER-ID".into(), "p".into())],
        body: b"{\"reason\":\"x\"}".to_vec(),
        string_to_sign: "".into(),
        signature: "".into(),
        token: None,
    }
}

/// A server that does something with each connection. Returns its address and how many connections it has had.
pub async fn server<F, R>(act: F) -> (String, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/cancel", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let own = count.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            own.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(act(stream));
        }
    });
    (url, count)
}

/// Reads one request, head and body.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .to_ascii_lowercase()
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.lines().next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

pub fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

/// Sends to a server that answers every request with these bytes and then closes.
pub async fn answered(answer: impl Into<Vec<u8>>) -> Result<Reply, SendError> {
    let answer = answer.into();
    let (url, _) = server(move |mut stream| {
        let answer = answer.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(&answer).await.ok();
        }
    })
    .await;
    client().send(request(&url)).await
}
