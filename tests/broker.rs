//! The worker and a real RabbitMQ: the topology, what publishers can do to it, and how the worker stops.

#[path = "wire/certs.rs"]
mod certs;
mod support;

use lapin::{
    BasicProperties,
    message::BasicGetMessage,
    options::*,
    types::{AMQPValue, FieldTable},
};
use qris_cancel_worker::sandbox;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use support::{
    frames::acknowledges,
    relay::{Direction, Relay, Way},
    *,
};

const SOON: Duration = Duration::from_secs(15);
const RECEIVED: &str = "qris_cancel_commands_received_total";

fn calm() -> sandbox::Options {
    sandbox::Options::default()
}

/// The parked copies of a place, by job id.
async fn parked(client: &Client) -> Vec<(String, BasicProperties, Vec<u8>)> {
    let messages = client.drain(&client.names.parked()).await;
    messages
        .into_iter()
        .map(|message| {
            let body: Value = serde_json::from_slice(&message.data).unwrap_or_default();
            (body["jobId"].as_str().unwrap_or_default().to_owned(), message.properties.clone(), message.data.clone())
        })
        .collect()
}

fn header(properties: &BasicProperties, name: &str) -> Option<AMQPValue> {
    properties.headers().as_ref()?.inner().get(name).cloned()
}

#[tokio::test]
async fn a_command_is_cancelled_and_its_event_says_so() {
    let place = Place::new(Broker::shared(), calm()).await;
    let mut worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    for account in ["ifortepay", "bnc"] {
        let command = json!({ "jobId": format!("job-{account}"), "originalReferenceNo": "R1", "originalPartnerReferenceNo": "P-R1",
            "reason": "customer left", "metadata": { "order": 7, "price": 1.10 } });
        let properties = persistent()
            .with_correlation_id("corr".into())
            .with_headers(headers(&[("traceparent", text(&"0".repeat(55)))]));
        assert!(
            client.publish_raw(&client.names.commands(), account, command.to_string().as_bytes(), properties).await
        );
    }
    for (properties, event) in events.wait(2, SOON).await {
        let data = &event["data"];
        assert_eq!((&data["outcome"], &data["cause"]), (&json!("canceled"), &json!("canceled")), "{event}");
        assert_eq!(event["type"], "qris.cancel.canceled.v1");
        assert_eq!(event["source"], format!("/qris-cancel/{}", data["account"].as_str().unwrap()));
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(data["responseCode"], "2007700");
        assert_eq!(data["metadata"].to_string(), r#"{"order":7,"price":1.1}"#);
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), event["id"].as_str().unwrap());
        assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "corr");
        assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/cloudevents+json");
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(event["traceparent"], "0".repeat(55));
        assert!(!event.to_string().contains("null"), "{event}");
    }
    assert_eq!(place.transaction("ifortepay", "R1").await["state"], "canceled");
    assert_eq!(place.transaction("bnc", "R1").await["state"], "canceled");
    assert_eq!(worker.stop("-TERM").await.0, 0);
    assert_eq!(client.depth(&client.names.commands_of("bnc")).await, 0);
    let log = worker.read_log();
    for line in log.lines().filter(|line| line.contains("\"finished\"")) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["span"]["account"].is_string() && line["span"]["job_id"].is_string(), "{line}");
    }
}

