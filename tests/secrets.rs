//! Secrets, tokens and signatures are nowhere: a full run with everything logged that can be, and a search of all that it
//! left behind for every secret that it used.

#[path = "wire/certs.rs"]
mod certs;
#[path = "support/collector.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod collector;
#[path = "secrets/relay.rs"]
mod relay;
mod support;

use base64::{Engine, engine::general_purpose::STANDARD};
use certs::Authority;
use collector::Collector;
use qris_cancel_worker::sandbox;
use relay::Heard;
use secrecy::ExposeSecret;
use serde_json::json;
use std::time::{Duration, Instant};
use support::*;

const SOON: Duration = Duration::from_secs(20);
const AMQP_PASSWORD: &str = "amqp S3cret/4711";
const WRONG_PASSWORD: &str = "wrong-amqp-S3cret-4712";
const CLIENT_SECRET: &str = "client-S3cret-4713";
const PROXY_PASSWORD: &str = "proxy-S3cret-4714";
const COLLECTOR_KEY: &str = "collector-S3cret-4715";
const CLIENT_KEY: &str = "client-key-of-bnc";

/// A secret, and every form in which a log line could hold it.
struct Secret {
    what: String,
    forms: Vec<String>,
}

fn secret(what: &str, bytes: impl AsRef<[u8]>) -> Secret {
    let bytes = bytes.as_ref();
    let numbers = |text: String| text.trim_matches(['[', ']']).to_owned();
    let mut forms = vec![hex::encode(bytes), hex::encode_upper(bytes), numbers(format!("{bytes:?}"))];
    forms.extend(std::str::from_utf8(bytes).map(str::to_owned));
    let encoded: String = bytes
        .iter()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(*b).to_string() } else { format!("%{b:02X}") })
        .collect();
    forms.push(encoded);
    // Within a longer text in base64, a short secret can begin at any of three places; what hangs over at its ends depends on
    // its neighbours.
    for before in 0..if bytes.len() < 64 { 3 } else { 1 } {
        let text = STANDARD.encode([&b"\0\0"[..before], bytes].concat());
        let (from, to) = ([0, 2, 3][before], text.trim_end_matches('=').len() - 1);
        forms.push(text[from..to].to_owned());
    }
    forms.retain(|form| form.len() >= 8);
    Secret { what: what.into(), forms }
}

/// A key by its lines, and by the parts of what they encode.
fn key(what: &str, pem: &str) -> Vec<Secret> {
    let inside = pem.lines().skip_while(|line| !line.starts_with("-----BEGIN")).skip(1);
    let lines: Vec<_> = inside.take_while(|line| !line.starts_with("-----END")).collect();
    let der = STANDARD.decode(lines.concat()).unwrap();
    // The beginning, which names the kind of key, and a public part are the same in many.
    let parts = der.chunks_exact(24).skip(2).map(|part| secret(what, part));
    lines
        .iter()
        .skip(1)
        .map(|line| Secret { what: what.into(), forms: vec![(*line).to_owned()] })
        .chain(parts)
        .collect()
}

/// What a run leaves behind: what it is, and its text.
#[derive(Default)]
struct Left(Vec<(String, String)>);

impl Left {
    fn add(&mut self, what: &str, text: impl Into<String>) {
        self.0.push((what.to_owned(), text.into()));
    }

    fn found(&self, secret: &Secret) -> Option<String> {
        self.0.iter().find_map(|(place, text)| {
            let form = secret.forms.iter().find(|form| text.contains(form.as_str()))?;
            let line = text.lines().find(|line| line.contains(form.as_str())).unwrap_or("over several lines");
            Some(format!("{} is shown by {place}, as {form:?}:\n{:.2000}", secret.what, line))
        })
    }
}

/// What a sub-command prints, within a limit of time.
async fn printed(place: &Place, url: &str, arguments: &[&str]) -> String {
    let mut ran = spawn(place, url, arguments);
    let begun = Instant::now();
    while ran.child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{arguments:?} does not end:\n{}", ran.read_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ran.read_log()
}

