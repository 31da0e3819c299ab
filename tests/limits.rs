//! Accounts that look after themselves, with a real worker and a real broker: limits, breaker, pause, and what operators see.

#[path = "limits/provider.rs"]
mod provider;
mod support;

use provider::{Mood, Provider};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::*;

const SOON: Duration = Duration::from_secs(20);

/// An account at a provider of its own, which signs without a token.
fn account(name: &str, provider: &Provider, more: &str) -> String {
    format!(
        "[accounts.{name}]\nprofile = \"ifortepay\"\nbase_url = \"http://{}\"\npartner_id = \"p\"\n\
         private_key = {{ file = \"{KEY}\" }}\nconnect_timeout_ms = 300\ntimeout_ms = 1_000\n{more}\n",
        provider.address
    )
}

const SHORT_RESTS: &str = "breaker = { calls = 10, initial_ms = 200, max_ms = 800 }\n";

/// What `/status` says of an account.
async fn status(worker: &Worker, account: &str) -> Value {
    let (code, text) = worker.page("/status").await;
    assert_eq!(code, 200);
    let status: Value = serde_json::from_str(&text).unwrap();
    let accounts = status["accounts"].as_array().unwrap();
    accounts.iter().find(|one| one["account"] == account).unwrap_or_else(|| panic!("no {account}: {status}")).clone()
}

async fn publish(client: &Client, account: &str, name: &str, count: usize) {
    for at in 0..count {
        assert!(client.publish(account, &command(&format!("{name}-{at}"), &format!("R-{name}-{at}"))).await);
    }
}

/// How many events of an account there are with this outcome.
fn told(events: &Events, account: &str, outcome: &str) -> usize {
    let is = |event: &Value| event["data"]["account"] == account && event["data"]["outcome"] == outcome;
    events.all.iter().filter(|(_, event)| is(event)).count()
}

#[tokio::test]
async fn an_outage_rests_its_own_account_and_ends_without_loss() {
    let (one, two) = (Provider::start().await, Provider::start().await);
    let limits = format!("max_in_flight = 8\n{SHORT_RESTS}");
    let more = account("one", &one, &limits) + &account("two", &two, &limits);
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", &more);
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;

    for outage in ["down", "silent", "401"] {
        match outage {
            "down" => one.go_down().await,
            "silent" => one.set(Mood::Silent),
            _ => one.set(Mood::Unauthorized),
        }
        publish(&client, "one", outage, 60).await;
        until("the account rests", SOON, || {
            Box::pin(async { status(&worker, "one").await["breaker"]["state"] != "closed" })
        })
        .await;
        let why = if outage == "401" { "misconfigured" } else { "failing" };
        let seen = status(&worker, "one").await;
        assert_eq!(seen["breaker"]["because"], why, "{seen}");
        assert!(seen["lastError"]["what"].is_string(), "{seen}");
        assert!(worker.metric("qris_cancel_breaker_state{account=\"one\"}").await >= 1.0);
        assert_eq!(worker.metric("qris_cancel_breaker_state{account=\"two\"}").await, 0.0);
        let scrape = worker.scrape().await;
        let of = |metric: &str, labels: &str| scrape.sum(&format!("qris_cancel_breaker_{metric}{{{labels}}}"));
        assert_eq!(of("reason", &format!("account=\"one\",reason=\"{why}\"")), 1.0);
        assert_eq!((of("reason", "account=\"one\""), of("reason", "account=\"two\"")), (1.0, 0.0));
        assert!(of("trips_total", &format!("account=\"one\",reason=\"{why}\"")) >= 1.0);
        assert_eq!(of("trips_total", "account=\"two\""), 0.0);
        assert_eq!(worker.page("/readyz").await.0, 200, "it rests on purpose");

        // The neighbour does not notice, and the provider is left alone meanwhile.
        let (before, begun) = (one.book().calls.len(), Instant::now());
        publish(&client, "two", outage, 100).await;
        until("the neighbour's commands are done", SOON, || {
            Box::pin(async { two.book().calls.iter().filter(|call| call.reference.contains(outage)).count() >= 100 })
        })
        .await;
        let probes = one.book().calls.len() - before;
        // Two calls a trial, each trial after at least half a rest, and what was running when the rest began.
        let most = 2 * (begun.elapsed().as_millis() as usize / 100 + 1) + 2 * 8;
        assert!(probes <= most, "{probes} calls during the rest, {most} at most");
        assert_eq!(client.depth(&client.names.parked()).await, 0);

        match outage {
            "down" => one.come_up().await,
            _ => one.set(Mood::Fine(Duration::ZERO)),
        }
        let wanted = told(&events, "one", "canceled") + 60;
        until("the backlog is drained", SOON * 2, || {
            Box::pin(async { client.depth(&client.names.commands_of("one")).await == 0 })
        })
        .await;
        let begun = Instant::now();
        while told(&events, "one", "canceled") < wanted {
            assert!(begun.elapsed() < SOON, "{outage}: {} of {wanted}", told(&events, "one", "canceled"));
            tokio::time::sleep(Duration::from_millis(50)).await;
            events.read().await;
        }
        let seen = status(&worker, "one").await;
        assert_eq!(seen["breaker"]["state"], "closed", "{seen}");
    }
    assert_eq!((told(&events, "one", "canceled"), told(&events, "two", "canceled")), (180, 300));
    assert_eq!(events.all.len(), 480);
    assert_eq!(client.depth(&client.names.parked()).await, 0, "wrong keys park nothing");
    assert!(worker.read_log().contains("ALERT: the provider refuses five different commands in a row"));
}

