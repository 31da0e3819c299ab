//! Calls through a proxy, and proxies that let nothing through.

use crate::{
    certs::Authority,
    rig::{http, options, read_request, request, server},
};
use qris_cancel_worker::snap::{
    Reply, SendError,
    client::{Client, Options},
};
use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

const PASSWORD: &str = "p@ss:wörd";

fn through(proxy: &str) -> Options {
    Options { proxy: Some(proxy.into()), connect_timeout: Duration::from_millis(500), ..options() }
}

/// The proxy's address as the account would have it.
fn with_password(url: &str) -> String {
    url.replace("://", "://worker:p%40ss%3Aw%C3%B6rd@").replace("/cancel", "")
}

async fn send(options: &Options, url: &str) -> Result<Reply, SendError> {
    Client::new(&Options { timeout: Duration::from_secs(3), ..options.clone() }).unwrap().send(request(url)).await
}

/// A server that answers over TLS and counts its connections.
async fn provider(authority: &Authority) -> (String, Arc<AtomicUsize>) {
    let acceptor = authority.server("127.0.0.1").acceptor();
    let (url, connections) = server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            while read_request(&mut stream).await.is_some() {
                stream.write_all(http("200 OK", "", "{}").as_bytes()).await.ok();
            }
        }
    })
    .await;
    (url.replace("http:", "https:"), connections)
}

/// Does what a proxy does with a CONNECT, if it knows the password.
async fn tunnel(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let Some(head) = read_request(&mut stream).await else { return };
    let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
    // "worker:" and the password.
    if !head.to_ascii_lowercase().contains("proxy-authorization: basic d29ya2vyonbac3m6d8o2cmq=\r\n") {
        stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.ok();
        return;
    }
    let mut inner = TcpStream::connect(target).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    tokio::io::copy_bidirectional(&mut stream, &mut inner).await.ok();
}

#[tokio::test]
async fn a_call_goes_through_the_proxy() {
    let authority = Authority::new("ours");
    let ca = Some(authority.pem().into_bytes());
    let (url, connections) = provider(&authority).await;
    let (plain, plain_tunnels) = server(tunnel).await;
    let acceptor = authority.server("127.0.0.1").acceptor();
    let (secure, secure_tunnels) = server(move |stream| {
        let acceptor = acceptor.clone();
        async move { tunnel(acceptor.accept(stream).await.unwrap()).await }
    })
    .await;
    for proxy in [plain.clone(), secure.replace("http:", "https:")] {
        let reply = send(&Options { ca: ca.clone(), ..through(&with_password(&proxy)) }, &url).await.unwrap();
        assert_eq!(reply.http_status, 200);
    }
    let tunnels = (plain_tunnels.load(Ordering::SeqCst), secure_tunnels.load(Ordering::SeqCst));
    assert_eq!((tunnels, connections.load(Ordering::SeqCst)), ((1, 1), 2));
    // Without the password, and with authorities that the provider is not of.
    let refused = send(&Options { ca, ..through(&plain.replace("/cancel", "")) }, &url).await.unwrap_err();
    assert!(matches!(&refused, SendError::NotSent(why) if why.contains("proxy authorization required")), "{refused}");
    let ca = Some(Authority::new("theirs").pem().into_bytes());
    let strange = send(&Options { ca, ..through(&with_password(&plain)) }, &url).await.unwrap_err();
    assert!(matches!(&strange, SendError::NotSent(why) if why.contains("UnknownIssuer")), "{strange}");
}

#[tokio::test]
async fn a_plain_call_goes_through_the_proxy_as_it_is() {
    let (proxy, _) = server(|mut stream| async move {
        let head = read_request(&mut stream).await.unwrap().to_ascii_lowercase();
        assert!(head.starts_with("post http://127.0.0.1:1/cancel http/1.1\r\n"), "{head}");
        assert!(head.contains("proxy-authorization: basic "), "{head}");
        stream.write_all(http("200 OK", "connection: close\r\n", "{}").as_bytes()).await.unwrap();
    })
    .await;
    send(&through(&with_password(&proxy)), "http://127.0.0.1:1/cancel").await.unwrap();
    // Here the proxy has the request, and what it did with it nobody knows.
    let (proxy, _) = server(|mut stream| async move { drop(read_request(&mut stream).await) }).await;
    let error = send(&through(&with_password(&proxy)), "http://127.0.0.1:1/cancel").await.unwrap_err();
    assert!(matches!(error, SendError::Broken(_)), "{error}");
}

