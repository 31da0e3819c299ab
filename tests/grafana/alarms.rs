//! A quiet time in which no alert fires, then one fault after the other: every query has data, and each alert fires under its own.

use super::{
    queries, rules, runbook,
    stage::{Stage, provider_of_another_time},
    support::{KEY, command, persistent, read},
};
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(90);
/// Of no account.
const NONE: &str = "";
/// The first row of the overview, by the numbers of its panels.
const PROVIDER: &str = "1";
const BROKER: &str = "2";
const KEYS: &str = "3";
const US: &str = "4";

#[tokio::test(flavor = "multi_thread")]
async fn every_query_has_data_and_every_alert_fires_under_its_fault() {
    let mut watch = Watch { stage: Stage::set().await, expected: vec![], seen: BTreeSet::new() };
    in_quiet_no_alert_fires(&watch.stage, Duration::from_secs(15)).await;
    watch.tiles(&[], &[PROVIDER, BROKER, KEYS, US]).await;
    the_worker_serves_metrics_as_prometheus_wants_them(&watch.stage).await;
    watch.stage.leave_something_to_do().await;
    the_runbooks_commands_work(&watch.stage).await;
    watch.stage.has_been_done().await;

    let told = |message: &str| eprintln!("--- {message}");
    told("publishers, providers and keys go wrong");
    faulty_commands(&watch.stage).await;
    // The runbook's own commands deal with an account that was left behind, and take their time.
    watch.expect("QrisCancelQueueWithoutConsumer", &["left"]);
    // Its own parked commands, too.
    watch.expect("QrisCancelParkedRising", &["waiting", "unknown", "ifortepay"]);
    watch.expect("QrisCancelUnresolved", &["waiting"]);
    // What is given up is not settled, and old commands have waited.
    watch.expect("QrisCancelBudgetBurnsFast", &[NONE]);
    watch.expect("QrisCancelBudgetBurnsSlowly", &[NONE]);
    watch.expect("QrisCancelCommandsWait", &["waiting"]);
    watch.fires("QrisCancelParkedRising", "waiting").await;
    watch.fires("QrisCancelParkedRising", "unknown").await;
    watch.fires("QrisCancelUnresolved", "waiting").await;
    for account in ["ifortepay", "shut"] {
        let faults = json!({ "faults": "drip=0.7,reset_after=0.1,500=0.1", "account": account });
        watch.stage.places[0].send("PUT", "/_sandbox/faults", &faults).await;
    }
    let spoilt = spoilt_settings(&watch.stage).await;
    watch.stage.restart_second(move |_| spoilt).await;
    watch.stage.leave_an_account_behind("gone").await;
    watch.stage.unbind_reader().await;
    watch.stage.workers[1].wait_for_log("\"consuming\"", SOON).await;
    for n in 0..3 {
        assert!(watch.stage.client.publish("refused", &command(&format!("refused-{n}"), &format!("REF{n}"))).await);
    }
    watch.expect("QrisCancelAccountMisconfigured", &["bnc"]);
    watch.expect("QrisCancelKeysRefused", &["refused"]);
    watch.expect("QrisCancelBreakerOpen", &["paced"]);
    watch.expect("QrisCancelClockSkew", &["paced"]);
    watch.expect("QrisCancelPausedLong", &["shut"]);
    watch.expect("QrisCancelQueueWithoutConsumer", &["gone"]);
    watch.expect("QrisCancelEventsUnrouted", &[NONE]);
    // Whatever fails is put off, some of it for longer than a minute.
    watch.expect("QrisCancelCommandsOld", &["refused", "ifortepay", "shut", "bnc", "paced"]);
    watch.fires("QrisCancelCommandsWait", "waiting").await;
    watch.fires("QrisCancelAccountMisconfigured", "bnc").await;
    watch.fires("QrisCancelBreakerOpen", "paced").await;
    watch.tiles(&[PROVIDER, KEYS], &[BROKER, US]).await;
    watch.fires("QrisCancelClockSkew", "paced").await;
    watch.fires("QrisCancelPausedLong", "shut").await;
    watch.fires("QrisCancelQueueWithoutConsumer", "gone").await;
    watch.fires("QrisCancelEventsUnrouted", NONE).await;
    watch.fires("QrisCancelBudgetBurnsFast", NONE).await;
    watch.fires("QrisCancelBudgetBurnsSlowly", NONE).await;
    watch.fires("QrisCancelKeysRefused", "refused").await;
    watch.fires("QrisCancelCommandsOld", "refused").await;
    every_query_has_data(&watch.stage).await;

    told("a worker starts again and again");
    watch.expect("QrisCancelWorkerRestarts", &[NONE]);
    // Prometheus may come while it is down; and its breakers begin anew, so that the keys are refused without one to say it.
    watch.expect("QrisCancelWorkerDown", &[NONE]);
    watch.expect("QrisCancelKeysRefused", &["bnc"]);
    // This account only it has.
    watch.expect("QrisCancelQueueWithoutConsumer", &["refused"]);
    let begun = Instant::now();
    while !watch.is_firing("QrisCancelWorkerRestarts", NONE).await && begun.elapsed() < SOON {
        watch.stage.restart_second(|settings| settings).await;
        // Until Prometheus has seen it.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }
    watch.fires("QrisCancelWorkerRestarts", NONE).await;

    told("a consumer's queue refuses events");
    watch.expect("QrisCancelPublishesNotConfirmed", &[NONE]);
    watch.expect("QrisCancelNothingEnds", &[NONE]);
    watch.expect("QrisCancelCommandsOld", &["waiting"]);
    // All that is told again fills the buckets, and in ten seconds RabbitMQ gives but two figures of them.
    watch.expect("QrisCancelRetriesStuck", &[NONE]);
    watch.stage.bind_a_queue_that_refuses().await;
    watch.fires("QrisCancelPublishesNotConfirmed", NONE).await;
    watch.fires("QrisCancelNothingEnds", NONE).await;
    watch.stage.delete_the_queue_that_refuses().await;
    watch.ends("QrisCancelPublishesNotConfirmed").await;

    told("the broker has an alarm");
    watch.expect("QrisCancelBrokerBlocked", &[NONE]);
    watch.stage.broker.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    watch.fires("QrisCancelBrokerBlocked", NONE).await;
    watch.tiles(&[BROKER], &[US]).await;
    watch.stage.broker.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    watch.ends("QrisCancelBrokerBlocked").await;

    told("everything is well again, and nobody publishes");
    watch.stage.bind_reader_again().await;
    watch.stage.mend(&["gone", "refused"]).await;
    for alert in ["BreakerOpen", "AccountMisconfigured", "QueueWithoutConsumer", "EventsUnrouted", "PausedLong"] {
        watch.ends(&format!("QrisCancel{alert}")).await;
    }
    watch.stage.stop_load();
    watch.stage.until_no_retry_waits().await;
    watch.idle(Duration::from_secs(20), &["QrisCancelBudgetBurnsSlowly", "QrisCancelBudgetBurnsFast"]).await;
    watch.tiles(&[], &[PROVIDER, BROKER, KEYS, US]).await;

    told("messages stand still");
    watch.expect("QrisCancelUnreadable", &[NONE]);
    watch.expect("QrisCancelStraysWait", &[NONE]);
    watch.expect("QrisCancelOtherVersion", &["waiting"]);
    let held = watch.stage.let_messages_stand_still().await;
    watch.fires("QrisCancelUnreadable", NONE).await;
    watch.fires("QrisCancelStraysWait", NONE).await;
    watch.fires("QrisCancelRetriesStuck", NONE).await;
    watch.fires("QrisCancelOtherVersion", "waiting").await;
    drop(held);

    told("a worker dies, then the broker, then there is nothing to watch");
    watch.stage.workers[0].kill();
    watch.fires("QrisCancelWorkerDown", NONE).await;
    watch.tiles(&[US], &[PROVIDER, BROKER, KEYS]).await;
    watch.expect("QrisCancelBrokerNotConnected", &[NONE]);
    watch.expect("QrisCancelBrokerUnseen", &[NONE]);
    watch.stage.broker.stop();
    watch.fires("QrisCancelBrokerNotConnected", NONE).await;
    watch.fires("QrisCancelBrokerUnseen", NONE).await;
    watch.tiles(&[BROKER, US], &[PROVIDER, KEYS]).await;
    watch.expect("QrisCancelWorkerMissing", &[NONE]);
    watch.stage.prometheus.watch(&[], &watch.stage.plugin()).await;
    watch.fires("QrisCancelWorkerMissing", NONE).await;
    watch.tiles(&[BROKER, US], &[PROVIDER, KEYS]).await;

    let all: BTreeSet<_> = rules::alerts().into_iter().map(|alert| alert.name).collect();
    assert_eq!(watch.seen, all, "each alert has its fault here");
}

/// Looks at Prometheus while one thing after the other goes wrong.
struct Watch {
    stage: Stage,
    /// What may fire by now: alerts, and the accounts that they are about.
    expected: Vec<(&'static str, &'static [&'static str])>,
    seen: BTreeSet<String>,
}

impl Watch {
    fn expect(&mut self, alert: &'static str, accounts: &'static [&'static str]) {
        self.expected.push((alert, accounts));
    }

    /// What fires. Nothing does that is not expected.
    async fn firing(&self) -> BTreeSet<(String, String)> {
        let firing = self.stage.prometheus.firing().await;
        for (alert, account) in &firing {
            let is_expected =
                self.expected.iter().any(|(name, accounts)| name == alert && accounts.contains(&account.as_str()));
            assert!(is_expected, "{alert} fires for {account:?}, and nothing like that has happened");
        }
        firing
    }

    async fn is_firing(&self, alert: &str, account: &str) -> bool {
        self.firing().await.contains(&(alert.to_owned(), account.to_owned()))
    }

    async fn fires(&mut self, alert: &str, account: &str) {
        let begun = Instant::now();
        while !self.is_firing(alert, account).await {
            assert!(begun.elapsed() < SOON, "{alert} {account} does not fire; these do: {:?}", self.firing().await);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        eprintln!("{alert} {account} fires after {:.1} s", begun.elapsed().as_secs_f32());
        self.seen.insert(alert.to_owned());
    }

    async fn ends(&self, alert: &str) {
        let begun = Instant::now();
        while self.firing().await.iter().any(|(name, _)| name == alert) {
            assert!(begun.elapsed() < SOON * 2, "{alert} does not end");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        eprintln!("{alert} ends after {:.1} s", begun.elapsed().as_secs_f32());
    }

    /// Once only these fire, as they remember for longer, no other begins while nothing happens.
    async fn idle(&self, time: Duration, remember: &[&str]) {
        let others = async || {
            let firing = self.firing().await;
            firing.into_iter().filter(|(alert, _)| !remember.contains(&alert.as_str())).collect::<Vec<_>>()
        };
        let begun = Instant::now();
        while !others().await.is_empty() {
            assert!(begun.elapsed() < SOON * 2, "all is well, and these fire: {:?}", others().await);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        eprintln!("all is calm after {:.1} s", begun.elapsed().as_secs_f32());
        let begun = Instant::now();
        while begun.elapsed() < time {
            assert_eq!(others().await, [], "nothing happens");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// These tiles of the first row are red, and the others are not.
    async fn tiles(&self, red: &[&str], green: &[&str]) {
        let begun = Instant::now();
        for tile in red.iter().chain(green) {
            let expr = queries::of_panel("overview", tile, ".*").replace("[15m]", "[30s]");
            loop {
                let shown = self.stage.prometheus.query(&expr).await;
                assert_eq!(shown.len(), 1, "{expr}: {shown:?}");
                if (shown[0].1 >= 1.0) == red.contains(tile) {
                    break;
                }
                assert!(begun.elapsed() < SOON, "tile {tile} shows {}, and red are {red:?}", shown[0].1);
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
    }
}

async fn in_quiet_no_alert_fires(stage: &Stage, time: Duration) {
    // Until everything has been read once, it is missing, and with waits this short that fires.
    let (begun, all) = (Instant::now(), "count(up == 1) == 4 and count(rabbitmq_detailed_queue_consumers) > 0");
    while !(stage.prometheus.has(all).await && stage.prometheus.firing().await.is_empty()) {
        assert!(
            begun.elapsed() < SOON,
            "Prometheus does not see everything, or {:?} fire",
            stage.prometheus.firing().await
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let mut load = stage.start_the_stacks_load();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let firing = stage.prometheus.firing().await;
        assert!(firing.is_empty(), "nothing is wrong, and {firing:?} fire");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    load.kill().unwrap();
    load.wait().unwrap();
    let transactions = stage.places[0].get("/_sandbox/transactions").await;
    // Those of the test are called LOAD.
    let of_the_stack = |seen: &&serde_json::Value| {
        seen["state"] == "canceled" && seen["originalReferenceNo"].as_str().unwrap().starts_with("R1")
    };
    let canceled = transactions.as_array().unwrap().iter().filter(of_the_stack).count();
    assert!(canceled >= 3, "dashboards/stack/load.sh publishes nothing that ends well: {transactions}");
    let ended = stage.prometheus.query("sum(qris_cancel_results_total{outcome=\"canceled\"})").await;
    assert!(ended[0].1 > 50.0, "there was work: {ended:?}");
}

async fn the_worker_serves_metrics_as_prometheus_wants_them(stage: &Stage) {
    use std::io::Write;
    let (_, text) = stage.workers[0].page("/metrics").await;
    let mut promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Each of its commands is typed as it stands there, once.
async fn the_runbooks_commands_work(stage: &Stage) {
    let mut typed = BTreeSet::new();
    for (entry, text) in runbook::entries() {
        let account = if entry == "QrisCancelQueueWithoutConsumer" { "left" } else { "ifortepay" };
        for command in runbook::commands(&text).into_iter().filter(|command| typed.insert(command.clone())) {
            stage.type_in(&command, account);
        }
    }
    eprintln!("{} commands of the runbook work", typed.len());
}

async fn faulty_commands(stage: &Stage) {
    let client = &stage.client;
    for n in 0..20 {
        assert!(client.publish("waiting", &json!({ "jobId": format!("bad-{n}"), "reasn": "a typo" })).await);
        assert!(client.publish("nobody", &command(&format!("lost-{n}"), "R")).await);
        let mut late = command(&format!("late-{n}"), &format!("LATE{n}"));
        late["notAfter"] = json!("2026-01-01T00:00:00+07:00");
        assert!(client.publish("waiting", &late).await);
    }
    // Commands that their publisher says it has published ten minutes ago.
    let then = u64::try_from(chrono::Utc::now().timestamp() - 600).unwrap();
    let (client, commands) = (stage.places[0].client().await, stage.client.names.commands());
    tokio::spawn(async move {
        for n in 0..120 {
            let command = command(&format!("old-{n}"), &format!("OLD{n}")).to_string();
            client.publish_raw(&commands, "waiting", command.as_bytes(), persistent().with_timestamp(then)).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
}

/// The second worker's: a wrong key, a provider that is down and lives in another time, an account that is paused, and one that only
/// it has, with a wrong key.
async fn spoilt_settings(stage: &Stage) -> String {
    let place = &stage.places[1];
    let other = place.dir.path().join("other-key");
    let der: Pkcs8V1Der<'_> = KeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
    std::fs::write(&other, der.as_ref()).unwrap();
    let text = read(&place.config).replace("state = \"active\"", "state = \"paused\"");
    let text = text.replace(&format!("{}/paced", place.provider), &provider_of_another_time().await);
    let (before, bnc) = text.split_once("[accounts.bnc]").unwrap();
    let refused = format!(
        "[accounts.refused]\nprofile = \"ifortepay\"\nbase_url = \"{}/waiting\"\npartner_id = \"IFP2024067944\"\n\
         private_key = {{ file = \"{}\" }}\n",
        place.provider,
        other.display()
    );
    format!("{before}[accounts.bnc]{}\n{refused}", bnc.replacen(KEY, other.to_str().unwrap(), 1))
}

async fn every_query_has_data(stage: &Stage) {
    let begun = Instant::now();
    let mut left = queries::all();
    let count = left.len();
    while !left.is_empty() {
        let mut without = vec![];
        for query in left {
            if !stage.prometheus.has(&query.expr).await {
                without.push(query);
            }
        }
        left = without;
        let told: Vec<_> = left.iter().map(|query| format!("{}: {}", query.of, query.expr)).collect();
        assert!(begun.elapsed() < SOON, "no data for\n{}", told.join("\n"));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    eprintln!("{count} queries have data");
}