/// What a worker would write of a command whose outcome is decided, and more.
fn forged_headers(more: &[(&str, AMQPValue)]) -> FieldTable {
    let finish = r#"{"cause":"paid","at":"2026-01-01T00:00:00Z","ambiguous":false,"parked":true,"tellings":0}"#;
    let mut forged = headers(&[
        ("x-qris-version", AMQPValue::LongLongInt(1)),
        ("x-qris-attempts", AMQPValue::LongLongInt(19)),
        ("x-qris-waited-ms", AMQPValue::LongLongInt(3_599_000)),
        ("x-qris-ambiguous", AMQPValue::Boolean(false)),
        ("x-qris-query-first", AMQPValue::Boolean(false)),
        ("x-qris-first-seen", text("2020-01-01T00:00:00Z")),
        ("x-qris-replay", AMQPValue::LongLongInt(3)),
        ("x-qris-history", text(r#"{"count":0,"calls":[]}"#)),
        ("x-qris-finish", text(finish)),
    ]);
    for (name, value) in more {
        forged.insert((*name).into(), value.clone());
    }
    forged
}

#[tokio::test]
async fn headers_of_a_publisher_are_not_believed_and_not_copied() {
    // The provider is down at first, so that every command is republished.
    let place = Place::new(Broker::shared(), sandbox::Options { faults: "500=1".parse().unwrap(), ..calm() }).await;
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let forged = forged_headers(&[
        ("x-delivery-count", AMQPValue::LongLongInt(100)),
        ("x-death", forged_death("q", "due")),
        ("x-custom", text("kept by nobody")),
        ("CC", AMQPValue::FieldArray(vec![text("bnc")].into())),
    ]);
    // The broker itself delivers a copy to the CC'd account; what we republish must not do so again.
    let properties = persistent()
        .with_headers(forged)
        .with_user_id("guest".into())
        .with_priority(9)
        .with_message_id("m".into())
        .with_app_id("shop".into())
        .with_type("t".into())
        .with_timestamp(1_700_000_000);
    let command = command("forged", "R1");
    assert!(
        client.publish_raw(&client.names.commands(), "ifortepay", command.to_string().as_bytes(), properties).await
    );
    for account in ["ifortepay", "bnc"] {
        let waits = format!("qris_cancel_retries_scheduled_total{{account=\"{account}\"}}");
        until("the calls fail and the command waits", SOON, || Box::pin(async { worker.metric(&waits).await >= 1.0 }))
            .await;
    }
    place.send("PUT", "/_sandbox/faults", &json!({ "faults": "0" })).await;
    for (_, event) in events.wait(2, SOON).await {
        assert_eq!(event["data"]["outcome"], "canceled", "{event}");
        assert_eq!(event["data"]["replay"], 0);
        assert!((2..15).contains(&event["data"]["attempts"].as_u64().unwrap()), "{event}");
        assert!(!event["data"]["receivedAt"].as_str().unwrap().starts_with("2020"));
    }
    let buckets = [250, 500, 1_000].map(|ms| client.names.bucket_for(Duration::from_millis(ms)).0);
    let ours = ["ifortepay", "bnc"].map(|account| client.names.commands_of(account));
    until("nothing is left", SOON, || {
        Box::pin(async {
            let mut left = worker.scrape().await.sum("qris_cancel_in_flight") as u32;
            for queue in buckets.iter().chain(&ours) {
                left += client.depth(queue).await;
            }
            left == 0
        })
    })
    .await;
    events.read().await;
    let mut accounts: Vec<_> = events.all.iter().map(|(_, event)| event["data"]["account"].as_str().unwrap()).collect();
    accounts.sort_unstable();
    assert_eq!(accounts, ["bnc", "ifortepay"], "a CC that is copied would multiply commands");
}

#[tokio::test]
async fn a_retry_keeps_body_and_properties_and_nothing_else() {
    let broker = Broker::shared();
    let place = Place::at(broker, "http://127.0.0.1:9", "");
    // Long enough that the worker takes no more before it comes back.
    std::fs::write(
        &place.config,
        read(&place.config)
            .replace("_ms = 1_000\nmax_attempts", "_ms = 8_000\nmax_attempts")
            .replace("initial_ms = 250\nmax_ms", "initial_ms = 8_000\nmax_ms"),
    )
    .unwrap();
    let mut worker = place.worker().await;
    let client = place.client().await;
    let body = format!(" {}\n", command("kept", "R1"));
    let properties = persistent()
        .with_message_id("m".into())
        .with_correlation_id("c".into())
        .with_reply_to("replies.x".into())
        .with_app_id("shop".into())
        .with_type("t".into())
        .with_timestamp(1_700_000_000)
        .with_priority(5)
        .with_headers(headers(&[("x-death", forged_death("forged", "due")), ("tracestate", text("a=b"))]));
    assert!(client.publish_raw(&client.names.commands(), "ifortepay", body.as_bytes(), properties).await);
    worker.wait_for_log("waits for its next attempt", SOON).await;
    assert_eq!(worker.stop("-TERM").await.0, 0);
    let queue = client.names.commands_of("ifortepay");
    let back = consume_one(&client.channel, &queue, SOON).await.expect("the bucket releases it");
    assert_eq!(back.data, body.as_bytes());
    assert_eq!((back.exchange.as_str(), back.routing_key.as_str()), (client.names.due().as_str(), "ifortepay"));
    let own = &back.properties;
    let text_of = |value: &Option<lapin::types::ShortString>| value.as_ref().unwrap().as_str().to_owned();
    let kept = [own.message_id(), own.correlation_id(), own.reply_to(), own.app_id(), own.kind(), own.content_type()]
        .map(text_of);
    assert_eq!(kept, ["m", "c", "replies.x", "shop", "t", "application/json"]);
    assert_eq!((*own.timestamp(), *own.delivery_mode(), *own.priority()), (Some(1_700_000_000), Some(2), None));
    assert_eq!(header(own, "tracestate"), Some(text("a=b")));
    assert_eq!(header(own, "x-qris-attempts"), Some(AMQPValue::LongLongInt(1)));
    assert_eq!(header(own, "x-qris-ambiguous"), Some(AMQPValue::Boolean(false)));
    // Only the broker's own account of the bucket.
    assert!(!format!("{:?}", header(own, "x-death")).contains("forged"));
}

#[tokio::test]
async fn a_retry_waits_in_its_bucket_and_is_not_requeued() {
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", "");
    let text = read(&place.config)
        .replace("initial_ms = 250\nmax_ms = 1_000\nmax_att", "initial_ms = 20_000\nmax_ms = 20_000\nmax_att");
    std::fs::write(&place.config, text).unwrap();
    let worker = place.worker().await;
    let client = place.client().await;
    assert!(client.publish("ifortepay", &command("waiting", "R1")).await);
    // Half the delay to the whole of it is chosen, which is one of two buckets.
    let buckets = [10, 20].map(|s| client.names.bucket_for(Duration::from_secs(s)).0);
    let mut waiting = Vec::new();
    let begun = Instant::now();
    while waiting.is_empty() {
        assert!(
            begun.elapsed() < SOON,
            "the command is in no bucket; it was received {} times",
            worker.metric(RECEIVED).await
        );
        for bucket in &buckets {
            waiting.extend(client.channel.basic_get(bucket.as_str().into(), BasicGetOptions::default()).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let [one] = &waiting[..] else { panic!("in the buckets are {waiting:?}") };
    assert!(!one.redelivered);
    assert_eq!(one.data, command("waiting", "R1").to_string().as_bytes());
    let Some(AMQPValue::LongString(history)) = header(&one.properties, "x-qris-history") else { panic!("{one:?}") };
    let history: Value = serde_json::from_slice(history.as_bytes()).unwrap();
    assert_eq!((&history["count"], &history["calls"][0]["operation"]), (&json!(1), &json!("cancel")), "{history}");
    // It is nowhere else, and was taken and tried once.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(client.depth(&client.names.commands_of("ifortepay")).await, 0);
    assert_eq!((worker.metric(RECEIVED).await, worker.metric("qris_cancel_calls_total").await), (1.0, 1.0));
}

#[tokio::test]
async fn what_no_account_takes_is_told_and_parked() {
    let place = Place::new(Broker::shared(), calm()).await;
    let mut worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let names = &client.names;
    assert!(client.publish("ifortpay", &command("typo", "R1")).await);
    assert!(client.publish("Not.A.Name", &command("odd", "R2")).await);
    assert!(client.publish_raw(&names.commands(), "", b"\xff\x00", persistent()).await);
    let typo = events.of("typo", SOON).await;
    let (properties, _) = events.all.iter().find(|(_, event)| event["data"]["jobId"] == "typo").unwrap();
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "typo", "its publisher gave no other");
    assert_eq!((&typo["data"]["cause"], &typo["data"]["account"]), (&json!("unknown_account"), &json!("ifortpay")));
    assert!(typo["data"]["violations"][0]["rule"].as_str().unwrap().contains("ifortpay"), "{typo}");
    assert_eq!(events.of("odd", SOON).await["source"], "/qris-cancel/unknown");
    events.wait(3, SOON).await;

    // A publisher's expiration takes commands out of the queue while nobody works.
    assert_eq!(worker.stop("-TERM").await.0, 0);
    let copy = headers(&[("CC", AMQPValue::FieldArray(vec![text("ifortepay")].into()))]);
    let expiring = persistent().with_expiration("50".into()).with_headers(copy);
    assert!(client.publish_raw(&names.commands(), "bnc", command("late", "R3").to_string().as_bytes(), expiring).await);
    until("both copies expire", SOON, || Box::pin(async { client.depth(&names.strays()).await == 2 })).await;
    let _worker = place.worker().await;
    let mut accounts = Vec::new();
    for (_, late) in &events.wait(5, SOON).await[3..] {
        let told = (&late["data"]["jobId"], &late["data"]["outcome"], &late["data"]["cause"]);
        assert_eq!(told, (&json!("late"), &json!("unresolved"), &json!("expired_in_queue")));
        accounts.push(late["data"]["account"].as_str().unwrap());
    }
    accounts.sort_unstable();
    assert_eq!(accounts, ["bnc", "ifortepay"], "each is told as that of the queue that it came to");

    let parked = parked(&client).await;
    let mut jobs: Vec<_> = parked.iter().map(|(job, ..)| job.as_str()).collect();
    jobs.sort_unstable();
    assert_eq!(jobs, ["", "late", "late", "odd", "typo"]);
    let (_, properties, _) = parked.iter().find(|(job, ..)| job == "late").unwrap();
    assert_eq!(header(properties, "x-qris-cause"), Some(text("expired_in_queue")));
    assert!(parked.iter().any(|(_, _, body)| body == b"\xff\x00"), "the bytes are kept whatever they were");
    assert_eq!(place.get("/_sandbox/transactions").await, json!([]), "nothing reached a provider");
}

/// Hands a command back so often, as workers do that die of it.
async fn die_of_it(client: &Client, queue: &str, times: usize) {
    for _ in 0..times {
        let got = take(client, queue).await;
        // RabbitMQ 4.3 does not count what is handed back by a nack.
        got.acker.reject(BasicRejectOptions { requeue: true }).await.unwrap();
    }
}

/// Takes one message out of a queue, as soon as there is one.
async fn take(client: &Client, queue: &str) -> BasicGetMessage {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < SOON * 2, "nothing comes");
        if let Some(got) = client.channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap() {
            return got;
        }
    }
}

#[tokio::test]
async fn a_command_that_workers_die_of_is_given_up_by_the_brokers_count_alone() {
    let place = Place::new(Broker::shared(), calm()).await;
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    let mut events = client.collect().await;
    let names = &client.names;
    assert!(client.publish("bnc", &command("poison", "R1")).await);
    die_of_it(&client, &names.commands_of("bnc"), 50).await;
    // RabbitMQ writes one of the two, or both; what it does not write is the publisher's. What was handed back, or held for too long,
    // leaves more of the publisher's than what was lost with its channel.
    let forgeries = [&["x-delivery-count"][..], &["x-acquired-count"], &["x-delivery-count", "x-acquired-count"]];
    let queue = names.commands_of("ifortepay");
    for (at, forged) in forgeries.iter().enumerate() {
        let claims: Vec<_> = forged.iter().map(|name| (*name, AMQPValue::LongLongInt(100))).collect();
        let claims = persistent().with_headers(headers(&claims));
        let body = command(&format!("forged-{at}"), &format!("F{at}")).to_string();
        assert!(client.publish_raw(&names.commands(), "ifortepay", body.as_bytes(), claims).await);
    }
    let mut held = Vec::new();
    for _ in &forgeries {
        held.push(take(&client, &queue).await);
    }
    for got in held {
        got.acker.nack(BasicNackOptions { requeue: true, ..Default::default() }).await.unwrap();
    }
    let _worker = place.worker().await;
    let poison = events.of("poison", SOON).await;
    assert_eq!((&poison["data"]["cause"], &poison["data"]["callsTotal"]), (&json!("worker_crashed"), &json!(0)));
    for at in 0..forgeries.len() {
        assert_eq!(events.of(&format!("forged-{at}"), SOON).await["data"]["outcome"], "canceled");
    }
}

#[tokio::test]
async fn a_hostile_reply_to_disturbs_nothing_and_an_allowed_one_is_answered() {
    let place = Place::new(Broker::shared(), calm()).await;
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let names = client.names.clone();
    let parked_queue = names.parked();
    let secret = format!("secret.{}", place.prefix);
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    client.channel.queue_declare(secret.as_str().into(), durable, FieldTable::default()).await.unwrap();
    let hostile = ["amq.rabbitmq.reply-to.nonsense", &parked_queue, "replies.missing", &secret, "", &"x".repeat(255)];
    for (at, reply_to) in hostile.iter().enumerate() {
        let properties = persistent().with_reply_to((*reply_to).into());
        let body = command(&format!("hostile-{at}"), &format!("R{at}")).to_string();
        assert!(client.publish_raw(&names.commands(), "ifortepay", body.as_bytes(), properties).await);
    }
    for at in 0..hostile.len() {
        assert_eq!(events.of(&format!("hostile-{at}"), SOON).await["data"]["outcome"], "canceled");
    }
    assert_eq!((client.depth(&parked_queue).await, client.depth(&secret).await), (0, 0));

    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    client.channel.queue_declare("replies.mine".into(), options, FieldTable::default()).await.unwrap();
    let direct = client.channel.basic_consume(
        "amq.rabbitmq.reply-to".into(),
        "".into(),
        BasicConsumeOptions { no_ack: true, ..Default::default() },
        FieldTable::default(),
    );
    let mut direct = direct.await.unwrap();
    for (job, reply_to) in [("asked", "replies.mine"), ("direct", "amq.rabbitmq.reply-to")] {
        let properties = persistent().with_reply_to(reply_to.into()).with_correlation_id("mine".into());
        assert!(
            client
                .publish_raw(&names.commands(), "ifortepay", command(job, job).to_string().as_bytes(), properties)
                .await
        );
    }
    let answer = consume_one(&client.channel, "replies.mine", SOON).await.expect("an answer");
    assert_eq!(answer.properties.correlation_id().as_ref().unwrap().as_str(), "mine");
    assert_eq!(serde_json::from_slice::<Value>(&answer.data).unwrap()["data"]["jobId"], "asked");
    use futures_util::StreamExt;
    let answer = tokio::time::timeout(SOON, direct.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer.data).unwrap()["data"]["jobId"], "direct");
    assert_eq!(worker.read_log().matches("\"consuming\"").count(), 1, "the session was disturbed");
}

#[tokio::test]
async fn an_event_nobody_is_bound_for_is_kept_and_the_log_has_all() {
    let place = Place::new(Broker::shared(), calm()).await;
    let _worker = place.worker().await;
    let client = place.client().await;
    assert!(client.publish("ifortepay", &command("unheard", "R1")).await);
    until("the event is kept", SOON, || Box::pin(async { client.depth(&client.names.unrouted()).await == 1 })).await;
    let mut events = client.collect().await;
    assert!(client.publish("ifortepay", &command("heard", "R2")).await);
    events.of("heard", SOON).await;
    assert_eq!(client.depth(&client.names.unrouted()).await, 1, "an event with a reader is not unrouted");
    let output = place.command(&["watch", "--since", "1h", "--count", "2", "--json"]).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let jobs: Vec<_> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["data"]["jobId"].clone()).collect();
    assert_eq!(jobs, ["unheard", "heard"], "{lines} {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_delay_is_never_short_and_less_than_doubled() {
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", "");
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    let queue = client.names.commands_of("ifortepay");
    use futures_util::StreamExt;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let reader = place.client().await;
    let mut consumer =
        reader.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut come = Vec::new();
        while come.len() < 400 {
            let next = tokio::time::timeout(SOON, consumer.next()).await;
            come.push((next.expect("all come back").unwrap().unwrap(), Instant::now()));
        }
        come
    });
    let mut sent = std::collections::BTreeMap::new();
    let mut rng = fastrand::Rng::with_seed(7);
    for at in 0..400 {
        let delay = Duration::from_millis(rng.u64(250..4_000));
        let (bucket, ms) = client.names.bucket_for(delay);
        let properties = persistent().with_expiration(ms.to_string().into()).with_message_id(at.to_string().into());
        // The clock starts before the publish: a message is not early because its confirm was late.
        sent.insert(at.to_string(), (Instant::now(), delay));
        assert!(client.publish_raw(&bucket, "ifortepay", b"{}", properties).await);
    }
    for (delivery, read_at) in reading.await.unwrap() {
        assert_eq!(
            (delivery.exchange.as_str(), delivery.routing_key.as_str()),
            (client.names.due().as_str(), "ifortepay")
        );
        let (begun, delay) = sent[delivery.properties.message_id().as_ref().unwrap().as_str()];
        let took = read_at - begun;
        // A busy machine reads late; it never reads early.
        assert!(took >= delay, "{delay:?} took {took:?}");
        assert!(took < delay * 2 + Duration::from_secs(5), "{delay:?} took {took:?}");
    }
}

