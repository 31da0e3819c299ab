//! What networks do, between worker and broker and between worker and providers.

use super::*;

const TOPIC: &str = "network";

async fn to_the_broker(fault: &str, way: Way, quick_ms: u64, full_s: u64) -> Account {
    let rig = Rig::with(Broker::shared(), with_faults("0.05"), "?heartbeat=2", |settings| settings).await;
    let _worker = rig.worker().await;
    rig.to_broker.set(way);
    rig.lasts(quick_ms, full_s).await;
    rig.to_broker.set(Way::Pass);
    let recovered = rig.back().await;
    rig.end(TOPIC, &format!("Broker: {fault}"), Some(recovered)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_cut_off() {
    to_the_broker("connections reset", Way::Cut, 5_000, 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_behind_a_black_hole() {
    to_the_broker("black hole", Way::BlackHole, 7_000, 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_hears_and_is_not_heard() {
    to_the_broker("half open, nothing comes back", Way::HalfOpen, 7_000, 120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_far_away() {
    to_the_broker("300 ms late", Way::Delay(Duration::from_millis(300)), 3_000, 120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_reset_in_the_middle_of_a_frame() {
    to_the_broker("reset mid-frame, after 5,003 bytes", Way::ResetAfter(5_003), 3_000, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_drips() {
    to_the_broker("2,000 bytes a second", Way::Drip(2_000), 3_000, 120).await;
}

async fn to_the_providers(fault: &str, way: Way, quick_ms: u64, full_s: u64) -> Account {
    let rig = Rig::with(Broker::shared(), calm(), "", resting_as_usual).await;
    let _worker = rig.worker().await;
    rig.set_providers(&way);
    rig.lasts(quick_ms, full_s).await;
    rig.set_providers(&Way::Pass);
    let recovered = rig.back_at_the_next_trial(None).await;
    let account = rig.end(TOPIC, &format!("Provider: {fault}"), Some(recovered)).await;
    assert_eq!(account.unrecorded, 0, "{account}");
    account
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_is_cut_off() {
    to_the_providers("connections reset", Way::Cut, 5_000, 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_is_behind_a_black_hole() {
    to_the_providers("black hole", Way::BlackHole, 5_000, 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_hears_and_is_not_heard() {
    to_the_providers("half open, no answer comes back", Way::HalfOpen, 3_000, 120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_is_far_away() {
    to_the_providers("300 ms late", Way::Delay(Duration::from_millis(300)), 2_500, 120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_is_reset_in_the_middle() {
    to_the_providers("reset in the middle, after 3,001 bytes", Way::ResetAfter(3_001), 2_500, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_drips() {
    to_the_providers("500 bytes a second", Way::Drip(500), 3_000, 120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_kept_alive_is_closed_as_a_request_goes_out() {
    to_the_providers("kept-alive connection closed as a request goes out", Way::ResetWhenUsedAgain, 2_500, 60).await;
}
