//! Whatever a publisher sends: a table of messages through a real broker and a real worker. Each ends as its row says, what is
//! faulty is told of field by field and parked as it came, and neither the worker nor its connections are disturbed.

#[path = "input/rows.rs"]
mod rows;
mod support;

use qris_cancel_worker::sandbox;
use rows::{End, Row};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use support::*;

/// For all rows together.
const LIMIT: Duration = Duration::from_secs(120);

/// What an event and a parked copy know their message by.
type Key = (String, String);

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The account that an event is told of where the routing key is no account's name.
fn account_of(row: &Row) -> String {
    qris_cancel_worker::event::account_name(&row.key).to_owned()
}

/// How a message ended, by its event; the faults in the order of the row's, where they are the same.
fn end_of(row: &Row, event: &Value) -> End {
    let data = &event["data"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let violations = data["violations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut told: Vec<(String, String)> = violations.iter().map(|v| (text(&v["cause"]), text(&v["field"]))).collect();
    let cause = text(&data["cause"]);
    told.sort_by_key(|(own, field)| (*own != cause, own.clone(), field.clone()));
    match (data["outcome"].as_str().unwrap(), cause.as_str()) {
        ("canceled", "canceled") => End::Canceled,
        ("unresolved", "not_after_passed") => End::TooLate,
        ("invalid", _) => {
            let End::Invalid(faults) = &row.end else { return End::Invalid(told) };
            let mut expected: Vec<_> = faults.clone();
            expected.sort_by_key(|(own, field)| (*own != cause, own.clone(), field.clone()));
            if expected == told { End::Invalid(faults.clone()) } else { End::Invalid(told) }
        }
        other => panic!("{}: ended as {other:?}: {event:#}", row.what),
    }
}

/// What every event has to be, beside its end.
fn check_event(row: &Row, event: &Value) {
    let (what, data) = (&row.what, &event["data"]);
    assert_eq!(event["type"], format!("qris.cancel.{}.v1", data["outcome"].as_str().unwrap()), "{what}");
    assert_eq!(event.get("subject"), data.get("jobId"), "{what}");
    assert_eq!(data["replay"], 0, "{what}");
    let sent = usize::from(row.end == End::Canceled);
    let cancels = data["calls"].as_array().unwrap().iter().filter(|call| call["operation"] != "token").count();
    assert_eq!((&data["attempts"], cancels), (&json!(sent), sent), "{what}: {event:#}");
    let rules = data["violations"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(rules.iter().all(|violation| violation["rule"].as_str().unwrap().len() > 7), "{what}: {event:#}");
    let size = event.to_string().len();
    assert!(size < 64 * 1024 + row.body.len(), "{what}: an event of {size} bytes");
}

#[tokio::test]
async fn every_bad_command_is_told_of_and_parked_and_disturbs_nobody() {
    let standard = |provider: &str| {
        format!(
            "[accounts.standard]\nprofile = \"aspi\"\nbase_url = \"{provider}/standard\"\npartner_id = \"P\"\n\
             channel_id = \"1\"\nsigning_mode = \"asymmetric\"\nprivate_key = {{ file = \"{KEY}\" }}\n"
        )
    };
    let place = Place::with_more(Broker::shared(), sandbox::Options::default(), standard).await;
    let mut worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let rows = rows::all();
    let by_key: BTreeMap<Key, &Row> = rows.iter().map(|row| ((account_of(row), digest(&row.body)), row)).collect();
    assert_eq!(by_key.len(), rows.len(), "two rows are the same message");
    assert!(rows.iter().filter(|row| matches!(row.end, End::Invalid(_))).count() >= 80);

    let begun = Instant::now();
    let commands = client.names.commands();
    for row in &rows {
        match &row.raw {
            Some(properties) => raw::publish(&place.url, &commands, &row.key, properties.clone(), &row.body),
            None => {
                let published = client.publish_raw(&commands, &row.key, &row.body, row.properties.clone());
                assert!(published.await, "{}: the broker refuses it", row.what);
            }
        }
    }
    let mut told: BTreeMap<Key, Value> = BTreeMap::new();
    while told.len() < rows.len() {
        events.read().await;
        for (_, event) in events.all.drain(..) {
            let text = |name: &str| event["data"][name].as_str().unwrap().to_owned();
            let key = (text("account"), text("commandDigest"));
            let what = by_key.get(&key).map_or("nothing that was published", |row| &row.what);
            assert!(told.insert(key, event.clone()).is_none(), "{what} is told of twice: {event:#}");
        }
        let missing = || by_key.iter().filter(|(key, _)| !told.contains_key(*key)).map(|(_, row)| &row.what);
        assert!(begun.elapsed() < LIMIT, "no event of {:?}", missing().collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begun.elapsed();
    let otherwise: Vec<_> = told
        .iter()
        .map(|(key, event)| (by_key[key], end_of(by_key[key], event)))
        .filter(|(row, end)| row.end != *end)
        .map(|(row, end)| format!("{}: {end:?}, and not {:?}", row.what, row.end))
        .collect();
    assert!(otherwise.is_empty(), "{}", otherwise.join("\n"));
    for (key, event) in &told {
        check_event(by_key[key], event);
    }

    // What needs a person is kept as it came; nothing else is.
    let mut parked = BTreeSet::new();
    for message in client.drain(&client.names.parked()).await {
        let headers = message.properties.headers().clone().unwrap();
        let header = |name: &str| headers.inner().get(name).cloned();
        let account = rows.iter().find(|row| row.key == message.routing_key.as_str()).map(account_of).unwrap();
        let key = (account, digest(&message.data));
        let row = by_key[&key];
        assert!(row.end != End::Canceled, "{}", row.what);
        let cause = told[&key]["data"]["cause"].as_str().unwrap();
        assert_eq!(header("x-qris-cause"), Some(text(cause)), "{}", row.what);
        assert!(header("x-death").is_none() && header("x-qris-finish").is_none(), "{}: {headers:?}", row.what);
        assert!(parked.insert(key), "{} is parked twice", row.what);
    }
    let to_park = rows.iter().filter(|row| row.end != End::Canceled).count();
    assert_eq!(parked.len(), to_park, "not everything that needs a person is parked");
    let reached = place.get("/_sandbox/transactions").await;
    assert_eq!(reached.as_array().unwrap().len(), rows.len() - to_park, "only good commands reach a provider");

    // After all that, life goes on as if nothing had been.
    for account in ["ifortepay", "bnc"] {
        assert!(client.publish(account, &command(&format!("after-{account}"), "R-after")).await);
        assert_eq!(events.of(&format!("after-{account}"), LIMIT).await["data"]["outcome"], "canceled");
    }
    assert_eq!(worker.stop("-TERM").await.0, 0);
    let log = worker.read_log();
    for trouble in ["consuming again", "connecting again", "\"ERROR\"", "panicked"] {
        assert!(!log.contains(trouble), "{trouble}: {log}");
    }
    assert_eq!(log.matches("\"consuming\"").count(), 1);

    let mut causes: BTreeMap<&str, usize> = BTreeMap::new();
    for event in told.values() {
        *causes.entry(event["data"]["cause"].as_str().unwrap()).or_default() += 1;
    }
    println!("{} messages in {took:?}: {causes:?}", rows.len());
}
