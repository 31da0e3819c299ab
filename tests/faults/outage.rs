//! The broker dies and comes back: soon after a short outage, not much later after a long one, and without a storm.

use super::{
    rabbitmq::{mine, settled},
    *,
};

const TOPIC: &str = "rabbitmq";
/// What a worker opens at once when it has the broker: one connection to publish, one for each account, one for the strays.
const CONNECTIONS: usize = 2 + ACCOUNTS.len();

/// How often a worker may try in an outage: its pauses are 100 ms, 120 ms, … 8 s, each at least half as long.
fn most_attempts(outage: Duration) -> usize {
    let pauses = std::iter::successors(Some(0.1f64), |pause| Some((pause * 1.2).min(8.0)));
    let mut sum = 0.0;
    pauses.take_while(|pause| (sum < outage.as_secs_f64(), sum += pause / 2.0).0).count()
}

async fn killed_and_back(quick_ms: u64, full_s: u64) {
    let mine = mine().await;
    let broker = mine.get().unwrap();
    let rig = settled(broker, "").await;
    let _worker = rig.worker().await;
    let begun = Instant::now();
    broker.kill();
    rig.lasts(quick_ms, full_s).await;
    broker.start_again();
    let (outage, attempts) = (begun.elapsed(), rig.to_broker.connected_since(begun).len());
    println!("{attempts} attempts to connect in {outage:?}");
    let most = most_attempts(outage) + CONNECTIONS;
    assert!((3..most).contains(&attempts), "{attempts} attempts to connect in {outage:?}, and {most} are allowed");
    let recovered = rig.back().await;
    let fault = format!("SIGKILL, and back after {}", told(lasting(quick_ms, full_s)));
    rig.end(TOPIC, &fault, Some(recovered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_back_after_seconds() {
    killed_and_back(5_000, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_back_after_ten_minutes() {
    killed_and_back(2_000, 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_do_not_come_back_in_step() {
    let rig = Rig::new(Broker::shared(), with_faults("0.05")).await;
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
    rig.lasts(8_000, 120).await;
    let attempts: Vec<_> = relays.iter().map(|relay| relay.connected_since(begun)).collect();
    relays.iter().for_each(|relay| relay.set(Way::Pass));
    let recovered = rig.back().await;
    // From the eighth attempt on they are apart, and stay so.
    let fewest = attempts.iter().map(Vec::len).min().unwrap();
    let apart = (8..fewest).map(|number| {
        let at = || attempts.iter().map(|of_one| of_one[number]);
        at().max().unwrap() - at().min().unwrap()
    });
    let apart = apart.max().expect("more than eight attempts each");
    println!("{fewest} attempts and more, and up to {apart:?} apart");
    assert!(apart > Duration::from_millis(150), "they come in step, {apart:?} apart: {attempts:?}");
    rig.end(TOPIC, "Three workers lose it at once, and do not come back in step", Some(recovered)).await;
}
