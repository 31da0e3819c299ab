//! The broker dies and comes back: soon after a short outage, not much later after a long one, and without a storm. These are
//! promises of time, with the product's own limits: `make faults` runs these tests first, one by one, and gives them no more.

use super::{
    rabbitmq::{mine, settled},
    *,
};

const TOPIC: &str = "rabbitmq";
/// What a worker opens at once when it has the broker: one connection to publish, one for each account, two for the strays.
const CONNECTIONS: usize = 3 + ACCOUNTS.len();

/// How often a worker may try in an outage: its pauses are 100 ms, 120 ms, … 8 s, each at least half as long.
fn most_attempts(outage: Duration) -> usize {
    let pauses = std::iter::successors(Some(0.1f64), |pause| Some((pause * 1.2).min(8.0)));
    let mut sum = 0.0;
    pauses.take_while(|pause| (sum < outage.as_secs_f64(), sum += pause / 2.0).0).count()
}

async fn killed_and_back(fault: &str, quick: Duration, real: Duration) {
    let mine = mine().await;
    let broker = mine.get().unwrap();
    let rig = settled(broker, "", limits_as_usual).await;
    let _worker = rig.worker().await;
    let begun = Instant::now();
    broker.kill();
    rig.lasts(quick, real).await;
    broker.start_again();
    let (outage, attempts) = (begun.elapsed(), rig.to_broker.connected_since(begun).len());
    let most = most_attempts(outage) + CONNECTIONS;
    assert!((3..most).contains(&attempts), "{attempts} attempts to connect in {outage:?}, and {most} are allowed");
    let recovered = rig.back().await;
    rig.end(TOPIC, fault, Some(recovered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_back_after_seconds() {
    killed_and_back("SIGKILL, and back after a short outage", s(5), s(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_back_after_ten_minutes() {
    killed_and_back("SIGKILL, and back after a long outage", s(2), minutes(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_do_not_come_back_in_step() {
    let rig = Rig::with(Broker::shared(), with_faults("0.05"), "", limits_as_usual).await;
    let (mut relays, mut workers) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let relay = Relay::start(host(&rig.broker)).await;
        workers.push(rig.worker_over(&relay));
        relays.push(relay);
    }
    for worker in &workers {
        worker.wait_for_log("\"consuming\"", SOON).await;
    }
    rig.at_work().await;
    let begun = Instant::now();
    relays.iter().for_each(|relay| relay.set(Way::Cut));
    rig.lasts(s(8), minutes(2)).await;
    let attempts: Vec<_> = relays.iter().map(|relay| relay.connected_since(begun)).collect();
    relays.iter().for_each(|relay| relay.set(Way::Pass));
    let recovered = rig.back().await;
    // How far apart two workers' attempts of the same number are: workers in step keep their distance.
    let distances = |one: usize, other: usize| {
        let pairs = attempts[one].iter().zip(&attempts[other]);
        pairs.map(|(one, other)| (*one - begun).as_secs_f64() - (*other - begun).as_secs_f64()).collect::<Vec<_>>()
    };
    let wandered = [distances(0, 1), distances(0, 2)].map(|distances| {
        let (least, most) = (distances.iter().copied().reduce(f64::min), distances.iter().copied().reduce(f64::max));
        most.unwrap() - least.unwrap()
    });
    let wandered = wandered[0].max(wandered[1]);
    assert!(wandered > 0.4, "they come in step, their distances change by {wandered} s: {attempts:?}");
    rig.end(TOPIC, "Three workers lose it at once, and do not come back in step", Some(recovered)).await;
}
