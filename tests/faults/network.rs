//! What networks do, between worker and broker and between worker and providers.

use super::*;

const TOPIC: &str = "network";

async fn to_the_broker(fault: &str, way: Way, quick: Duration, real: Duration) -> Passed {
    let rig = Rig::with(Broker::shared(), with_faults("0.05"), "?heartbeat=2", |settings| settings).await;
    let _worker = rig.worker().await;
    rig.to_broker.set(way);
    rig.lasts(quick, real).await;
    rig.to_broker.set(Way::Pass);
    let recovered = rig.back().await;
    rig.end(TOPIC, &format!("Broker: {fault}"), Some(recovered)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_cut_off() {
    to_the_broker("connections reset", Way::Cut, s(5), minutes(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_behind_a_black_hole() {
    to_the_broker("black hole", Way::BlackHole, s(7), minutes(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_hears_and_is_not_heard() {
    to_the_broker("half open, nothing comes back", Way::HalfOpen, s(7), minutes(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_far_away() {
    to_the_broker("300 ms late", Way::Delay(Duration::from_millis(300)), s(3), minutes(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_reset_in_the_middle_of_a_frame() {
    let rig = Rig::with(Broker::shared(), with_faults("0.05"), "?heartbeat=2", |settings| settings).await;
    let worker = rig.worker().await;
    // Some are cut while they declare, others in the middle of their work.
    rig.to_broker.set(Way::ResetAfter(5_000, 200_000));
    worker.wait_for_log("connecting again", SOON).await;
    let told = rig.ledger.told();
    rig.lasts(s(3), minutes(1)).await;
    rig.ledger.until_told(told + 20, SOON).await;
    until("a session that this way let begin is reset, too", SOON, || {
        Box::pin(async {
            let sessions = worker.read_log();
            sessions.split("\"consuming\"").skip(2).any(|session| session.contains("connecting again"))
        })
    })
    .await;
    rig.to_broker.set(Way::Pass);
    let recovered = rig.back().await;
    rig.end(TOPIC, "Broker: reset mid-frame, after 5,000 to 200,000 bytes", Some(recovered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_drips() {
    to_the_broker("2,000 bytes a second", Way::Drip(2_000), s(3), minutes(2)).await;
}

async fn to_the_providers(fault: &str, way: Way, quick: Duration, real: Duration) -> Passed {
    let rig = Rig::with(Broker::shared(), calm(), "", resting_as_usual).await;
    let _worker = rig.worker().await;
    rig.set_providers(&way);
    rig.lasts(quick, real).await;
    rig.set_providers(&Way::Pass);
    let recovered = rig.back_at_the_next_trial(None).await;
    let account = rig.end(TOPIC, &format!("Provider: {fault}"), Some(recovered)).await;
    assert_eq!(account.unrecorded, 0, "{account}");
    account
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_is_cut_off() {
    to_the_providers("connections reset", Way::Cut, s(5), minutes(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_is_behind_a_black_hole() {
    to_the_providers("black hole", Way::BlackHole, s(5), minutes(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_hears_and_is_not_heard() {
    to_the_providers("half open, no answer comes back", Way::HalfOpen, s(3), minutes(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_is_far_away() {
    to_the_providers("300 ms late", Way::Delay(Duration::from_millis(300)), ms(2_500), minutes(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_is_reset_in_the_middle() {
    to_the_providers("reset in the middle, after 3,001 bytes", Way::ResetAfter(3_001, 3_001), ms(2_500), minutes(1))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_drips() {
    to_the_providers("500 bytes a second", Way::Drip(500), s(3), minutes(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_kept_alive_is_closed_as_a_request_goes_out() {
    to_the_providers(
        "kept-alive connection closed as a request goes out",
        Way::ResetWhenUsedAgain,
        ms(2_500),
        minutes(1),
    )
    .await;
}