#[tokio::test]
async fn nobody_can_publish_to_the_exchange_whose_headers_are_believed() {
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", "");
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    let published = client.channel.basic_publish(
        client.names.due().into(),
        "ifortepay".into(),
        BasicPublishOptions::default(),
        b"{}",
        persistent(),
    );
    let refused = match published.await {
        Ok(confirm) => confirm.await.err(),
        Err(error) => Some(error),
    };
    assert!(refused.expect("the broker refuses").to_string().contains("ACCESS_REFUSED"));
}

#[tokio::test]
async fn topology_is_declared_checked_and_told() {
    let broker = Broker::shared();
    let place = Place::at(broker, "http://127.0.0.1:9", "");
    let run = |arguments: &[&str]| {
        let output = place.command(arguments).output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = run(&["topology", "verify"]);
    assert_eq!(code, 1);
    assert!(said.contains(&format!("queue {} is missing", place.names.parked())), "{said}");
    let (code, shown) = run(&["topology", "show"]);
    assert_eq!(code, 0);
    assert!(shown.contains("internal") && shown.contains("x-message-ttl"), "{shown}");

    // Told to check only, the worker names what is missing and stops.
    let mut check_only = place.command(&["run"]);
    let output = check_only.env("QRIS_CANCEL__AMQP__DECLARE", "false").output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8(output.stderr).unwrap().contains("is missing; make it with `topology declare`"));

    assert_eq!(run(&["topology", "declare"]).0, 0);
    assert_eq!(run(&["topology", "verify"]).0, 0);
    assert_eq!(run(&["topology", "declare"]).0, 0, "declaring twice changes nothing");

    // What exists with other arguments is told by name.
    let client = place.client().await;
    let queue = client.names.parked();
    client.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let arguments = headers(&[("x-queue-type", text("quorum")), ("x-delivery-limit", AMQPValue::LongInt(20))]);
    client.channel.queue_declare(queue.as_str().into(), options, arguments).await.unwrap();
    let (code, said) = run(&["topology", "verify"]);
    assert_eq!(code, 1);
    assert!(said.contains(&queue) && said.contains("x-delivery-limit"), "{said}");

    // The definitions that it shows can be imported, and are then as they should be.
    let (_, definitions) = run(&["topology", "show", "--format", "definitions"]);
    let own = Place::at(broker, "http://127.0.0.1:9", "");
    let file = own.dir.path().join("definitions.json");
    std::fs::write(&file, definitions.replace(&place.prefix, &own.prefix)).unwrap();
    broker.ctl(&["import_definitions", file.to_str().unwrap()]);
    let output = own.command(&["topology", "verify"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_redelivered_command_is_queried_before_it_is_cancelled() {
    let place = Place::new(Broker::shared(), sandbox::Options { latency: Duration::from_millis(800), ..calm() }).await;
    let mut worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    assert!(client.publish("ifortepay", &command("killed", "R1")).await);
    // The cancel reaches the provider, and the worker dies before it hears of it.
    until("the cancel arrives", SOON, || {
        Box::pin(async { place.get("/_sandbox/transactions").await[0]["calls"]["cancel"] == 1 })
    })
    .await;
    worker.kill();
    let _worker = place.worker().await;
    let event = events.of("killed", SOON).await;
    assert_eq!(event["data"]["outcome"], "canceled");
    assert_eq!(event["data"]["calls"][0]["operation"], "query", "{event}");
    assert_eq!(place.transaction("ifortepay", "R1").await["calls"]["cancel"], 1, "cancelled once only");
}

#[tokio::test]
async fn a_stop_finishes_what_has_begun_and_hands_back_the_rest() {
    for signal in ["-TERM", "-INT"] {
        let more = "[accounts.slow]\nprofile = \"ifortepay\"\nbase_url = \"PROVIDER/slow\"\npartner_id = \"x\"\nmax_in_flight = 2\nprivate_key = { file = \"KEY\" }";
        let options = sandbox::Options { latency: Duration::from_millis(600), ..calm() };
        let place = place_with_slow(Broker::shared(), options, more).await;
        assert!(place.command(&["topology", "declare"]).status().unwrap().success());
        let client = place.client().await;
        let mut events = client.collect().await;
        for at in 0..12 {
            assert!(client.publish("slow", &command(&format!("job-{at}"), &format!("R{at}"))).await);
        }
        let mut worker = place.worker().await;
        until("calls have begun", SOON, || {
            Box::pin(async { !place.get("/_sandbox/transactions").await.as_array().unwrap().is_empty() })
        })
        .await;
        let (code, took) = worker.stop(signal).await;
        assert_eq!(code, 0, "{signal}");
        assert!(took < Duration::from_secs(10), "{signal}: {took:?}");
        events.read().await;
        let told = events.all.len();
        assert!((1..=6).contains(&told), "{signal}: {told} were finished");
        // What was fetched and not begun comes back by way of a bucket.
        until("nothing is lost, nothing is told twice", SOON, || {
            Box::pin(async { told + client.depth(&client.names.commands_of("slow")).await as usize == 12 })
        })
        .await;
        let back = consume_one(&client.channel, &client.names.commands_of("slow"), SOON).await.unwrap();
        assert!(back.data.starts_with(b"{"));
    }
}

/// RabbitMQ holds back what is acknowledged at once, and forgets it if the channel ends then: it would all come again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stop_finishes_does_not_come_again() {
    const JOBS: usize = 192;
    let options = sandbox::Options { latency: Duration::from_secs(1), ..calm() };
    let mut place = Place::new(Broker::shared(), options).await;
    let text = read(&place.config)
        .replace("grace_ms = 2_000", "grace_ms = 20_000")
        .replace("\ntimeout_ms = 2_000", "\nmax_in_flight = 128\ntimeout_ms = 30_000");
    std::fs::write(&place.config, text).unwrap();
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    let mut events = client.collect().await;
    for at in 0..JOBS {
        assert!(client.publish("bnc", &command(&format!("job-{at}"), &format!("R{at}"))).await);
    }
    let host = place.url.split_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    let relay = Relay::start(&host).await;
    place.url = place.url.replace(&host, &relay.address.to_string());
    let mut worker = place.worker().await;
    until("as many calls as may be have begun", SOON, || {
        Box::pin(async { place.get("/_sandbox/transactions").await.as_array().unwrap().len() >= 128 })
    })
    .await;
    // All acknowledgements reach the broker in one go.
    relay.hold(acknowledges(Direction::Out));
    worker.signal("-TERM");
    relay.until_held(SOON).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    relay.set(Way::Pass);
    assert!(tokio::task::block_in_place(|| worker.child.wait()).unwrap().success());
    events.read().await;
    let told = events.all.len();
    assert!(told >= 128, "{told} were finished");
    until("what has no event is in the queue, what was not begun by way of a bucket", SOON, || {
        Box::pin(async { told + client.depth(&client.names.commands_of("bnc")).await as usize >= JOBS })
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let left = client.depth(&client.names.commands_of("bnc")).await as usize;
    assert_eq!(told + left, JOBS, "what has an event is gone from the queue");
}

#[tokio::test]
async fn what_runs_longer_than_the_grace_period_is_scheduled_as_ambiguous() {
    let place =
        Place::new(Broker::shared(), sandbox::Options { faults: "hang_after=1".parse().unwrap(), ..calm() }).await;
    // At least half of it is chosen: well over what the stop takes.
    let more = "\n[accounts.ifortepay.retry]\ninitial_ms = 20_000\nmax_ms = 20_000\n";
    let text = read(&place.config)
        .replace("timeout_ms = 2_000", "timeout_ms = 30_000")
        .replace("grace_ms = 2_000", "grace_ms = 300")
        + more;
    std::fs::write(&place.config, text).unwrap();
    let mut worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    assert!(client.publish("ifortepay", &command("hanging", "R1")).await);
    until("the cancel arrives", SOON, || {
        Box::pin(async { place.get("/_sandbox/transactions").await[0]["calls"]["cancel"] == 1 })
    })
    .await;
    let (code, took) = worker.stop("-TERM").await;
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(client.depth(&client.names.commands_of("ifortepay")).await, 0, "it waits in a bucket, acknowledged");
    place.send("PUT", "/_sandbox/faults", &json!({ "faults": "0" })).await;
    let _worker = place.worker().await;
    let event = events.of("hanging", SOON * 3).await;
    let operations: Vec<_> =
        event["data"]["calls"].as_array().unwrap().iter().map(|call| call["operation"].as_str().unwrap()).collect();
    assert_eq!(
        (&event["data"]["outcome"], operations.as_slice()),
        (&json!("canceled"), ["cancel", "query"].as_slice()),
        "{event}"
    );
    assert_eq!(event["data"]["calls"][0]["error"], "interrupted");
    assert_eq!(event["data"]["attempts"], 1, "a stop of ours is no attempt: {event}");
}

#[tokio::test]
async fn a_refused_event_travels_as_decided_and_the_provider_is_not_asked_again() {
    let place = Place::new(Broker::shared(), calm()).await;
    let worker = place.worker().await;
    let client = place.client().await;
    // A reader's queue that is full and refuses makes the broker refuse the event.
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let full = headers(&[("x-max-length", AMQPValue::LongInt(1)), ("x-overflow", text("reject-publish"))]);
    client.channel.queue_declare(format!("full.{}", place.prefix).into(), options, full).await.unwrap();
    let (queue, results) = (format!("full.{}", place.prefix), client.names.results());
    client
        .channel
        .queue_bind(
            queue.as_str().into(),
            results.as_str().into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    assert!(client.publish_raw(&results, "x", b"filler", persistent()).await);
    assert!(client.publish("ifortepay", &command("refused-event", "R1")).await);
    worker.wait_for_log("will be told again", SOON).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut events = client.collect().await;
    client.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let event = events.of("refused-event", SOON).await;
    assert_eq!(event["data"]["outcome"], "canceled");
    let calls = place.transaction("ifortepay", "R1").await["calls"].clone();
    assert_eq!((calls["cancel"].as_u64(), calls["query"].as_u64()), (Some(1), Some(0)));
    assert_eq!(worker.read_log().matches("\"consuming\"").count(), 1);
}

#[tokio::test]
async fn headers_of_another_version_wait_for_a_worker_that_reads_them() {
    let place = Place::new(Broker::shared(), calm()).await;
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let newer = headers(&[("x-qris-version", AMQPValue::LongLongInt(2)), ("x-qris-new", text("x"))]);
    let (bucket, ms) = client.names.bucket_for(Duration::from_millis(250));
    let properties = persistent().with_headers(newer).with_expiration(ms.to_string().into());
    assert!(client.publish_raw(&bucket, "ifortepay", command("newer", "R1").to_string().as_bytes(), properties).await);
    worker.wait_for_log("another version", SOON).await;
    let (waiting, _) = client.names.bucket_for(Duration::from_secs(30));
    until("it waits again", SOON, || Box::pin(async { client.depth(&waiting).await == 1 })).await;
    events.read().await;
    assert_eq!(events.all.len(), 0);
    let kept = client.drain(&waiting).await;
    assert_eq!(header(&kept[0].properties, "x-qris-version"), Some(AMQPValue::LongLongInt(2)));
    assert_eq!(header(&kept[0].properties, "x-qris-new"), Some(text("x")));
}

async fn place_with_slow(broker: &Broker, options: sandbox::Options, more: &str) -> Place {
    // The sandbox's address is not known before it listens, so the account names it by the one of its neighbour.
    Place::with_more(broker, options, |provider| more.replace("PROVIDER", provider).replace("KEY", KEY)).await
}

/// A user with no more than these permissions: its address.
fn user(broker: &Broker, name: &str, configure: &str, write: &str, read: &str) -> String {
    let name = format!("{name}{:08x}", fastrand::u32(..));
    broker.ctl(&["add_user", &name, "pw"]);
    broker.ctl(&["set_permissions", &name, configure, write, read]);
    broker.url.replace("guest:guest", &format!("{name}:pw"))
}

#[tokio::test]
async fn the_documented_permissions_are_enough_and_no_more_is_asked_for() {
    let broker = Broker::shared();
    let place = Place::new(broker, calm()).await;
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    // As docs/PERMISSIONS.md has them, with this test's prefix.
    let document = read(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PERMISSIONS.md"));
    let permissions = |who: &str| -> Vec<String> {
        let line =
            document.lines().find(|line| line.starts_with(&format!("rabbitmqctl set_permissions {who} "))).unwrap();
        line.split('\'')
            .skip(1)
            .step_by(2)
            .map(|part| part.replace("qris\\.cancel", &place.prefix.replace('.', "\\.")))
            .collect()
    };
    let of = |who: &str| {
        let permissions = permissions(who);
        user(broker, who, &permissions[0], &permissions[1], &permissions[2])
    };
    let mut restricted = place.command(&["run"]);
    let log = place.dir.path().join("restricted.log");
    restricted.env("AMQP_URL", of("cancel-worker")).env("QRIS_CANCEL__AMQP__DECLARE", "false");
    let child = restricted.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let worker = Worker { child, log };
    worker.wait_for_log("\"consuming\"", SOON).await;

    let reader = Client::connect(&of("reconciliation"), place.names.clone()).await;
    let queue = format!("reconciliation.{}", place.prefix);
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    reader.channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
    let results = place.names.results();
    reader
        .channel
        .queue_bind(
            queue.as_str().into(),
            results.into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();

    let publisher = Client::connect(&of("order-service"), place.names.clone()).await;
    assert!(publisher.publish("ifortepay", &command("allowed", "R1")).await);
    assert!(publisher.publish("bnc", &json!({ "jobId": "faulty" })).await);
    assert!(publisher.publish("nobody", &command("stray", "R2")).await);
    until("these are told", SOON, || Box::pin(async { reader.depth(&queue).await == 3 })).await;
    place.send("PUT", "/_sandbox/faults", &json!({ "faults": "500=1" })).await;
    assert!(publisher.publish("bnc", &command("retried", "R3")).await);
    worker.wait_for_log("waits for its next attempt", SOON).await;
    place.send("PUT", "/_sandbox/faults", &json!({ "faults": "0" })).await;
    let mut outcomes = std::collections::BTreeMap::new();
    until("four events come", SOON, || Box::pin(async { reader.depth(&queue).await == 4 })).await;
    for message in reader.drain(&queue).await {
        let event: Value = serde_json::from_slice(&message.data).unwrap();
        outcomes.insert(event["data"]["jobId"].as_str().unwrap().to_owned(), event["data"]["outcome"].clone());
    }
    let expected = json!({ "allowed": "canceled", "faulty": "invalid", "retried": "canceled", "stray": "invalid" });
    assert_eq!(json!(outcomes), expected);
    let mut replay = place.command(&["parked", "replay", "--job", "faulty"]);
    replay.env("AMQP_URL", of("operator"));
    let replayed = run(replay).await;
    assert_eq!((replayed.code, replayed.said.as_str()), (0, "1 command replayed\n"));
    until("its event comes", SOON, || Box::pin(async { reader.depth(&queue).await == 1 })).await;
    let terminal = of("terminal");
    for arguments in [
        ["send", "--account", "bnc", "--reference", "R4", "--wait"].as_slice(),
        &["watch", "--since", "1h", "--count", "5"],
    ] {
        let mut typed = place.command(arguments);
        typed.env("AMQP_URL", &terminal);
        let ran = run(typed).await;
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.said);
    }
    // A publisher may not reach past the commands exchange.
    let past = publisher.channel.basic_publish(
        place.names.parked().into(),
        "x".into(),
        BasicPublishOptions::default(),
        b"{}",
        persistent(),
    );
    let refused = match past.await {
        Ok(confirm) => confirm.await.err(),
        Err(error) => Some(error),
    };
    assert!(refused.unwrap().to_string().contains("ACCESS_REFUSED"));
}

#[tokio::test]
async fn a_broker_that_is_killed_and_comes_back_has_lost_nothing() {
    let broker = Broker::own();
    let place = Place::new(&broker, sandbox::Options { latency: Duration::from_millis(300), ..calm() }).await;
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    let mut events = client.collect().await;
    // RabbitMQ forgets a quorum queue that is not a second old when it is killed.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for at in 0..300 {
        let account = if at % 2 == 0 { "ifortepay" } else { "bnc" };
        assert!(client.publish(account, &command(&format!("job-{at}"), &format!("R{at}"))).await);
    }
    let worker = place.worker().await;
    events.wait(20, SOON).await;
    let killed = chrono::Utc::now();
    broker.kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.start_again();
    let client = place.client().await;
    let mut events = client.follow(events).await;
    let begun = Instant::now();
    let mut jobs = std::collections::BTreeSet::new();
    while jobs.len() < 300 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} of 300\n{}", jobs.len(), worker.read_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
        events.read().await;
        jobs.extend(events.all.iter().map(|(_, event)| event["data"]["jobId"].as_str().unwrap().to_owned()));
    }
    for (_, event) in &events.all {
        assert_eq!(event["data"]["outcome"], "canceled", "{event}");
    }
    let is_later =
        |event: &Value| event["time"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap() > killed;
    assert!(events.all.iter().any(|(_, event)| is_later(event)), "it was killed when all was done");
}

#[tokio::test]
async fn a_retry_whose_bucket_is_gone_is_not_lost() {
    let place = Place::new(Broker::shared(), sandbox::Options { faults: "429=1".parse().unwrap(), ..calm() }).await;
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    for ms in [250, 500, 1_000, 2_000] {
        let (bucket, _) = client.names.bucket_for(Duration::from_millis(ms));
        client.channel.queue_delete(bucket.into(), QueueDeleteOptions::default()).await.unwrap();
    }
    assert!(client.publish("ifortepay", &command("homeless", "R1")).await);
    worker.wait_for_log("a queue of ours is gone", SOON).await;
    place.send("PUT", "/_sandbox/faults", &json!({ "faults": "0" })).await;
    assert_eq!(events.of("homeless", Duration::from_secs(30)).await["data"]["outcome"], "canceled");
}

/// With its expiration a retry would vanish where strays wait, and no one would hear of it.
#[tokio::test]
async fn a_retry_that_misses_its_queue_waits_for_a_worker_however_soon_it_would_have_expired() {
    let place = Place::new(Broker::shared(), calm()).await;
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    let mut events = client.collect().await;
    let names = &client.names;
    let (bucket, _) = names.bucket_for(Duration::from_millis(250));
    client.channel.queue_delete(bucket.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    // One whose bucket is gone; and one whose account is.
    for (exchange, key, job) in
        [(bucket, "ifortepay", "homeless"), (names.bucket_for(Duration::from_millis(500)).0, "nobody", "removed")]
    {
        let body = command(job, &format!("R-{job}")).to_string();
        let expiring = persistent().with_expiration("100".into());
        assert!(client.publish_raw(&exchange, key, body.as_bytes(), expiring).await);
    }
    until("they are strays", SOON, || Box::pin(async { client.depth(&names.strays()).await == 2 })).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(client.depth(&names.strays()).await, 2, "none has expired");
    let _worker = place.worker().await;
    assert_eq!(events.of("removed", SOON).await["data"]["cause"], "account_removed");
    assert_eq!(events.of("homeless", SOON * 2).await["data"]["outcome"], "canceled");
}

/// A client that hands it back stands for workers that cannot read it: the broker counts both alike.
#[tokio::test]
async fn what_no_worker_can_read_leaves_each_queue_by_itself_and_is_kept() {
    let place = Place::new(Broker::shared(), calm()).await;
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    let mut events = client.collect().await;
    let names = &client.names;
    // From where each can be read again: the strays, the expired strays, nowhere.
    let path = [(names.commands_of("bnc"), 101), (names.strays(), 21), (names.strays_expired(), 21)];
    let ends = [names.strays(), names.strays_expired(), names.unreadable()];
    // The longest way first, so that none stands in the way.
    for died_in in [3, 2, 1] {
        let expiring = persistent().with_expiration("600000".into());
        let body = command(&format!("left-{died_in}"), "R1").to_string();
        assert!(client.publish_raw(&names.commands(), "bnc", body.as_bytes(), expiring).await);
        for ((queue, limit), next) in path.iter().zip(&ends).take(died_in) {
            // RabbitMQ 4.3 counts on in the next queue, where so few are left.
            let (mut died, begun) = (0, Instant::now());
            while client.depth(next).await == 0 {
                assert!(died < *limit || begun.elapsed() < SOON, "{queue}: it does not go on after {died}");
                if client.depth(queue).await > 0 {
                    die_of_it(&client, queue, 1).await;
                    died += 1;
                }
            }
            assert!(died == *limit || died > 0 && *queue != path[0].0, "{queue}: it has gone on after {died}");
        }
    }
    let _worker = place.worker().await;
    events.wait(2, SOON).await;
    for (_, event) in &events.all {
        let data = &event["data"];
        let told = [&data["account"], &data["outcome"], &data["cause"], &data["mayHaveTakenEffect"]];
        assert_eq!(told, [&json!("bnc"), &json!("unresolved"), &json!("worker_crashed"), &json!(true)], "{event}");
    }
    let mut jobs: Vec<_> = parked(&client).await.into_iter().map(|(job, ..)| job).collect();
    jobs.sort_unstable();
    assert_eq!(jobs, ["left-1", "left-2"], "what can be read is told of and parked");
    let kept = client.drain(&names.unreadable()).await;
    let [one] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!(one.data, command("left-3", "R1").to_string().as_bytes());
    assert_eq!(one.properties.expiration(), &None, "it would vanish there");
}

/// Its publisher's expiration passes among the strays, where it had come because no queue was bound for it.
#[tokio::test]
async fn a_stray_that_expires_while_no_worker_runs_is_told_and_parked() {
    let place = Place::new(Broker::shared(), calm()).await;
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    let mut events = client.collect().await;
    let names = &client.names;
    // The queue of one account is gone, and the binding of the other.
    client.channel.queue_delete(names.commands_of("bnc").into(), QueueDeleteOptions::default()).await.unwrap();
    let (queue, exchange) = (names.commands_of("ifortepay"), names.commands());
    client
        .channel
        .queue_unbind(queue.into(), exchange.into(), "ifortepay".into(), FieldTable::default())
        .await
        .unwrap();
    let accounts = ["bnc", "ifortepay", "nobody"];
    for account in accounts {
        // Headers of a publisher are not believed on this way either.
        for (kind, headers) in [
            ("plain", FieldTable::default()),
            ("forged-on-the-way", forged_headers(&[("x-death", forged_death(&names.strays(), &names.due()))])),
            ("forged-ours", forged_headers(&[("x-death", forged_death(&names.strays_ours(), &names.due()))])),
        ] {
            let body = command(&format!("{kind}-{account}"), "R1").to_string();
            let expiring = persistent().with_expiration("100".into()).with_headers(headers);
            assert!(client.publish_raw(&names.commands(), account, body.as_bytes(), expiring).await);
        }
    }
    until("they expire", SOON, || Box::pin(async { client.depth(&names.strays_expired()).await == 9 })).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(client.depth(&names.strays_expired()).await, 9, "here they wait for a worker");
    let _worker = place.worker().await;
    events.wait(9, SOON).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    events.read().await;
    let mut told: Vec<_> = events.all.iter().map(|(_, event)| event["data"]["jobId"].as_str().unwrap()).collect();
    told.sort_unstable();
    let jobs = |kind: &'static str| accounts.map(|account| format!("{kind}-{account}"));
    let jobs = ["forged-on-the-way", "forged-ours", "plain"].map(jobs).concat();
    assert_eq!(told, jobs, "each once");
    for (_, event) in &events.all {
        let data = &event["data"];
        assert!(data["jobId"].as_str().unwrap().ends_with(data["account"].as_str().unwrap()), "{event}");
        let told = [&data["outcome"], &data["cause"], &data["mayHaveTakenEffect"], &data["replay"]];
        assert_eq!(told, [&json!("unresolved"), &json!("expired_in_queue"), &json!(true), &json!(0)], "{event}");
    }
    let mut copies: Vec<_> = parked(&client).await.into_iter().map(|(job, ..)| job).collect();
    copies.sort_unstable();
    assert_eq!(copies, jobs);
    assert_eq!(place.get("/_sandbox/transactions").await, json!([]), "nothing reached a provider");
}

/// A death that a publisher has written itself, in the form of the broker's own.
fn forged_death(queue: &str, exchange: &str) -> AMQPValue {
    let mut death = headers(&[("queue", text(queue)), ("reason", text("expired")), ("exchange", text(exchange))]);
    death.insert("count".into(), AMQPValue::LongLongInt(1));
    AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into())
}

/// RabbitMQ 3.10 counts on in a publisher's own `x-death`, whatever else that says.
#[tokio::test]
async fn a_forged_death_makes_no_headers_believed_and_holds_nothing_up() {
    let place = Place::new(Broker::shared(), calm()).await;
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    let mut events = client.collect().await;
    let names = &client.names;
    let mut jobs = 0;
    for queue in [names.strays_ours(), names.commands_of("bnc"), names.parked()] {
        for exchange in [names.due(), names.parked(), names.strays_ours_arrived()] {
            let forged = forged_headers(&[("x-death", forged_death(&queue, &exchange))]);
            for (key, expiration) in [("nobody", None), ("bnc", Some("50"))] {
                let mut properties = persistent().with_headers(forged.clone());
                if let Some(expiration) = expiration {
                    properties = properties.with_expiration(expiration.into());
                }
                let body = command(&format!("forged-{jobs}"), &format!("R{jobs}")).to_string();
                assert!(client.publish_raw(&names.commands(), key, body.as_bytes(), properties).await);
                jobs += 1;
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _worker = place.worker().await;
    events.wait(jobs, SOON * 2).await;
    for (_, event) in &events.all {
        let expected = if event["data"]["account"] == "nobody" { "unknown_account" } else { "expired_in_queue" };
        assert_eq!((&event["data"]["cause"], &event["data"]["replay"]), (&json!(expected), &json!(0)), "{event}");
    }
}

#[tokio::test]
async fn a_reply_that_is_not_permitted_holds_nothing_up() {
    let broker = Broker::shared();
    let place = Place::new(broker, calm()).await;
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let ours = format!("^{}\\..*", place.prefix.replace('.', "\\."));
    let url = user(broker, "noreply", &ours, &ours, &ours);
    let log = place.dir.path().join("noreply.log");
    let mut run = place.command(&["run"]);
    let child = run.env("AMQP_URL", url).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let worker = Worker { child, log };
    worker.wait_for_log("\"consuming\"", SOON).await;
    let client = place.client().await;
    let mut events = client.collect().await;
    for at in 0..6 {
        let properties = persistent().with_reply_to("replies.mine".into());
        let body = command(&format!("job-{at}"), &format!("R{at}")).to_string();
        assert!(client.publish_raw(&client.names.commands(), "ifortepay", body.as_bytes(), properties).await);
    }
    for at in 0..6 {
        assert_eq!(events.of(&format!("job-{at}"), SOON).await["data"]["outcome"], "canceled");
    }
    assert_eq!(worker.read_log().matches("connecting again").count(), 0, "{}", worker.read_log());
}

#[tokio::test]
async fn nested_headers_are_read_and_every_thread_has_room_for_the_deepest() {
    let place = Place::new(Broker::shared(), calm()).await;
    let mut worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let (body, nested) = (command("nested", "R1").to_string(), raw::nested_header(raw::HARMLESS_LEVELS));
    raw::publish(&place.url, &client.names.commands(), "ifortepay", nested, body.as_bytes());
    assert_eq!(events.of("nested", SOON).await["data"]["outcome"], "canceled");
    let roomy = address_space_mib(&worker);
    assert_eq!(worker.stop("-TERM").await.0, 0);
    // A stack that somebody has chosen stays as it is.
    let log = place.dir.path().join("narrow.log");
    let mut narrow = place.command(&["run"]);
    narrow.env("RUST_MIN_STACK", (2 << 20).to_string()).stderr(std::fs::File::create(&log).unwrap());
    let narrow = Worker { child: narrow.spawn().unwrap(), log };
    narrow.wait_for_log("\"consuming\"", SOON).await;
    // Each of the broker's connections has a thread: one for each account, one for the strays, one to publish.
    let (narrow, threads) = (address_space_mib(&narrow), 4);
    assert!(
        roomy > narrow + threads * 60,
        "{roomy} MiB with the worker's own stacks, {narrow} MiB with those of 2 MiB"
    );
}

/// What a worker has reserved, which shows the size of its stacks.
fn address_space_mib(worker: &Worker) -> u64 {
    let status = read(format!("/proc/{}/status", worker.child.id()));
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn a_broker_that_lets_us_connect_and_says_nothing_costs_no_more_with_each_attempt() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = Place::new(Broker::shared(), calm()).await;
    let text = read(&place.config).replace("[amqp]", "[amqp]\nconnect_timeout_ms = 500");
    std::fs::write(&place.config, text).unwrap();
    let worker = place.worker_at(&format!("amqp://x:x@{}", silent.local_addr().unwrap()));
    let mut attempts = Vec::new();
    for _ in 0..8 {
        attempts.push(tokio::time::timeout(SOON, silent.accept()).await.expect("it tries again").unwrap().0);
    }
    // All but the last have ended: each was said what it is, and then no more.
    for mut attempt in attempts.into_iter().take(7) {
        use tokio::io::AsyncReadExt;
        let mut said = Vec::new();
        tokio::time::timeout(SOON, attempt.read_to_end(&mut said)).await.expect("it is given up").unwrap();
        assert_eq!(said, b"AMQP\0\0\x09\x01");
    }
    let threads = std::fs::read_dir(format!("/proc/{}/task", worker.child.id())).unwrap();
    let names = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default());
    let attempts = names.filter(|name| name.starts_with("lapin")).count();
    assert!(attempts <= 2, "{attempts} threads");
}

/// TLS in front of the shared broker.
async fn over_tls(acceptor: tokio_rustls::TlsAcceptor, broker: String) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, broker) = (acceptor.clone(), broker.clone());
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                let mut broker = tokio::net::TcpStream::connect(broker).await.unwrap();
                tokio::io::copy_bidirectional(&mut client, &mut broker).await.ok();
            });
        }
    });
    address
}

