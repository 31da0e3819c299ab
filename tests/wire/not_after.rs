//! No byte of a request leaves after its time, however long the way there takes; what has begun before is read to its end.

use crate::{
    certs::Authority,
    rig::{http, options, read_request, request, server},
};
use chrono::{TimeDelta, Utc};
use qris_cancel_worker::snap::{
    Reply, SendError,
    client::{Client, Options},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// So long after it is asked for, the connection is there.
const SLOW: Duration = Duration::from_millis(700);
/// All time limits but that of the request are far off.
const FAR: Duration = Duration::from_secs(10);

async fn send(options: Options, url: &str, within: Duration) -> Result<Reply, SendError> {
    let client = Client::new(&Options { connect_timeout: FAR, timeout: FAR, ..options }).unwrap();
    let not_after = Utc::now() + TimeDelta::from_std(within).unwrap();
    client.send_before(request(url), Some(not_after)).await
}

/// Counts what it is sent, until there is no more.
async fn count(mut stream: impl AsyncRead + Unpin, bytes: &AtomicUsize) {
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        bytes.fetch_add(read, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_connection_that_takes_too_long_carries_no_request() {
    let authority = Authority::new("ours");
    let ca = Some(authority.pem().into_bytes());
    let bytes = Arc::new(AtomicUsize::new(0));
    let (acceptor, own) = (authority.server("127.0.0.1").acceptor(), bytes.clone());
    let (slow_tls, _) = server(move |stream| {
        let (acceptor, bytes) = (acceptor.clone(), own.clone());
        async move {
            tokio::time::sleep(SLOW).await;
            let Ok(stream) = acceptor.accept(stream).await else { return };
            count(stream, &bytes).await;
        }
    })
    .await;
    let slow_tls = slow_tls.replace("http:", "https:");
    let own = bytes.clone();
    let (slow_proxy, _) = server(move |mut stream| {
        let bytes = own.clone();
        async move {
            read_request(&mut stream).await;
            tokio::time::sleep(SLOW).await;
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok();
            count(stream, &bytes).await;
        }
    })
    .await;
    let through = Options { proxy: Some(slow_proxy.replace("/cancel", "").into()), ca: ca.clone(), ..options() };
    for (name, options, url) in [
        ("TLS", Options { ca, ..options() }, slow_tls.as_str()),
        ("proxy", through, "https://127.0.0.1:1/cancel"),
        // Nobody there answers a call for a connection (TEST-NET-1).
        ("TCP", options(), "http://192.0.2.1/cancel"),
    ] {
        let begun = Instant::now();
        let result = send(options, url, Duration::from_millis(200)).await;
        // Where the network says at once that there is no way, it was not sent either.
        let is_so =
            matches!(result, Err(SendError::TooLate)) || name == "TCP" && matches!(result, Err(SendError::NotSent(_)));
        assert!(is_so, "{name}: {result:?}");
        assert!(begun.elapsed() < SLOW, "{name}: it is known at once");
    }
    tokio::time::sleep(SLOW * 2).await;
    assert_eq!(bytes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_kept_connection_carries_no_request_after_its_time() {
    let read = Arc::new(AtomicUsize::new(0));
    let own = read.clone();
    let (url, connections) = server(move |mut stream| {
        let read = own.clone();
        async move {
            while read_request(&mut stream).await.is_some() {
                read.fetch_add(1, Ordering::SeqCst);
                stream.write_all(http("200 OK", "", "{}").as_bytes()).await.ok();
            }
        }
    })
    .await;
    let client = Client::new(&options()).unwrap();
    let send = |ago: i64| client.send_before(request(&url), Some(Utc::now() - TimeDelta::milliseconds(ago)));
    for _ in 0..20 {
        send(-1000).await.unwrap();
        assert_eq!(send(1).await.unwrap_err(), SendError::TooLate);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(read.load(Ordering::SeqCst), 20, "what came too late was never seen");
    assert!(connections.load(Ordering::SeqCst) <= 21);
}

#[tokio::test]
async fn what_has_begun_in_time_is_read_to_its_end() {
    let (url, _) = server(|mut stream| async move {
        read_request(&mut stream).await;
        tokio::time::sleep(SLOW).await;
        stream.write_all(http("200 OK", "", "done").as_bytes()).await.ok();
    })
    .await;
    let begun = Instant::now();
    let reply = send(options(), &url, Duration::from_millis(300)).await.unwrap();
    assert_eq!(reply.body, b"done");
    assert!(begun.elapsed() >= SLOW, "long after the limit");
}
