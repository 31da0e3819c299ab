//! `topology upgrade`: from the queues of the first version to those of this one, with messages of every kind in them.

mod support;

use lapin::{
    BasicProperties,
    options::*,
    types::{AMQPValue, FieldTable},
};
use qris_cancel_worker::sandbox;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    time::{Duration, Instant},
};
use support::*;

const SOON: Duration = Duration::from_secs(30);
/// Enough that the upgrade is killed among them.
const FRESH: usize = 400;

/// Declares what the first version did: no strays that expire, and practically no delivery limit.
fn declare_first_version(broker: &Broker, place: &Place) {
    let shown = place.command(&["topology", "show", "--format", "definitions"]).output().unwrap();
    let mut definitions: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let names = &place.names;
    let is_new = |name: &Value| *name == names.strays_expired() || *name == names.unreadable();
    for kind in ["exchanges", "queues"] {
        definitions[kind].as_array_mut().unwrap().retain(|object| !is_new(&object["name"]));
    }
    definitions["bindings"].as_array_mut().unwrap().retain(|binding| !is_new(&binding["destination"]));
    for queue in definitions["queues"].as_array_mut().unwrap() {
        if queue["name"] == names.strays() {
            queue["arguments"] = json!({ "x-queue-type": "quorum" });
        }
        if queue["name"] == names.strays() || names.account_of(queue["name"].as_str().unwrap()).is_some() {
            queue["arguments"]["x-delivery-limit"] = json!(1_000_000);
        }
    }
    let file = place.dir.path().join("first.json");
    std::fs::write(&file, definitions.to_string()).unwrap();
    broker.ctl(&["import_definitions", file.to_str().unwrap()]);
}

