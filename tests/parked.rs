//! `parked`, as operators use it: the real binary, a real broker, and commands that a real worker has set aside.

mod support;

use lapin::{options::*, types::FieldTable};
use qris_cancel_worker::{amqp::headers, event::Finish, message::Properties, outcome::Cause, retry::Progress, sandbox};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use support::{
    cost::{is_alike, measured},
    *,
};

const SOON: Duration = Duration::from_secs(30);

fn calm() -> sandbox::Options {
    sandbox::Options::default()
}

fn parked(place: &Place, arguments: &[&str]) -> Command {
    place.command(&[&["parked"], arguments].concat())
}

async fn ran(place: &Place, arguments: &[&str]) -> Ran {
    run(parked(place, arguments)).await
}

async fn listed(place: &Place, arguments: &[&str]) -> Vec<Value> {
    let ran = ran(place, &[&["list", "--json"], arguments].concat()).await;
    assert_eq!(ran.code, 0, "{}", ran.said);
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn texts<'a>(parked: &'a [Value], field: &str) -> Vec<&'a str> {
    parked.iter().map(|one| one[field].as_str().unwrap_or("-")).collect()
}

/// A command whose time has passed: parked as soon as a worker sees it, and nothing is sent.
fn late(job: &str) -> Value {
    let mut command = command(job, &format!("R-{job}"));
    command["notAfter"] = json!("2020-01-01T00:00:00Z");
    command
}

