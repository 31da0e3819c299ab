//! Whom the client trusts, whom it lets in, and what it says when somebody else does not.

use crate::{
    certs::{Authority, BOTH, NEW, OLD, Server},
    rig::{http, options, read_request, request, server},
};
use qris_cancel_worker::snap::{
    Reply, SendError,
    client::{Client, MinTls, Options},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::io::AsyncWriteExt;

/// Runs a server that answers over TLS. Returns its address and how many requests it has read.
async fn serve(of: Server<'_>) -> (String, Arc<AtomicUsize>) {
    let acceptor = of.acceptor();
    let requests = Arc::new(AtomicUsize::new(0));
    let own = requests.clone();
    let (url, _) = server(move |stream| {
        let (acceptor, requests) = (acceptor.clone(), own.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            while read_request(&mut stream).await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
                stream.write_all(http("200 OK", "", "{}").as_bytes()).await.ok();
            }
        }
    })
    .await;
    (url.replace("http:", "https:"), requests)
}

fn trusting(pem: &str) -> Options {
    Options { ca: Some(pem.as_bytes().to_vec()), connect_timeout: Duration::from_secs(2), ..options() }
}

async fn send(options: &Options, url: &str) -> Result<Reply, SendError> {
    let options = Options { timeout: Duration::from_secs(4), ..options.clone() };
    Client::new(&options).unwrap().send(request(url)).await
}

