//! Five thousand commands, every fault of the provider at once, customers who pay meanwhile, and a worker that is killed
//! again and again: each command has its outcome, none contradicts the provider, none is missing.

mod support;

use qris_cancel_worker::sandbox::{self, CanceledAgain};
use serde_json::json;
use std::time::{Duration, Instant};
use support::{ledger::Ledger, relay::Relay, *};

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

/// 2 % are published twice, faulty ones among them.
fn is_twice(at: usize) -> bool {
    at % 50 == 9 || at % 500 == 17
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_loses_nothing_and_contradicts_nothing() {
    // A bank that refuses the cancel of what is cancelled already: no copy of a command may take that for an answer of its own.
    let canceled_again = CanceledAgain::NotPermitted;
    let faults = "0.3".parse().unwrap();
    let options = sandbox::Options { faults, seed: 42, canceled_again, ..sandbox::Options::default() };
    let broker = Broker::shared();
    let mut place = Place::new(broker, options).await;
    let host = broker.url.split(['@', '/']).nth(3).unwrap();
    let relay = Relay::start(host).await;
    place.url = broker.url.replace(host, &relay.address.to_string());
    // Calls that hang shall not take the day, and attempts shall not run out.
    let text = read(&place.config)
        .replace("timeout_ms = 2_000", "max_in_flight = 250\ntimeout_ms = 1_500")
        .replace("max_attempts = 20", "max_attempts = 25")
        .replace("level = \"debug\"", "level = \"warn,qris_cancel_worker::amqp=info\"");
    std::fs::write(&place.config, text).unwrap();

    let ledger = Ledger::open(&place, &broker.url, &["ifortepay", "bnc"]).await;
    ledger.follow(&relay);
    let mut worker = place.worker().await;
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
        let mut publisher = ledger.publisher();
        for at in 0..COMMANDS {
            let mut command = command(&format!("job-{at}"), &format!("R{at}"));
            if case(at).1 == "expired" {
                command["qrExpiresAt"] = json!("2026-01-01T00:00:00+07:00");
            }
            let confirmed = if is_faulty(at) {
                command["resaon"] = json!("a typo");
                publisher.publish_faulty(case(at).0, &command).await
            } else {
                publisher.publish(case(at).0, &command).await
            };
            assert!(confirmed);
            if is_twice(at) {
                publisher.publish_again(case(at).0, &command).await;
            }
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
    let killing = async {
        for kill in 1..=KILLS {
            ledger.until_told(COMMANDS * kill / (KILLS + 2), LIMIT).await;
            worker.kill();
            worker = place.worker().await;
        }
    };
    tokio::join!(publishing, paying, killing);
    let account = ledger.close(LIMIT).await;
    println!("{account} in {:?}, {KILLS} kills, faults {}", begun.elapsed(), place.get("/_sandbox").await["injected"]);
    account.must_hold();
    place.workers_must_be_well();
    assert_eq!(account.commands, COMMANDS);
    // What expired cannot be told from what never was at a provider that says "not found" for both.
    assert!(account.outcomes["unresolved"] <= COMMANDS / 10, "{account}");
}