/// Publishes commands of four kinds, and returns when all are parked and the worker has stopped.
async fn with_some_parked() -> (Place, Client) {
    let place = Place::new(Broker::shared(), calm()).await;
    let mut worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let mut typo = command("job-typo", "R-typo");
    typo["reasonn"] = json!("x");
    assert!(client.publish("bnc", &typo).await);
    assert!(client.publish("nobody", &command("job-stray", "R-stray")).await);
    assert!(client.publish_raw(&client.names.commands(), "ifortepay", b"\xff\x00 no text", persistent()).await);
    for number in 0..3 {
        assert!(client.publish("bnc", &late(&format!("job-late-{number}"))).await);
    }
    events.wait(6, SOON).await;
    worker.stop("-TERM").await;
    until("everything is parked", SOON, || {
        let client = &client;
        Box::pin(async move { client.depth(&client.names.parked()).await == 6 })
    })
    .await;
    (place, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_says_why_and_what_to_do_and_moves_nothing() {
    let (place, client) = with_some_parked().await;
    let first = listed(&place, &[]).await;
    assert_eq!(first.len(), 6);
    for one in &first {
        assert!(!one["toDo"].as_str().unwrap().is_empty() && one["parkedAt"].is_string(), "{one}");
    }
    let of = |job: &str| first.iter().find(|one| one["jobId"] == job).unwrap_or_else(|| panic!("no {job}"));
    let late = of("job-late-1");
    assert_eq!((&late["outcome"], &late["cause"]), (&json!("unresolved"), &json!("not_after_passed")));
    assert_eq!((&late["account"], &late["mayHaveTakenEffect"]), (&json!("bnc"), &json!(false)));
    assert_eq!(of("job-stray")["cause"], "unknown_account");
    assert_eq!(of("job-stray")["account"], "nobody");

    // What it says it says again, in the same order, however often it is asked, and of a part alone.
    assert_eq!(listed(&place, &[]).await, first);
    let of_bnc = listed(&place, &["--account", "bnc"]).await;
    assert_eq!(of_bnc, first.iter().filter(|one| one["account"] == "bnc").cloned().collect::<Vec<_>>());
    assert_eq!(texts(&listed(&place, &["--cause", "unknown_field"]).await, "jobId"), ["job-typo"]);
    let digest = first.iter().find(|one| one["cause"] == "wrong_encoding").unwrap()["commandDigest"].as_str().unwrap();
    assert_eq!(listed(&place, &["--digest", &digest[..12]]).await.len(), 1);
    assert_eq!(listed(&place, &["--job", "job-late-1", "--account", "ifortepay"]).await.len(), 0);

    let table = ran(&place, &["list"]).await.out;
    for wanted in
        ["job-late-2", "not_after_passed", "WHAT TO DO", "replay with --not-after", &digest[..12], "6 parked:"]
    {
        assert!(table.contains(wanted), "no {wanted:?} in\n{table}");
    }

    // What no worker can read is in a queue of its own.
    let unreadable = place.names.unreadable();
    assert_eq!(ran(&place, &["list"]).await.said, "", "it is empty");
    assert!(client.publish_raw("", &unreadable, b"{}", persistent()).await);
    let said = ran(&place, &["list"]).await.said;
    assert!(said.starts_with(&format!("1 command in {unreadable} cannot be read")), "{said}");

    let shown = ran(&place, &["show", "--digest", digest]).await.json();
    assert_eq!(shown["commandHex"], hex::encode(b"\xff\x00 no text"));
    let shown = ran(&place, &["show", "--job", "job-typo"]).await.json();
    assert_eq!(serde_json::from_str::<Value>(shown["command"].as_str().unwrap()).unwrap()["reasonn"], "x");
    assert_eq!(shown["contentType"], "application/json");

    let bodies: Vec<_> = client.drain(&client.names.parked()).await.into_iter().map(|copy| copy.data.clone()).collect();
    assert_eq!(bodies.len(), 6, "nothing is lost");
    let digests: Vec<_> = bodies.iter().map(|body| hex::encode(sha256(body))).collect();
    assert_eq!(digests, texts(&first, "commandDigest"), "and the order is as it was");
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_asks_first_and_keeps_the_history() {
    let more = |_: &str| "[accounts.bnc.retry]\nmax_attempts = 2\ninitial_ms = 250\n".to_owned();
    let place = Place::with_more(Broker::shared(), calm(), more).await;
    let _worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    // Cancelled, and the answer is lost: nobody knows.
    place.send("PUT", "/_sandbox/faults", &json!({ "faults": "504_after=1" })).await;
    assert!(client.publish("bnc", &command("job-1", "R1")).await);
    let unresolved = events.of("job-1", SOON).await;
    assert_eq!(unresolved["data"]["cause"], "attempts_exhausted", "{unresolved}");
    let calls = unresolved["data"]["callsTotal"].as_u64().unwrap();
    place.send("PUT", "/_sandbox/faults", &json!({ "faults": "none" })).await;

    // What its publisher has to mend is not meant by the account alone.
    let mut typo = command("job-typo", "R-typo");
    typo["reasonn"] = json!("x");
    assert!(client.publish("bnc", &typo).await);
    events.of("job-typo", SOON).await;
    let dry = ran(&place, &["replay", "--account", "bnc", "--dry-run"]).await;
    assert!(dry.code == 0 && dry.out.contains("1 would be replayed: bnc attempts_exhausted"), "{}", dry.out);
    assert_eq!(client.depth(&client.names.parked()).await, 2, "a dry run moves nothing");
    let replay = ran(&place, &["replay", "--account", "bnc"]).await;
    let said = &replay.said;
    assert!(replay.code == 0 && said.contains("1 command replayed") && said.contains("1 command left"), "{said}");
    let all = events.wait(3, SOON).await;
    let settled = &all[2].1["data"];
    assert_eq!((&settled["outcome"], &settled["replay"]), (&json!("canceled"), &json!(1)), "{settled}");
    assert_eq!(settled["callsTotal"].as_u64().unwrap(), calls + 1, "one call was enough");
    assert_eq!(settled["calls"].as_array().unwrap().last().unwrap()["operation"], "query");
    assert_eq!(settled["receivedAt"], unresolved["data"]["receivedAt"]);
    assert_ne!(all[0].1["id"], all[2].1["id"]);
    assert_eq!(client.depth(&client.names.parked()).await, 1);
    let replay = ran(&place, &["replay", "--job", "job-typo"]).await;
    assert!(replay.code == 0 && replay.said.contains("1 command replayed"), "named, it is meant: {}", replay.said);
    let again = &events.wait(4, SOON).await[3].1["data"];
    assert_eq!((&again["cause"], &again["replay"]), (&json!("unknown_field"), &json!(1)));

    let watch = ["watch", "--since", "1h", "--job", "job-typo", "--idle-s", "2", "--json"];
    let of_typo: Vec<_> = run(place.command(&watch)).await.out.lines().map(str::to_owned).collect();
    assert_eq!(of_typo.len(), 2, "both events of this job and no other's: {of_typo:?}");
    assert!(of_typo.iter().all(|event| event.contains("job-typo")), "{of_typo:?}");
    let none = run(place.command(&["watch", "--since", "1h", "--job", "job-x", "--idle-s", "1"])).await;
    assert!(none.code == 1 && none.said.contains("no event of \"job-x\""), "{}", none.said);
    let other = ["watch", "--since", "1h", "--job", "job-typo", "--outcome", "canceled", "--idle-s", "2"];
    let other = run(place.command(&other)).await;
    assert!(other.code == 1 && other.said.contains("\"job-typo\" has events"), "{}", other.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_can_give_more_time() {
    let place = Place::new(Broker::shared(), calm()).await;
    let _worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    assert!(client.publish("bnc", &late("job-1")).await);
    events.wait(1, SOON).await;
    assert_eq!(ran(&place, &["replay", "--all", "--not-after", "2020-01-01T00:00:00Z"]).await.code, 64);
    // Without it the command comes back as it went.
    assert_eq!(ran(&place, &["replay", "--job", "job-1"]).await.code, 0);
    let again = &events.wait(2, SOON).await[1].1["data"];
    assert_eq!((&again["cause"], &again["replay"]), (&json!("not_after_passed"), &json!(1)), "{again}");
    let tomorrow = (chrono::Utc::now() + chrono::TimeDelta::days(1)).to_rfc3339();
    assert_eq!(ran(&place, &["replay", "--job", "job-1", "--not-after", &tomorrow]).await.code, 0);
    let settled = &events.wait(3, SOON).await[2].1["data"];
    assert_eq!((&settled["outcome"], &settled["replay"]), (&json!("canceled"), &json!(2)), "{settled}");
}

/// Kills a process at a random moment after it has begun its work.
fn kill_sometime(mut child: Child, has_begun: impl Fn() -> bool) {
    let begun = Instant::now();
    while !has_begun() && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < SOON, "it does nothing");
    }
    std::thread::sleep(Duration::from_millis(fastrand::u64(0..500)));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How much lies in the parking queue when nobody has anything of it in hand.
async fn settled(place: &Place) -> usize {
    until("nobody has anything in hand", SOON, || {
        Box::pin(async move { tokio::task::block_in_place(|| place.broker.in_hand(&place.names.parked())) == 0 })
    })
    .await;
    place.client().await.depth(&place.names.parked()).await as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_at_any_moment_loses_nothing() {
    const JOBS: usize = 4_000;
    let (place, client) = with_many_parked(JOBS, 0).await;
    let mut events = client.collect().await;
    let mut left = JOBS;
    for _ in 0..5 {
        let child = parked(&place, &["replay", "--all"]).stderr(Stdio::null()).spawn().unwrap();
        let queue = place.names.parked();
        tokio::task::block_in_place(|| kill_sometime(child, || place.broker.in_hand(&queue) > 0));
        let now = settled(&place).await;
        assert!(now <= left, "{now} are left of {left}");
        left = now;
    }
    assert_eq!(ran(&place, &["replay", "--all"]).await.code, i32::from(left == 0));
    assert_eq!(client.depth(&place.names.parked()).await, 0);

    let _worker = place.worker().await;
    let begun = Instant::now();
    let again = loop {
        events.read().await;
        let mut again: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (_, event) in &events.all {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            assert_eq!(event["data"]["replay"], 1, "{event}");
            again.entry(text(&event["data"]["jobId"])).or_default().insert(text(&event["id"]));
        }
        if again.len() == JOBS {
            break again;
        }
        assert!(begun.elapsed() < SOON * 4, "{} of {JOBS} came again", again.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(again.values().all(|ids| ids.len() == 1), "a command that ran twice has two ids");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discard_that_is_killed_at_any_moment_has_printed_what_it_has_thrown_away() {
    const JOBS: usize = 4_000;
    let (place, client) = with_many_parked(JOBS, 0).await;
    let out = place.dir.path().join("discarded");
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        let mut discard = parked(&place, &["discard", "--account", "bnc", "--yes"]);
        discard.stdout(Stdio::from(std::fs::File::create(&out).unwrap())).stderr(Stdio::null());
        let child = discard.spawn().unwrap();
        let queue = place.names.parked();
        tokio::task::block_in_place(|| kill_sometime(child, || place.broker.in_hand(&queue) > 0));
        let left = settled(&place).await;
        seen.extend(jobs_of(&printed(&out)));
        let there = listed(&place, &[]).await;
        assert_eq!(
            there.iter().filter(|one| one["account"] == "ifortepay").count(),
            JOBS / 2,
            "what is not chosen stays"
        );
        let all: BTreeSet<_> = jobs_of(&there).into_iter().chain(seen.iter().cloned()).collect();
        assert_eq!((there.len(), all.len()), (left, JOBS), "each is there, or was printed");
    }
    let rest = client.depth(&place.names.parked()).await as usize - JOBS / 2;
    let discarded = ran(&place, &["discard", "--account", "bnc", "--yes"]).await;
    assert_eq!(discarded.code, i32::from(rest == 0), "{}", discarded.said);
    assert_eq!(client.depth(&place.names.parked()).await as usize, JOBS / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_reader_is_told_apart_from_an_end() {
    let (place, client) = with_many_parked(3_000, 0).await;
    // Nobody reads what this prints, so it stops in the middle; then somebody else takes the rest.
    let mut list = parked(&place, &["list", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(list.stdout.take().unwrap());
    tokio::task::block_in_place(|| out.read_line(&mut String::new())).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let queue = place.names.parked();
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let _other = client.channel.basic_consume(queue.as_str().into(), "other".into(), options, none).await.unwrap();
    until("the other has what it gets", SOON, || {
        let (client, queue) = (&client, &queue);
        Box::pin(async move { client.depth(queue).await < 1_000 })
    })
    .await;
    let note = ran(&place, &["list"]).await;
    assert!(note.said.contains("consumers of others"), "{}", note.said);
    let rest = tokio::task::spawn_blocking(move || out.lines().count());
    let ended = tokio::task::spawn_blocking(move || list.wait_with_output()).await.unwrap().unwrap();
    assert!(rest.await.unwrap() < 3_000);
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(75) && said.contains("another reader has them"), "{said}");
}

/// Parked copies as a worker writes them, of two accounts in turn. Their bodies are padded to so many bytes.
async fn with_many_parked(count: usize, bytes: usize) -> (Place, Client) {
    let place = Place::new(Broker::shared(), calm()).await;
    assert_eq!(run(place.command(&["topology", "declare"])).await.code, 0);
    let client = place.client().await;
    let at = chrono::Utc::now();
    let finish = |cause| Finish { cause, at, ambiguous: false, parked: true, tellings: 0, said: Default::default() };
    let (mut unconfirmed, options) = (VecDeque::new(), BasicPublishOptions::default());
    for number in 0..count {
        let account = ["bnc", "ifortepay"][number % 2];
        let ours = headers::of_parked(account, &Progress::new(at), &finish(Cause::NotAfterPassed));
        let plain = Properties { content_type: Some("application/json".into()), ..Properties::default() };
        let mut body = late(&format!("job-{number}"));
        body["metadata"] = json!("x".repeat(bytes));
        let (exchange, properties) = (place.names.parked(), headers::copied(&plain, ours));
        let body = body.to_string();
        let sent = client.channel.basic_publish(exchange.into(), account.into(), options, body.as_bytes(), properties);
        unconfirmed.push_back(sent.await.unwrap());
        if unconfirmed.len() > 500 {
            assert!(unconfirmed.pop_front().unwrap().await.unwrap().is_ack());
        }
    }
    for confirm in unconfirmed {
        assert!(confirm.await.unwrap().is_ack());
    }
    (place, client)
}

fn jobs_of(parked: &[Value]) -> Vec<String> {
    texts(parked, "jobId").into_iter().map(str::to_owned).collect()
}

/// More than a quorum queue gives to a consumer without a limit (2,000), and more than the consumers of two channels hold (32,000); the
/// variable PARKED asks for more. `cargo test --test parked of_a_long_queue -- --nocapture` shows what each step costs.
#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::disallowed_methods, reason = "how many is no setting of the worker")]
async fn of_a_long_queue_all_is_listed_in_its_order_and_what_is_chosen_leaves_it() {
    let many = std::env::var("PARKED").map_or(33_000, |many| many.parse().unwrap());
    let half = many / 2;
    let (place, client) = with_many_parked(many, 0).await;
    let out = place.dir.path().join("out");
    let step = async |arguments: &[&str]| {
        let cost = measured(parked(&place, arguments), &out).await;
        println!("{many} parked: {arguments:?} took {:.1?}, {} KiB at most", cost.took, cost.memory);
        assert_eq!(cost.ran.code, 0, "{}", cost.ran.said);
        (cost.ran.said, read(&out))
    };
    let objects = |text: &str| serde_json::Deserializer::from_str(text).into_iter().map(Result::unwrap).collect();
    let first: Vec<Value> = objects(&step(&["list", "--json"]).await.1);
    let in_order: Vec<_> = (0..many).map(|number| format!("job-{number}")).collect();
    assert!(texts(&first, "jobId") == in_order, "all of them, in their order");

    let table = step(&["list"]).await.1;
    let lines: Vec<_> = table.lines().collect();
    let column = lines[0].find("WHAT TO DO").unwrap();
    let astray = lines[1..=many].iter().find(|line| !line[column..].starts_with("may it still be"));
    assert_eq!((astray, lines.len()), (None, many + 3), "the columns are stable");
    let sum = format!("{many} parked: bnc not_after_passed {half}, ifortepay not_after_passed {half}");
    assert_eq!(lines[many + 2], sum);

    let said = step(&["replay", "--account", "bnc"]).await.0;
    assert_eq!(said, format!("{half} commands replayed\n"));
    let rest: Vec<Value> = objects(&step(&["list", "--json"]).await.1);
    let others: Vec<_> = first.iter().filter(|one| one["account"] == "ifortepay").cloned().collect();
    let (is, was) = (texts(&rest, "jobId"), texts(&others, "jobId"));
    assert_eq!(is.len(), was.len(), "the rest is there");
    let moved = is.iter().zip(&was).position(|(is, was)| is != was);
    let around = moved.map(|at| (at, &is[at.saturating_sub(1)..(at + 3).min(is.len())]));
    assert_eq!(around, None, "the rest, in its order: two lists and a replay have moved nothing");
    assert!(rest == others, "nothing of them has changed");
    let queue = place.names.commands_of("bnc");
    until("each comes to its account once", SOON * 4, || {
        let (client, queue) = (&client, &queue);
        Box::pin(async move { client.depth(queue).await as usize == half })
    })
    .await;

    let (said, thrown_away) = step(&["discard", "--all", "--yes"]).await;
    assert_eq!(said, format!("{half} commands discarded\n"));
    let thrown_away: Vec<Value> = objects(&thrown_away);
    assert!(texts(&thrown_away, "jobId") == texts(&rest, "jobId"), "each is printed");
    assert_eq!(client.depth(&place.names.parked()).await, 0);
    assert_eq!(step(&["list"]).await.1, "nothing is parked that was asked for\n");
}

/// What `show` and `discard` have printed; of a process that was killed, all but the last, which may lack its end.
fn printed(path: &Path) -> Vec<Value> {
    let text = read(path);
    serde_json::Deserializer::from_str(&text).into_iter().map_while(Result::ok).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_queue() {
    const BYTES: usize = 8_000;
    let (few, many) = (with_many_parked(1_000, BYTES).await.0, with_many_parked(10_000, BYTES).await.0);
    let out = few.dir.path().join("out");
    for arguments in [&["list"][..], &["show"], &["replay", "--account", "bnc"], &["discard", "--all", "--yes"]] {
        let little = measured(parked(&few, arguments), &out).await;
        let much = measured(parked(&many, arguments), &out).await;
        is_alike(&format!("{arguments:?}"), &little, &much);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_discarded_is_asked_for_and_shown() {
    let (place, client) = with_some_parked().await;
    for digest in ["", "#", "abc", "xyz12345"] {
        let ran = ran(&place, &["discard", "--yes", "--digest", digest]).await;
        assert!(ran.code == 64 && ran.said.contains("hexadecimal"), "{digest:?}: {}", ran.said);
    }
    let unasked = ran(&place, &["discard", "--all"]).await;
    assert!(unasked.code == 64 && unasked.said.contains("--yes"), "{}", unasked.said);
    for nothing_chosen in [&["discard", "--yes"][..], &["replay"]] {
        assert_eq!(ran(&place, nothing_chosen).await.code, 64);
    }
    let wrong = ran(&place, &["discard", "--cause", "unknown_feild", "--yes"]).await;
    assert!(wrong.code == 64 && wrong.said.contains("'unknown_field'"), "{}", wrong.said);
    let none = ran(&place, &["discard", "--job", "job-x", "--yes"]).await;
    assert!(none.code == 1 && none.said.contains("none of the parked commands"), "{}", none.said);
    let mut unprinted = parked(&place, &["discard", "--all", "--yes"]);
    unprinted.stdout(Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap()));
    let status = tokio::task::block_in_place(|| unprinted.stderr(Stdio::null()).status()).unwrap();
    assert_eq!(status.code(), Some(69), "what nobody has seen is not thrown away");
    let dry = ran(&place, &["replay", "--job", "job-stray", "--dry-run"]).await;
    assert!(dry.code == 1 && dry.said.contains("no account \"nobody\""), "{}", dry.said);
    let stray = ran(&place, &["replay", "--job", "job-stray"]).await;
    assert!(stray.code == 1 && stray.said.contains("no account \"nobody\""), "{}", stray.said);
    assert_eq!(client.depth(&client.names.parked()).await, 6);

    // On a terminal (script(1) is one) it asks.
    let asking = parked(&place, &["discard", "--job", "job-late-0"]);
    let line: Vec<_> =
        [asking.get_program()].into_iter().chain(asking.get_args()).map(|part| part.to_str().unwrap()).collect();
    for (answer, left) in [("\n", 6), ("no\n", 6), ("y\n", 5)] {
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &line.join(" "), "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        terminal.envs(asking.get_envs().map(|(name, value)| (name, value.unwrap())));
        let mut terminal = terminal.spawn().unwrap();
        let mut typed = terminal.stdin.take().unwrap();
        std::io::Write::write_all(&mut typed, answer.as_bytes()).unwrap();
        let output = tokio::task::block_in_place(|| terminal.wait_with_output()).unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(shown.contains("Discard 1 command for good? [y/N]") && shown.contains("job-late-0"), "{shown}");
        assert_eq!(client.depth(&client.names.parked()).await, left, "{answer:?}: {shown}");
    }

    let discarded = ran(&place, &["discard", "--cause", "not_after_passed", "--yes"]).await;
    assert_eq!((discarded.code, discarded.said.as_str()), (0, "2 commands discarded\n"));
    for number in 1..3 {
        assert!(discarded.out.contains(&format!("job-late-{number}")), "{}", discarded.out);
    }
    assert_eq!(listed(&place, &[]).await.len(), 3);
}

/// RabbitMQ 3.10 ends the channel then. 4.3 ends the consumer alone, and takes acknowledgements to no effect.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_too_late_discards_nothing_and_says_so() {
    let broker = Broker::own();
    broker.ctl(&[
        "eval",
        "application:set_env(rabbit, consumer_timeout, 2000), application:set_env(rabbit, channel_tick_interval, 1000).",
    ]);
    let place = Place::new(&broker, calm()).await;
    assert!(place.command(&["topology", "declare"]).status().unwrap().success());
    let client = place.client().await;
    for job in 0..5 {
        let body = format!(r#"{{"jobId":"job-{job}"}}"#);
        assert!(client.publish_raw(&client.names.parked(), "bnc", body.as_bytes(), persistent()).await);
    }
    let asking = parked(&place, &["discard", "--all"]);
    let line: Vec<_> =
        [asking.get_program()].into_iter().chain(asking.get_args()).map(|part| part.to_str().unwrap()).collect();
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &line.join(" "), "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    terminal.envs(asking.get_envs().map(|(name, value)| (name, value.unwrap())));
    let mut terminal = terminal.spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut typed = terminal.stdin.take().unwrap();
    std::io::Write::write_all(&mut typed, b"y\n").unwrap();
    let output = tokio::task::block_in_place(|| terminal.wait_with_output()).unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("Discard 5 commands for good?") && shown.contains("0 commands discarded"), "{shown}");
    assert!(shown.contains("the broker has taken back what was read"), "{shown}");
    assert_eq!(output.status.code(), Some(75), "{shown}");
    assert_eq!(client.depth(&client.names.parked()).await, 5);
}

/// More than RabbitMQ takes acknowledgements of at once: those that it still held back when a channel ends would come again.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_are_discarded_none_comes_back() {
    const MANY: usize = 300;
    let (place, client) = with_many_parked(MANY, 0).await;
    let discarded = ran(&place, &["discard", "--all", "--yes"]).await;
    assert!(discarded.code == 0 && discarded.said.contains("300 commands discarded"), "{}", discarded.said);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(client.depth(&client.names.parked()).await, 0);
}