#[tokio::test]
async fn what_no_proxy_lets_through_was_not_sent() {
    let (target, connections) = provider(&Authority::new("ours")).await;
    let refusing = |answer: &'static str| async move {
        let (url, _) = server(move |mut stream| async move {
            read_request(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.ok();
        })
        .await;
        url
    };
    let (hanging, _) = server(|mut stream| async move {
        read_request(&mut stream).await;
        std::future::pending().await
    })
    .await;
    let (dripping, _) = server(|mut stream| async move {
        while stream.write_all(b"HTTP/1.1 200 OK\r\n"[..1].as_ref()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (resetting, _) = server(|stream| async move { stream.set_zero_linger().unwrap() }).await;
    let proxies = [
        ("http://127.0.0.1:1".to_owned(), "Connection refused"),
        // Not known, or not in time.
        ("http://nobody.invalid:3128".to_owned(), ""),
        (refusing("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await, "does not let us through"),
        (refusing("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\nno").await, "does not let us through"),
        (refusing("HTTP/1.1 407 Who are you\r\n\r\n").await, "proxy authorization required"),
        (refusing("HTTP/1.1 302 Found\r\nlocation: /login\r\n\r\n").await, "does not let us through"),
        (refusing("SSH-2.0-OpenSSH_9.2p1\r\n").await, "does not let us through"),
        (refusing("").await, "tunnel error"),
        // It says yes and then goes, before or after the first hello.
        (refusing("HTTP/1.1 200 OK\r\n\r\n").await, ""),
        (refusing("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 400 Bad Request\r\n\r\n").await, ""),
        (hanging.clone(), "timed out"),
        (hanging.replace("http:", "https:"), "timed out"),
        (dripping, ""),
        (resetting, "Connection reset"),
    ];
    for (proxy, expected) in proxies {
        let begun = Instant::now();
        let error = send(&through(&with_password(&proxy)), &target).await.unwrap_err();
        assert!(matches!(&error, SendError::NotSent(why) if why.contains(expected)), "{proxy}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{proxy}");
        let shown = format!("{error} {error:?}");
        assert!(!["p@ss", "p%40ss", "d29ya2V", "wörd"].iter().any(|part| shown.contains(part)), "{shown}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0, "nothing goes past the proxy");
}

#[tokio::test]
async fn no_password_makes_a_call_go_past_the_proxy() {
    let (target, connections) = server(|_stream| async {}).await;
    for password in
        ["p|s", "p^s", "p`s", "p\"s", "p%s", "p%ZZ", "p s", "p<>s", "{p}", "ö", "a:b", "", "\\", PASSWORD, "@"]
    {
        let address = format!("http://worker:{password}@127.0.0.1:1");
        match Client::new(&through(&address)) {
            Ok(client) => {
                let error = client.send(request(&target)).await.unwrap_err();
                assert!(matches!(error, SendError::NotSent(_)), "{password}: {error}");
            }
            Err(why) => assert_eq!(why, "proxy is no address like http://proxy.example.co.id:3128", "{password}"),
        }
    }
    for address in
        ["", "proxy", "proxy:3128", "socks5://w:SECRET@proxy:1080", "http://", "http://w:SECRET@:80", "ftp://p"]
    {
        let why = Client::new(&through(address)).err().unwrap_or_else(|| panic!("{address}"));
        assert_eq!(why, "proxy is no address like http://proxy.example.co.id:3128", "{address}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

/// Runs another test of this file in a process of its own: the environment is everybody's.
#[test]
fn the_environments_proxy_is_ignored() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "an_answer_is_passed_on_as_it_is", "proxy::a_call_goes_through_the_proxy"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        child.env(name, "http://127.0.0.1:1").env(name.to_lowercase(), "http://127.0.0.1:1");
    }
    // With it the client library would take no HTTP_PROXY at all.
    let output = child.env_remove("REQUEST_METHOD").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("2 passed"), "{said}");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "an_answer_is_passed_on_as_it_is", "proxy::a_call_goes_through_the_proxy"]);
    let output = child.env("NO_PROXY", "127.0.0.1").env("no_proxy", "*").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
