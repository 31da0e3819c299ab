//! Every wait has a limit: each of them runs out. A heartbeat's is among what can befall RabbitMQ.

use super::*;
use relay::Direction;
use support::frames::acknowledges;

const TOPIC: &str = "limits";

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_to_the_provider() {
    let rig = Rig::with(Broker::shared(), calm(), "", resting_as_usual).await;
    let worker = rig.worker().await;
    rig.pause().await;
    let unknown = worker.metric(UNKNOWN).await;
    rig.set_providers(&Way::Unanswered);
    for relay in [&rig.ifortepay, &rig.bnc] {
        relay.until_held(SOON).await;
    }
    rig.start_trickle("unconnected");
    rig.lasts(s(3), minutes(2)).await;
    assert_eq!(worker.metric(UNKNOWN).await, unknown, "nothing was sent, and that is known");
    rig.set_providers(&Way::Pass);
    let recovered = rig.back_at_the_next_trial(None).await;
    let account = rig.end(TOPIC, "Provider: nobody answers a call for a connection", Some(recovered)).await;
    assert_eq!(account.unrecorded, 0, "{account}");
}

async fn calls_time_out(faults: &str, fault: &str) {
    let rig = Rig::with(Broker::shared(), calm(), "", resting_as_usual).await;
    let worker = rig.worker().await;
    rig.ledger.recovery(Utc::now(), Some("bnc"), SOON).await;
    rig.set_faults(Some("bnc"), faults).await;
    let end = rig.set_faults(Some("bnc"), "none");
    let recovered = rig.one_account_suffers(&worker, ms(1_500), minutes(10), end).await;
    let account = rig.end(TOPIC, fault, Some(recovered)).await;
    assert!(account.unrecorded == 0 && rig.queries().await > 0, "{account}");
    assert_eq!(account.cancelled_beside.len(), 0, "who cancels again has asked: {account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_time_out_before_they_take_effect() {
    calls_time_out("hang=1", "Provider: every call hangs, and nothing was done").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_time_out_after_they_took_effect() {
    calls_time_out("hang_after=1", "Provider: every call hangs after it took effect").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_calls_time_out() {
    provider::without_tokens(TOPIC, "Provider: the token call hangs", Way::BlackHole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_to_the_broker() {
    let rig = Rig::new(Broker::shared(), with_faults("0.05")).await;
    let worker = rig.worker().await;
    rig.to_broker.set(Way::Unanswered);
    rig.to_broker.until_held(SOON).await;
    rig.lasts(s(5), minutes(2)).await;
    worker.wait_for_log("did not answer within", SOON).await;
    rig.to_broker.set(Way::Pass);
    let recovered = rig.back().await;
    rig.end(TOPIC, "Broker: nobody answers a call for a connection", Some(recovered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_does_not_confirm() {
    let rig = Rig::new(Broker::shared(), with_faults("0.05")).await;
    let worker = rig.worker().await;
    rig.to_broker.hold(acknowledges(Direction::In));
    worker.wait_for_log("no confirm within", SOON).await;
    rig.lasts(s(2), minutes(2)).await;
    rig.to_broker.set(Way::Pass);
    let recovered = rig.back().await;
    rig.end(TOPIC, "Broker: takes messages and does not confirm them", Some(recovered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_period_ends_before_the_calls_do() {
    let slow = |settings: String| {
        settings.replace("timeout_ms = 2_000", "timeout_ms = 30_000").replace("grace_ms = 2_000", "grace_ms = 1_000")
    };
    let options = sandbox::Options { hang: SOON * 2, ..calm() };
    let rig = Rig::with(Broker::shared(), options, "", slow).await;
    let mut worker = rig.worker().await;
    rig.set_faults(None, "hang=0.1,hang_after=0.1").await;
    until("calls hang", SOON, || {
        Box::pin(async {
            let injected = rig.place.get("/_sandbox").await["injected"].clone();
            ["hang", "hang_after"].iter().all(|fault| injected[fault].as_u64() > Some(0))
        })
    })
    .await;
    let (code, took) = worker.stop("-TERM").await;
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(15), "with a second of grace it took {took:?}");
    rig.set_faults(None, "none").await;
    let since = Utc::now();
    let _worker = rig.worker().await;
    let recovered = rig.recovery(since).await;
    let account = rig.end(TOPIC, "Worker: SIGTERM, and calls outlast the grace period", Some(recovered)).await;
    assert!(
        account.unrecorded == 0 && rig.queries().await > 0,
        "what was broken off is recorded, and asked about: {account}"
    );
}