/// The reason why nothing was sent.
async fn not_sent(options: &Options, url: &str) -> String {
    match send(options, url).await {
        Err(SendError::NotSent(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_the_authorities_that_are_given_are_trusted() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (url, requests) = serve(ours.server("127.0.0.1")).await;
    send(&trusting(&ours.pem()), &url).await.unwrap();
    for bundle in [theirs.pem() + &ours.pem(), format!("# a comment\r\n{}\r\n\r\n{}", ours.pem(), theirs.pem())] {
        send(&trusting(&bundle), &url).await.unwrap();
    }
    assert_eq!(requests.load(Ordering::SeqCst), 3);
    for options in [trusting(&theirs.pem()), options()] {
        let why = not_sent(&options, &url).await;
        assert!(why.contains("invalid peer certificate: UnknownIssuer"), "{why}");
    }

    let (other_name, _) = serve(ours.server("other.example")).await;
    let why = not_sent(&trusting(&ours.pem()), &other_name).await;
    assert!(why.contains("invalid peer certificate") && why.contains("other.example"), "{why}");
    let mut old = ours.server("127.0.0.1");
    old.params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let (old, _) = serve(old).await;
    let why = not_sent(&trusting(&ours.pem()), &old).await;
    assert!(why.contains("invalid peer certificate: certificate expired"), "{why}");
    assert_eq!(requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn tls_1_2_is_spoken_only_when_allowed() {
    let authority = Authority::new("ours");
    let strict = trusting(&authority.pem());
    let lenient = Options { min_tls: MinTls::V1_2, ..strict.clone() };
    let (old, requests) = serve(Server { versions: OLD, ..authority.server("127.0.0.1") }).await;
    let why = not_sent(&strict, &old).await;
    assert!(why.contains("min_tls = \"1.2\""), "{why}");
    assert_eq!(requests.load(Ordering::SeqCst), 0);
    send(&lenient, &old).await.unwrap();
    for versions in [NEW, BOTH] {
        let (new, _) = serve(Server { versions, ..authority.server("127.0.0.1") }).await;
        send(&strict, &new).await.unwrap();
        send(&lenient, &new).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_wants_our_certificate_gets_it() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("stranger"));
    for versions in [OLD, NEW] {
        let demanding = Server { versions, clients: Some(&authority), ..authority.server("127.0.0.1") };
        let (url, requests) = serve(demanding).await;
        let without = Options { min_tls: MinTls::V1_2, ..trusting(&authority.pem()) };
        let with = Options { identity: Some(authority.identity()), ..without.clone() };
        let strange = Options { identity: Some(stranger.identity()), ..without.clone() };
        send(&with, &url).await.unwrap();
        assert_eq!(requests.load(Ordering::SeqCst), 1);
        for options in [&without, &strange] {
            let error = send(options, &url).await.unwrap_err();
            // In TLS 1.2 the handshake waits for the server's consent. In 1.3 we are let write before it, and mostly have.
            let known = matches!(error, SendError::NotSent(_));
            let written = versions[0] == NEW[0] && matches!(error, SendError::Broken(_));
            assert!(known || written, "{:?}: {error:?}", versions[0]);
        }
        assert_eq!(requests.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn a_late_refusal_of_our_certificate_is_ambiguous() {
    let authority = Authority::new("ours");
    let demanding = Server { versions: NEW, clients: Some(&authority), ..authority.server("127.0.0.1") };
    let (url, requests) = serve(demanding).await;
    let inner = url.trim_start_matches("https://").trim_end_matches("/cancel").to_owned();
    // Something in between that takes its time with what we say after the first hello.
    let (slow, _) = server(move |mut stream| {
        let inner = inner.clone();
        async move {
            let mut inner = tokio::net::TcpStream::connect(inner).await.unwrap();
            let (mut from_us, mut to_us) = stream.split();
            let (mut from_server, mut to_server) = inner.split();
            let forward = async {
                let mut chunk = vec![0; 16 * 1024];
                while let Ok(count @ 1..) = tokio::io::AsyncReadExt::read(&mut from_us, &mut chunk).await {
                    to_server.write_all(&chunk[..count]).await.ok();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            };
            tokio::select! {
                () = forward => {}
                _ = tokio::io::copy(&mut from_server, &mut to_us) => {}
            }
        }
    })
    .await;
    let error = send(&trusting(&authority.pem()), &slow.replace("http:", "https:")).await.unwrap_err();
    assert!(matches!(&error, SendError::Broken(why) if why.contains("CertificateRequired")), "{error:?}");
    assert!(error.is_ambiguous());
    assert_eq!(requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn http_1_1_is_all_that_is_offered() {
    let authority = Authority::new("ours");
    let (both, _) = serve(Server { alpn: &["h2", "http/1.1"], ..authority.server("127.0.0.1") }).await;
    send(&trusting(&authority.pem()), &both).await.unwrap();
    let (h2, requests) = serve(Server { alpn: &["h2"], ..authority.server("127.0.0.1") }).await;
    let why = not_sent(&trusting(&authority.pem()), &h2).await;
    assert!(why.contains("NoApplicationProtocol"), "{why}");
    assert_eq!(requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up() {
    let authority = Authority::new("ours");
    let acceptor = authority.server("127.0.0.1").acceptor();
    // The server's part of the handshake comes a byte at a time.
    let (url, _) = server(move |mut stream| {
        let acceptor = acceptor.clone();
        async move {
            let (near, far) = tokio::io::duplex(16 * 1024);
            tokio::spawn(async move { acceptor.accept(far).await.map(drop) });
            let (mut from_tls, mut to_tls) = tokio::io::split(near);
            let (mut from_us, mut to_us) = stream.split();
            let drip = async {
                let mut byte = [0];
                while tokio::io::AsyncReadExt::read_exact(&mut from_tls, &mut byte).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if to_us.write_all(&byte).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = drip => {}
                _ = tokio::io::copy(&mut from_us, &mut to_tls) => {}
            }
        }
    })
    .await;
    let options = Options { connect_timeout: Duration::from_millis(300), ..trusting(&authority.pem()) };
    let begun = std::time::Instant::now();
    not_sent(&options, &url.replace("http:", "https:")).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn certificates_that_are_none_are_told() {
    let authority = Authority::new("ours");
    let new = |options: Options| Client::new(&options).err().unwrap();
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let not_base64 = junk.replace("AAAA", "?!");
    for (pem, expected) in [
        ("", "ca_file holds no certificate in PEM"),
        ("a text", "ca_file holds no certificate in PEM"),
        (not_base64.as_str(), "ca_file cannot be read: "),
        (junk, "(look at ca_file)"),
    ] {
        let why = new(trusting(pem));
        assert!(why.contains(expected), "{pem:?}: {why}");
    }
    let ((chain, key), (_, other_key)) = (authority.identity(), authority.identity());
    let identity = |chain: &[u8], key| Options { identity: Some((chain.to_vec(), key)), ..options() };
    Client::new(&identity(&chain, key.clone())).unwrap();
    for (chain, key, expected) in [
        (&b""[..], key.clone(), "cert_file or key_file cannot be read: "),
        (&chain, "".into(), "cert_file or key_file cannot be read: "),
        (&chain, "SECRET".into(), "cert_file or key_file cannot be read: "),
        (&chain, "-----BEGIN PRIVATE KEY-----\nSECRET=\n-----END PRIVATE KEY-----".into(), "file"),
        (&chain, "-----BEGIN PRIVATE KEY-----\nU0VDUkVU\n-----END PRIVATE KEY-----".into(), "(look at cert_file and"),
        (&chain, other_key, "KeyMismatch"),
        (junk.as_bytes(), key, "(look at cert_file and key_file)"),
    ] {
        let why = new(identity(chain, key));
        assert!(why.contains(expected), "{expected}: {why}");
        assert!(!why.contains("SECRET") && !why.contains("U0VD"), "{why}");
    }
}
