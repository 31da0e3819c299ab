//! `sign` and `check`, as people run them: the real binary, against a sandbox in this process and a private broker.

mod support;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use qris_cancel_worker::sandbox;
use serde_json::{Value, json};
use std::{path::PathBuf, process::Command, time::Duration};
use support::*;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};

impl Ran {
    /// The findings, without what is told about the settings.
    fn findings(&self) -> Vec<&str> {
        self.out.lines().filter(|line| ["ok ", "!! ", "?? "].iter().any(|mark| line.starts_with(mark))).collect()
    }

    fn finding(&self, wanted: &str) -> &str {
        self.findings()
            .into_iter()
            .find(|line| line.contains(wanted))
            .unwrap_or_else(|| panic!("no finding has {wanted:?}:\n{}{}", self.out, self.said))
    }
}

fn calm() -> sandbox::Options {
    sandbox::Options::default()
}

/// A place whose broker is never asked.
async fn without_broker(more: &str) -> Place {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = format!("http://{}", listener.local_addr().unwrap());
    let place = place_at(&provider, more);
    let text = std::fs::read_to_string(&place.config).unwrap();
    let environment = [("AMQP_URL", place.url.as_str()), ("SECRET", "hunter2")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let settings = qris_cancel_worker::settings::Settings::read("worker.toml", &text, &environment, place.dir.path())
        .unwrap_or_else(|e| panic!("{e}"));
    let partners = settings.accounts.iter().map(|account| (account.name.clone(), account.partner.clone())).collect();
    tokio::spawn(sandbox::serve(listener, partners, calm(), std::future::pending()));
    place
}

/// A place without a broker and without a sandbox.
fn place_at(provider: &str, more: &str) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("worker.toml");
    let prefix = "nowhere".to_owned();
    std::fs::write(&config, settings(&prefix, provider, &more.replace("PROVIDER", provider))).unwrap();
    Place {
        dir,
        // Nobody listens on port 1.
        url: "amqp://worker:hunter2@127.0.0.1:1/%2f".into(),
        names: qris_cancel_worker::amqp::topology::Names::new(&prefix),
        prefix,
        config,
        provider: provider.into(),
        inside: Vec::new(),
        broker: Broker::default(),
        workers: std::sync::Mutex::default(),
    }
}

/// Gives an account another key than the sandbox knows of it.
fn change_key(place: &Place, account: &str) -> PathBuf {
    let path = place.dir.path().join("other-key");
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    std::fs::write(&path, der.as_ref()).unwrap();
    change(place, account, &format!("{{ file = \"{KEY}\" }}"), &format!("{{ file = \"{}\" }}", path.display()));
    path
}

/// Changes something in an account's section.
fn change(place: &Place, account: &str, from: &str, to: &str) {
    let text = read(&place.config);
    let (before, section) = text.split_once(&format!("[accounts.{account}]")).unwrap();
    assert!(section.contains(from), "{section}");
    let section = section.replacen(from, to, 1);
    std::fs::write(&place.config, format!("{before}[accounts.{account}]{section}")).unwrap();
}

