//! The real HTTP client against sockets that hang, reset, drip and lie. What counts in each case: may the provider have
//! received the request?

#[path = "wire/certs.rs"]
mod certs;
#[path = "wire/not_after.rs"]
mod not_after;
#[path = "wire/pool.rs"]
mod pool;
#[path = "wire/proxy.rs"]
mod proxy;
#[path = "wire/rig.rs"]
mod rig;
#[path = "wire/tls.rs"]
mod tls;
#[path = "wire/token.rs"]
mod token;

use qris_cancel_worker::snap::SendError;
use rig::{TIMEOUT, answered, client, http, read_request, request, server};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, net::TcpListener};

#[tokio::test]
async fn what_was_surely_not_sent_is_known() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = client().send(request(&format!("http://{free}/"))).await.unwrap_err();
    assert!(matches!(refused, SendError::NotSent(_)), "{refused}");
    let no_name = client().send(request("http://nobody.invalid/")).await.unwrap_err();
    assert!(matches!(no_name, SendError::NotSent(_)), "{no_name}");
    // A server that speaks no TLS, and one that accepts and says nothing: the handshake is part of the connection.
    let (url, _) = server(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok();
        read_request(&mut stream).await;
    })
    .await;
    let no_tls = client().send(request(&url.replace("http:", "https:"))).await.unwrap_err();
    assert!(matches!(no_tls, SendError::NotSent(_)), "{no_tls}");
    let (url, _) = server(|_stream| std::future::pending()).await;
    let silent = client().send(request(&url.replace("http:", "https:"))).await.unwrap_err();
    assert!(matches!(silent, SendError::NotSent(_)), "{silent}");
    for error in [refused, no_name, no_tls, silent] {
        assert!(!error.is_ambiguous());
    }
}

#[tokio::test]
async fn no_answer_in_time_is_a_timeout() {
    let (url, _) = server(|mut stream| async move {
        read_request(&mut stream).await;
        std::future::pending().await
    })
    .await;
    let begun = Instant::now();
    let error = client().send(request(&url)).await.unwrap_err();
    assert_eq!(error, SendError::TimedOut(TIMEOUT));
    assert!(error.is_ambiguous());
    assert!(begun.elapsed() < TIMEOUT * 4);
    // A drip keeps the connection busy and is not an answer either.
    let (url, _) = server(|mut stream| async move {
        read_request(&mut stream).await;
        for byte in http("200 OK", "", &"x".repeat(1000)).bytes() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    })
    .await;
    assert_eq!(client().send(request(&url)).await.unwrap_err(), SendError::TimedOut(TIMEOUT));
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_is_ambiguous() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"responseCode\":",
        b"this is no HTTP",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    ] {
        let error = answered(answer).await.unwrap_err();
        assert!(matches!(error, SendError::Broken(_)), "{answer:?}: {error}");
        assert!(error.is_ambiguous());
    }
    let (url, _) = server(|mut stream| async move {
        read_request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let reset = client().send(request(&url)).await.unwrap_err();
    assert!(matches!(reset, SendError::Broken(_)), "{reset}");
}

/// Answers with a beginning and then more and more. Returns the error, and how much the server could get rid of.
async fn endless(begin: &'static [u8], chunk: Vec<u8>) -> (SendError, usize) {
    let written = Arc::new(AtomicUsize::new(0));
    let own = written.clone();
    let (url, _) = server(move |mut stream| {
        let (chunk, written) = (chunk.clone(), own.clone());
        async move {
            read_request(&mut stream).await;
            stream.write_all(begin).await.ok();
            while let Ok(count @ 1..) = stream.write(&chunk).await {
                written.fetch_add(count, Ordering::SeqCst);
            }
        }
    })
    .await;
    let error = client().send(request(&url)).await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(50)).await;
    (error, written.load(Ordering::SeqCst))
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let data = vec![b' '; 64 * 1024];
    let chunk = [b"10000\r\n", &data[..], b"\r\n"].concat();
    for (begin, chunk) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n"[..], &data),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &chunk),
        (b"HTTP/1.1 200 OK\r\n\r\n", &data),
    ] {
        let (error, written) = endless(begin, chunk.clone()).await;
        assert!(matches!(&error, SendError::Broken(why) if why.contains("longer than")), "{error}");
        // The cap, and what fits into the buffers of the sockets.
        assert!(written < 16 << 20, "{written}");
    }
}

#[tokio::test]
async fn an_endless_head_is_cut_off() {
    for (begin, chunk) in [
        (&b"HTTP/1.1 200 OK\r\n"[..], "x-more: headers\r\n".repeat(1000)),
        (b"HTTP/1.1 200 OK\r\nx-long: ", "x".repeat(64 * 1024)),
        (b"", "HTTP/1.1 200 ".repeat(1000)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", "x".repeat(64 * 1024)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", "x-more: trailers\r\n".repeat(1000)),
    ] {
        let (error, written) = endless(begin, chunk.into_bytes()).await;
        assert!(matches!(error, SendError::Broken(_)), "{error}");
        assert!(written < 16 << 20, "{written}");
    }
    let promises = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
    let (error, _) = endless(b"", promises).await;
    assert!(error.is_ambiguous(), "{error}");
}

