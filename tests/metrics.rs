//! What the worker counts, held against what it was given, what it told and what its provider said.

#[path = "limits/provider.rs"]
mod provider;
mod support;

use lapin::{
    options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use provider::{Mood, Provider};
use qris_cancel_worker::sandbox;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use support::*;

const SOON: Duration = Duration::from_secs(60);
const ACCOUNTS: [&str; 3] = ["ifortepay", "bnc", "paced"];

/// What a command does in a rest, or comes back from, is counted elsewhere.
const NO_REST: &str = "breaker = { calls = 1_000 }";

/// A bank with access tokens, and a limit to its rate.
fn paced(provider: &str) -> String {
    format!(
        "[accounts.paced]\nprofile = \"bnc\"\nbase_url = \"{provider}/paced\"\ncancel_path = \"/made-up/qr-mpm-cancel\"\n\
         query_path = \"/made-up/qr-mpm-query\"\nclient_key = \"client\"\npartner_id = \"p\"\norigin = \"o\"\nmerchant_id = \"1\"\n\
         private_key = {{ file = \"{KEY}\" }}\nmax_requests_per_second = 10.0\nmax_in_flight = 7\ntimeout_ms = 2_000\n\
         connect_timeout_ms = 1_000\n{NO_REST}\n"
    )
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Scrape {
    fn of(&self, metric: &str) -> usize {
        self.sum(&format!("qris_cancel_{metric}")) as usize
    }

    /// What has to hold at any moment when nothing runs.
    fn adds_up(&self) {
        for (what, done) in
            [("event", "results_total"), ("retry", "retries_scheduled_total"), ("parked", "parked_total")]
        {
            let confirmed = self.of(&format!("publishes_total{{what=\"{what}\",result=\"confirmed\"}}"));
            assert_eq!(confirmed, self.of(done), "{what}");
            let timed = self.of(&format!("publish_duration_seconds_count{{what=\"{what}\"}}"));
            assert_eq!(timed, confirmed, "{what}");
        }
        assert_eq!(self.of("command_duration_seconds_count"), self.of("results_total"));
        for account in ACCOUNTS.iter().chain(&["unknown"]) {
            let of = |metric: &str| self.of(&format!("{metric}{{account=\"{account}\"}}"));
            assert_eq!(of("retry_delay_seconds_count"), of("retries_scheduled_total"), "{account}");
            // Nothing here waits for a cut-off time, and nothing was replayed.
            assert_eq!(of("retry_age_seconds_count"), of("retries_scheduled_total"), "{account}");
            if *account == "unknown" {
                assert_eq!(self.sum_if_any("qris_cancel_in_flight{account=\"unknown\"}"), None, "it has no provider");
                continue;
            }
            assert_eq!(of("in_flight"), 0, "{account}");
            for operation in ["cancel", "query", "token"] {
                let of =
                    |metric: &str| self.of(&format!("{metric}{{account=\"{account}\",operation=\"{operation}\"}}"));
                assert_eq!(of("call_duration_seconds_count"), of("calls_total"), "{account} {operation}");
                assert!(of("response_codes_total") <= of("calls_total"), "{account} {operation}");
            }
        }
    }
}

/// What the calls in the events were answered, by account, operation and code; and how many calls the events leave out.
fn answers(events: &Events) -> (BTreeMap<(String, String, String), usize>, usize) {
    let (mut answers, mut left_out) = (BTreeMap::new(), 0);
    for (_, event) in &events.all {
        let data = &event["data"];
        let Some(calls) = data["calls"].as_array() else { continue };
        left_out += data["callsTotal"].as_u64().unwrap() as usize - calls.len();
        for call in calls.iter().filter(|call| call["httpStatus"].is_number()) {
            let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
            let key = (text(&data["account"]), text(&call["operation"]), text(&call["responseCode"]));
            *answers.entry(key).or_default() += 1;
        }
    }
    (answers, left_out)
}

async fn until_told(worker: &Worker, results: usize) {
    until("everything is told of", SOON, || {
        Box::pin(async {
            let scrape = worker.scrape().await;
            scrape.of("results_total") == results && scrape.of("in_flight") == 0
        })
    })
    .await;
}

#[tokio::test]
async fn what_is_counted_adds_up() {
    let faults = "500=0.06,429=0.05,202=0.04,html=0.06,reset_after=0.06,truncated=0.03,expired_token=0.02";
    let options = sandbox::Options { faults: faults.parse().unwrap(), seed: 7, ..sandbox::Options::default() };
    let place = Place::with_more(Broker::shared(), options, paced).await;
    let text = read(&place.config).replace("breaker = { initial_ms = 250, max_ms = 1_000 }", NO_REST);
    std::fs::write(&place.config, text).unwrap();
    let worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let each = 60;
    for account in ACCOUNTS {
        for at in 0..each {
            let command = command(&format!("job-{at}"), &format!("R-{at}")).to_string();
            // Every third has no timestamp; of one account they come from a clock that is ahead.
            let properties = match (at % 3, account) {
                (0, _) => persistent(),
                (_, "bnc") => persistent().with_timestamp(now() + 1_000),
                _ => persistent().with_timestamp(now() - 100),
            };
            assert!(client.publish_raw(&client.names.commands(), account, command.as_bytes(), properties).await);
        }
    }
    let stamped = || persistent().with_timestamp(now() - 100);
    assert!(client.publish_raw(&client.names.commands(), "ifortepay", b"not a command", stamped()).await);
    assert!(client.publish_raw(&client.names.commands(), "nobody", b"not a command", stamped()).await);
    let all = ACCOUNTS.len() * each + 2;
    events.wait(all, SOON * 2).await;
    until_told(&worker, all).await;
    let scrape = worker.scrape().await;
    scrape.adds_up();

    // Everything that was taken was told of or waits.
    let taken = scrape.of("commands_received_total");
    assert_eq!(taken, scrape.of("results_total") + scrape.of("retries_scheduled_total"));
    assert!(scrape.of("retries_scheduled_total") > 20, "the faults were not felt");
    assert_eq!(scrape.of("publishes_total{result=\"nacked\"}") + scrape.of("publishes_total{result=\"failed\"}"), 0);
    assert_eq!(scrape.of("breaker_trips_total"), 0);
    assert_eq!(scrape.of("parked_total{account=\"unknown\"}"), 1);

    // The provider's words are those in the events.
    let (answers, left_out) = answers(&events);
    for ((account, operation, code), times) in &answers {
        let labels = format!("account=\"{account}\",operation=\"{operation}\",code=\"{code}\"");
        let counted = scrape.of(&format!("response_codes_total{{{labels}}}"));
        assert!((*times..=times + left_out).contains(&counted), "{labels}: {counted}, not {times}");
    }
    let all_answers = answers.values().sum::<usize>();
    assert!((all_answers..=all_answers + left_out).contains(&scrape.of("response_codes_total")));
    assert_eq!(scrape.of("response_codes_total{code=\"other\"}"), 0, "the sandbox knows the standard");
    for code in ["2007700", "2005100", "2007300", "4297700", "none"] {
        assert!(scrape.of(&format!("response_codes_total{{code=\"{code}\"}}")) > 0, "{code} did not come");
    }

    // First deliveries with a timestamp, and no other.
    let wait = |account: &str, what: &str| scrape.of(&format!("queue_wait_seconds_{what}{{account=\"{account}\"}}"));
    let counts = ["ifortepay", "bnc", "paced", "unknown"].map(|account| wait(account, "count"));
    assert_eq!(counts, [each * 2 / 3 + 1, each * 2 / 3, each * 2 / 3, 1]);
    assert_eq!(wait("bnc", "sum"), 0, "a clock that is ahead");
    assert!((100..130).contains(&wait("unknown", "sum")), "{}", wait("unknown", "sum"));
    assert!(wait("ifortepay", "sum") >= 100 * wait("ifortepay", "count"));

    // Each request of the account with a rate had a turn, and that account alone.
    assert_eq!(scrape.of("rate_limit_wait_seconds_count"), scrape.of("calls_total{account=\"paced\"}"));
    assert!(scrape.sum("qris_cancel_rate_limit_wait_seconds_sum{account=\"paced\"}") > 0.5);
    assert!(!scrape.0.contains("rate_limit_wait_seconds_count{account=\"bnc\"}"));

    assert_eq!(scrape.of("in_flight_limit{account=\"paced\"}"), 7);
    assert_eq!(scrape.of("account_info{account=\"paced\",profile=\"bnc\"}"), 1);
    let connects =
        ["connected", "failed"].map(|result| scrape.of(&format!("broker_connects_total{{result=\"{result}\"}}")));
    assert_eq!(connects, [ACCOUNTS.len() + 3, 0], "to publish, for each account, for strays and for expired strays");
    assert!(scrape.of("tokio_workers") >= 1 && scrape.of("tokio_alive_tasks") >= 1);

    let loaded = scrape.sum("qris_cancel_settings_loaded_timestamp_seconds");
    assert!((now() as f64 - loaded) < 600.0 && loaded <= now() as f64 + 1.0, "{loaded}");
    worker.signal("-HUP");
    until("the settings are read anew", SOON, || {
        Box::pin(async { worker.metric("qris_cancel_settings_loaded_timestamp_seconds").await > loaded })
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_refuses_or_goes_is_seen() {
    let provider = Provider::start().await;
    let more = format!(
        "[accounts.paced]\nprofile = \"ifortepay\"\nbase_url = \"http://{}\"\npartner_id = \"p\"\n\
         private_key = {{ file = \"{KEY}\" }}\ntimeout_ms = 12_000\n",
        provider.address
    );
    let broker = Broker::own();
    let place = Place::at(&broker, "http://127.0.0.1:9", &more);
    let worker = place.worker().await;
    let client = place.client().await;

    // A reader's queue that is full and refuses makes the broker refuse the event.
    let results = client.names.results();
    let arguments = headers(&[("x-max-length", AMQPValue::LongInt(1)), ("x-overflow", text("reject-publish"))]);
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    client.channel.queue_declare("full".into(), options, arguments).await.unwrap();
    let bound = client.channel.queue_bind(
        "full".into(),
        results.as_str().into(),
        "#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.unwrap();
    assert!(client.publish_raw(&results, "x", b"filler", persistent()).await);
    assert!(client.publish("paced", &command("refused", "R-refused")).await);
    let unpublished = "qris_cancel_retry_delay_seconds_count{account=\"paced\",reason=\"unpublished\"}";
    until("it is refused", SOON, || Box::pin(async { worker.metric(unpublished).await >= 1.0 })).await;
    client.channel.queue_delete("full".into(), QueueDeleteOptions::default()).await.unwrap();
    until_told(&worker, 1).await;
    let scrape = worker.scrape().await;
    scrape.adds_up();
    let nacked = scrape.of("publishes_total{what=\"event\",result=\"nacked\"}");
    assert_eq!(nacked, scrape.sum(unpublished) as usize, "each refusal makes it wait");
    assert_eq!(scrape.of("publishes_total{result=\"failed\"}"), 0);

    // A broker that goes while a call runs: what comes of the call is not confirmed, and the command comes again.
    provider.set(Mood::Fine(Duration::from_millis(5_000)));
    let body = command("torn", "R-torn").to_string();
    let properties = persistent().with_timestamp(now());
    assert!(client.publish_raw(&client.names.commands(), "paced", body.as_bytes(), properties).await);
    until("the call runs", SOON, || Box::pin(async { provider.count("cancel") == 2 })).await;
    broker.stop();
    until("it cannot connect", SOON, || {
        Box::pin(async { worker.metric("qris_cancel_broker_connects_total{result=\"failed\"}").await >= 1.0 })
    })
    .await;
    assert_eq!(worker.metric("qris_cancel_broker_connected").await, 0.0);
    until("it is left", SOON, || {
        Box::pin(async { worker.metric("qris_cancel_left_unacknowledged_total{account=\"paced\"}").await == 1.0 })
    })
    .await;
    provider.set(Mood::Fine(Duration::ZERO));
    broker.start_again();
    until_told(&worker, 2).await;
    let scrape = worker.scrape().await;
    scrape.adds_up();
    assert_eq!(scrape.of("publishes_total{what=\"event\",result=\"failed\"}"), 1);
    assert_eq!(scrape.of("publishes_total{what=\"retry\",result=\"failed\"}"), 1);
    until("all are connected again", SOON, || {
        Box::pin(async {
            let connected = worker.metric("qris_cancel_broker_connects_total{result=\"connected\"}").await;
            connected as usize >= 2 * (ACCOUNTS.len() + 2)
        })
    })
    .await;
    assert_eq!(scrape.of("queue_wait_seconds_count"), 1, "a redelivery is no first delivery");
}