/// Sends what `sign --json` printed, to the letter.
async fn sent(signed: &Value) -> Value {
    let url = signed["url"].as_str().unwrap().strip_prefix("http://").unwrap();
    let (host, path) = url.split_once('/').unwrap();
    let body = signed["body"].as_str().unwrap();
    let mut request = format!("POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in signed["headers"].as_object().unwrap() {
        request += &format!("{name}: {}\r\n", value.as_str().unwrap());
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

/// An account that signs in symmetric mode.
const ASPI: &str = r#"
[accounts.aspi]
profile = "aspi"
base_url = "PROVIDER/aspi"
partner_id = "PARTNER"
client_key = "CLIENT"
client_secret = { env = "SECRET" }
channel_id = "00001"
merchant_id = "M1"
private_key = { file = "KEY" }
"#;

fn aspi() -> String {
    ASPI.replace("KEY\"", &format!("{KEY}\""))
}

const REFERENCES: [&str; 4] = ["--reference", "R1", "--partner-reference", "P-R1"];

fn sign(place: &Place, account: &str, more: &[&str]) -> Command {
    let mut arguments = vec!["sign", "--account", account];
    arguments.extend(more);
    let mut command = place.command(&arguments);
    command.env("SECRET", "hunter2");
    command
}

#[tokio::test]
async fn what_sign_prints_is_what_a_provider_accepts() {
    let place = without_broker(&aspi()).await;
    let json = |more: &[&'static str]| {
        let mut arguments = vec!["--json"];
        arguments.extend(more);
        arguments
    };
    let cancel = json(&[REFERENCES.as_slice(), &["--external-id", "12345"]].concat());
    let signed = run(sign(&place, "ifortepay", &cancel)).await.json();
    assert_eq!(signed["headers"]["X-EXTERNAL-ID"], "12345");
    assert_eq!(sent(&signed).await["responseCode"], "2007700");
    assert_eq!(place.transaction("ifortepay", "R1").await["state"], "canceled");

    // The token call, then a query with its token; the token from a file.
    for account in ["bnc", "aspi"] {
        let signed = run(sign(&place, account, &json(&["--operation", "token"]))).await.json();
        let token = sent(&signed).await["accessToken"].as_str().unwrap().to_owned();
        let file = place.dir.path().join("token");
        std::fs::write(&file, format!("{token}\n")).unwrap();
        let source = format!("file:{}", file.display());
        let query = [json(&["--operation", "query"]), REFERENCES.to_vec(), vec!["--token", &source]].concat();
        let signed = run(sign(&place, account, &query)).await.json();
        assert_eq!(signed["tokenIsPlaceholder"], false);
        assert_eq!(sent(&signed).await["responseCode"], "2005100", "{signed}");
    }

    // Without a token, in symmetric mode, the signature is of no use, and that is said.
    let ran = run(sign(&place, "aspi", &REFERENCES)).await;
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains(":<token>:") && ran.out.contains("of no use"), "{}", ran.out);
    assert!(!ran.out.contains("hunter2"), "{}", ran.out);
    let ran = run(sign(&place, "bnc", &REFERENCES)).await;
    assert!(ran.out.contains("Bearer <token>") && ran.out.contains("good all the same"), "{}", ran.out);
    assert!(ran.out.contains("9c12a84a902354de8bc9efbbe86bb73442174c41b4cbab8d603456ced4dc5f37"), "{}", ran.out);
}

#[tokio::test]
async fn sign_takes_a_command_as_it_is_published_and_says_what_is_wrong_with_it() {
    let place = place_at("http://127.0.0.1:1", "");
    let file = place.dir.path().join("command.json");
    std::fs::write(&file, command("job", "R1").to_string()).unwrap();
    let ran = run(sign(&place, "ifortepay", &["--json", file.to_str().unwrap()])).await;
    let body = r#"{"originalPartnerReferenceNo":"P-R1","originalReferenceNo":"R1","reason":"customer left","additionalInfo":{"type":"DYNAMIC"}}"#;
    assert_eq!(ran.json()["body"], body);

    std::fs::write(&file, json!({ "originalReferenceNo": "R1", "resaon": "x" }).to_string()).unwrap();
    let ran = run(sign(&place, "ifortepay", &[file.to_str().unwrap()])).await;
    assert_eq!(ran.code, 64);
    assert!(ran.said.contains("resaon: ") && ran.said.contains("originalPartnerReferenceNo: "), "{}", ran.said);

    for (account, arguments, part) in [
        ("ifortpay", REFERENCES.to_vec(), "did you mean \"ifortepay\"? (there are bnc, ifortepay)"),
        ("ifortepay", vec![], "give a command"),
        ("ifortepay", vec!["--operation", "token"], "no access token"),
        ("bnc", [REFERENCES.as_slice(), &["--token", "secret"]].concat(), "env:NAME or file:PATH"),
        ("bnc", [REFERENCES.as_slice(), &["--token", "env:NOWHERE"]].concat(), "NOWHERE is not set"),
        ("bnc", [REFERENCES.as_slice(), &["--expect", "ab"]].concat(), "--timestamp"),
    ] {
        let ran = run(sign(&place, account, &arguments)).await;
        assert_eq!(ran.code, 64, "{}", ran.said);
        assert!(ran.said.contains(part), "{}", ran.said);
    }
}

#[tokio::test]
async fn a_curl_line_makes_the_call_to_the_letter() {
    let place = place_at("http://127.0.0.1:1", "");
    let arguments = [REFERENCES.as_slice(), &["--curl", "--reason", "it's $HOME \"now\" \\ @x"]].concat();
    let ran = run(sign(&place, "ifortepay", &arguments)).await;
    let line = &ran.out[ran.out.find("\ncurl ").unwrap()..];
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("curl() {{ printf '%s\\n' \"$@\"; }}\n{line}")]);
    let ran = run(shell).await;
    let given: Vec<_> = ran.out.lines().collect();
    assert_eq!(given[1], "http://127.0.0.1:1/ifortepay/v1.0/qr/qr-mpm-cancel");
    assert!(given.contains(&"Content-Type: application/json"), "{given:?}");
    let body: Value = serde_json::from_str(given.last().unwrap()).unwrap();
    assert_eq!(body["reason"], "it's $HOME \"now\" \\ @x");
}

