//! Keys and secrets that change while the worker runs: the file is written, SIGHUP is sent, and no command is lost or repeated.

mod support;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use qris_cancel_worker::sandbox;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use support::*;

const SOON: Duration = Duration::from_secs(30);

fn write_another_key(path: &Path) {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    std::fs::write(path, der.as_ref()).unwrap();
}

/// A place whose account bnc has a key file of its own, which the sandbox has read already.
async fn with_a_key_of_its_own() -> (Place, PathBuf) {
    let place = Place::new(Broker::shared(), sandbox::Options::default()).await;
    let key = place.dir.path().join("bnc.pem");
    std::fs::copy(KEY, &key).unwrap();
    let (before, of_bnc) =
        read(&place.config).split_once("[accounts.bnc]").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let of_bnc = of_bnc.replace(KEY, key.to_str().unwrap());
    std::fs::write(&place.config, format!("{before}[accounts.bnc]{of_bnc}")).unwrap();
    (place, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_signs_the_next_call() {
    let (place, key) = with_a_key_of_its_own().await;
    // The bank has the new key already, and the worker has an old one.
    write_another_key(&key);
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    assert!(client.publish("bnc", &command("job-1", "R1")).await);
    worker.wait_for_log("misconfigured", SOON).await;
    std::fs::write(&key, "no key").unwrap();
    worker.signal("-HUP");
    worker.wait_for_log("the old ones hold", SOON).await;
    std::fs::copy(KEY, &key).unwrap();
    worker.signal("-HUP");
    worker.wait_for_log("signs and sends with new keys", SOON).await;
    assert_eq!(events.of("job-1", SOON).await["data"]["outcome"], "canceled");
    let log = worker.read_log();
    let renewed: Vec<_> = log.lines().filter(|line| line.contains("with new keys")).collect();
    assert!(
        renewed.len() == 1 && renewed[0].contains("\"bnc\""),
        "only the account whose key has changed: {renewed:?}"
    );
    assert!(!log.contains("started anew"), "nothing waits for a restart");

    // With other settings, or another profile, it waits: new keys must not meet old ids and paths.
    write_another_key(&key);
    std::fs::write(&place.config, read(&place.config).replace("www.example.co.id", "shop.example.co.id")).unwrap();
    worker.signal("-HUP");
    worker.wait_for_log("have changed, or a profile", SOON).await;
    assert!(client.publish("bnc", &command("job-2", "R2")).await);
    assert_eq!(events.of("job-2", SOON).await["data"]["outcome"], "canceled", "the old key is the bank's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_of_the_broker_is_taken_for_the_next_connection() {
    let broker = Broker::shared();
    let place = Place::new(broker, sandbox::Options::default()).await;
    let user = format!("u{:08x}", fastrand::u32(..));
    broker.ctl(&["add_user", &user, "first"]);
    broker.ctl(&["set_permissions", &user, ".*", ".*", ".*"]);
    let (_, host) = place.url.split_once('@').unwrap();
    let (url, host) = (place.dir.path().join("amqp-url"), host.to_owned());
    let write = |password: &str| std::fs::write(&url, format!("amqp://{user}:{password}@{host}")).unwrap();
    write("first");
    let settings = read(&place.config).replace(r#"url = { env = "AMQP_URL" }"#, &format!("url = {{ file = {url:?} }}"));
    std::fs::write(&place.config, settings).unwrap();
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;

    broker.ctl(&["change_password", &user, "second"]);
    broker.ctl(&["close_all_user_connections", &user, "the password has changed"]);
    worker.wait_for_log("ACCESS_REFUSED", SOON).await;
    write("second");
    worker.signal("-HUP");
    assert!(client.publish("bnc", &command("job-1", "R1")).await);
    assert_eq!(events.of("job-1", SOON).await["data"]["outcome"], json!("canceled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_has_changed_waits_for_a_restart_and_is_named() {
    let place = Place::new(Broker::shared(), sandbox::Options::default()).await;
    let profile = place.dir.path().join("mybank.toml");
    let text = read(concat!(env!("CARGO_MANIFEST_DIR"), "/src/snap/profiles/bnc.toml"));
    std::fs::write(&profile, &text).unwrap();
    std::fs::write(&place.config, read(&place.config).replace("profile = \"bnc\"", "profile = \"./mybank.toml\""))
        .unwrap();
    let worker = place.worker().await;
    worker.signal("-HUP");
    worker.wait_for_log("the settings were read anew", SOON).await;
    assert!(!worker.read_log().contains("started anew"), "nothing has changed");
    std::fs::write(&profile, format!("{text}\n# another\n")).unwrap();
    worker.signal("-HUP");
    worker.wait_for_log("have changed, or a profile", SOON).await;
}
