//! What can befall the worker's process.

use super::*;
use relay::Direction;
use std::process::Stdio;
use support::frames::{acknowledges, publishes_to};

const TOPIC: &str = "worker";

/// Kills the worker while a frame is held back that it wants to send, or has to get, and starts it again.
async fn killed_while_held(
    fault: &str,
    faults: &str,
    is_held: impl FnOnce(&Rig) -> Box<dyn Fn(Direction, &[u8]) -> bool + Send + Sync>,
) -> Passed {
    let rig = Rig::new(Broker::shared(), with_faults(faults)).await;
    let worker = rig.worker().await;
    let is_held = is_held(&rig);
    rig.to_broker.hold(move |direction, frame| is_held(direction, frame));
    rig.to_broker.until_held(SOON).await;
    let (_worker, recovered) = dies_and_another_goes_on(&rig, worker).await;
    rig.end(TOPIC, fault, Some(recovered)).await
}

/// Lets more commands come to the point where frames are held, and kills the worker there; another takes its place.
async fn dies_and_another_goes_on(rig: &Rig, mut worker: Worker) -> (Worker, Duration) {
    tokio::time::sleep(Duration::from_millis(500)).await;
    worker.kill();
    rig.to_broker.cut();
    rig.to_broker.set(relay::Way::Pass);
    rig.set_faults(None, "none").await;
    let since = Utc::now();
    let another = rig.worker().await;
    let recovered = rig.recovery(since).await;
    (another, recovered)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_call_and_before_the_event() {
    let account = killed_while_held("SIGKILL after the call, before the event", "none", |rig| {
        Box::new(publishes_to(rig.place.names.events()))
    })
    .await;
    assert!(account.unrecorded > 0, "the calls before the kill are recorded nowhere: {account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_event_and_its_confirm() {
    let account = killed_while_held("SIGKILL after the event, before its confirm", "none", |_| {
        Box::new(acknowledges(Direction::In))
    })
    .await;
    assert!(account.repeats > 0, "what was told is told again: {account}");
}

/// What is told twice was delivered again, with its event or with a copy for a retry out already.
fn told_by_two_deliveries(passed: &Passed) {
    assert!(passed.redelivered > 0 && passed.repeats > 0, "delivered again, and told again: {passed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_confirm_and_before_the_acknowledgement() {
    let passed = killed_while_held("SIGKILL after the event's confirm, before the acknowledgement", "none", |_| {
        Box::new(acknowledges(Direction::Out))
    })
    .await;
    told_by_two_deliveries(&passed);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_a_retry_and_the_acknowledgement() {
    let rig = Rig::new(Broker::shared(), with_faults("none")).await;
    let worker = rig.worker().await;
    rig.pause().await;
    // Nothing is done any more, so whatever is acknowledged has a copy that waits for its retry.
    rig.set_faults(None, "429=1").await;
    rig.to_broker.hold(acknowledges(Direction::Out));
    rig.start_trickle("later");
    rig.to_broker.until_held(SOON).await;
    let (_worker, recovered) = dies_and_another_goes_on(&rig, worker).await;
    let fault = "SIGKILL between a retry's confirm and the acknowledgement";
    told_by_two_deliveries(&rig.end(TOPIC, fault, Some(recovered)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_a_retry_is_published() {
    killed_while_held("SIGKILL before a retry is published", "504_after=0.5", |rig| {
        Box::new(publishes_to(rig.place.names.bucket_for(Duration::from_millis(250)).0))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_parked_copy_and_the_event() {
    let rig = Rig::new(Broker::shared(), calm()).await;
    rig.stop_trickle().await;
    let mut publisher = rig.ledger.publisher();
    for at in 0..40 {
        let mut faulty = command(&format!("faulty-{at}"), &format!("R-faulty-{at}"));
        faulty["resaon"] = "a typo".into();
        assert!(publisher.publish_faulty(ACCOUNTS[at % 2], &faulty).await);
    }
    rig.to_broker.hold(publishes_to(rig.place.names.events()));
    let mut worker = rig.place.worker_unready();
    rig.to_broker.until_held(SOON).await;
    let client = Client::connect(&rig.broker, rig.place.names.clone()).await;
    assert!(client.depth(&client.names.parked()).await > 0);
    worker.kill();
    rig.to_broker.cut();
    rig.to_broker.set(relay::Way::Pass);
    let since = Utc::now();
    let _worker = rig.place.worker().await;
    let recovered = rig.recovery(since).await;
    let account = rig.end(TOPIC, "SIGKILL between the parked copy and its event", Some(recovered)).await;
    // What was delivered again is `no_longer_valid`.
    let of_faulty = ["invalid", "unresolved"].map(|outcome| account.outcomes.get(outcome).copied().unwrap_or_default());
    assert_eq!(of_faulty.iter().sum::<usize>(), 40, "{account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again() {
    let options = sandbox::Options { latency: Duration::from_millis(15), ..with_faults("0.2") };
    let rig = Rig::new(Broker::shared(), options).await;
    let mut since = Utc::now();
    for _ in 0..if full() { 100 } else { 5 } {
        let mut worker = rig.worker().await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..400))).await;
        worker.kill();
        since = Utc::now();
    }
    let _worker = rig.worker().await;
    let recovered = rig.recovery(since).await;
    rig.set_faults(None, "none").await;
    rig.end(TOPIC, "SIGKILL at any moment, again and again", Some(recovered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_under_load() {
    let options =
        sandbox::Options { latency: Duration::from_millis(30), hang: SOON, ..with_faults("hang=0.1,504_after=0.1") };
    let patient = |settings: String| settings.replace("\ntimeout_ms = 2_000", "\ntimeout_ms = 30_000");
    let rig = Rig::with(Broker::shared(), options, "", patient).await;
    for _ in 0..2 {
        let mut worker = rig.worker().await;
        let (code, took) = worker.stop("-TERM").await;
        assert_eq!(code, 0);
        assert!(took < Duration::from_secs(15), "with two seconds of grace it took {took:?}");
    }
    let since = Utc::now();
    let _worker = rig.worker().await;
    let recovered = rig.recovery(since).await;
    rig.set_faults(None, "none").await;
    let account = rig.end(TOPIC, "SIGTERM under load, while calls hang", Some(recovered)).await;
    assert_eq!(account.unrecorded, 0, "a stop records every call that it has made: {account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_and_one_dies() {
    let rig = Rig::new(Broker::shared(), with_faults("0.1")).await;
    let (_first, mut second) = (rig.worker().await, rig.worker().await);
    second.kill();
    let recovered = rig.recovery(Utc::now()).await;
    tokio::time::sleep(lasting(s(2), minutes(1))).await;
    rig.end(TOPIC, "Two workers on the same queues, and one is killed", Some(recovered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart() {
    let options = sandbox::Options { latency: Duration::from_millis(20), ..calm() };
    let rig = Rig::new(Broker::shared(), options).await;
    let mut workers = vec![rig.worker().await, rig.worker().await, rig.worker().await];
    for worker in &mut workers {
        assert_eq!(worker.stop("-TERM").await.0, 0);
        *worker = rig.worker().await;
    }
    let account = rig.end(TOPIC, "Rolling restart of three workers", None).await;
    assert_eq!((account.unrecorded, account.repeats), (0, 0), "{account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_by_memory() {
    let many =
        |settings: String| settings.replace("\ntimeout_ms = 2_000", "\nmax_in_flight = 1_000\ntimeout_ms = 30_000");
    let mut rig = Rig::with(Broker::shared(), calm(), "", many).await;
    // Else its allocator sets a gigabyte of addresses aside, and the limit comes too late.
    rig.place.inside = ["env", "MIMALLOC_ARENA_RESERVE=0"].map(str::to_owned).to_vec();
    let mut worker = rig.worker().await;
    rig.place.inside.clear();
    rig.set_faults(None, "hang=1").await;
    let pid = worker.child.id().to_string();
    let limited = std::process::Command::new("prlimit").args(["--pid", &pid, "--as=1000000"]).status().unwrap();
    assert!(limited.success());
    // Commands that need memory, until there is none: then it dies, which must be no more than any death.
    let mut publisher = rig.ledger.publisher();
    let begun = Instant::now();
    for at in 0.. {
        let mut large = command(&format!("large-{at}"), &format!("R-large-{at}"));
        large["metadata"] = serde_json::json!({ "text": "x".repeat(50_000) });
        publisher.publish(ACCOUNTS[at % 2], &large).await;
        if worker.child.try_wait().unwrap().is_some() {
            break;
        }
        assert!(begun.elapsed() < SOON, "the worker lives without memory:\n{}", worker.read_log());
    }
    let log = worker.read_log();
    assert!(log.contains("memory allocation of"), "it died of something else:\n{log}");
    rig.set_faults(None, "none").await;
    let since = Utc::now();
    let _worker = rig.worker().await;
    let recovered = rig.recovery(since).await;
    rig.end(TOPIC, "No more memory (`prlimit --as`)", Some(recovered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written() {
    let rig = Rig::new(Broker::shared(), with_faults("0.1")).await;
    rig.stop_trickle().await;
    let full_disk = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = rig.place.command(&["run"]).stdout(Stdio::null()).stderr(full_disk).spawn().unwrap();
    let mut worker = rig.place.begun(child, "/dev/null".into());
    rig.start_trickle("unlogged");
    rig.ledger.until_told(100, SOON).await;
    assert_eq!(worker.stop("-TERM").await.0, 0);
    let _worker = rig.worker().await;
    rig.end(TOPIC, "Log on a full disk (`/dev/full`)", None).await;
}

/// Where faketime's library is. Installs Debian's package if that is possible here.
fn faketime() -> String {
    let found = || {
        let folders =
            ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib/faketime"];
        let libraries = folders.map(|folder| format!("{folder}/libfaketimeMT.so.1"));
        libraries.into_iter().find(|library| std::path::Path::new(library).exists())
    };
    found().unwrap_or_else(|| {
        let install = "apt-get update; apt-get install -y --no-install-recommends -o Acquire::Retries=3 \
                       -o DPkg::Lock::Timeout=300 faketime";
        let done = std::process::Command::new("sh").args(["-c", install]).output().unwrap();
        found().unwrap_or_else(|| panic!("this test needs faketime. Type: sudo apt-get install faketime\n{done:?}"))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_jumps() {
    let library = faketime();
    let rig = Rig::new(Broker::shared(), with_faults("500=0.1")).await;
    let offset = rig.place.dir.path().join("offset");
    std::fs::write(&offset, "+0").unwrap();
    let log = rig.place.dir.path().join("faked.log");
    let mut run = rig.place.command(&["run"]);
    run.env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &offset)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let child = run.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let worker = rig.place.begun(child, log);
    rig.ledger.until_told(50, SOON).await;
    // A small jump is nobody's business; of a large one the provider refuses every signature.
    for jump in ["+60", "-60", "+3600", "-3600"] {
        std::fs::write(&offset, jump).unwrap();
        rig.lasts(ms(1_500), minutes(2)).await;
    }
    worker.wait_for_log("this machine's clock first", SOON).await;
    std::fs::write(&offset, "+0").unwrap();
    // Some events are of the future, so the recovery is not theirs to tell.
    let (told, begun) = (rig.ledger.told(), Instant::now());
    rig.ledger.until_told(told + 1, SOON).await;
    let recovered = begun.elapsed();
    let account = rig.end(TOPIC, "Clock a minute and an hour ahead and back (`faketime`)", Some(recovered)).await;
    assert_eq!(account.outcomes.get("unresolved"), None, "a wrong clock parks nothing: {account}");
}