#[tokio::test]
async fn sign_expect_names_the_mistake() {
    let other_key = "\n[accounts.other]\nprofile = \"ifortepay\"\nbase_url = \"PROVIDER/other\"\npartner_id = \"IFP2024067944\"\nprivate_key = { file = \"KEY\" }\n";
    let place = place_at("http://127.0.0.1:1", &format!("{}{}", aspi(), other_key.replace("KEY", KEY)));
    change_key(&place, "other");
    let at = ["--timestamp", "2026-11-20T18:30:15.678+07:00"];
    let token = |text: &str| {
        let file = place.dir.path().join(format!("token-{}", text.replace(' ', "-")));
        std::fs::write(&file, text).unwrap();
        format!("file:{}", file.display())
    };
    let (good, bearer) = (token("TOKEN"), token("Bearer TOKEN"));
    let signature = async |account: &str, more: &[&str]| {
        let arguments = [&["--json"], REFERENCES.as_slice(), &at, more].concat();
        run(sign(&place, account, &arguments)).await.json()["signature"].as_str().unwrap().to_owned()
    };
    let expecting = async |account: &str, more: &[&str], expected: &str| {
        let arguments = [REFERENCES.as_slice(), &at, more, &["--expect", expected]].concat();
        run(sign(&place, account, &arguments)).await
    };

    let own = signature("ifortepay", &[]).await;
    let ran = expecting("ifortepay", &[], &own).await;
    assert_eq!(ran.code, 0, "{}", ran.said);
    assert!(ran.out.contains("The expected signature is the same."), "{}", ran.out);

    let with_bearer = signature("aspi", &["--token", &bearer]).await;
    let ran = expecting("aspi", &["--token", &good], &with_bearer).await;
    assert_eq!(ran.code, 1);
    assert_eq!(ran.said, "The expected signature is another one: it was made with \"Bearer \" before the token.\n");
    let ran = expecting("aspi", &["--token", &good, "--json"], &with_bearer).await;
    let expected = json!({ "same": false, "madeWith": ["\"Bearer \" before the token"] });
    assert_eq!(ran.json()["expected"], expected);

    let ran = expecting("aspi", &[], &with_bearer).await;
    assert_eq!(ran.code, 1);
    assert!(ran.said.contains("No --token was given"), "{}", ran.said);

    let query = signature("ifortepay", &["--operation", "query"]).await;
    let ran = expecting("ifortepay", &[], &query).await;
    assert_eq!(ran.code, 1);
    assert!(
        ran.said.contains("another key, or over something else") && ran.said.contains("Ask the bank"),
        "{}",
        ran.said
    );

    let by_other = signature("other", &[]).await;
    let ran = expecting("ifortepay", &[], &by_other).await;
    assert_eq!(ran.code, 1);
    assert!(ran.said.contains("made with the private key of the account other."), "{}", ran.said);
}

