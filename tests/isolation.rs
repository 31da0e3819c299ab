//! One publisher, one requester or one queue never stops the others: a real worker, a real broker, and a relay that breaks connections.

#[path = "limits/provider.rs"]
mod provider;
mod support;

use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::AMQPValue;
use provider::{Mood, Provider};
use qris_cancel_worker::sandbox;
use serde_json::Value;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use support::{
    frames::{declares, delivers, publishes_to},
    relay::Relay,
    *,
};

const SOON: Duration = Duration::from_secs(20);

/// A relay in front of the broker, and the worker's address of it.
async fn relayed(place: &mut Place) -> Relay {
    let host = place.url.split_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    let relay = Relay::start(&host).await;
    place.url = place.url.replace(&host, &relay.address.to_string());
    relay
}

/// Publishes so many commands for an account, one after the other, and waits for the event of each.
async fn go_on(client: &Client, events: &mut Events, account: &str, name: &str, count: usize) {
    for at in 0..count {
        let job = format!("{name}-{at}");
        assert!(client.publish(account, &command(&job, &format!("R-{job}"))).await);
        assert_eq!(events.of(&job, SOON).await["data"]["outcome"], "canceled");
    }
}

#[tokio::test]
async fn a_reply_connection_that_ends_at_every_reply_disturbs_nothing() {
    let mut place = Place::new(Broker::shared(), sandbox::Options::default()).await;
    let client = place.client().await;
    let relay = relayed(&mut place).await;
    let worker = place.worker().await;
    let mut events = client.collect().await;
    relay.end(publishes_to(String::new()));
    let begun = Instant::now();
    for at in 0..12 {
        let properties = persistent().with_reply_to("replies.mine".into());
        let body = command(&format!("asks-{at}"), &format!("R-asks-{at}")).to_string();
        assert!(client.publish_raw(&client.names.commands(), "ifortepay", body.as_bytes(), properties).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
        go_on(&client, &mut events, "bnc", &format!("neighbour-{at}"), 1).await;
    }
    for at in 0..12 {
        let event = events.of(&format!("asks-{at}"), SOON).await;
        assert_eq!(
            (&event["data"]["outcome"], &event["data"]["callsTotal"]),
            (&"canceled".into(), &1.into()),
            "{event}"
        );
    }
    let opened = relay.connected_since(begun).len();
    assert!((2..=6).contains(&opened), "{opened} connections for replies in {:?}", begun.elapsed());
    let log = worker.read_log();
    assert!(log.contains("the courtesy copy was not taken") || log.contains("courtesy copies has ended"), "{log}");
    assert_eq!(log.matches("\"consuming\"").count(), 1, "the session was disturbed");
    assert!(!log.contains("connecting again") && !log.contains("the connection ended"), "{log}");
    assert_eq!(worker.metric("qris_cancel_left_unacknowledged_total").await, 0.0);
    // And when it lasts, replies come.
    relay.set(relay::Way::Pass);
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    client.channel.queue_declare("replies.mine".into(), options, Default::default()).await.unwrap();
    let mut at = 0;
    until("a reply comes", SOON * 2, || {
        at += 1;
        let (client, at) = (&client, at);
        Box::pin(async move {
            let properties = persistent().with_reply_to("replies.mine".into());
            let body = command(&format!("later-{at}"), &format!("R-later-{at}")).to_string();
            assert!(client.publish_raw(&client.names.commands(), "ifortepay", body.as_bytes(), properties).await);
            tokio::time::sleep(Duration::from_millis(500)).await;
            client.depth("replies.mine").await > 0
        })
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_is_consumed_again_looks_at_its_own_objects_alone() {
    let mut place = Place::new(Broker::shared(), sandbox::Options::default()).await;
    let client = place.client().await;
    let relay = relayed(&mut place).await;
    let worker = place.worker().await;
    let mut events = client.collect().await;
    // Somebody has made another object anew, and otherwise.
    let unrouted = client.names.unrouted();
    client.channel.queue_delete(unrouted.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let arguments = headers(&[("x-queue-type", text("quorum")), ("x-delivery-limit", AMQPValue::LongInt(7))]);
    client.channel.queue_declare(unrouted.as_str().into(), options, arguments).await.unwrap();
    let declared = Arc::<Mutex<Vec<String>>>::default();
    let seen = declared.clone();
    relay.hold(move |direction, frame| {
        seen.lock().unwrap().extend(declares(direction, frame));
        false
    });
    let queue = client.names.commands_of("bnc");
    client.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    worker.wait_for_log("\"consuming again\"", SOON).await;
    go_on(&client, &mut events, "bnc", "again", 2).await;
    let declared = declared.lock().unwrap();
    assert_eq!(declared.len(), 3, "the queue and its two bindings: {declared:?}");
    assert!(declared.iter().all(|frame| frame.contains(&queue)), "{declared:?}");
}

#[tokio::test]
async fn a_queue_whose_exchange_is_gone_is_bound_again() {
    let place = Place::new(Broker::shared(), sandbox::Options::default()).await;
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    for exchange in [client.names.due(), client.names.commands()] {
        client.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.unwrap();
    }
    let queue = client.names.commands_of("bnc");
    client.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    worker.wait_for_log("\"consuming again\"", SOON).await;
    go_on(&client, &mut events, "bnc", "again", 1).await;
    go_on(&client, &mut events, "ifortepay", "again-too", 1).await;
}

/// An account at a provider of its own, with two commands at a time.
fn shop(provider: &Provider) -> String {
    format!(
        "[accounts.shop]\nprofile = \"ifortepay\"\nbase_url = \"http://{}\"\npartner_id = \"p\"\nmax_in_flight = 2\n\
         private_key = {{ file = \"{KEY}\" }}\nconnect_timeout_ms = 300\ntimeout_ms = 30_000\n",
        provider.address
    )
}

/// A worker that has two commands fetched and no room for them: their place is taken by two calls that are long, and began before.
async fn two_fetched_ahead(place: &Place, client: &Client, provider: &Provider) -> Worker {
    let text = read(&place.config).replace("grace_ms = 2_000", "grace_ms = 20_000");
    std::fs::write(&place.config, &text).unwrap();
    let worker = place.worker().await;
    provider.set(Mood::Fine(Duration::from_secs(8)));
    for job in ["long-0", "long-1"] {
        assert!(client.publish("shop", &command(job, job)).await);
    }
    until("both calls run", SOON, || Box::pin(async { provider.count("cancel") == 2 })).await;
    set_state(place, &worker, "paused").await;
    for job in ["ahead-0", "ahead-1"] {
        assert!(client.publish("shop", &command(job, job)).await);
    }
    set_state(place, &worker, "active").await;
    until("two more are fetched", SOON, || Box::pin(async { place.broker.in_hand(&place.prefix) == 4 })).await;
    assert_eq!(provider.count("cancel"), 2, "they are not begun");
    worker
}

async fn set_state(place: &Place, worker: &Worker, state: &str) {
    let text = read(&place.config);
    let text = text.replace("state = \"active\"\n", "").replace("state = \"paused\"\n", "");
    std::fs::write(
        &place.config,
        text.replace("[accounts.shop]\n", &format!("[accounts.shop]\nstate = \"{state}\"\n")),
    )
    .unwrap();
    worker.signal("-HUP");
    until(state, SOON, || {
        Box::pin(async {
            let status: Value = serde_json::from_str(&worker.page("/status").await.1).unwrap();
            let accounts = status["accounts"].as_array().unwrap();
            let shop = accounts.iter().find(|account| account["account"] == "shop").unwrap();
            shop["state"] == state && shop["consuming"] == (state == "active")
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pause_hands_back_is_cancelled_unasked_and_has_used_up_nothing() {
    let provider = Provider::start().await;
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", &shop(&provider));
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    let mut events = client.collect().await;
    let worker = two_fetched_ahead(&place, &client, &provider).await;
    // A query that knows nothing would keep a command from being cancelled.
    provider.set(Mood::Forgetful);
    set_state(&place, &worker, "paused").await;
    let unbegun = "qris_cancel_retry_delay_seconds_count{account=\"shop\",reason=\"unbegun\"}";
    until("both are handed back", SOON, || Box::pin(async { worker.metric(unbegun).await == 2.0 })).await;
    set_state(&place, &worker, "active").await;
    for job in ["ahead-0", "ahead-1"] {
        let event = events.of(job, SOON).await;
        assert_eq!(event["data"]["outcome"], "canceled", "{event}");
        assert_eq!((&event["data"]["attempts"], &event["data"]["callsTotal"]), (&1.into(), &1.into()), "{event}");
    }
    assert_eq!(provider.count("query"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stop_hands_back_is_known_not_to_have_been_sent() {
    let provider = Provider::start().await;
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", &shop(&provider));
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    let mut events = client.collect().await;
    let mut worker = two_fetched_ahead(&place, &client, &provider).await;
    provider.set(Mood::Refusing);
    let (code, took) = worker.stop("-TERM").await;
    assert!(code == 0 && took < Duration::from_secs(15), "{code} after {took:?}");
    assert_eq!(client.depth(&client.names.strays()).await, 0);
    let _worker = place.worker().await;
    for job in ["ahead-0", "ahead-1"] {
        let event = events.of(job, SOON).await;
        assert_eq!(event["data"]["outcome"], "refused", "{event}");
        assert_eq!(event["data"]["mayHaveTakenEffect"], false, "{event}");
        assert_eq!(event["data"]["calls"][0]["operation"], "cancel", "{event}");
    }
}

/// The lines of the log with this message about a queue.
fn lines(worker: &Worker, message: &str, queue: &str) -> usize {
    let is = |line: &&str| line.contains(message) && line.contains(&format!("\"queue\":\"{queue}\""));
    worker.read_log().lines().filter(is).count()
}

/// Whatever cannot be read leaves the queue of ifortepay, while others go on and the worker is ready.
async fn an_unreadable_message_leaves(place: &Place, worker: &Worker, client: &Client, events: &mut Events) {
    const SUSPECT: &str = "a message in this queue ends the connection";
    let queue = client.names.commands_of("ifortepay");
    let begun = Instant::now();
    worker.wait_for_log(SUSPECT, SOON).await;
    assert_eq!(worker.metric("qris_cancel_queue_suspect{account=\"ifortepay\"}").await, 1.0);
    assert!(client.publish("ifortepay", &command("behind", "R-behind")).await);
    let mut at = 0;
    loop {
        go_on(client, events, "bnc", &format!("neighbour-{at}"), 1).await;
        let (ready, why) = worker.page("/readyz").await;
        assert_eq!(ready, 200, "{why}");
        at += 1;
        events.read().await;
        if events.all.iter().any(|(_, event)| event["data"]["jobId"] == "behind") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not gone within a minute");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(events.of("behind", SOON).await["data"]["outcome"], "canceled");
    go_on(client, events, "ifortepay", "after", 3).await;
    let suspect = "qris_cancel_queue_suspect{account=\"ifortepay\"}";
    until("the queue is consumed as usual", SOON * 3, || Box::pin(async { worker.metric(suspect).await == 0.0 })).await;
    go_on(client, events, "ifortepay", "as-usual", 1).await;
    assert_eq!((lines(worker, SUSPECT, &queue), lines(worker, "can be read again", &queue)), (1, 1));
    assert_eq!(lines(worker, "the connection ended", &queue), 0);
    assert_eq!(worker.read_log().matches("\"consuming\"").count(), 1, "the session was disturbed");
    assert_eq!(client.depth(&client.names.parked()).await, 0, "no good one is given up");
    assert_eq!(place.transaction("ifortepay", "R-behind").await["calls"]["cancel"], 1);
}

#[tokio::test]
async fn a_message_that_the_worker_cannot_read_leaves_its_queue_by_itself() {
    let place = Place::new(Broker::shared(), sandbox::Options::default()).await;
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    let mut events = client.collect().await;
    for at in 0..5 {
        assert!(client.publish("ifortepay", &command(&format!("before-{at}"), &format!("R{at}"))).await);
    }
    raw::publish(&place.url, &client.names.commands(), "ifortepay", raw::message_id(b"\xff\xfe"), b"{}");
    let worker = place.worker().await;
    for at in 0..5 {
        assert_eq!(events.of(&format!("before-{at}"), SOON).await["data"]["outcome"], "canceled");
    }
    an_unreadable_message_leaves(&place, &worker, &client, &mut events).await;
    for at in 0..5 {
        let calls = place.transaction("ifortepay", &format!("R{at}")).await["calls"]["cancel"].clone();
        assert_eq!(calls, 1, "R{at} is cancelled once");
    }
}

#[tokio::test]
async fn a_message_that_the_broker_cannot_deliver_leaves_its_queue_by_itself() {
    let mut place = Place::new(Broker::shared(), sandbox::Options::default()).await;
    let client = place.client().await;
    let relay = relayed(&mut place).await;
    let worker = place.worker().await;
    let mut events = client.collect().await;
    relay.end(delivers(b"\"jobId\":\"marked\""));
    assert!(client.publish("ifortepay", &command("marked", "R-marked")).await);
    an_unreadable_message_leaves(&place, &worker, &client, &mut events).await;
}

/// What an operator should know of a broker before anything goes wrong.
#[tokio::test]
async fn an_old_broker_and_one_without_tls_are_told_of() {
    const OLD: &str = "can stop every retry of a node";
    const CLEAR: &str = "in clear";
    let broker = Broker::shared();
    let place = Place::at(broker, "http://127.0.0.1:9", "");
    let version = broker.ctl(&["version"]);
    let numbers: Vec<u32> = version.trim().split('.').take(2).map(|number| number.parse().unwrap()).collect();
    let is_old = numbers < vec![3, 13];
    let worker = place.worker().await;
    match is_old {
        true => worker.wait_for_log(OLD, SOON).await,
        false => worker.wait_for_log("the broker's version", SOON).await,
    }
    assert_eq!(worker.read_log().contains(OLD), is_old);
    assert!(worker.read_log().contains(&format!("\"version\":\"{}\"", version.trim())), "{}", worker.read_log());
    let checked = run(place.command(&["check", "--connect"])).await;
    assert!(checked.out.contains(&format!("broker: RabbitMQ {}", version.trim())), "{}", checked.out);
    assert_eq!(checked.out.contains(OLD), is_old, "{}", checked.out);
    assert!(!worker.read_log().contains(CLEAR) && !checked.out.contains(CLEAR), "it is on this machine");

    let far = place.worker_at("amqp://x:x@broker.invalid");
    far.wait_for_log(CLEAR, SOON).await;
    for (url, is_clear) in [("amqp://x:x@broker.invalid", true), ("amqps://x:x@broker.invalid", false)] {
        let mut check = place.command(&["check"]);
        check.env("AMQP_URL", url);
        assert_eq!(run(check).await.out.contains(CLEAR), is_clear, "{url}");
    }
}
