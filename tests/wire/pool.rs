//! A kept connection that the server closes at about the time the next request goes out. What is reported of each request
//! is held against what the server has read.

use crate::{
    certs::Authority,
    rig::{http, options, request, server},
};
use qris_cancel_worker::snap::{
    SendError,
    client::{Client, Options},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

const REQUESTS: usize = 400;

/// How the server ends a connection.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// Orderly, some time after its first answer.
    Close,
    /// With a reset, some time after its first answer.
    Reset,
    /// Orderly or with a reset, some time after it was opened, with no answer at all.
    AtTheDoor,
}

#[derive(Default)]
struct Seen {
    /// How often the server has read anything of a request.
    reads: Mutex<BTreeMap<usize, usize>>,
    /// From now on it behaves.
    calm: AtomicBool,
}

impl Seen {
    fn note(&self, bytes: &[u8]) -> usize {
        let text = String::from_utf8_lossy(bytes);
        let ids: Vec<usize> = text
            .split("x-external-id: ")
            .skip(1)
            .map(|rest| rest.split("\r\n").next().unwrap().parse().unwrap())
            .collect();
        assert!(bytes.is_empty() || !ids.is_empty(), "a piece of a request that says no id: {text:?}");
        let mut reads = self.reads.lock().unwrap();
        ids.iter().for_each(|id| *reads.entry(*id).or_default() += 1);
        ids.len()
    }
}

/// tokio's sleep is too coarse for a race of microseconds.
async fn pause(longest_us: u64) {
    let us = fastrand::u64(..=longest_us);
    tokio::task::spawn_blocking(move || std::thread::sleep(Duration::from_micros(us))).await.unwrap();
}

/// Reads for as long as told, or until the first request is there.
async fn read(stream: &mut (impl AsyncRead + Unpin), seen: &Seen, until: impl Future<Output = ()>) -> usize {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    tokio::pin!(until);
    loop {
        tokio::select! {
            biased;
            read = stream.read(&mut chunk) => match read {
                Ok(count) if count > 0 => bytes.extend_from_slice(&chunk[..count]),
                _ => break,
            },
            () = &mut until => break,
        }
        if bytes.ends_with(b"{\"reason\":\"x\"}") {
            break;
        }
    }
    seen.note(&bytes)
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, seen: Arc<Seen>, end: End) {
    let headers = if end == End::AtTheDoor { "connection: close\r\n" } else { "" };
    let answer = http("200 OK", headers, "{}");
    if end == End::AtTheDoor && !seen.calm.load(Ordering::SeqCst) && fastrand::bool() {
        read(&mut stream, &seen, pause(300)).await;
        return;
    }
    while read(&mut stream, &seen, std::future::pending()).await > 0 {
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        if end == End::AtTheDoor {
            return;
        }
        if !seen.calm.load(Ordering::SeqCst) {
            let had_another = read(&mut stream, &seen, pause(3000)).await > 0;
            if had_another && fastrand::bool() {
                stream.write_all(answer.as_bytes()).await.ok();
            }
            return;
        }
    }
}

async fn race(label: &str, end: End, tls: bool) {
    let seen = Arc::new(Seen::default());
    let authority = Authority::new("race");
    let acceptor = authority.server("127.0.0.1").acceptor();
    let own = seen.clone();
    let (url, connections) = server(move |stream: TcpStream| {
        let (seen, acceptor) = (own.clone(), acceptor.clone());
        async move {
            let resets = end == End::Reset || (end == End::AtTheDoor && fastrand::bool());
            if resets && !seen.calm.load(Ordering::SeqCst) {
                stream.set_zero_linger().unwrap();
            }
            if tls {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, seen, end).await;
                }
            } else {
                serve(stream, seen, end).await;
            }
        }
    })
    .await;
    let url = if tls { url.replace("http:", "https:") } else { url };
    let ca = Some(authority.pem().into_bytes());
    let limit = Duration::from_secs(3);
    let client = Client::new(&Options { ca, connect_timeout: limit, timeout: limit * 2, ..options() }).unwrap();
    let send = async |id: usize| {
        let mut request = request(&url);
        request.headers.push(("X-EXTERNAL-ID".into(), id.to_string().into()));
        client.send(request).await
    };

    let begun = Instant::now();
    let mut results = Vec::new();
    while results.len() < REQUESTS && begun.elapsed() < Duration::from_secs(8) {
        results.push(send(results.len()).await);
        pause(3000).await;
    }
    seen.calm.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(50)).await;
    for id in REQUESTS..REQUESTS + 20 {
        send(id).await.unwrap_or_else(|e| panic!("{label}: {e}"));
    }

    let reads = seen.reads.lock().unwrap();
    let mut counts = BTreeMap::<_, usize>::new();
    for (id, result) in results.iter().enumerate() {
        let read = reads.get(&id).copied().unwrap_or(0);
        let (kind, allowed) = match result {
            Ok(_) => ("answered", 1..=1),
            Err(SendError::NotSent(_)) => ("not sent", 0..=0),
            Err(SendError::Broken(_)) => ("broken", 0..=1),
            Err(e) => panic!("{label}: {e}"),
        };
        assert!(allowed.contains(&read), "{label}: request {id} was read {read} times, and is {result:?}");
        *counts.entry(format!("{kind}, read {read} times")).or_default() += 1;
    }
    let connections = connections.load(Ordering::SeqCst);
    println!("{label}: {counts:?} on {connections} connections in {:?}", begun.elapsed());
    assert!(counts.get("answered, read 1 times").is_some_and(|count| *count >= 50), "{label}: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_reported_of_a_closing_connection_is_so() {
    tokio::join!(
        race("closed", End::Close, false),
        race("reset", End::Reset, false),
        race("closed, TLS", End::Close, true),
        race("reset, TLS", End::Reset, true),
        race("at the door", End::AtTheDoor, false),
        race("at the door, TLS", End::AtTheDoor, true),
    );
}
