//! The real HTTP client against sockets that hang, reset, drip and lie. What counts in each case: may the provider have
//! received the request?

use qris_cancel_worker::snap::{
    Operation, Reply, SendError,
    client::{Client, Options},
    key::PrivateKey,
    profile::{BUILT_IN, Profile, SigningMode},
    request::{Ids, MerchantDefaults, Partner, Route, SignedRequest},
    token::Tokens,
};
use secrecy::ExposeSecret;
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const TIMEOUT: Duration = Duration::from_millis(600);

fn client() -> Client {
    Client::new(&Options { connect_timeout: Duration::from_millis(300), timeout: TIMEOUT, ..Options::default() })
        .unwrap()
}

fn request(url: &str) -> SignedRequest {
    SignedRequest {
        operation: Operation::Cancel,
        url: url.to_owned(),
        headers: vec![("X-PARTNER-ID".into(), "p".into())],
        body: b"{\"reason\":\"x\"}".to_vec(),
        body_sha256: String::new(),
        string_to_sign: "".into(),
        signature: "".into(),
    }
}

async fn now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}

/// A server that does something with each connection. Returns its address and how many connections it has had.
async fn server<F, R>(act: F) -> (String, Arc<AtomicUsize>)
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
async fn read_request(stream: &mut TcpStream) -> Option<String> {
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

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

/// Sends to a server that answers every request with these bytes and then closes.
async fn answered(answer: impl Into<Vec<u8>>) -> Result<Reply, SendError> {
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

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let (url, _) = server(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n").await.ok();
        let chunk = vec![b' '; 64 * 1024];
        while stream.write_all(&chunk).await.is_ok() {}
    })
    .await;
    let error = client().send(request(&url)).await.unwrap_err();
    assert!(matches!(&error, SendError::Broken(why) if why.contains("longer than")), "{error}");
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
    let reply = answered(http("307 Temporary Redirect", &format!("location: {other}\r\n"), "")).await.unwrap();
    assert_eq!(reply.http_status, 307);
    assert_eq!(visits.load(Ordering::SeqCst), 0);
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

fn partner(url: &str) -> Partner {
    let (name, text) = BUILT_IN[1];
    let key = PrivateKey::read(include_bytes!("vectors/midtrans-public-sample-key.pem")).unwrap();
    let route = Route { path: "/cancel".into(), signed_path: "/cancel".into() };
    Partner {
        profile: Profile::read(name, text).unwrap(),
        mode: SigningMode::Asymmetric,
        base_url: url.to_owned(),
        token_base_url: url.to_owned(),
        cancel: route.clone(),
        query: Some(route),
        ids: Ids { client_key: Some("client".into()), ..Ids::default() },
        merchant: MerchantDefaults::default(),
        private_key: Some(key),
        client_secret: None,
    }
}

/// A token endpoint that gives `token-1`, `token-2`, … with this lifetime, or an error when it is empty.
async fn token_endpoint(lifetime: &'static str) -> (String, Arc<AtomicUsize>) {
    let fetches = Arc::new(AtomicUsize::new(0));
    let own = fetches.clone();
    let (url, _) = server(move |mut stream| {
        let fetches = own.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                assert!(request.contains(r#"{"grant_type":"client_credentials"}"#), "{request}");
                let number = fetches.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
                let answer = match lifetime {
                    "" => http("503 Service Unavailable", "", ""),
                    lifetime => {
                        http("200 OK", "", &format!(r#"{{"accessToken":"token-{number}","expiresIn":{lifetime}}}"#))
                    }
                };
                stream.write_all(answer.as_bytes()).await.ok();
            }
        }
    })
    .await;
    (url.replace("/cancel", ""), fetches)
}

#[tokio::test]
async fn many_who_need_a_token_fetch_it_once() {
    let (url, fetches) = token_endpoint("\"900\"").await;
    let (partner, client, tokens) = (partner(&url), client(), Tokens::default());
    let gets = (0..50).map(|_| tokens.get(&partner, &client, now));
    let all = futures_util::future::join_all(gets).await;
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    let calls = all.iter().filter(|fetched| fetched.as_ref().is_ok_and(|fetched| fetched.call.is_some())).count();
    assert_eq!(calls, 1, "the fetch is told by the one who made it");
    for fetched in &all {
        assert_eq!(fetched.as_ref().ok().unwrap().token.expose_secret(), "token-1");
    }
}

#[tokio::test]
async fn a_token_is_dropped_only_by_who_used_that_one() {
    let (url, fetches) = token_endpoint("900").await;
    let (partner, client, tokens) = (partner(&url), client(), Tokens::default());
    let get = || async { tokens.get(&partner, &client, now).await.ok().unwrap().token };
    let first = get().await;
    tokens.forget(&first).await;
    let second = get().await;
    assert_eq!(second.expose_secret(), "token-2");
    tokens.forget(&first).await;
    assert_eq!(get().await.expose_secret(), "token-2", "a late complaint about the first does not drop the second");
    assert_eq!(fetches.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_token_that_ends_at_once_is_used_once() {
    let (url, fetches) = token_endpoint("0").await;
    let (partner, client, tokens) = (partner(&url), client(), Tokens::default());
    for expected in 1..=3 {
        let token = tokens.get(&partner, &client, now).await.ok().unwrap().token;
        assert_eq!(token.expose_secret(), format!("token-{expected}"));
    }
    assert_eq!(fetches.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_is_not_stormed() {
    let (url, fetches) = token_endpoint("").await;
    let (partner, client, tokens) = (partner(&url), client(), Tokens::default());
    for _ in 0..20 {
        let (error, _) = tokens.get(&partner, &client, now).await.err().unwrap();
        assert!(matches!(&error, SendError::NoToken(why) if why.contains("503")), "{error}");
        assert!(!error.is_ambiguous());
    }
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(tokens.get(&partner, &client, now).await.is_err());
    assert_eq!(fetches.load(Ordering::SeqCst), 2, "after a pause it is asked again");
}