#[tokio::test]
async fn one_bad_merchant_field_pauses_nobody() {
    let provider = Provider::start().await;
    provider.set(Mood::Fine(Duration::from_millis(5)));
    let more = format!(
        "[accounts.shop]\nprofile = \"bnc\"\nbase_url = \"http://{}\"\ncancel_path = \"/qr-mpm-cancel\"\nquery_path = \"/qr-mpm-query\"\n\
         client_key = \"client\"\npartner_id = \"p\"\nprivate_key = {{ file = \"{KEY}\" }}\norigin = \"o\"\nmerchant_id = \"000123456789\"\n\
         max_in_flight = 32\n[accounts.shop.retry]\nmax_attempts = 6\n",
        provider.address
    );
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", &more);
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let mut bad = command("bad", "R-bad");
    bad["merchantId"] = json!("WRONG");
    publish(&client, "shop", "first", 500).await;
    assert!(client.publish("shop", &bad).await);
    publish(&client, "shop", "second", 499).await;
    // It is judged by whether others pass, so others have to.
    let mut more = 0;
    let refused = loop {
        events.read().await;
        if let Some((_, event)) = events.all.iter().find(|(_, event)| event["data"]["jobId"] == "bad") {
            break event.clone();
        }
        assert!(more < 600, "no end of the bad command");
        assert!(client.publish("shop", &command(&format!("more-{more}"), &format!("R-more-{more}"))).await);
        more += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((&refused["data"]["outcome"], &refused["data"]["cause"]), (&json!("refused"), &json!("not_authorized")));
    assert_eq!(refused["data"]["responseCode"], "4047708");
    events.wait(1000 + more, SOON).await;
    until("all is counted", SOON, || {
        Box::pin(async { worker.metric("qris_cancel_results_total{account=\"shop\"}").await as usize == 1000 + more })
    })
    .await;
    assert_eq!((told(&events, "shop", "canceled"), told(&events, "shop", "refused")), (999 + more, 1));
    let log = worker.read_log();
    assert!(!log.contains("ALERT") && !log.contains("calls keep failing"), "the account has rested");

    // What operators see of it.
    let count = async |metric: &str| worker.metric(metric).await as usize;
    let retries = count("qris_cancel_retries_scheduled_total{account=\"shop\"}").await;
    assert!((2..=12).contains(&retries), "{retries} retries of the bad command");
    for (metric, expected) in [
        ("results_total{account=\"shop\",outcome=\"canceled\",cause=\"canceled\"}", 999 + more),
        ("results_total{account=\"shop\",outcome=\"refused\"}", 1),
        ("commands_received_total{account=\"shop\"}", 1000 + more + retries),
        ("calls_total{account=\"shop\",verdict=\"misconfigured\"}", 1 + retries),
        ("calls_total{account=\"shop\",operation=\"token\",verdict=\"granted\"}", 1),
        ("call_duration_seconds_count{account=\"shop\",operation=\"cancel\"}", 1000 + more + retries),
        ("command_duration_seconds_count{account=\"shop\"}", 1000 + more),
    ] {
        assert_eq!(count(&format!("qris_cancel_{metric}")).await, expected, "{metric}");
    }
    assert_eq!(worker.metric("qris_cancel_in_flight{account=\"shop\"}").await, 0.0);
    assert_eq!(worker.metric("qris_cancel_broker_connected").await, 1.0);
    assert!(worker.metric("qris_cancel_clock_skew_seconds{account=\"shop\"}").await.abs() < 2.0);
    let (_, metrics) = worker.page("/metrics").await;
    let (_, seen) = worker.page("/status").await;
    for page in [metrics, seen, worker.read_log()] {
        assert!(!page.contains("the-access-token"), "shows a token");
    }
}

#[tokio::test]
async fn commands_of_one_transaction_take_turns() {
    let provider = Provider::start().await;
    provider.set(Mood::Fine(Duration::from_millis(200)));
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", &account("shop", &provider, "max_in_flight = 16\n"));
    let _worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    for at in 0..30 {
        assert!(client.publish("shop", &command(&format!("job-{at}"), &format!("R{}", at % 3))).await);
    }
    events.wait(30, SOON).await;
    assert_eq!(told(&events, "shop", "canceled"), 30);
    let book = provider.book();
    assert_eq!(book.most_for_one, 1);
    assert!((2..=3).contains(&book.most), "different transactions need not wait: {}", book.most);
}

#[tokio::test]
async fn a_redelivery_waits_for_the_call_that_still_runs_and_then_asks() {
    let provider = Provider::start().await;
    provider.set(Mood::Fine(Duration::from_millis(4_000)));
    let more = account("shop", &provider, "").replace("timeout_ms = 1_000", "timeout_ms = 30_000");
    let broker = Broker::own();
    let place = Place::at(&broker, "http://127.0.0.1:9", &more);
    let _worker = place.worker().await;
    let client = place.client().await;
    let events = client.collect().await;
    assert!(client.publish("shop", &command("long", "R-long")).await);
    assert!(client.publish("shop", &command("other", "R-other")).await);
    until("both cancels run", SOON, || Box::pin(async { provider.count("cancel") == 2 })).await;
    broker.ctl(&["close_all_connections", "test"]);
    provider.set(Mood::Fine(Duration::ZERO));
    let client = place.client().await;
    let mut events = client.follow(events).await;
    events.wait(2, SOON).await;
    assert_eq!(told(&events, "shop", "canceled"), 2);
    assert_eq!(provider.count("cancel"), 2, "no cancel is sent twice blindly: {:?}", provider.book().calls);
    assert_eq!(provider.count("query"), 2);
    assert_eq!(provider.book().most_for_one, 1, "the redelivery did not wait");
}

#[tokio::test]
async fn requests_are_spaced_out() {
    let provider = Provider::start().await;
    let place = Place::at(
        Broker::shared(),
        "http://127.0.0.1:9",
        &(account("shop", &provider, "max_requests_per_second = 20.0\nmax_in_flight = 64\n")
            + &account("slow", &provider, "max_requests_per_second = 0.5\n")),
    );
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    publish(&client, "shop", "job", 50).await;
    events.wait(50, SOON).await;
    let times: Vec<_> = provider.book().calls.iter().map(|call| call.at).collect();
    assert_eq!(times.len(), 50);
    // Forty more calls take two seconds, less what the way to the provider may differ.
    for (at, time) in times.iter().enumerate().skip(40) {
        let took = *time - times[at - 40];
        assert!(took > Duration::from_millis(1_300), "forty calls in {took:?}");
    }
    assert_eq!(status(&worker, "shop").await["maxInFlight"], 64);
    assert_eq!(status(&worker, "slow").await["maxInFlight"], 10, "no more than have a turn soon");
}

#[tokio::test]
async fn an_account_is_paused_and_resumed_without_a_restart() {
    let (shop, other) = (Provider::start().await, Provider::start().await);
    let paused = account("shop", &shop, "state = \"paused\"\n") + &account("other", &other, "");
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", &paused);
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    assert_eq!(worker.page("/readyz").await, (200, "ready\n".to_owned()), "it is off on purpose");
    publish(&client, "shop", "early", 3).await;
    publish(&client, "other", "early", 3).await;
    events.wait(3, SOON).await;
    assert_eq!((told(&events, "other", "canceled"), shop.book().calls.len()), (3, 0));
    let seen = status(&worker, "shop").await;
    assert_eq!((&seen["state"], &seen["consuming"]), (&json!("paused"), &json!(false)));
    assert_eq!(worker.metric("qris_cancel_paused{account=\"shop\"}").await, 1.0);

    let text = read(&place.config);
    let active = text.replace("state = \"paused\"", "state = \"active\"");
    std::fs::write(&place.config, format!("{active}[broken")).unwrap();
    worker.signal("-HUP");
    worker.wait_for_log("the old ones hold", SOON).await;
    assert_eq!(status(&worker, "shop").await["state"], "paused");

    std::fs::write(&place.config, active.replace("timeout_ms = 1_000", "timeout_ms = 1_500")).unwrap();
    worker.signal("-HUP");
    events.wait(6, SOON).await;
    assert_eq!(told(&events, "shop", "canceled"), 3);
    worker.wait_for_log("other settings have changed", SOON).await;
    assert_eq!(status(&worker, "shop").await["state"], "active");

    std::fs::write(&place.config, text).unwrap();
    worker.signal("-HUP");
    until("nobody consumes", SOON, || {
        Box::pin(async {
            let seen = status(&worker, "shop").await;
            seen["state"] == "paused" && seen["consuming"] == false
        })
    })
    .await;
    publish(&client, "shop", "late", 2).await;
    publish(&client, "other", "late", 2).await;
    events.wait(8, SOON).await;
    assert_eq!((told(&events, "other", "canceled"), shop.book().calls.len()), (5, 3));
    until("they wait in RabbitMQ", SOON, || {
        Box::pin(async { client.depth(&client.names.commands_of("shop")).await == 2 })
    })
    .await;
}

#[tokio::test]
async fn a_vanished_consumer_is_not_ready() {
    let (shop, other) = (Provider::start().await, Provider::start().await);
    let more = account("shop", &shop, "") + &account("other", &other, "");
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", &more);
    let declared = place.command(&["topology", "declare"]).output().unwrap();
    assert!(declared.status.success(), "{declared:?}");
    // With `declare` the queue would be back within a second.
    std::fs::write(&place.config, read(&place.config).replace("[amqp]", "[amqp]\ndeclare = false")).unwrap();
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    assert_eq!(worker.page("/readyz").await.0, 200);
    let queue = client.names.commands_of("shop");
    client.channel.queue_delete(queue.as_str().into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    until("it says so", SOON, || Box::pin(async { worker.page("/readyz").await.0 == 503 })).await;
    let (_, why) = worker.page("/readyz").await;
    assert!(why.contains("the commands of shop are not consumed") && !why.contains("other"), "{why}");
    assert_eq!(worker.page("/livez").await.0, 200, "starting anew would not help");
    publish(&client, "other", "meanwhile", 5).await;
    events.wait(5, SOON).await;

    let declared = place.command(&["topology", "declare"]).output().unwrap();
    assert!(declared.status.success(), "{declared:?}");
    until("it is ready again", SOON, || Box::pin(async { worker.page("/readyz").await.0 == 200 })).await;
    publish(&client, "shop", "after", 1).await;
    events.wait(6, SOON).await;
    assert_eq!(told(&events, "shop", "canceled"), 1);
}

#[tokio::test]
async fn a_taken_port_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", "");
    let address = taken.local_addr().unwrap().to_string();
    let output = place.command(&["run"]).env("QRIS_CANCEL__HTTP__LISTEN", &address).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&address) && said.contains("QRIS_CANCEL__HTTP__LISTEN"), "{said}");
}