#[tokio::test]
async fn an_answer_is_passed_on_as_it_is() {
    let reply = answered(http("404 Not Found", "retry-after: 7\r\n", "{\"responseCode\":\"4047701\"}")).await.unwrap();
    assert_eq!((reply.http_status, reply.retry_after), (404, Some(Duration::from_secs(7))));
    assert_eq!(reply.body, b"{\"responseCode\":\"4047701\"}");
    let reply = answered(http("503 Service Unavailable", "retry-after: 86400\r\n", "<html>")).await.unwrap();
    assert_eq!((reply.http_status, reply.retry_after), (503, Some(Duration::from_secs(3600))));
    assert_eq!(answered(http("204 No Content", "", "")).await.unwrap().body, b"");
}

#[tokio::test]
async fn an_answer_tells_the_providers_time() {
    let date = |headers: &'static str| async move { answered(http("200 OK", headers, "{}")).await.unwrap().date };
    let at = chrono::DateTime::parse_from_rfc3339("2026-11-20T03:04:05Z").unwrap().to_utc();
    assert_eq!(date("date: Fri, 20 Nov 2026 03:04:05 GMT\r\n").await, Some(at));
    for garbage in ["", "date: \r\n", "date: soon\r\n", "date: Fri, 32 Nov 2026 03:04:05 GMT\r\n", "date: \u{ff}\r\n"] {
        assert_eq!(date(garbage).await, None, "{garbage}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (other, visits) = server(|_stream| async {}).await;
    for status in [301, 302, 303, 307, 308] {
        let answer = http(&format!("{status} Elsewhere"), &format!("location: {other}\r\n"), "");
        assert_eq!(answered(answer).await.unwrap().http_status, status);
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_request_is_what_was_signed_and_little_more() {
    let (url, _) = server(|mut stream| async move {
        let text = read_request(&mut stream).await.unwrap();
        stream.write_all(http("200 OK", "", &text).as_bytes()).await.ok();
    })
    .await;
    let sent = String::from_utf8(client().send(request(&url)).await.unwrap().body).unwrap();
    let host = url.trim_start_matches("http://").trim_end_matches("/cancel");
    let expected = format!(
        "POST /cancel HTTP/1.1\r\ncontent-type: application/json\r\nx-partner-id: p\r\naccept: */*\r\nhost: {host}\r\n\
         content-length: 14\r\n\r\n{{\"reason\":\"x\"}}"
    );
    assert_eq!(sent, expected);
    let mut empty = request(&url);
    empty.body.clear();
    let sent = String::from_utf8(client().send(empty).await.unwrap().body).unwrap();
    assert!(sent.ends_with("content-length: 0\r\n\r\n"), "{sent}");
}

#[tokio::test]
async fn a_request_of_which_a_piece_was_read_is_ambiguous() {
    let (url, _) = server(|mut stream| async move {
        let mut piece = [0; 1];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut piece).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    // As long a header as is sent, such as a token of an unusual size, and one that is longer.
    for (length, is_ambiguous) in [(1, true), (250 * 1024, true), (256 * 1024, false)] {
        let mut long = request(&url);
        long.headers.push(("Authorization".into(), "x".repeat(length).into()));
        let error = client().send(long).await.unwrap_err();
        assert_eq!(error.is_ambiguous(), is_ambiguous, "{length}: {error}");
    }
}

#[tokio::test]
async fn an_answer_to_no_request_is_not_taken_for_the_next_ones() {
    let answer = |number: usize| http("200 OK", "", &number.to_string());
    let connections = Arc::new(AtomicUsize::new(0));
    let (url, _) = server(move |mut stream| {
        let number = connections.fetch_add(1, Ordering::SeqCst);
        async move {
            read_request(&mut stream).await;
            stream.write_all((answer(number) + &answer(100)).as_bytes()).await.unwrap();
            read_request(&mut stream).await;
        }
    })
    .await;
    let client = client();
    for number in 0..10 {
        assert_eq!(client.send(request(&url)).await.unwrap().body, number.to_string().as_bytes());
    }
}

#[tokio::test]
async fn nothing_is_sent_twice_behind_our_back() {
    // A server that closes a kept-alive connection just as the next request arrives.
    let requests = Arc::new(AtomicUsize::new(0));
    let own = requests.clone();
    let (url, _) = server(move |mut stream| {
        let requests = own.clone();
        async move {
            read_request(&mut stream).await;
            requests.fetch_add(1, Ordering::SeqCst);
            stream.write_all(http("200 OK", "", "{}").as_bytes()).await.unwrap();
            if read_request(&mut stream).await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
                stream.set_zero_linger().unwrap();
            }
        }
    })
    .await;
    let client = client();
    client.send(request(&url)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = client.send(request(&url)).await.unwrap_err();
    assert!(error.is_ambiguous(), "the server had the request: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(requests.load(Ordering::SeqCst), 2, "one request a call");
}
