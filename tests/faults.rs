//! Every fault there is: real processes, a steady trickle of commands over two accounts, one fault, and the ledger, which
//! accounts for every command. `FAULTS=full` makes outages as long as real ones; `make faults` writes docs/RELIABILITY.md.

#[path = "faults/books.rs"]
mod books;
#[path = "wire/certs.rs"]
mod certs;
#[path = "faults/impostor.rs"]
mod impostor;
#[path = "faults/limits.rs"]
mod limits;
#[path = "faults/loss.rs"]
mod loss;
#[path = "faults/names.rs"]
mod names;
#[path = "faults/network.rs"]
mod network;
#[path = "faults/outage.rs"]
mod outage;
#[path = "faults/provider.rs"]
mod provider;
#[path = "faults/rabbitmq.rs"]
mod rabbitmq;
#[path = "faults/report.rs"]
mod report;
mod support;
#[path = "faults/versions.rs"]
mod versions;
#[path = "faults/worker.rs"]
mod worker;

use chrono::{DateTime, Utc};
use qris_cancel_worker::{sandbox, settings::Settings};
use report::{Passed, Row};
use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};
use support::{
    ledger::{Ledger, Trickle},
    relay::{self, Relay, Way},
    *,
};

const ACCOUNTS: [&str; 2] = ["ifortepay", "bnc"];
/// Only a machine that has more to do than it can needs so long.
const SOON: Duration = Duration::from_secs(120);
/// Promised after a short outage of the broker, and what a machine is given that runs other tests beside.
const BACK_WITHIN_ALONE: Duration = Duration::from_secs(2);
const BACK_WITHIN: Duration = Duration::from_secs(6);
/// In an outage of this length, and longer, the pauses before a worker connects again become as long as they can.
const LONG: Duration = Duration::from_secs(30);
const BACK_WITHIN_AFTER_LONG: Duration = Duration::from_secs(15);

/// Calls that may have taken effect.
const UNKNOWN: &str = "qris_cancel_calls_total{verdict=\"unknown\"}";