#[tokio::test]
async fn wrong_keys_for_long_park_nothing() {
    let provider = Provider::start().await;
    provider.set(Mood::Unauthorized);
    // By any count of attempts or time the commands would have been given up.
    let more = "breaker = { initial_ms = 100, max_ms = 300 }\n[accounts.shop.retry]\nmax_attempts = 2\nmax_elapsed_s = 1\ninitial_ms = 250\nmax_ms = 500\n";
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", &account("shop", &provider, more));
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    publish(&client, "shop", "job", 40).await;
    worker.wait_for_log("ALERT: the provider refuses five different commands in a row", SOON).await;
    let tried = "qris_cancel_calls_total{account=\"shop\",operation=\"cancel\"}";
    until("each has been tried twice", SOON * 3, || Box::pin(async { worker.metric(tried).await > 80.0 })).await;
    events.read().await;
    assert_eq!(events.all.len(), 0);
    provider.set(Mood::Fine(Duration::ZERO));
    events.wait(40, SOON).await;
    assert_eq!(told(&events, "shop", "canceled"), 40);
    assert_eq!(client.depth(&client.names.parked()).await, 0);
    let attempts: Vec<_> = events.all.iter().map(|(_, event)| event["data"]["attempts"].as_u64().unwrap()).collect();
    assert!(attempts.iter().all(|attempts| *attempts == 1), "{attempts:?}");
}

