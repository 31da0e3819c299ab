//! Does one account's outage slow another's commands? `cargo bench --bench neighbours`
//!
//! A real worker and a private broker; account `two` drains a backlog while `one`'s provider is idle, refuses connections,
//! is silent, or answers 401. The four take turns, so that what the machine does besides hits all alike. Prints the median
//! of `two`'s commands a second in each case, and its ratio to the idle case.

#[path = "../tests/limits/provider.rs"]
mod provider;
#[path = "../tests/support/mod.rs"]
mod support;

use futures_util::{StreamExt, stream};
use provider::{Mood, Provider};
use std::time::{Duration, Instant};
use support::*;

const COMMANDS: usize = 4_000;
const ROUNDS: usize = 5;
const CASES: [&str; 4] = ["idle", "down", "silent", "401"];
const LIMIT: Duration = Duration::from_secs(120);

fn account(name: &str, provider: &Provider, state: &str) -> String {
    format!(
        "[accounts.{name}]\nprofile = \"ifortepay\"\nbase_url = \"http://{}\"\npartner_id = \"p\"\nstate = \"{state}\"\n\
         private_key = {{ file = \"{KEY}\" }}\nconnect_timeout_ms = 500\ntimeout_ms = 2_000\n",
        provider.address
    )
}

struct Bench {
    place: Place,
    worker: Worker,
    client: Client,
    one: Provider,
    two: Provider,
    settings: String,
}

impl Bench {
    async fn publish(&self, account: &str, name: &str, count: usize) {
        let publishing = stream::iter(0..count).map(|at| async move {
            assert!(self.client.publish(account, &command(&format!("{name}-{at}"), &format!("R-{name}-{at}"))).await);
        });
        publishing.buffer_unordered(200).collect::<Vec<_>>().await;
    }

    fn set(&self, two: &str) {
        let settings = self.settings.clone() + &account("one", &self.one, "active") + &account("two", &self.two, two);
        std::fs::write(&self.place.config, settings).unwrap();
        self.worker.signal("-HUP");
    }

    /// How many commands a second `two` gets done.
    async fn drain(&self, name: &str) -> f64 {
        self.set("paused");
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.publish("two", name, COMMANDS).await;
        let before = self.two.count("cancel");
        self.set("active");
        let wait = |count: usize| async move {
            let begun = Instant::now();
            while self.two.count("cancel") < count {
                assert!(begun.elapsed() < LIMIT, "{name}: {} of {count}", self.two.count("cancel"));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Instant::now()
        };
        // Without the time that it takes to begin.
        let (first, last) = (wait(before + COMMANDS / 10).await, wait(before + COMMANDS).await);
        (COMMANDS * 9 / 10) as f64 / (last - first).as_secs_f64()
    }
}

#[tokio::main]
async fn main() {
    let (one, two) = (Provider::start().await, Provider::start().await);
    two.set(Mood::Fine(Duration::from_millis(10)));
    let broker = Broker::own();
    let more = account("one", &one, "active") + &account("two", &two, "paused");
    let place = Place::at(&broker, "http://127.0.0.1:9", &more);
    let text = read(&place.config).replace("level = \"debug\"", "level = \"info\"");
    std::fs::write(&place.config, &text).unwrap();
    let settings = text.split_once("[accounts.one]").unwrap().0.to_owned();
    let (worker, client) = (place.worker().await, place.client().await);
    let bench = Bench { place, worker, client, one, two, settings };
    let _events = bench.client.collect().await;

    let mut rates = CASES.map(|_| Vec::new());
    for round in 0..ROUNDS {
        for (case, rates) in CASES.into_iter().zip(&mut rates) {
            let name = format!("{case}-{round}");
            match case {
                "idle" => {}
                "down" => bench.one.go_down().await,
                "silent" => bench.one.set(Mood::Silent),
                _ => bench.one.set(Mood::Unauthorized),
            }
            if case != "idle" {
                bench.publish("one", &name, COMMANDS).await;
            }
            rates.push(bench.drain(&name).await);
            // The first drains its own backlog before the next case.
            match case {
                "down" => bench.one.come_up().await,
                _ => bench.one.set(Mood::Fine(Duration::ZERO)),
            }
            let queue = bench.client.names.commands_of("one");
            until("the first account's backlog is done", LIMIT, || {
                Box::pin(async { bench.client.depth(&queue).await == 0 })
            })
            .await;
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let idle = median(&mut rates[0]);
    println!("median of {ROUNDS} rounds of {COMMANDS} commands of the neighbour");
    for (case, rates) in CASES.into_iter().zip(&mut rates) {
        let rate = median(rates);
        println!("{case:8} {rate:7.0} commands/s   {:.3} of idle   {:.0?}", rate / idle, rates);
    }
    assert_eq!(bench.client.depth(&bench.client.names.parked()).await, 0, "something was parked");
}