/// As long as real ones are, rather than just long enough to be one.
#[allow(clippy::disallowed_methods, reason = "how long to test is no setting of the worker")]
fn full() -> bool {
    std::env::var("FAULTS").is_ok_and(|value| value == "full")
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn s(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn minutes(count: u64) -> Duration {
    s(60 * count)
}

fn lasting(quick: Duration, real: Duration) -> Duration {
    if full() { real } else { quick }
}

/// This test has the machine to itself: promises of time hold as they are.
#[allow(clippy::disallowed_methods, reason = "how to test is no setting of the worker")]
fn alone() -> bool {
    std::env::var_os("ALONE").is_some()
}

/// How much more time than is promised a test has that shares the machine: how much more that has to do nobody knows.
fn patience() -> u32 {
    if alone() { 1 } else { 5 }
}

/// One command so often.
fn every() -> Duration {
    Duration::from_millis(if full() { 200 } else { 20 })
}

fn calm() -> sandbox::Options {
    sandbox::Options::default()
}

fn with_faults(faults: &str) -> sandbox::Options {
    sandbox::Options { faults: faults.parse().unwrap(), ..calm() }
}

/// The product's own time limits.
fn limits_as_usual(settings: String) -> String {
    let is_limit = |line: &&str| {
        ["timeout_ms", "connect_timeout_ms", "confirm_timeout_ms"].contains(&line.split(" =").next().unwrap())
    };
    settings.lines().filter(|line| !is_limit(line)).collect::<Vec<_>>().join("\n")
}

/// The product's own rests in the full form: there an account that rests tries again within a minute, here within a second.
fn resting_as_usual(settings: String) -> String {
    if full() { settings.replace("breaker = { initial_ms = 250, max_ms = 1_000 }", "") } else { settings }
}

/// A place whose worker reaches broker and providers through relays, and its ledger.
struct Rig {
    place: Place,
    /// The broker's own address.
    broker: String,
    to_broker: Relay,
    ifortepay: Relay,
    bnc: Relay,
    ledger: Ledger,
    trickle: Mutex<Option<Trickle>>,
    begun: Instant,
    /// How long the fault has lasted.
    lasted: Mutex<Duration>,
}

impl Rig {
    async fn new(broker: &Broker, options: sandbox::Options) -> Self {
        Self::with(broker, options, "", |settings| settings).await
    }

    /// With a query for the broker's address, as in `?heartbeat=2`, and changed settings.
    async fn with(
        broker: &Broker,
        options: sandbox::Options,
        query: &str,
        change: impl FnOnce(String) -> String,
    ) -> Self {
        let mut place = Place::new(broker, options).await;
        let provider = place.provider.strip_prefix("http://").unwrap().to_owned();
        let to_broker = Relay::start(host(&broker.url)).await;
        let (ifortepay, bnc) = (Relay::start(&provider).await, Relay::start(&provider).await);
        place.url = format!("{}{query}", through(&to_broker, &broker.url));
        let mut text = read(&place.config)
            .replace("confirm_timeout_ms = 30_000", "connect_timeout_ms = 2_000\nconfirm_timeout_ms = 5_000")
            .replace(&format!("{provider}/ifortepay"), &format!("{}/ifortepay", ifortepay.address))
            .replace(&format!("{provider}/bnc"), &format!("{}/bnc", bnc.address));
        if full() {
            // Of a long outage no command may be given up for its length.
            text = text.replace("max_attempts = 20", "max_attempts = 10_000\nmax_elapsed_s = 86_400");
        }
        text += "\n[results_log]\nmax_bytes = 100_000_000\n";
        std::fs::write(&place.config, change(text)).unwrap();
        let ledger = Ledger::open(&place, &broker.url, &ACCOUNTS).await;
        ledger.follow(&to_broker);
        let trickle = Mutex::new(Some(ledger.trickle("job", every())));
        let (broker, begun, lasted) = (broker.url.clone(), Instant::now(), Mutex::default());
        Self { place, broker, to_broker, ifortepay, bnc, ledger, trickle, begun, lasted }
    }

    fn change(&self, change: impl FnOnce(String) -> String) {
        std::fs::write(&self.place.config, change(read(&self.place.config))).unwrap();
    }

    fn settings(&self) -> Settings {
        let environment = BTreeMap::from([("AMQP_URL".to_owned(), self.place.url.clone())]);
        Settings::read("worker.toml", &read(&self.place.config), &environment, self.place.dir.path()).unwrap()
    }

    /// A worker, which has begun to work.
    async fn worker(&self) -> Worker {
        let worker = self.place.worker().await;
        self.at_work().await;
        worker
    }

    async fn at_work(&self) {
        let told = self.ledger.told();
        self.ledger.until_told(told + 20, SOON).await;
    }

    /// One that has the broker by a way of its own.
    fn worker_over(&self, relay: &Relay) -> Worker {
        self.ledger.follow(relay);
        self.place.worker_at(&through(relay, &self.broker))
    }

    async fn stop_trickle(&self) {
        let trickle = self.trickle.lock().unwrap().take();
        if let Some(trickle) = trickle {
            trickle.stop().await;
        }
    }

    fn start_trickle(&self, name: &str) {
        *self.trickle.lock().unwrap() = Some(self.ledger.trickle(name, every()));
    }

    /// Nothing is under way any more, and nothing new comes.
    async fn pause(&self) {
        self.stop_trickle().await;
        self.ledger.until_all_told(SOON).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    /// The ways to both providers.
    fn set_providers(&self, way: &Way) {
        for relay in [&self.ifortepay, &self.bnc] {
            relay.set(way.clone());
        }
    }

    async fn set_faults(&self, account: Option<&str>, faults: &str) {
        let mut wanted = serde_json::json!({ "faults": faults });
        if let Some(account) = account {
            wanted["account"] = account.into();
        }
        self.place.send("PUT", "/_sandbox/faults", &wanted).await;
    }

    /// The fault lasts.
    async fn lasts(&self, quick: Duration, real: Duration) {
        let length = lasting(quick, real);
        tokio::time::sleep(length).await;
        *self.lasted.lock().unwrap() += length;
    }

    /// How long after the fault the first outcome was decided.
    async fn recovery(&self, since: DateTime<Utc>) -> Duration {
        self.ledger.recovery(since, None, Duration::from_secs(90)).await
    }

    /// The broker is there again: work goes on as soon as is promised.
    async fn back(&self) -> Duration {
        let is_long = *self.lasted.lock().unwrap() >= LONG;
        let limit = match is_long {
            true => BACK_WITHIN_AFTER_LONG,
            false if alone() => BACK_WITHIN_ALONE,
            false => BACK_WITHIN,
        };
        self.back_within(limit, None).await
    }

    /// The provider is there again: work goes on within the interval of the breaker's trials. A trial that failed just before
    /// makes the account rest once more.
    async fn back_at_the_next_trial(&self, account: Option<&str>) -> Duration {
        let settings = self.settings();
        let longest = settings.accounts.iter().map(|account| account.client.timeout + account.breaker.max).max();
        self.back_within(longest.unwrap() + Duration::from_secs(2), account).await
    }

    async fn back_within(&self, limit: Duration, account: Option<&str>) -> Duration {
        let limit = limit * patience();
        let recovered = self.ledger.recovery(Utc::now(), account, limit + SOON).await;
        assert!(recovered < limit, "it took {recovered:?} to come back, and {limit:?} are allowed");
        recovered
    }

    /// The other account's commands are still told of, at once.
    async fn the_neighbour_goes_on(&self) {
        for _ in 0..3 {
            let took = self.ledger.recovery(Utc::now(), Some("ifortepay"), SOON).await;
            // The other account's calls take two seconds each.
            let limit = Duration::from_secs(if alone() { 2 } else { 5 });
            assert!(took < limit, "the neighbour waited {took:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// One of two accounts suffers: it rests, the other one goes on, and when that has an end it is back with the next trial.
    async fn one_account_suffers(
        &self,
        worker: &Worker,
        quick: Duration,
        real: Duration,
        end: impl Future,
    ) -> Duration {
        worker.wait_for_log("calls keep failing", SOON).await;
        self.the_neighbour_goes_on().await;
        self.lasts(quick, real).await;
        end.await;
        self.back_at_the_next_trial(Some("bnc")).await
    }

    /// Ends the trickle, closes the books, and fails if a promise is broken. What the test asserts after that must hold, too,
    /// before the figures are noted.
    async fn end(&self, topic: &'static str, fault: &str, recovered: Option<Duration>) -> Passed {
        self.stop_trickle().await;
        let account = self.ledger.close(lasting(s(180), minutes(30))).await;
        let lasted = *self.lasted.lock().unwrap();
        let row = Row::new(topic, fault, &account, lasted, recovered, self.begun.elapsed());
        account.must_hold();
        self.place.workers_must_be_well();
        assert!(account.commands > 0, "nothing was published");
        Passed::so_far(account, row)
    }

    /// How many queries have reached the provider.
    async fn queries(&self) -> u64 {
        let transactions = self.place.get("/_sandbox/transactions").await;
        transactions.as_array().unwrap().iter().map(|seen| seen["calls"]["query"].as_u64().unwrap()).sum()
    }
}

fn host(url: &str) -> &str {
    url.split('@').nth(1).unwrap().split('/').next().unwrap()
}

/// The broker's address as it is over a relay.
fn through(relay: &Relay, broker: &str) -> String {
    broker.replace(host(broker), &relay.address.to_string())
}
