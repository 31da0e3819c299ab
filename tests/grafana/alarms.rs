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

#[tokio::test(flavor = "multi_thread")]
async fn every_query_has_data_and_every_alert_fires_under_its_fault() {
    let mut stage = Stage::set().await;
    let mut seen = BTreeSet::new();
    in_quiet_no_alert_fires(&stage, Duration::from_secs(15)).await;
    the_worker_serves_metrics_as_prometheus_wants_them(&stage).await;
    the_runbooks_commands_work(&stage).await;

    let told = |message: &str| eprintln!("--- {message}");
    told("publishers, providers and keys go wrong");
    faulty_commands(&stage).await;
    fire(&stage, &mut seen, &["QrisCancelParkedRising", "QrisCancelUnresolved"]).await;
    for account in ["ifortepay", "shut"] {
        let faults = json!({ "faults": "drip=0.7,reset_after=0.1,500=0.1", "account": account });
        stage.places[0].send("PUT", "/_sandbox/faults", &faults).await;
    }
    let spoilt = spoilt_settings(&stage).await;
    stage.restart_second(move |_| spoilt).await;
    stage.leave_an_account_behind("gone").await;
    stage.unbind_reader().await;
    fire(&stage, &mut seen, &["QrisCancelCommandsWait", "QrisCancelAccountMisconfigured"]).await;
    fire(&stage, &mut seen, &["QrisCancelBreakerOpen", "QrisCancelClockSkew"]).await;
    fire(&stage, &mut seen, &["QrisCancelPausedLong", "QrisCancelQueueWithoutConsumer", "QrisCancelEventsUnrouted"])
        .await;
    fire(&stage, &mut seen, &["QrisCancelBudgetBurnsFast", "QrisCancelBudgetBurnsSlowly"]).await;
    every_query_has_data(&stage).await;

    told("a worker starts again and again");
    let begun = Instant::now();
    while !stage.prometheus.firing().await.contains(&"QrisCancelWorkerRestarts".to_owned()) && begun.elapsed() < SOON {
        stage.restart_second(|settings| settings).await;
        // Until Prometheus has seen it.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }
    fire(&stage, &mut seen, &["QrisCancelWorkerRestarts"]).await;

    told("a consumer's queue refuses events");
    stage.bind_a_queue_that_refuses().await;
    fire(&stage, &mut seen, &["QrisCancelPublishesNacked", "QrisCancelNothingEnds"]).await;
    stage.delete_the_queue_that_refuses().await;

    told("the broker has an alarm");
    stage.broker.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    fire(&stage, &mut seen, &["QrisCancelBrokerBlocked"]).await;
    stage.broker.ctl(&["set_vm_memory_high_watermark", "0.6"]);

    told("a worker dies, then the broker, then there is nothing to watch");
    stage.stop_load();
    stage.workers[0].kill();
    fire(&stage, &mut seen, &["QrisCancelWorkerDown"]).await;
    stage.broker.stop();
    fire(&stage, &mut seen, &["QrisCancelBrokerNotConnected", "QrisCancelBrokerUnseen"]).await;
    stage.prometheus.watch(&[], &stage.plugin()).await;
    fire(&stage, &mut seen, &["QrisCancelWorkerMissing"]).await;

    let all: BTreeSet<_> = rules::alerts().into_iter().map(|alert| alert.name).collect();
    assert_eq!(seen, all, "each alert has its fault here");
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
    let begun = Instant::now();
    while begun.elapsed() < time {
        let firing = stage.prometheus.firing().await;
        assert!(firing.is_empty(), "nothing is wrong, and {firing:?} fire");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
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
    stage.leave_an_account_behind("left").await;
    let mut typed = BTreeSet::new();
    for (entry, text) in runbook::entries() {
        let account = if entry == "QrisCancelQueueWithoutConsumer" { "left" } else { "ifortepay" };
        for command in runbook::commands(&text).into_iter().filter(|command| typed.insert(command.clone())) {
            stage.type_in(&command, account);
        }
    }
    eprintln!("{} commands of the runbook work", typed.len());
    let queue = stage.client.names.commands_of("left");
    let options = lapin::options::QueueDeleteOptions::default();
    stage.client.channel.queue_delete(queue.into(), options).await.unwrap();
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

/// The second worker's: a wrong key, a provider that is down and lives in another time, an account that is paused.
async fn spoilt_settings(stage: &Stage) -> String {
    let place = &stage.places[1];
    let other = place.dir.path().join("other-key");
    let der: Pkcs8V1Der<'_> = KeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
    std::fs::write(&other, der.as_ref()).unwrap();
    let text = read(&place.config).replace("state = \"active\"", "state = \"paused\"");
    let text = text.replace(&format!("{}/paced", place.provider), &provider_of_another_time().await);
    let (before, bnc) = text.split_once("[accounts.bnc]").unwrap();
    format!("{before}[accounts.bnc]{}", bnc.replacen(KEY, other.to_str().unwrap(), 1))
}

/// Waits until these alerts fire.
async fn fire(stage: &Stage, seen: &mut BTreeSet<String>, names: &[&str]) {
    for name in names {
        let begun = Instant::now();
        while !stage.prometheus.firing().await.iter().any(|firing| firing == name) {
            assert!(begun.elapsed() < SOON, "{name} does not fire; these do: {:?}", stage.prometheus.firing().await);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        eprintln!("{name} fires after {:.1} s", begun.elapsed().as_secs_f32());
        seen.insert((*name).to_owned());
    }
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