#[tokio::test]
async fn check_tells_what_the_worker_will_do_and_what_is_wrong_with_the_settings() {
    let place = place_at("http://127.0.0.1:1", "");
    let ran = run(place.command(&["check"])).await;
    assert_eq!(ran.code, 0, "{}", ran.said);
    for part in [
        "amqp://worker@127.0.0.1:1",
        "NOBU dynamic QRIS only",
        "POST http://127.0.0.1:1/bnc/made-up/qr-mpm-cancel",
        "/open/bi/v1.0/get/token",
        "9c12a84a902354de8bc9efbbe86bb73442174c41b4cbab8d603456ced4dc5f37",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(!ran.out.contains("hunter2"), "{}", ran.out);
    change(&place, "bnc", "profile = \"bnc\"", "profile = \"bcn\"");
    change(&place, "ifortepay", "partner_id", "partner_idd");
    assert_eq!(run(place.command(&["check"])).await.code, 78);
}

#[tokio::test]
async fn check_finds_everything_good_and_leaves_nothing_behind() {
    let place = Place::new(Broker::shared(), calm()).await;
    // Before the worker has made anything.
    let ran = run(place.command(&["check", "--connect"])).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.said);
    ran.finding("objects are not there yet");
    ran.finding("may declare");

    assert_eq!(run(place.command(&["topology", "declare"])).await.code, 0);
    let client = place.client().await;
    let mut events = client.collect().await;
    let ran = run(place.command(&["check", "--connect"])).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.said);
    // That the broker is old is nothing that the settings could put right.
    let is_good = |finding: &&str| finding.starts_with("ok ") || finding.contains("use 3.13 or later");
    assert!(ran.findings().iter().all(is_good), "{}", ran.out);
    for part in
        ["may publish to 18", "may consume 4", "as they should be", "plain HTTP", "clock agrees", "gives a token"]
    {
        ran.finding(part);
    }
    for account in ["ifortepay", "bnc"] {
        ran.finding(&format!("{account}: its keys are accepted"));
    }
    events.read().await;
    assert!(events.all.is_empty(), "{:?}", events.all);
    let queues = Broker::shared().ctl(&["list_queues", "-q", "--no-table-headers", "name", "messages", "consumers"]);
    let ours: Vec<_> = queues.lines().filter(|line| line.starts_with(&place.prefix)).collect();
    assert!(ours.len() > 15 && ours.iter().all(|line| line.ends_with("\t0\t0")), "{ours:#?}");
    assert!(!ours.iter().any(|line| line.contains(".check.")), "{queues}");
    let transactions = place.get("/_sandbox/transactions").await;
    assert!(transactions.as_array().unwrap().iter().all(|t| t["state"] != "canceled"), "{transactions}");
}

#[tokio::test]
async fn check_sees_which_permissions_are_there() {
    let broker = Broker::shared();
    let place = Place::new(broker, calm()).await;
    assert_eq!(run(place.command(&["topology", "declare"])).await.code, 0);
    let user = format!("u{:08x}", fastrand::u32(..));
    broker.ctl(&["add_user", &user, "pw"]);
    let prefix = place.prefix.replace('.', "\\.");
    let permit = |kept: &str, read: &str| {
        let write = format!("^({prefix}\\.({kept})|amq\\.default)$");
        broker.ctl(&["set_permissions", &user, "^$", &write, &format!("^{prefix}\\.({read})$")]);
    };
    let url = place.url.replace("guest:guest", &format!("{user}:pw"));
    let check = |declare: &str| {
        let mut command = place.command(&["check", "--connect"]);
        command.env("AMQP_URL", &url).env("QRIS_CANCEL__AMQP__DECLARE", declare);
        command
    };
    permit("retry\\.[0-9]+|parked|events", "commands\\..+|strays(\\.expired)?");
    let ran = run(check("false")).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.said);
    ran.finding("may publish to 18");
    assert!(ran.finding("arguments are right").starts_with("?? "), "{}", ran.out);
    assert!(!ran.out.contains(":pw"), "{}", ran.out);

    let ran = run(check("true")).await;
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.said);
    assert!(ran.finding("cannot be declared").starts_with("!! "), "{}", ran.out);

    permit("retry\\.[0-9]+|events", "commands\\..+");
    let ran = run(check("false")).await;
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.said);
    assert!(ran.finding("may not publish to").contains(&place.names.parked()), "{}", ran.out);
    assert!(ran.finding("may not consume").contains(&place.names.strays()), "{}", ran.out);

    let mut stranger = check("false");
    stranger.env("AMQP_URL", url.replace(":pw", ":wrong"));
    let ran = run(stranger).await;
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.said);
    ran.finding("Login was refused");
}

#[tokio::test]
async fn check_says_that_keys_are_refused_and_what_to_look_at() {
    let place = without_broker("").await;
    change_key(&place, "ifortepay");
    change(&place, "bnc", "client_key = \"client\"", "client_key = \"another\"");
    let ran = run(place.command(&["check", "--connect"])).await;
    // The broker is down as well, and everything else was tried all the same.
    assert_eq!(ran.code, 69, "{}{}", ran.out, ran.said);
    assert!(ran.finding("the broker at 127.0.0.1:1").starts_with("!! "), "{}", ran.out);
    ran.finding("ok ifortepay: this machine's clock agrees");
    let refused = ran.finding("!! ifortepay: a query, to try the keys, is refused: 4015100");
    let order = ["SHA-256 ", "/v1.0/qr/qr-mpm-query", "partner_id", "asymmetric", "sign --account ifortepay"];
    let places: Vec<_> =
        order.iter().map(|part| refused.find(part).unwrap_or_else(|| panic!("{part}: {refused}"))).collect();
    assert!(places.is_sorted(), "{refused}");
    assert!(!refused.contains("9c12a84a"), "the fingerprint is that of the sandbox's key: {refused}");
    let token = ran.finding("!! bnc: the token call is refused: 4017300");
    assert!(token.contains("client_key"), "{token}");
    ran.finding("?? bnc: whether its keys are accepted could not be tried");
}