#[tokio::test]
async fn over_tls_the_authority_of_the_settings_is_trusted_and_no_other() {
    let (ours, other) = (certs::Authority::new("ours"), certs::Authority::new("other"));
    let place = Place::new(Broker::shared(), calm()).await;
    let plain = place.url.split_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    let file = |name: &str, text: &[u8]| {
        let path = place.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (chain, key) = ours.identity();
    let ca = format!("ca_file = \"{}\"\n", file("ours.pem", ours.pem().as_bytes()));
    let identity = format!(
        "cert_file = \"{}\"\nkey_file = \"{}\"\n",
        file("chain.pem", &chain),
        file("key.pem", key.expose_secret().as_bytes())
    );
    let system = file("other.pem", other.pem().as_bytes());
    let text = read(&place.config);
    for (authority, clients, tls, refused) in [
        (&ours, None, ca.clone(), None),
        (&ours, Some(&ours), format!("{ca}{identity}"), None),
        (&ours, Some(&ours), ca.clone(), Some("ertificate")),
        // The system's authorities are trusted where the settings name none, and only there.
        (&other, None, String::new(), None),
        (&other, None, ca, Some("invalid peer certificate: UnknownIssuer")),
        (&ours, None, String::new(), Some("invalid peer certificate: UnknownIssuer")),
    ] {
        let mut server = authority.server("localhost");
        server.clients = clients;
        let address = over_tls(server.acceptor(), plain.clone()).await;
        std::fs::write(&place.config, format!("{text}\n[amqp.tls]\n{tls}")).unwrap();
        let mut declare = place.command(&["topology", "declare"]);
        let url = place.url.replace("amqp://", "amqps://").replace(&plain, &format!("localhost:{}", address.port()));
        declare.env("AMQP_URL", url).env("SSL_CERT_FILE", &system).env_remove("SSL_CERT_DIR");
        let ran = run(declare).await;
        match refused {
            None => assert_eq!(ran.code, 0, "{tls}: {}", ran.said),
            Some(why) => assert!(ran.code == 69 && ran.said.contains(why), "{tls}: {} {}", ran.code, ran.said),
        }
    }
}

/// Where there is room for no more threads, some of its connections cannot be had.
#[tokio::test]
async fn a_worker_without_room_for_its_connections_goes_on_when_there_is_some() {
    let place = Place::new(Broker::shared(), calm()).await;
    let run = place.command(&["run"]);
    let mut limited = Command::new("prlimit");
    limited.args(["--as=600000000:", "--"]).arg(run.get_program()).args(run.get_args());
    limited.envs(run.get_envs().map(|(name, value)| (name, value.unwrap()))).stdin(Stdio::null());
    let log = place.dir.path().join("limited.log");
    let child = limited.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let worker = Worker { child, log };
    worker.wait_for_log("Resource temporarily unavailable", SOON).await;
    let pid = worker.child.id().to_string();
    assert!(Command::new("prlimit").args(["--pid", &pid, "--as=unlimited"]).status().unwrap().success());
    worker.wait_for_log("\"consuming\"", SOON).await;
}
