//! A rolling update: a worker that writes newer headers beside one that does not know them.

use super::*;

const TOPIC: &str = "worker";
const OURS: i64 = qris_cancel_worker::amqp::headers::VERSION;
const WAITS: &str = "written by another version of the worker";

/// The newer one is the same program behind a relay that writes a higher version into its headers, and reads it back; what an
/// older one has written it reads as it is. All that is seen of it is what a newer version would do.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_beside_a_newer_one() {
    let rig = Rig::new(Broker::shared(), with_faults("500=0.3,504_after=0.1")).await;
    let mut older = rig.worker().await;
    let relay = Relay::start(host(&rig.broker)).await;
    relay.set(Way::Renumber(OURS, OURS + 1));
    let mut newer = rig.worker_over(&relay);
    newer.wait_for_log("\"consuming\"", SOON).await;
    older.wait_for_log(WAITS, SOON).await;
    rig.lasts(ms(500), minutes(1)).await;
    // The update is taken back for a moment: what the newer one has begun waits, and is neither lost nor read wrongly.
    rig.stop_trickle().await;
    assert_eq!(newer.stop("-TERM").await.0, 0);
    rig.set_faults(None, "none").await;
    rig.lasts(s(2), minutes(1)).await;
    let told = rig.ledger.told();
    assert!(told < rig.ledger.book().commands.len(), "some wait for a worker that can read them");
    // Then it is done.
    let last = rig.worker_over(&relay);
    assert_eq!(older.stop("-TERM").await.0, 0);
    let account = rig.end(TOPIC, "Newer headers beside a version that cannot read them", None).await;
    assert!(!last.read_log().contains(WAITS) && !newer.read_log().contains(WAITS), "the newer one reads both");
    assert_eq!(account.unrecorded, 0, "every call is recorded, whichever worker made it: {account}");
    assert_eq!(account.outcomes.keys().collect::<Vec<_>>(), ["canceled"], "{account}");
}