#[tokio::test]
async fn check_tells_refused_from_unreached() {
    let place = Place::new(Broker::shared(), calm()).await;
    change_key(&place, "ifortepay");
    let ran = run(place.command(&["check", "--connect"])).await;
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.said);
    ran.finding("ok bnc: its keys are accepted");

    let place = Place::at(Broker::shared(), "http://127.0.0.1:1", "");
    let ran = run(place.command(&["check", "--connect"])).await;
    assert_eq!(ran.code, 69, "{}{}", ran.out, ran.said);
    assert!(ran.finding("http://127.0.0.1:1/ifortepay cannot be reached").starts_with("!! "), "{}", ran.out);
    ran.finding("ok broker: connected");
}

#[tokio::test]
async fn check_names_a_wrong_clock_first() {
    // A provider that lives ten minutes in the past and refuses what comes from the future.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = place_at(&format!("http://{}", listener.local_addr().unwrap()), "");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, chrono::TimeDelta::minutes(-10), "4015100"));
        }
    });
    let ran = run(place.command(&["check", "--connect"])).await;
    let clock = ran.finding("!! ifortepay: this machine's clock is");
    assert!(clock.contains("s ahead of the provider's"), "{clock}");
    let refused = ran.finding("!! ifortepay: a query, to try the keys, is refused");
    assert!(refused.contains("in this order: this machine's clock is "), "{refused}");
}

/// Answers one request with this code, with a clock that is so much ahead.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, ahead: chrono::TimeDelta, code: &str) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let body = json!({ "responseCode": code, "responseMessage": "so it is" }).to_string();
    let body = if request.starts_with(b"HEAD") { "" } else { &body };
    let answer = format!(
        "HTTP/1.1 {} so it is\r\nDate: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        &code[..3],
        (chrono::Utc::now() + ahead).format("%a, %d %b %Y %H:%M:%S GMT"),
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.ok();
    stream.shutdown().await.ok();
    // What was not read yet would reset the connection.
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut request)).await.ok();
}

#[tokio::test]
async fn check_tells_the_tls_version_and_what_to_do_about_an_old_one() {
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{ServerConfig, crypto::aws_lc_rs::default_provider, version::TLS12, version::TLS13},
    };
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let mut accounts = String::new();
    for (name, versions, min_tls) in
        [("new", [&TLS13], "1.3"), ("old", [&TLS12], "1.3"), ("allowed", [&TLS12], "1.2"), ("newer", [&TLS13], "1.2")]
    {
        let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(&versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        accounts += &format!(
            "[accounts.{name}]\nprofile = \"ifortepay\"\nbase_url = \"https://{}\"\npartner_id = \"P\"\n\
             private_key = {{ file = \"{KEY}\" }}\nmin_tls = \"{min_tls}\"\n",
            listener.local_addr().unwrap()
        );
        let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        answer(stream, chrono::TimeDelta::zero(), "4045101").await;
                    }
                });
            }
        });
    }
    let place = place_at("http://127.0.0.1:1", &accounts);
    let trusted = place.dir.path().join("trusted.pem");
    std::fs::write(&trusted, made.cert.pem()).unwrap();
    let mut check = place.command(&["check", "--connect"]);
    check.env("SSL_CERT_FILE", &trusted);
    let ran = run(check).await;
    for (account, tls) in [("new", "TLS 1.3"), ("newer", "TLS 1.3"), ("old", "TLS 1.2"), ("allowed", "TLS 1.2")] {
        assert!(ran.finding(&format!("ok {account}: https://")).contains(tls), "{}", ran.out);
    }
    for account in ["new", "newer", "allowed"] {
        ran.finding(&format!("ok {account}: its keys are accepted"));
    }
    assert!(ran.finding("!! old: it speaks only TLS 1.2").contains("min_tls = \"1.2\""), "{}", ran.out);
}
