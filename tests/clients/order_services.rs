//! Order services that are killed half-way and started again.

use super::{
    LIMIT,
    program::{Program, command},
    support::{Broker, Client, Place},
};
use qris_cancel_worker::sandbox;
use serde_json::{Value, json};
use std::{collections::BTreeMap, process::Command};

const ORDERS: usize = 300;
/// What the service in Node publishes before the first is confirmed.
const IN_HAND: usize = 20;
/// How far it comes between one crash and the next.
const STEP: usize = 25;

fn orders() -> String {
    let order = |n: usize| {
        let account = if n.is_multiple_of(2) { "ifortepay" } else { "bnc" };
        json!({ "order": format!("{n}"), "account": account, "reference": format!("R-{n}"), "partnerReference": format!("P-{n}") })
    };
    (0..ORDERS).map(|n| format!("{}\n", order(n))).collect()
}

/// One event for each order, told of a cancel that was made, whatever was published twice.
async fn assert_each_is_canceled_once(
    place: &Place,
    client: &Client,
    mut events: super::support::Events,
    twice: usize,
) {
    events.wait(ORDERS, LIMIT).await;
    // What was published twice comes a little later.
    super::support::until("the queues are empty", LIMIT, || {
        Box::pin(async move {
            let queues = ["ifortepay", "bnc"].map(|account| place.names.commands_of(account));
            client.depth(&queues[0]).await + client.depth(&queues[1]).await == 0
        })
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    events.read().await;
    let mut of_jobs: BTreeMap<&str, Vec<(&Value, &Value)>> = BTreeMap::new();
    for (_, event) in &events.all {
        let job = event["data"]["jobId"].as_str().unwrap();
        of_jobs.entry(job).or_default().push((&event["id"], &event["data"]["outcome"]));
    }
    assert_eq!(of_jobs.len(), ORDERS);
    for (job, told) in &of_jobs {
        assert!(told.iter().all(|(id, outcome)| *id == told[0].0 && *outcome == "canceled"), "{job}: {told:?}");
    }
    let repeats = events.all.len() - ORDERS;
    assert!(repeats <= twice, "{repeats} commands were published twice, and {twice} can have been in hand at a crash");
    for account in ["ifortepay", "bnc"] {
        let transactions = place.get(&format!("/_sandbox/transactions?account={account}")).await;
        let states = transactions.as_array().unwrap().iter().map(|transaction| transaction["state"].as_str().unwrap());
        assert_eq!(states.filter(|state| *state == "canceled").count(), ORDERS / 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_service_in_python_loses_and_doubles_nothing_when_it_is_killed() {
    let place = Place::new(Broker::shared(), sandbox::Options::default()).await;
    let _worker = place.worker().await;
    let client = place.client().await;
    let events = client.collect().await;
    let service = |arguments: &[&str]| -> Command {
        let mut command = command("examples/python/order_service.py");
        command.arg(place.dir.path().join("orders.db")).args(["--prefix", &place.prefix]).args(arguments);
        command.env("AMQP_URL", &place.url);
        command
    };
    let crashes = 3;
    for crash in 0..crashes {
        // Those that are in the database already are none for a second time.
        let cancelling = Program::start(service(&["cancel"]), &orders());
        cancelling.wait_for_lines(STEP * (crash + 1));
        cancelling.kill();
    }
    Program::start(service(&["cancel"]), &orders()).finish();
    let mut sent = 0;
    for _ in 0..crashes {
        let relay = Program::start(service(&["relay"]), "");
        sent += relay.wait_for_lines(STEP).len();
        relay.kill();
    }
    let rest = Program::start(service(&["relay", "--once"]), "").finish();
    assert!(rest.len() <= ORDERS - sent, "what was marked as sent is sent again");
    assert_eq!(Program::start(service(&["relay", "--once"]), "").finish(), Vec::<String>::new());
    assert_each_is_canceled_once(&place, &client, events, crashes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_service_in_node_loses_and_doubles_nothing_when_it_is_killed() {
    let place = Place::new(Broker::shared(), sandbox::Options::default()).await;
    let _worker = place.worker().await;
    let client = place.client().await;
    let events = client.collect().await;
    let journal = place.dir.path().join("orders.jsonl");
    let service = || -> Command {
        let mut command = command("examples/node/order-service.mjs");
        command.arg(&journal).env("AMQP_URL", &place.url).env("PREFIX", &place.prefix);
        command
    };
    let crashes = 3;
    for _ in 0..crashes {
        let service = Program::start(service(), &orders());
        service.wait_for_lines(STEP);
        service.kill();
        // A crash of the machine can cut off a line.
        let mut text = std::fs::read(&journal).unwrap();
        text.extend(br#"{"order":"0","state":"canc"#);
        std::fs::write(&journal, text).unwrap();
    }
    Program::start(service(), &orders()).finish();
    assert_eq!(Program::start(service(), &orders()).finish(), Vec::<String>::new());
    assert_each_is_canceled_once(&place, &client, events, crashes * IN_HAND).await;
}
