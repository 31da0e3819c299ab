//! What can befall RabbitMQ, and what its operators do.

use super::*;
use lapin::{
    options::*,
    types::{AMQPValue, FieldTable},
};
use std::cell::Cell;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

const TOPIC: &str = "rabbitmq";

/// A broker for tests that hurt it, one at a time: each finds it well. There are two, so that two tests can run; and more
/// where tests last.
pub async fn mine() -> MutexGuard<'static, OnceCell<Broker>> {
    static MINE: [Mutex<OnceCell<Broker>>; 6] = [const { Mutex::const_new(OnceCell::const_new()) }; 6];
    loop {
        let count = if full() { MINE.len() } else { 2 };
        if let Some(free) = MINE[..count].iter().find_map(|one| one.try_lock().ok()) {
            free.get_or_init(|| async { Broker::another() }).await.mend();
            return free;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A rig whose queues are old enough to survive a kill.
pub async fn settled(broker: &Broker, query: &str, change: impl FnOnce(String) -> String) -> Rig {
    let rig = Rig::with(broker, with_faults("0.05"), query, change).await;
    // RabbitMQ forgets a quorum queue that is not a second old when it is killed.
    tokio::time::sleep(Duration::from_secs(2)).await;
    rig
}

/// A broker suffers for a while; then work goes on as soon as is promised, and `look` looks at the worker.
async fn suffers(
    fault: &str,
    query: &str,
    (quick, real): (Duration, Duration),
    begin: impl AsyncFnOnce(&Broker, &Rig, &Worker),
    end: impl FnOnce(&Broker),
    look: impl FnOnce(&Worker),
) {
    let mine = mine().await;
    let broker = mine.get().unwrap();
    let rig = settled(broker, query, |settings| settings).await;
    let worker = rig.worker().await;
    begin(broker, &rig, &worker).await;
    rig.lasts(quick, real).await;
    end(broker);
    let recovered = rig.back().await;
    look(&worker);
    rig.end(TOPIC, fault, Some(recovered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_good_order() {
    let stop = async |broker: &Broker, _: &_, _: &_| broker.stop();
    suffers("Stopped in good order, and back", "", (s(1), minutes(2)), stop, Broker::start_again, |_| {}).await;
}

/// `may_lose`: the worker may take its connections for lost.
async fn frozen(fault: &str, query: &str, lasting: (Duration, Duration), may_lose: bool) {
    let again = |worker: &Worker| worker.read_log().matches("connecting again").count();
    let before = Cell::new(0);
    let freeze = async |broker: &Broker, _: &_, worker: &Worker| {
        before.set(again(worker));
        broker.freeze();
    };
    let look = |worker: &Worker| {
        assert!(may_lose || again(worker) == before.get(), "nothing was wrong with the connections");
    };
    suffers(fault, query, lasting, freeze, Broker::thaw, look).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_shorter_than_the_heartbeat() {
    frozen("Frozen for less than the heartbeat", "?heartbeat=10", (s(3), s(8)), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_longer_than_the_heartbeat() {
    frozen("Frozen for longer than the heartbeat", "?heartbeat=2", (s(9), minutes(2)), true).await;
}

async fn blocked(alarm: &[&str], relief: &[&str], fault: &str, real: Duration) {
    let begin = async |broker: &Broker, rig: &Rig, worker: &Worker| {
        // A broker blocks who publishes, so there must be something to publish: commands are tried again and again.
        rig.set_faults(None, "500=0.6").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker.ctl(alarm);
        worker.wait_for_log("the broker takes no messages now", SOON).await;
        rig.set_faults(None, "0.05").await;
    };
    let end = |broker: &Broker| drop(broker.ctl(relief));
    suffers(fault, "", (s(4), real), begin, end, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_alarm() {
    blocked(
        &["set_vm_memory_high_watermark", "absolute", "1MB"],
        &["set_vm_memory_high_watermark", "0.6"],
        "Memory alarm: connections that publish are blocked",
        minutes(10),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_alarm() {
    blocked(
        &["set_disk_free_limit", "1000000GB"],
        &["set_disk_free_limit", "50MB"],
        "Disk alarm: connections that publish are blocked",
        minutes(2),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_closes_every_connection() {
    let mine = mine().await;
    let broker = mine.get().unwrap();
    let rig = settled(broker, "", |settings| settings).await;
    let _worker = rig.worker().await;
    for _ in 0..3 {
        broker.ctl(&["close_all_connections", "maintenance"]);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let recovered = rig.recovery(Utc::now()).await;
    rig.end(TOPIC, "An operator closes every connection, three times", Some(recovered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_held_longer_than_the_broker_allows() {
    let mine = mine().await;
    let broker = mine.get().unwrap();
    let set = |timeout: &str, tick: &str| {
        broker.ctl(&["eval", &format!("application:set_env(rabbit, consumer_timeout, {timeout}).")]);
        broker.ctl(&["eval", &format!("application:set_env(rabbit, channel_tick_interval, {tick}).")]);
    };
    set("2000", "500");
    let slow = |settings: String| settings.replace("timeout_ms = 2_000", "timeout_ms = 8_000");
    let rig = Rig::with(broker, with_faults("none"), "", slow).await;
    let worker = rig.worker().await;
    rig.set_faults(Some("bnc"), "hang=0.05,hang_after=0.05").await;
    worker.wait_for_log("PRECONDITION", SOON).await;
    rig.lasts(s(2), minutes(2)).await;
    rig.set_faults(Some("bnc"), "none").await;
    let recovered = rig.recovery(Utc::now()).await;
    let account = rig.end(TOPIC, "Acknowledgement timeout (406) closes channels", Some(recovered)).await;
    set("1800000", "60000");
    assert!(account.commands > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_deleted_and_made_again() {
    let rig = Rig::new(Broker::shared(), calm()).await;
    let worker = rig.worker().await;
    rig.stop_trickle().await;
    // What is in a deleted queue is gone for good, by the operator's own hand: so there is nothing in it.
    rig.ledger.until_all_told(SOON).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let client = Client::connect(&rig.broker, rig.place.names.clone()).await;
    for account in ACCOUNTS {
        let queue = client.names.commands_of(account);
        client.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }
    rig.start_trickle("later");
    let recovered = rig.recovery(Utc::now()).await;
    worker.wait_for_log("the broker ended the consumer", SOON).await;
    rig.lasts(ms(1_500), s(30)).await;
    let account = rig.end(TOPIC, "Command queues deleted (`basic.cancel`), and made again", Some(recovered)).await;
    assert_eq!(account.outcomes.keys().collect::<Vec<_>>(), ["canceled"], "{account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_changes_the_topology() {
    let rig = Rig::new(Broker::shared(), with_faults("500=0.2")).await;
    let _worker = rig.worker().await;
    let client = Client::connect(&rig.broker, rig.place.names.clone()).await;
    let names = &client.names;
    let channel = &client.channel;
    channel.exchange_delete(names.events().into(), ExchangeDeleteOptions::default()).await.unwrap();
    let since = Utc::now();
    for account in ACCOUNTS {
        let queue = names.commands_of(account);
        let unbound = channel.queue_unbind(queue.into(), names.due().into(), account.into(), FieldTable::default());
        unbound.await.unwrap();
    }
    let recovered = rig.recovery(since).await;
    rig.lasts(s(1), s(30)).await;
    if full() {
        // Retries then stay in their buckets; RabbitMQ looks only every three minutes whether there is a way out again.
        channel.exchange_delete(names.due().into(), ExchangeDeleteOptions::default()).await.unwrap();
    }
    channel.exchange_delete(names.parked().into(), ExchangeDeleteOptions::default()).await.unwrap();
    let mut publisher = rig.ledger.publisher();
    for at in 0..20 {
        let mut faulty = command(&format!("faulty-{at}"), &format!("R-faulty-{at}"));
        faulty["resaon"] = "a typo".into();
        assert!(publisher.publish_faulty(ACCOUNTS[at % 2], &faulty).await);
    }
    rig.lasts(s(1), s(30)).await;
    // Whatever else somebody deletes, a start puts right.
    assert!(rig.place.command(&["topology", "declare"]).env("AMQP_URL", &rig.broker).status().unwrap().success());
    let account = rig.end(TOPIC, "Exchanges and bindings deleted while it runs", Some(recovered)).await;
    // What was delivered again is `no_longer_valid`.
    let of_faulty = ["invalid", "unresolved"].map(|outcome| account.outcomes.get(outcome).copied().unwrap_or_default());
    assert_eq!(of_faulty.iter().sum::<usize>(), 20, "{account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_buckets_are_full() {
    let broker = Broker::shared();
    let rig = Rig::new(broker, with_faults("500=0.6")).await;
    let worker = rig.worker().await;
    let (name, buckets) = (format!("full-{}", rig.place.prefix), format!("^{}.retry", rig.place.prefix));
    broker.ctl(&["set_policy", &name, &buckets, r#"{"max-length":1}"#, "--apply-to", "queues"]);
    worker.wait_for_log("the bucket refused a retry", SOON).await;
    rig.lasts(s(2), minutes(1)).await;
    broker.ctl(&["clear_policy", &name]);
    rig.set_faults(None, "none").await;
    let recovered = rig.back().await;
    rig.end(TOPIC, "Retry buckets are full and refuse", Some(recovered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumers_queue_refuses_events() {
    let rig = Rig::new(Broker::shared(), calm()).await;
    let worker = rig.worker().await;
    let client = Client::connect(&rig.broker, rig.place.names.clone()).await;
    let queue = format!("refusing.{}", rig.place.prefix);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(5));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let (durable, bind) = (QueueDeclareOptions { durable: true, ..Default::default() }, QueueBindOptions::default());
    client.channel.queue_declare(queue.as_str().into(), durable, arguments).await.unwrap();
    let results = client.names.results();
    let bound =
        client.channel.queue_bind(queue.as_str().into(), results.into(), "#".into(), bind, FieldTable::default());
    bound.await.unwrap();
    worker.wait_for_log("decided, but not told", SOON).await;
    rig.lasts(s(2), minutes(1)).await;
    client.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let recovered = rig.recovery(Utc::now()).await;
    let account = rig.end(TOPIC, "A consumer's queue refuses events", Some(recovered)).await;
    assert_eq!(account.unrecorded, 0, "what is decided is not asked again: {account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_end() {
    let broker = Broker::shared();
    let mut rig = Rig::new(broker, calm()).await;
    let user = format!("worker{:08x}", fastrand::u32(..));
    broker.ctl(&["add_user", &user, "first"]);
    broker.ctl(&["set_permissions", &user, ".*", ".*", ".*"]);
    rig.place.url = rig.place.url.replace("guest:guest", &format!("{user}:first"));
    let worker = rig.worker().await;
    broker.ctl(&["change_password", &user, "second"]);
    rig.recovery(Utc::now()).await;
    rig.to_broker.cut();
    worker.wait_for_log("ACCESS_REFUSED", SOON).await;
    rig.lasts(s(2), minutes(10)).await;
    broker.ctl(&["change_password", &user, "first"]);
    let recovered = rig.back().await;
    rig.end(TOPIC, "The password ends, and is renewed", Some(recovered)).await;
}