/// What a worker writes on a retry.
fn carried(more: &[(&str, AMQPValue)]) -> BasicProperties {
    let mut carried = headers(&[
        ("x-qris-version", AMQPValue::LongLongInt(1)),
        ("x-qris-attempts", AMQPValue::LongLongInt(3)),
        ("x-qris-waited-ms", AMQPValue::LongLongInt(1_000)),
        ("x-qris-ambiguous", AMQPValue::Boolean(false)),
        ("x-qris-query-first", AMQPValue::Boolean(false)),
        ("x-qris-first-seen", text("2026-11-01T00:00:00.000Z")),
        ("x-qris-replay", AMQPValue::LongLongInt(0)),
        ("x-qris-history", text(r#"{"count":0,"calls":[]}"#)),
    ]);
    for (name, value) in more {
        carried.insert((*name).into(), value.clone());
    }
    persistent().with_headers(carried).with_expiration("250".into())
}

async fn publish(client: &Client, exchange: &str, key: &str, job: &str, properties: BasicProperties) {
    let body = command(job, &format!("R-{job}")).to_string();
    assert!(client.publish_raw(exchange, key, body.as_bytes(), properties).await);
}

#[tokio::test]
async fn an_upgrade_that_is_killed_and_typed_again_loses_and_contradicts_nothing() {
    let broker = Broker::shared();
    let place = Place::new(broker, sandbox::Options::default()).await;
    declare_first_version(broker, &place);
    let client = place.client().await;
    let mut events = client.collect().await;
    let names = &client.names;
    let mut expected: BTreeMap<String, (&str, &str)> = BTreeMap::new();

    // In the strays: of an unknown account, expired in a queue, of an account that was removed, of one whose queue missed it.
    publish(&client, &names.commands(), "nobody", "unknown", persistent()).await;
    expected.insert("unknown".into(), ("invalid", "unknown_account"));
    publish(&client, &names.commands(), "bnc", "expired", persistent().with_expiration("50".into())).await;
    expected.insert("expired".into(), ("unresolved", "expired_in_queue"));
    let (bucket, _) = names.bucket_for(Duration::from_millis(250));
    publish(&client, &bucket, "former", "removed", carried(&[])).await;
    expected.insert("removed".into(), ("unresolved", "account_removed"));
    until("three are strays", SOON, || Box::pin(async { client.depth(&names.strays()).await == 3 })).await;
    // In the command queues: retried, decided, delivered before, and fresh.
    publish(&client, &bucket, "ifortepay", "retried", carried(&[])).await;
    let finish =
        r#"{"cause":"paid","at":"2026-11-01T00:00:00Z","ambiguous":false,"parked":false,"tellings":1,"said":{}}"#;
    publish(&client, &bucket, "bnc", "decided", carried(&[("x-qris-finish", text(finish))])).await;
    expected.insert("retried".into(), ("canceled", "canceled"));
    expected.insert("decided".into(), ("paid", "paid"));
    until("two are back", SOON, || {
        Box::pin(async {
            client.depth(&names.commands_of("ifortepay")).await + client.depth(&names.commands_of("bnc")).await == 2
        })
    })
    .await;
    publish(&client, &names.commands(), "ifortepay", "redelivered", persistent()).await;
    expected.insert("redelivered".into(), ("canceled", "canceled"));
    // It lies behind another one: both are handed back.
    let mut taken = Vec::new();
    for _ in 0..2 {
        let got = client.channel.basic_get(names.commands_of("ifortepay").into(), BasicGetOptions::default()).await;
        taken.push(got.unwrap().unwrap());
    }
    for got in taken {
        got.acker.reject(BasicRejectOptions { requeue: true }).await.unwrap();
    }
    for at in 0..FRESH {
        let account = ["ifortepay", "bnc"][at % 2];
        publish(&client, &names.commands(), account, &format!("fresh-{at}"), persistent()).await;
        expected.insert(format!("fresh-{at}"), ("canceled", "canceled"));
    }

    let refused = run(place.command(&["run"])).await;
    assert_eq!(refused.code, 69, "{}", refused.said);
    let told = format!("queue {} has x-delivery-limit 1000000, and 100 is wanted", names.commands_of("bnc"));
    assert!(refused.said.contains(&told) && refused.said.contains("topology upgrade"), "{}", refused.said);

    // Somebody still consumes: nothing moves.
    let options = BasicConsumeOptions::default();
    let queue = names.commands_of("bnc");
    let watched = client.connection.create_channel().await.unwrap();
    watched.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    watched.basic_consume(queue.as_str().into(), "old".into(), options, FieldTable::default()).await.unwrap();
    let refused = run(place.command(&["topology", "upgrade", "--seen-empty"])).await;
    assert_eq!(refused.code, 1, "{}", refused.said);
    assert!(refused.said.contains(&queue), "{}", refused.said);
    watched.close(200, "done".into()).await.unwrap();

    // Killed while it moves commands. Publishers go on.
    let mut upgrade = place.command(&["topology", "upgrade"]).stdout(Stdio::null()).spawn().unwrap();
    let (away, _) = names.bucket_for(Duration::from_secs(8));
    let (mut meanwhile, begun) = (0, Instant::now());
    while client.depth(&away).await == 0 {
        assert!(begun.elapsed() < SOON, "nothing moves");
        assert_eq!(upgrade.try_wait().unwrap(), None, "it has ended");
        for account in ["bnc", "nobody"] {
            publish(&client, &names.commands(), account, &format!("meanwhile-{account}-{meanwhile}"), persistent())
                .await;
        }
        expected.insert(format!("meanwhile-bnc-{meanwhile}"), ("canceled", "canceled"));
        expected.insert(format!("meanwhile-nobody-{meanwhile}"), ("invalid", "unknown_account"));
        meanwhile += 1;
    }
    upgrade.kill().unwrap();
    upgrade.wait().unwrap();
    let left = client.depth(&names.commands_of("ifortepay")).await + client.depth(&names.commands_of("bnc")).await;
    assert!(left > 0, "it was killed too late");

    let drained = run(place.command(&["topology", "upgrade"])).await;
    assert_eq!(drained.code, 75, "{}{}", drained.out, drained.said);
    assert!(drained.said.contains(&queue) && drained.said.contains("--seen-empty"), "{}", drained.said);
    publish(&client, &names.commands(), "bnc", "between", persistent()).await;
    expected.insert("between".into(), ("canceled", "canceled"));
    until("the broker shows no message either", SOON, || {
        let shown = broker.ctl(&["list_queues", "-q", "name", "messages"]);
        let of_accounts = shown.lines().filter(|line| line.starts_with(&names.commands_of("")));
        let empty = of_accounts.clone().count() == 2 && of_accounts.clone().all(|line| line.ends_with("\t0"));
        Box::pin(async move { empty })
    })
    .await;
    let done = run(place.command(&["topology", "upgrade", "--seen-empty"])).await;
    assert_eq!(done.code, 0, "{}{}", done.out, done.said);
    for again in [["topology", "verify"].as_slice(), &["topology", "upgrade"]] {
        let ran = run(place.command(again)).await;
        assert_eq!(ran.code, 0, "{again:?}: {}", ran.said);
    }

    let _worker = place.worker().await;
    let begun = Instant::now();
    let mut told: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    while told.len() < expected.len() {
        assert!(begun.elapsed() < SOON * 4, "{} of {}", told.len(), expected.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
        events.read().await;
        for (_, event) in &events.all {
            let data = &event["data"];
            let text = |name: &str| data[name].as_str().unwrap().to_owned();
            told.entry(text("jobId")).or_default().insert((text("outcome"), text("cause")));
        }
    }
    for (job, (outcome, cause)) in &expected {
        // Killed, it may have left a message twice; the second is found cancelled.
        let may_be =
            |(o, c): &(String, String)| o == outcome && (c == cause || c == "already_canceled" && *cause == "canceled");
        assert!(told[job].iter().all(may_be), "{job}: {:?}", told[job]);
    }
    let event =
        |job: &str| events.all.iter().find(|(_, event)| event["data"]["jobId"] == job).unwrap().1["data"].clone();
    assert_eq!(event("retried")["attempts"], 4, "what it carried is believed");
    assert_eq!(event("decided")["callsTotal"], 0, "it is told as it was decided");
    let redelivered = place.transaction("ifortepay", "R-redelivered").await;
    assert!(redelivered["calls"]["query"].as_u64() > Some(0), "it is asked about first: {redelivered}");
    for queue in [names.strays(), names.strays_expired(), names.unreadable()] {
        assert_eq!(client.depth(&queue).await, 0, "{queue}");
    }
}
