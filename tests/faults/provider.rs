//! What can go wrong at a provider, mostly at that of one account: the other account must not notice.

use super::*;
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use impostor::{Impostor, Says};
use std::sync::{Arc, atomic::Ordering};

const TOPIC: &str = "provider";
const ORIGIN: &str = "origin = \"www.example.co.id\"";

/// Changes something in the settings of the account that suffers.
fn change_bnc(settings: &str, from: &str, to: &str) -> String {
    let (before, section) = settings.split_once("[accounts.bnc]").unwrap();
    assert!(section.contains(from), "{section}");
    format!("{before}[accounts.bnc]{}", section.replacen(from, to, 1))
}

async fn rig(options: sandbox::Options) -> Rig {
    Rig::with(Broker::shared(), options, "", resting_as_usual).await
}

#[tokio::test(flavor = "multi_thread")]
async fn down_for_one_account() {
    let rig = rig(calm()).await;
    let worker = rig.worker().await;
    rig.bnc.set(Way::Cut);
    let recovered = rig.one_account_suffers(&worker, ms(1_500), minutes(10), async { rig.bnc.set(Way::Pass) }).await;
    let account = rig.end(TOPIC, "Down, for one account of two", Some(recovered)).await;
    assert_eq!(account.outcomes.get("unresolved"), None, "{account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_of_the_calls_fail() {
    let rig = Rig::new(Broker::shared(), with_faults("500=0.17,503_html=0.17")).await;
    let worker = rig.worker().await;
    rig.lasts(s(3), minutes(2)).await;
    let log = worker.read_log();
    assert!(!log.contains("left unacknowledged"), "what is to be tried again waits in a bucket, and tears nothing");
    rig.set_faults(None, "none").await;
    rig.end(TOPIC, "5xx to a third of the calls", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_for_one_account() {
    let rig = rig(calm()).await;
    let right = read(&rig.place.config);
    let other = rig.place.dir.path().join("other-key");
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    std::fs::write(&other, der.as_ref()).unwrap();
    std::fs::write(&rig.place.config, change_bnc(&right, KEY, other.to_str().unwrap())).unwrap();
    let mut worker = rig.worker().await;
    worker.wait_for_log("ALERT", SOON).await;
    rig.the_neighbour_goes_on().await;
    rig.lasts(ms(1_500), minutes(10)).await;
    let client = Client::connect(&rig.broker, rig.place.names.clone()).await;
    assert_eq!(client.depth(&client.names.parked()).await, 0, "a wrong key parks nothing");
    assert_eq!(worker.stop("-TERM").await.0, 0);
    std::fs::write(&rig.place.config, right).unwrap();
    let _worker = rig.place.worker().await;
    let recovered = rig.back_at_the_next_trial(Some("bnc")).await;
    let account = rig.end(TOPIC, "Wrong key for one account", Some(recovered)).await;
    assert_eq!(account.outcomes.get("unresolved"), None, "{account}");
}

/// The token endpoint of one account suffers, and nothing else.
pub async fn without_tokens(topic: &'static str, fault: &str, way: Way) {
    let rig = rig(sandbox::Options { token_lifetime: Duration::from_secs(1), ..calm() }).await;
    let tokens = Relay::start(rig.place.provider.strip_prefix("http://").unwrap()).await;
    let of_tokens = format!("{ORIGIN}\ntoken_base_url = \"http://{}/bnc\"", tokens.address);
    rig.change(|settings| change_bnc(&settings, ORIGIN, &of_tokens));
    let worker = rig.worker().await;
    tokens.set(way);
    let recovered = rig.one_account_suffers(&worker, ms(1_500), minutes(10), async { tokens.set(Way::Pass) }).await;
    let account = rig.end(topic, fault, Some(recovered)).await;
    assert_eq!((account.outcomes.get("unresolved"), account.unrecorded), (None, 0), "{account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_to_be_had() {
    without_tokens(TOPIC, "Token endpoint down, tokens end after a second", Way::Cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_end_at_once() {
    // Of this the worker uses half.
    let options = sandbox::Options { token_lifetime: Duration::from_millis(200), ..with_faults("expired_token=0.3") };
    let rig = Rig::new(Broker::shared(), options).await;
    let _worker = rig.worker().await;
    rig.lasts(s(3), minutes(2)).await;
    rig.end(TOPIC, "Tokens end at once, and a third are declared invalid", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn not_found_for_a_while() {
    let rig = Rig::new(Broker::shared(), with_faults("not_found_for_a_while=0.4,504_after=0.2")).await;
    let _worker = rig.worker().await;
    rig.lasts(s(3), minutes(2)).await;
    rig.set_faults(None, "none").await;
    rig.end(TOPIC, "\"Not found\" for a while", None).await;
}

/// A rig whose account `bnc` speaks with an impostor.
async fn with_impostor(change: impl FnOnce(String) -> String) -> (Rig, Impostor) {
    let rig = rig(calm()).await;
    let impostor = Impostor::start(rig.place.provider.strip_prefix("http://").unwrap()).await;
    let (relay, own) = (rig.bnc.address.to_string(), impostor.address.to_string());
    rig.change(|settings| change(settings.replace(&relay, &own)));
    (rig, impostor)
}

async fn said_for_a_while(says: Says, fault: &str) {
    let (rig, impostor) = with_impostor(|settings| settings).await;
    let _worker = rig.worker().await;
    impostor.set(says);
    rig.the_neighbour_goes_on().await;
    rig.lasts(ms(1_500), minutes(1)).await;
    assert!(impostor.answers.load(Ordering::Relaxed) > 0);
    impostor.set(Says::Truth);
    let recovered = rig.back_at_the_next_trial(Some("bnc")).await;
    rig.end(TOPIC, fault, Some(recovered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_hundred_megabytes() {
    said_for_a_while(Says::Megabytes, "Answers of 100 MB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_for_another_transaction() {
    said_for_a_while(Says::AnotherTransaction, "Answers for another transaction").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_and_never_done() {
    let few = |settings: String| {
        let most = if full() { "max_attempts = 10_000" } else { "max_attempts = 20" };
        settings.replace(most, "max_attempts = 3").replace("pending_ms = 2_500", "pending_ms = 300")
    };
    let (rig, impostor) = with_impostor(few).await;
    impostor.set(Says::Accepted);
    let _worker = rig.worker().await;
    rig.lasts(ms(1_500), minutes(1)).await;
    rig.stop_trickle().await;
    let account = rig.end(TOPIC, "202 for ever, given up after three attempts", None).await;
    assert!(
        account.outcomes["unresolved"] + 1 >= account.outcomes["canceled"],
        "all of this account are left to a person: {account}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_and_done_later() {
    let rig = Rig::new(Broker::shared(), with_faults("202=0.3")).await;
    let _worker = rig.worker().await;
    rig.lasts(s(3), minutes(2)).await;
    rig.set_faults(None, "none").await;
    rig.end(TOPIC, "202, and it takes effect two seconds later", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_somebody_else() {
    let (ours, theirs) = (certs::Authority::new("ours"), certs::Authority::new("theirs"));
    let (right, wrong) = (ours.server("127.0.0.1").acceptor(), theirs.server("127.0.0.1").acceptor());
    let rig = rig(calm()).await;
    let (is_right, now) = tokio::sync::watch::channel(true);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sandbox = Arc::new(rig.place.provider.strip_prefix("http://").unwrap().to_owned());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = if *now.borrow() { right.clone() } else { wrong.clone() };
            let (sandbox, mut now) = (sandbox.clone(), now.clone());
            now.mark_unchanged();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                let mut server = tokio::net::TcpStream::connect(sandbox.as_str()).await.ok()?;
                tokio::select! {
                    ended = tokio::io::copy_bidirectional(&mut stream, &mut server) => drop(ended),
                    // Who has a connection would not look at the new certificate.
                    _ = now.changed() => {}
                }
                Some(())
            });
        }
    });
    let authority = rig.place.dir.path().join("ca.pem");
    std::fs::write(&authority, ours.pem()).unwrap();
    let (plain, with_tls) = (format!("http://{}", rig.bnc.address), format!("https://{address}"));
    let trusting = format!("{ORIGIN}\nca_file = \"{}\"", authority.display());
    rig.change(|settings| change_bnc(&settings.replace(&plain, &with_tls), ORIGIN, &trusting));
    let worker = rig.worker().await;
    rig.ledger.recovery(Utc::now(), Some("bnc"), SOON).await;
    is_right.send_replace(false);
    let recovered = rig.one_account_suffers(&worker, s(1), minutes(10), async { is_right.send_replace(true) }).await;
    let account = rig.end(TOPIC, "Certificate of another authority", Some(recovered)).await;
    assert_eq!(account.outcomes.get("unresolved"), None, "{account}");
}
