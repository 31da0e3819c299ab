//! The reconciliation service and the replay, killed and started again.

use super::{
    LIMIT,
    program::{Program, command},
    support::{self, Broker, Client, Place},
};
use chrono::Utc;
use qris_cancel_worker::sandbox;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::{Duration, Instant},
};

const QUEUE: &str = "reconciliation.results";
const COMMANDS: usize = 300;

fn program(place: &Place, name: &str, database: &str) -> Command {
    let mut command = command(&format!("examples/python/{name}.py"));
    command.arg(place.dir.path().join(database)).args(["--prefix", &place.prefix]).env("AMQP_URL", &place.url);
    command
}

fn run(place: &Place) -> Program {
    let mut command = program(place, "reconciliation", "results.db");
    command.arg("run");
    Program::start(command, "")
}

fn report(place: &Place, database: &str) -> Value {
    let mut command = program(place, "reconciliation", database);
    command.arg("report");
    serde_json::from_str(&Program::start(command, "").finish().join("\n")).unwrap()
}

/// Waits until so many events are counted.
fn wait_for_events(place: &Place, database: &str, count: usize) -> Value {
    let begun = Instant::now();
    loop {
        let report = report(place, database);
        if report["events"].as_u64().unwrap() >= count as u64 {
            return report;
        }
        assert!(begun.elapsed() < LIMIT, "{report}, and {count} events are to come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn replay(place: &Place, database: &str, since: chrono::DateTime<Utc>) -> Program {
    let mut command = program(place, "replay", database);
    command.args(["--since", &since.to_rfc3339(), "--idle", "3"]);
    Program::start(command, "")
}

/// Publishes an event of our own making to the reply exchange, twice: the broker may deliver any twice. The second time it may know of a cancel
/// that may have worked.
async fn tell(client: &Client, id: uuid::Uuid, job: &str, outcome: &str) {
    let mut event = qris_cancel_worker::schema::event()["examples"][0].clone();
    event["id"] = json!(id);
    event["data"]["jobId"] = json!(job);
    event["data"]["outcome"] = json!(outcome);
    for in_doubt in [false, job == "in doubt"] {
        event["data"]["mayHaveTakenEffect"] = json!(in_doubt);
        let key = format!("ifortepay.{outcome}");
        let body = event.to_string();
        assert!(client.publish_raw(&client.names.results(), &key, body.as_bytes(), support::persistent()).await);
    }
}

/// What the report should be of these events.
fn expected<'a>(events: impl Iterator<Item = &'a Value>) -> Value {
    const RANK: [&str; 6] = ["invalid", "unresolved", "refused", "closed", "canceled", "paid"];
    let rank = |outcome: &str| RANK.iter().position(|known| *known == outcome).unwrap();
    let (mut ids, mut states) = (BTreeSet::new(), BTreeMap::new());
    for event in events {
        ids.insert(event["id"].as_str().unwrap());
        let outcome = event["data"]["outcome"].as_str().unwrap();
        let state = states.entry(event["data"]["jobId"].as_str().unwrap()).or_insert(outcome);
        if rank(outcome) > rank(state) {
            *state = outcome;
        }
    }
    let mut jobs: BTreeMap<&str, u64> = BTreeMap::new();
    states.values().for_each(|state| *jobs.entry(state).or_default() += 1);
    json!({ "events": ids.len(), "jobs": jobs })
}

/// Without what is told of single jobs.
fn figures(report: &Value) -> Value {
    json!({ "events": report["events"], "jobs": report["jobs"] })
}

async fn publish_commands(place: &Place, client: &Client) {
    for n in 0..COMMANDS {
        let (reference, account) = (format!("R-{n}"), if n.is_multiple_of(2) { "ifortepay" } else { "bnc" });
        let state = [None, Some("paid"), Some("expired"), Some("refunded")][n / 2 % 4];
        if let Some(state) = state.filter(|_| n < 100) {
            let transaction = json!({ "account": account, "originalReferenceNo": reference,
                "originalPartnerReferenceNo": format!("P-{reference}"), "state": state });
            place.send("POST", "/_sandbox/transactions", &transaction).await;
        }
        let mut command = support::command(&format!("job-{n}"), &reference);
        if n >= COMMANDS - 20 {
            command["resaon"] = json!("a typo");
        }
        assert!(client.publish(account, &command).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reconciliation_counts_each_event_once_and_a_replay_finds_them_all() {
    let place = Place::new(Broker::shared(), sandbox::Options::default()).await;
    let _worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let begun = Utc::now();

    // Its queue has to be there before the first event.
    let first = run(&place);
    let (before, probe) = (Instant::now(), uuid::Uuid::new_v4());
    while report(&place, "results.db")["events"] == 0 {
        tell(&client, probe, "before", "canceled").await;
        assert!(before.elapsed() < LIMIT);
    }
    publish_commands(&place, &client).await;
    wait_for_events(&place, "results.db", 30);
    first.kill();
    for count in [100, 200] {
        let again = run(&place);
        wait_for_events(&place, "results.db", count);
        again.kill();
    }
    // While it is away.
    for (job, outcomes, _) in LIVES {
        for outcome in outcomes {
            tell(&client, uuid::Uuid::new_v4(), job, outcome).await;
        }
    }
    assert!(client.publish_raw("", QUEUE, b"no event", support::persistent()).await);
    let last = run(&place);
    let is_of_worker = |event: &Value| event["data"]["jobId"].as_str().unwrap().starts_with("job-");
    let begun_waiting = Instant::now();
    while events.all.iter().filter(|(_, event)| is_of_worker(event)).count() < COMMANDS {
        events.read().await;
        assert!(begun_waiting.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    events.read().await;
    let all = expected(events.all.iter().map(|(_, event)| event));
    wait_for_events(&place, "results.db", all["events"].as_u64().unwrap().try_into().unwrap());
    support::until("its queue is empty", LIMIT, || Box::pin(async { client.depth(QUEUE).await == 0 })).await;
    let counted = report(&place, "results.db");
    assert_eq!(figures(&counted), all);
    assert_eq!(counted["unreadable"], 1);
    let for_a_person = counted["forAPerson"].as_array().unwrap();
    for (job, _, state) in LIVES {
        let of_job = for_a_person.iter().find(|entry| entry[1] == job);
        assert_eq!(of_job.map(|entry| entry[2].as_str().unwrap()), state, "{job}");
        assert_eq!(of_job.is_some_and(|entry| entry[4] == 1), job == "in doubt", "{job}: {of_job:?}");
    }
    last.kill();

    // The log has what the worker told, and not what a test made up.
    let of_worker = expected(events.all.iter().map(|(_, event)| event).filter(|event| is_of_worker(event)));
    let broken_off = replay(&place, "replayed.db", begun);
    wait_for_events(&place, "replayed.db", 20);
    broken_off.kill();
    for _ in 0..2 {
        replay(&place, "replayed.db", begun).finish();
        assert_eq!(figures(&report(&place, "replayed.db")), of_worker);
    }
    // What is counted already is not counted again.
    replay(&place, "results.db", begun).finish();
    assert_eq!(report(&place, "results.db"), counted);
    assert_eq!(replay(&place, "later.db", Utc::now()).finish(), ["0 events read"]);
}

/// Jobs of which several things are told: in that order, and what then waits for a person.
const LIVES: [(&str, &[&str], Option<&str>); 7] = [
    ("rising", &["refused", "closed", "canceled", "paid"], None),
    ("falling", &["paid", "canceled", "closed", "refused"], None),
    ("settled late", &["unresolved", "closed"], None),
    ("settled before", &["refused", "unresolved"], None),
    ("faulty", &["invalid"], Some("invalid")),
    ("open", &["unresolved"], Some("unresolved")),
    ("in doubt", &["unresolved"], Some("unresolved")),
];