#[tokio::test]
async fn cancels_that_fail_make_an_account_rest_however_well_queries_go() {
    let provider = Provider::start().await;
    provider.set(Mood::SilentToCancels);
    let more = format!("max_in_flight = 8\n{SHORT_RESTS}[accounts.shop.retry]\nmax_attempts = 4\n")
        .replace("timeout_ms = 1_000", "timeout_ms = 400");
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", &account("shop", &provider, &more));
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    for at in 0..40 {
        publish(&client, "shop", &format!("job-{at}"), 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until("the account rests", SOON, || {
        Box::pin(async { status(&worker, "shop").await["breaker"]["state"] != "closed" })
    })
    .await;
    let before = provider.count("cancel");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let tried = provider.count("cancel") - before;
    assert!(tried <= 30, "{tried} cancels while the account rests");
    provider.set(Mood::Fine(Duration::ZERO));
    events.wait(40, SOON).await;
    assert_eq!(told(&events, "shop", "canceled"), 40);
    assert_eq!(client.depth(&client.names.parked()).await, 0);
}

#[tokio::test]
async fn a_resting_account_tries_with_one_at_a_time() {
    let provider = Provider::start().await;
    provider.set(Mood::Failing(Duration::from_millis(150)));
    let place = Place::at(
        Broker::shared(),
        "http://127.0.0.1:9",
        &account("shop", &provider, &format!("max_in_flight = 16\n{SHORT_RESTS}")),
    );
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    publish(&client, "shop", "job", 60).await;
    worker.wait_for_log("the trial failed", SOON).await;
    until("what began before the rest has ended", SOON, || Box::pin(async { provider.book().running() <= 1 })).await;
    provider.book().most = 0;
    let (before, begun) = (provider.book().calls.len(), Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let tried = provider.book().calls.len() - before;
    assert_eq!(provider.book().most, 1, "trials are one at a time");
    // A cancel and its query, after half a rest at least.
    let most = 2 * (begun.elapsed().as_millis() as usize / 250 + 1);
    assert!((2..=most).contains(&tried), "{tried} calls");
    provider.set(Mood::Fine(Duration::ZERO));
    events.wait(60, SOON).await;
    assert_eq!(told(&events, "shop", "canceled"), 60);
}

#[tokio::test]
async fn a_long_call_holds_up_nobody_when_an_account_is_resumed() {
    let provider = Provider::start().await;
    provider.set(Mood::Fine(Duration::from_secs(12)));
    let more = account("shop", &provider, "").replace("timeout_ms = 1_000", "timeout_ms = 30_000");
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", &more);
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    publish(&client, "shop", "long", 1).await;
    until("the call runs", SOON, || Box::pin(async { provider.count("cancel") == 1 })).await;
    provider.set(Mood::Fine(Duration::ZERO));
    let text = read(&place.config);
    for (state, consuming) in [("paused", false), ("active", true)] {
        let settings = text.replace("[accounts.shop]", &format!("[accounts.shop]\nstate = \"{state}\""));
        std::fs::write(&place.config, settings).unwrap();
        worker.signal("-HUP");
        until(state, SOON, || Box::pin(async { status(&worker, "shop").await["consuming"] == consuming })).await;
    }
    publish(&client, "shop", "short", 5).await;
    events.wait(5, SOON).await;
    assert!(!events.all.iter().any(|(_, event)| event["data"]["jobId"] == "long-0"), "the long call was not long");
    events.wait(6, SOON).await;
    assert_eq!(told(&events, "shop", "canceled"), 6);
}

#[tokio::test]
async fn many_commands_of_one_transaction_leave_room_for_others() {
    let provider = Provider::start().await;
    provider.set(Mood::Fine(Duration::from_millis(700)));
    let more = account("shop", &provider, "max_in_flight = 4\n").replace("timeout_ms = 1_000", "timeout_ms = 10_000");
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", &more);
    let _worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    for at in 0..20 {
        assert!(client.publish("shop", &command(&format!("same-{at}"), "R-same")).await);
    }
    publish(&client, "shop", "other", 1).await;
    events.wait(21, SOON * 2).await;
    let place_of_other = events.all.iter().position(|(_, event)| event["data"]["jobId"] == "other-0").unwrap();
    assert!(place_of_other < 15, "it waited for {place_of_other} of the twenty before it");
    assert_eq!(told(&events, "shop", "canceled"), 21);
    assert_eq!(provider.book().most_for_one, 1);
}

#[tokio::test]
async fn nothing_is_held_while_the_broker_takes_no_messages() {
    let provider = Provider::start().await;
    let broker = Broker::own();
    let place = Place::at(&broker, "http://127.0.0.1:9", &account("shop", &provider, ""));
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    publish(&client, "shop", "before", 5).await;
    events.wait(5, SOON).await;
    // A broker in alarm blocks a connection when it publishes: this command is put into retry again and again.
    provider.set(Mood::Failing(Duration::ZERO));
    publish(&client, "shop", "retried", 1).await;
    broker.ctl(&["set_vm_memory_high_watermark", "0.000001"]);
    until("the broker is in alarm", SOON, || {
        Box::pin(async { worker.metric("qris_cancel_broker_blocked").await == 1.0 })
    })
    .await;
    until("nobody consumes", SOON, || Box::pin(async { status(&worker, "shop").await["consuming"] == false })).await;
    assert_eq!(worker.page("/readyz").await.0, 200);
    broker.ctl(&["set_vm_memory_high_watermark", "0.6"]);

    provider.set(Mood::Fine(Duration::ZERO));
    publish(&client, "shop", "after", 5).await;
    events.wait(11, SOON).await;
    assert_eq!(told(&events, "shop", "canceled"), 11);
}

#[tokio::test]
async fn no_cancel_begins_after_its_time_however_long_it_waited_for_its_turn() {
    let provider = Provider::start().await;
    let more = account("shop", &provider, "max_requests_per_second = 0.5\n[accounts.shop.retry]\nmax_attempts = 1\n");
    let place = Place::at(Broker::shared(), "http://127.0.0.1:9", &more);
    let _worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let limit = chrono::Utc::now() + chrono::TimeDelta::seconds(7);
    let begun = Instant::now();
    for at in 0..6 {
        let mut command = command(&format!("job-{at}"), &format!("R{at}"));
        command["notAfter"] = limit.to_rfc3339().into();
        assert!(client.publish("shop", &command).await);
    }
    events.wait(6, SOON * 2).await;
    let cancels: Vec<_> = provider.book().calls.iter().map(|call| call.at - begun).collect();
    let canceled = told(&events, "shop", "canceled");
    assert!((1..=4).contains(&canceled), "one every two seconds, for seven: {cancels:?}");
    assert_eq!((cancels.len(), told(&events, "shop", "unresolved")), (canceled, 6 - canceled));
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_and_one_that_is_too_low_is_named() {
    let mut place = Place::at(Broker::shared(), "http://127.0.0.1:9", "");
    // Two accounts with 64 commands at a time and a connection to the broker each, and 64 for all else.
    const NEEDED: u64 = 2 * (64 + 1) + 64;
    const WARNING: &str = "the limit of open files is too low for these accounts";
    for (hard, is_enough) in [(NEEDED - 1, false), (NEEDED, true)] {
        let limited = format!("ulimit -Sn 100 && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
        place.inside = ["sh", "-c", &limited].map(str::to_owned).into();
        let worker = place.worker().await;
        let limits = read(format!("/proc/{}/limits", worker.child.id()));
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let numbers: Vec<_> = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).collect();
        assert_eq!(numbers, [hard, hard], "the soft limit is the hard one");
        assert_eq!(worker.read_log().contains(WARNING), !is_enough, "{}", worker.read_log());
        let checked = place.command(&["check"]).output().unwrap();
        let said = String::from_utf8(checked.stdout).unwrap();
        let expected = match is_enough {
            true => format!("open files: {NEEDED} are needed at most, and {hard} are allowed here"),
            false => format!(
                "open files: too few here: this process may open {hard} files, and its 2 accounts can need {NEEDED} "
            ),
        };
        assert!(checked.status.success() && said.contains(&expected), "{said}");
    }
}
