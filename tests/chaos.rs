//! Five thousand commands, every fault of the provider at once, customers who pay meanwhile, and a worker that is killed
//! again and again: each command has its outcome, none contradicts the provider, none is missing.

mod support;

use qris_cancel_worker::sandbox;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use support::*;

const COMMANDS: usize = 5_000;
const KILLS: usize = 3;
const LIMIT: Duration = Duration::from_secs(420);

/// What a command is about, by its number.
fn case(at: usize) -> (&'static str, &'static str) {
    let account = if at.is_multiple_of(3) { "bnc" } else { "ifortepay" };
    let state = match at % 20 {
        0 | 1 => "paid",
        2 | 3 => "canceled",
        4 => "expired",
        5 => "refunded",
        _ => "pending",
    };
    (account, state)
}

fn is_faulty(at: usize) -> bool {
    at % 50 == 17
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_loses_nothing_and_contradicts_nothing() {
    let options = sandbox::Options { faults: "0.3".parse().unwrap(), seed: 42, ..sandbox::Options::default() };
    let place = Place::new(Broker::shared(), options).await;
    // Calls that hang shall not take the day, and attempts shall not run out.
    let text = read(&place.config)
        .replace("timeout_ms = 2_000", "max_in_flight = 250\ntimeout_ms = 1_500")
        .replace("max_attempts = 20", "max_attempts = 25")
        .replace("level = \"debug\"", "level = \"warn,qris_cancel_worker::amqp=info\"");
    std::fs::write(&place.config, text).unwrap();

    let mut worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let known: Vec<_> = (0..COMMANDS)
        .map(|at| {
            let (account, state) = case(at);
            json!({ "account": account, "originalReferenceNo": format!("R{at}"), "originalPartnerReferenceNo": format!("P-R{at}"), "state": state })
        })
        .collect();
    for part in known.chunks(1000) {
        place.send("POST", "/_sandbox/transactions", &json!(part)).await;
    }

    let begun = Instant::now();
    let publishing = async {
        for at in 0..COMMANDS {
            let mut command = command(&format!("job-{at}"), &format!("R{at}"));
            if case(at).1 == "expired" {
                command["qrExpiresAt"] = json!("2026-01-01T00:00:00+07:00");
            }
            if is_faulty(at) {
                command["resaon"] = json!("a typo");
            }
            assert!(client.publish(case(at).0, &command).await);
        }
    };
    // Customers pay some of the QRs that still wait, in the middle of it all.
    let paying = async {
        for round in 0..40 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let paid: Vec<_> = (0..COMMANDS)
                .filter(|at| at % 40 == round && case(*at).1 == "pending" && at % 3 != 1)
                .map(|at| json!({ "account": case(at).0, "originalReferenceNo": format!("R{at}"), "state": "paid", "onlyIf": "pending" }))
                .collect();
            place.send("POST", "/_sandbox/transactions", &json!(paid)).await;
        }
    };
    let mut kills = 0;
    let killing = async {
        let mut jobs = BTreeSet::new();
        loop {
            events.read().await;
            jobs.extend(events.all.iter().map(|(_, event)| event["data"]["jobId"].as_str().unwrap().to_owned()));
            if kills < KILLS && jobs.len() > COMMANDS * (kills + 1) / (KILLS + 2) {
                kills += 1;
                worker.kill();
                worker = place.worker().await;
            }
            if jobs.len() == COMMANDS {
                break;
            }
            let missing = || {
                (0..COMMANDS)
                    .map(|at| format!("job-{at}"))
                    .filter(|job| !jobs.contains(job))
                    .take(20)
                    .collect::<Vec<_>>()
            };
            assert!(
                begun.elapsed() < LIMIT,
                "{} of {COMMANDS} have an outcome; without are {:?}",
                jobs.len(),
                missing()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::join!(publishing, paying, killing);
    let took = begun.elapsed();

    // Give repeats the time to come.
    tokio::time::sleep(Duration::from_secs(3)).await;
    events.read().await;
    assert_eq!(kills, KILLS);
    let mut of_job: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for (_, event) in &events.all {
        of_job.entry(event["data"]["jobId"].as_str().unwrap().to_owned()).or_default().push(event);
    }
    let transactions = place.get("/_sandbox/transactions").await;
    let states: BTreeMap<&str, &Value> =
        transactions.as_array().unwrap().iter().map(|t| (t["originalReferenceNo"].as_str().unwrap(), t)).collect();
    let parked: BTreeSet<String> = client
        .drain(&client.names.parked())
        .await
        .iter()
        .map(|message| serde_json::from_slice::<Value>(&message.data).unwrap()["jobId"].as_str().unwrap().to_owned())
        .collect();

    let (mut counts, mut repeats) = (BTreeMap::<String, usize>::new(), 0);
    for at in 0..COMMANDS {
        let job = format!("job-{at}");
        let told = of_job.get(&job).unwrap_or_else(|| panic!("{job} has no event"));
        // A kill between a retry and its acknowledgement leaves two copies. One can settle what the other gave up on; two
        // settled outcomes that differ are a contradiction.
        let outcomes: BTreeSet<_> = told.iter().map(|event| event["data"]["outcome"].as_str().unwrap()).collect();
        let settled: Vec<_> = outcomes.iter().copied().filter(|outcome| *outcome != "unresolved").collect();
        assert!(settled.len() <= 1, "{job} is told differently: {told:#?}");
        let ids: BTreeSet<_> = told.iter().map(|event| event["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), outcomes.len(), "a repeat of {job} has another id: {told:#?}");
        repeats += told.len() - ids.len();
        let outcome = settled.first().copied().unwrap_or("unresolved");
        *counts.entry(outcome.to_owned()).or_default() += 1;
        let transaction = states[format!("R{at}").as_str()];
        let state = transaction["state"].as_str().unwrap();
        match outcome {
            "canceled" => assert_eq!(state, "canceled", "{job}: {told:#?} {transaction:#}"),
            "paid" => assert_eq!(state, "paid", "{job}: {told:#?} {transaction:#}"),
            "closed" => assert!(state == "refunded" || state == "expired", "{job}: {told:#?} {transaction:#}"),
            "invalid" => {
                assert!(is_faulty(at), "{job}: {told:#?}");
                assert_eq!(transaction["calls"], json!({ "cancel": 0, "query": 0 }), "{job} was sent");
            }
            "unresolved" => {}
            other => panic!("{job}: {other} {told:#?}"),
        }
        assert_eq!(is_faulty(at), outcome == "invalid", "{job}");
        let is_for_a_person = outcomes.contains("invalid") || outcomes.contains("unresolved");
        assert_eq!(parked.contains(&job), is_for_a_person, "{job} and its parked copy");
    }
    // What expired cannot be told from what never was at a provider that says "not found" for both.
    assert!(counts["unresolved"] <= COMMANDS / 10, "{counts:?}");
    for queue in ["ifortepay", "bnc"] {
        assert_eq!(client.depth(&client.names.commands_of(queue)).await, 0);
    }
    let picture = place.get("/_sandbox").await;
    println!(
        "{COMMANDS} commands in {took:?}, {kills} kills, outcomes {counts:?}, {repeats} repeats, faults {}",
        picture["injected"]
    );
}