/// Starts the program with the secrets in its environment, and all that it prints in one file.
fn spawn(place: &Place, url: &str, arguments: &[&str]) -> Worker {
    let log = place.dir.path().join(format!("printed-{:08x}", fastrand::u32(..)));
    let file = std::fs::File::create(&log).unwrap();
    let mut command = place.command(arguments);
    command.env("AMQP_URL", url).env("CLIENT_SECRET", CLIENT_SECRET).env("BNC_CLIENT_KEY", CLIENT_KEY);
    command.env("COLLECTOR_HEADERS", format!("api-key={COLLECTOR_KEY}"));
    Worker { child: command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap(), log }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_run_at_trace_level_shows_no_secret_token_or_signature() {
    let broker = Broker::shared();
    let user = format!("worker{:08x}", fastrand::u32(..));
    broker.ctl(&["add_user", &user, AMQP_PASSWORD]);
    broker.ctl(&["set_permissions", &user, ".*", ".*", ".*"]);
    let url_with = |password: &str| broker.url.replace("guest:guest", &format!("{user}:{password}"));
    let url = url_with("amqp%20S3cret%2F4711");

    let (heard, collector) = (Heard::default(), Collector::start().await);
    let authority = Authority::new("ours");
    let (certificate, client_key) = authority.identity();
    let faults = "500=0.1,expired_token=0.15,reset_after=0.1,html=0.05,429=0.05".parse().unwrap();
    let options = sandbox::Options { faults, seed: 7, ..sandbox::Options::default() };
    let more = |provider: &str| {
        let account = |name: &str, rest: &str| {
            format!(
                "[accounts.{name}]\nprivate_key = {{ file = \"{KEY}\" }}\ntimeout_ms = 2_000\nconnect_timeout_ms = 1_000\n{rest}\n"
            )
        };
        let tls = "ca_file = \"ca.pem\"\ncert_file = \"client.pem\"\nkey_file = \"client-key.pem\"\nproxy = { file = \"proxy\" }";
        [
            account("standard", &format!("profile = \"aspi\"\nbase_url = \"{provider}/standard\"\npartner_id = \"P\"\nclient_key = \"C\"\nchannel_id = \"1\"\nmerchant_id = \"M\"\nsigning_mode = \"symmetric\"\nclient_secret = {{ env = \"CLIENT_SECRET\" }}")),
            // Another account's path, so that the provider does not know us.
            account("stranger", &format!("profile = \"ifortepay\"\nbase_url = \"{provider}/ifortepay\"\npartner_id = \"nobody\"\nstate = \"active\"")),
            account("secure", &format!("profile = \"ifortepay\"\nbase_url = \"https://127.0.0.1:1/secure\"\npartner_id = \"P\"\n{tls}")),
            account("shut", "profile = \"ifortepay\"\nbase_url = \"https://127.0.0.1:1/shut\"\npartner_id = \"P\"\nproxy = { file = \"shut\" }"),
            account("dead", "profile = \"ifortepay\"\nbase_url = \"https://127.0.0.1:1/dead\"\npartner_id = \"P\"\nproxy = { file = \"dead\" }"),
        ]
        .concat()
    };
    // The sandbox is started with the same settings as the worker's, and reads the environment that a test gives it.
    let place = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = format!("http://{}", listener.local_addr().unwrap());
        let mut place = Place::at(broker, &provider, "");
        place.url.clone_from(&url);
        let target = provider.strip_prefix("http://").unwrap().to_owned();
        let plain = relay::relay(target.clone(), None, heard.clone()).await;
        let acceptor = certs::Server { clients: Some(&authority), ..authority.server("127.0.0.1") }.acceptor();
        let tls = relay::relay(target, Some(acceptor), heard.clone()).await;
        let through = relay::proxy(true, heard.clone()).await;
        let refusing = relay::proxy(false, heard.clone()).await;
        let file = |name: &str, text: &[u8]| std::fs::write(place.dir.path().join(name), text).unwrap();
        file("ca.pem", authority.pem().as_bytes());
        file("client.pem", &certificate);
        file("client-key.pem", client_key.expose_secret().as_bytes());
        for (name, address) in
            [("proxy", through.to_string()), ("shut", refusing.to_string()), ("dead", "127.0.0.1:1".into())]
        {
            file(name, format!("http://worker:{PROXY_PASSWORD}@{address}\n").as_bytes());
        }
        let text = settings(&place.prefix, &format!("http://{plain}"), &more(&format!("http://{plain}")))
            .replace("level = \"debug\"", "level = \"trace,lapin=trace\"")
            .replace("client_key = \"client\"", "client_key = { env = \"BNC_CLIENT_KEY\" }")
            .replace("https://127.0.0.1:1/secure", &format!("https://{tls}/secure"))
            .replace("https://127.0.0.1:1/shut", &format!("https://{tls}/shut"))
            .replace("max_attempts = 20", "max_attempts = 6")
            .replace("profile = ", "send_traceparent = true\nprofile = ");
        let traces =
            format!("[traces]\nendpoint = \"{}\"\nheaders = {{ env = \"COLLECTOR_HEADERS\" }}\n", collector.endpoint);
        let text = text + &traces;
        std::fs::write(&place.config, &text).unwrap();
        let environment = [
            ("AMQP_URL", url.as_str()),
            ("CLIENT_SECRET", CLIENT_SECRET),
            ("BNC_CLIENT_KEY", CLIENT_KEY),
            ("COLLECTOR_HEADERS", "api-key=x"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let read = qris_cancel_worker::settings::Settings::read("worker.toml", &text, &environment, place.dir.path());
        let partners = read
            .unwrap_or_else(|e| panic!("{e}"))
            .accounts
            .iter()
            .map(|a| (a.name.clone(), a.partner.clone()))
            .collect();
        tokio::spawn(sandbox::serve(listener, partners, options, std::future::pending()));
        place
    };
    let mut left = Left::default();

    // A password that the broker refuses.
    let wrong = url_with(WRONG_PASSWORD);
    let mut refused = spawn(&place, &wrong, &["run"]);
    refused.wait_for_log("ACCESS_REFUSED", SOON).await;
    if refused.child.try_wait().unwrap().is_none() {
        refused.kill();
    }
    left.add("a start with the wrong password", refused.read_log());

    let mut worker = spawn(&place, &url, &["run"]);
    worker.wait_for_log("\"consuming\"", SOON).await;
    let client = Client::connect(&url, place.names.clone()).await;
    let mut events = client.collect().await;
    let mut settled = 0;
    for at in 0..12 {
        for account in ["ifortepay", "bnc", "standard", "secure"] {
            let properties = persistent().with_correlation_id("c".into()).with_headers(headers(&[("x", text("y"))]));
            let body = command(&format!("{account}-{at}"), &format!("R-{account}-{at}")).to_string();
            assert!(client.publish_raw(&client.names.commands(), account, body.as_bytes(), properties).await);
            settled += 1;
        }
    }
    // A provider that does not know us, proxies that let nothing through, commands that are none.
    for at in 0..6 {
        for account in ["stranger", "shut", "dead"] {
            assert!(client.publish(account, &command(&format!("{account}-{at}"), &format!("R-{account}-{at}"))).await);
        }
    }
    assert!(client.publish("bnc", &json!({ "jobId": "faulty" })).await);
    assert!(client.publish("nobody", &command("stray", "R-stray")).await);
    events.wait(settled + 2, Duration::from_secs(60)).await;
    worker.wait_for_log("the account takes no commands", SOON).await;

    for page in ["/metrics", "/status", "/readyz", "/livez", "/none"] {
        left.add(page, worker.page(page).await.1);
    }
    // The settings are read anew: with another state, then with mistakes.
    let good = read(&place.config);
    std::fs::write(&place.config, good.replace("state = \"active\"", "state = \"paused\"")).unwrap();
    worker.signal("-HUP");
    worker.wait_for_log("the settings were read anew", SOON).await;
    std::fs::write(&place.config, format!("{good}\n[nonsense\n")).unwrap();
    worker.signal("-HUP");
    worker.wait_for_log("cannot be read anew", SOON).await;
    left.add("run with faulty settings", printed(&place, &url, &["run"]).await);
    std::fs::write(&place.config, &good).unwrap();

    for arguments in [
        ["check"].as_slice(),
        &["check", "--connect"],
        &["topology", "show"],
        &["topology", "verify"],
        &["watch", "--since", "1h", "--count", "5", "--json"],
        &["send", "--account", "ifortepay", "--reference", "R-sent", "--partner-reference", "P-sent", "--wait"],
    ] {
        left.add(&arguments.join(" "), printed(&place, &url, arguments).await);
    }
    for arguments in [["check", "--connect"].as_slice(), &["topology", "verify"], &["watch", "--count", "1"]] {
        let what = format!("{} with the wrong password", arguments.join(" "));
        left.add(&what, printed(&place, &wrong, arguments).await);
    }
    worker.stop("-TERM").await;
    let log = worker.read_log();
    for target in ["\"hyper_util", "\"rustls", "\"lapin", "\"reqwest", "\"TRACE\""] {
        assert!(log.contains(target), "nothing of {target} is logged, so that nothing can be found");
    }
    left.add("the log", log);
    events.read().await;
    for (properties, event) in &events.all {
        left.add("an event", format!("{event} {properties:?}"));
    }
    let requests = collector.requests();
    assert!(requests.iter().all(|(headers, _)| headers["api-key"] == COLLECTOR_KEY));
    for name in ["process ", "publish ", "POST "] {
        assert!(collector.spans().iter().any(|span| span.name.starts_with(name)), "no span {name}");
    }
    for (_, body) in requests {
        left.add("spans", String::from_utf8_lossy(&body));
    }
    let parked = client.drain(&client.names.parked()).await;
    assert!(parked.len() >= 2);
    for message in parked {
        left.add("a parked message", format!("{:?} {}", message.properties, String::from_utf8_lossy(&message.data)));
    }

    let mut secrets = vec![
        secret("the AMQP password", AMQP_PASSWORD),
        secret("the wrong AMQP password", WRONG_PASSWORD),
        secret("the client secret", CLIENT_SECRET),
        secret("the proxy's password", PROXY_PASSWORD),
        secret("the collector's key", COLLECTOR_KEY),
    ];
    secrets.extend(key("the private key", &read(KEY)));
    secrets.extend(key("the client certificate's key", client_key.expose_secret()));
    for (name, at_least) in [("x-signature", 50), ("authorization", 2), ("accessToken", 2), ("proxy-authorization", 1)]
    {
        let values = heard.values(name);
        assert!(values.len() >= at_least, "{name}: {values:?}");
        secrets.extend(values.iter().map(|value| {
            let value = value.split_once(' ').map_or(value.as_str(), |(_, value)| value);
            secret(name, value)
        }));
    }
    let leaks: Vec<_> = secrets.iter().filter_map(|secret| left.found(secret)).collect();
    assert!(
        leaks.is_empty(),
        "{} leaks\n{}",
        leaks.len(),
        leaks.iter().take(8).cloned().collect::<Vec<_>>().join("\n\n")
    );
    let size: usize = left.0.iter().map(|(_, text)| text.len()).sum();
    println!("{} secrets searched for in {} texts of {size} bytes", secrets.len(), left.0.len());
}

/// What a bank that means well says of a signature that it does not accept: the one that it expected. And what steers a terminal.
const EXPECTED_SIGNATURE: &str =
    "q2Vhbm90aGVyLXNpZ25hdHVyZS10aGF0LWlzLXJpZ2h0/+q2Vhbm90aGVyLXNpZ25hdHVyZS10aGF0LWlzLXJpZ2h0aaaaaaaa==";
const STEERS: &str = "\u{1b}]0;owned\u{7}\u{9b}2J";

/// A bank that lets nobody in.
async fn refuses(request: axum::extract::Request) -> (axum::http::StatusCode, axum::Json<serde_json::Value>) {
    let service = if request.uri().path().contains("query") { "51" } else { "77" };
    let message = format!("{STEERS} expected {EXPECTED_SIGNATURE}");
    let body = json!({ "responseCode": format!("401{service}00"), "responseMessage": message });
    (axum::http::StatusCode::UNAUTHORIZED, axum::Json(body))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_a_bank_expected_is_shown_nowhere_and_its_words_steer_no_terminal() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = format!("http://{}", listener.local_addr().unwrap());
    let service = axum::Router::new().fallback(refuses);
    tokio::spawn(async move { axum::serve(listener, service).await });
    let place = Place::at(Broker::shared(), &provider, "");
    let mut worker = spawn(&place, &place.url, &["run"]);
    worker.wait_for_log("\"consuming\"", SOON).await;
    let client = place.client().await;
    for at in 0..6 {
        assert!(client.publish("ifortepay", &command(&format!("refused-{at}"), &format!("R-{at}"))).await);
    }
    worker.wait_for_log("ALERT", SOON).await;
    let status = worker.page("/status").await.1;
    assert!(status.contains("expected *****"), "{status}");
    worker.stop("-TERM").await;
    let checked = printed(&place, &place.url, &["check", "--connect"]).await;
    assert!(checked.contains("expected *****"), "{checked}");
    assert!(!checked.contains(|c: char| c.is_control() && c != '\n'), "{checked:?}");
    let mut left = Left::default();
    left.add("/status", status);
    left.add("the log", worker.read_log());
    left.add("check", checked);
    let signature = Secret { what: "the expected signature".into(), forms: vec![EXPECTED_SIGNATURE[..40].into()] };
    assert_eq!(left.found(&signature), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_core_dump_is_made_of_a_process_that_holds_keys() {
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", "");
    let dumps = |line: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("ulimit -c unlimited && {line}")]).args(arguments);
        command.current_dir(place.dir.path()).stdout(std::process::Stdio::piped());
        command
    };
    let dumped = |status: std::process::ExitStatus| std::os::unix::process::ExitStatusExt::core_dumped(&status);
    let control = dumps("kill -ABRT $$", &[]).status().unwrap();
    assert!(
        dumped(control),
        "this test needs core dumps: `ulimit -Hc unlimited`, and /proc/sys/kernel/core_pattern not empty"
    );
    let (program, config) = (env!("CARGO_BIN_EXE_qris-cancel-worker"), place.config.to_str().unwrap());
    let mut command = dumps("exec \"$0\" \"$@\"", &[program, "sandbox", "--config", config, "--listen", "127.0.0.1:0"]);
    let mut sandbox = command.env("AMQP_URL", &place.url).spawn().unwrap();
    // It plays the providers by the keys of the settings: once it says so, it has read them.
    let mut said = [0; 1];
    std::io::Read::read_exact(sandbox.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert!(std::process::Command::new("kill").args(["-ABRT", &sandbox.id().to_string()]).status().unwrap().success());
    assert!(!dumped(sandbox.wait().unwrap()));
}
