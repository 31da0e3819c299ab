//! Every fault there is: real processes, a steady trickle of commands over two accounts, one fault, and the ledger, which
//! accounts for every command. `FAULTS=full` makes outages as long as real ones; `make faults` writes docs/RELIABILITY.md.

#[path = "faults/books.rs"]
mod books;
#[path = "wire/certs.rs"]
#[allow(dead_code, reason = "shared with the tests of TLS")]
mod certs;
#[path = "faults/impostor.rs"]
mod impostor;
#[path = "faults/network.rs"]
mod network;
#[path = "faults/provider.rs"]
mod provider;
#[path = "faults/rabbitmq.rs"]
mod rabbitmq;
#[path = "faults/report.rs"]
mod report;
mod support;
#[path = "faults/worker.rs"]
mod worker;

use chrono::{DateTime, Utc};
use qris_cancel_worker::sandbox;
use report::Row;
use std::{
    sync::Mutex,
    time::{Duration, Instant},
};
use support::{
    ledger::{Account, Ledger, Trickle},
    relay::{self, Relay},
    *,
};

const ACCOUNTS: [&str; 2] = ["ifortepay", "bnc"];
/// One command so often.
const EVERY: Duration = Duration::from_millis(20);
const SOON: Duration = Duration::from_secs(20);
/// Two seconds are promised; a busy machine that runs other tests beside is given more.
const BACK_WITHIN: Duration = Duration::from_secs(6);

/// As long as real ones are, rather than just long enough to be one.
#[allow(clippy::disallowed_methods, reason = "how long to test is no setting of the worker")]
fn full() -> bool {
    std::env::var("FAULTS").is_ok_and(|value| value == "full")
}

fn lasting(quick_ms: u64, full_s: u64) -> Duration {
    if full() { Duration::from_secs(full_s) } else { Duration::from_millis(quick_ms) }
}

fn calm() -> sandbox::Options {
    sandbox::Options::default()
}

fn with_faults(faults: &str) -> sandbox::Options {
    sandbox::Options { faults: faults.parse().unwrap(), ..calm() }
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
        let host = |url: &str| url.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
        let provider = place.provider.strip_prefix("http://").unwrap().to_owned();
        let to_broker = Relay::start(&host(&broker.url)).await;
        let (ifortepay, bnc) = (Relay::start(&provider).await, Relay::start(&provider).await);
        place.url = format!("{}{query}", broker.url.replace(&host(&broker.url), &to_broker.address.to_string()));
        let mut text = read(&place.config)
            .replace("confirm_timeout_ms", "connect_timeout_ms = 2_000\nconfirm_timeout_ms")
            .replace(&format!("{provider}/ifortepay"), &format!("{}/ifortepay", ifortepay.address))
            .replace(&format!("{provider}/bnc"), &format!("{}/bnc", bnc.address));
        if full() {
            // Of a long outage no command may be given up for its length.
            text = text.replace("max_attempts = 20", "max_attempts = 10_000");
        }
        std::fs::write(&place.config, change(text)).unwrap();
        let ledger = Ledger::open(&place, &broker.url, &ACCOUNTS).await;
        let trickle = Mutex::new(Some(ledger.trickle("job", EVERY)));
        let (broker, begun) = (broker.url.clone(), Instant::now());
        Self { place, broker, to_broker, ifortepay, bnc, ledger, trickle, begun }
    }

    /// A worker, which has begun to work.
    async fn worker(&self) -> Worker {
        let worker = self.place.worker().await;
        let told = self.ledger.told();
        self.ledger.until_told(told + 20, SOON).await;
        worker
    }

    async fn stop_trickle(&self) {
        let trickle = self.trickle.lock().unwrap().take();
        if let Some(trickle) = trickle {
            trickle.stop().await;
        }
    }

    fn start_trickle(&self, name: &str) {
        *self.trickle.lock().unwrap() = Some(self.ledger.trickle(name, EVERY));
    }

    async fn recovery(&self, since: DateTime<Utc>) -> Duration {
        self.ledger.recovery(since, None, Duration::from_secs(90)).await
    }

    async fn set_faults(&self, account: Option<&str>, faults: &str) {
        let mut wanted = serde_json::json!({ "faults": faults });
        if let Some(account) = account {
            wanted["account"] = account.into();
        }
        self.place.send("PUT", "/_sandbox/faults", &wanted).await;
    }

    /// Ends the trickle, closes the books, notes the figures, and fails if a promise is broken.
    async fn end(&self, topic: &'static str, fault: &str, recovered: Option<Duration>) -> Account {
        self.stop_trickle().await;
        let account = self.ledger.close(lasting(60_000, 3_600)).await;
        Row::new(topic, fault, &account, recovered, self.begun.elapsed()).write();
        account.must_hold();
        assert!(account.commands > 0, "nothing was published");
        account
    }
}
