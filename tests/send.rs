//! `send` and `watch`, as people and scripts use them: the real binary, with a real broker and worker.

mod support;

use qris_cancel_worker::sandbox;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};
use support::{
    cost::{is_alike, measured, memory_of},
    *,
};

const JOBS: usize = 1_000;
const WAIT: std::time::Duration = std::time::Duration::from_secs(30);

async fn place() -> Place {
    Place::new(Broker::shared(), sandbox::Options::default()).await
}

/// Runs a command with these lines on its standard input.
async fn fed(mut command: Command, lines: String) -> Ran {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    command.stdin(Stdio::from(file));
    run(command).await
}

fn lines(commands: impl Iterator<Item = Value>) -> String {
    commands.map(|command| format!("{command}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commands_are_sent_and_summed_up_and_the_exit_code_can_be_relied_on() {
    let place = place().await;
    let worker = place.worker().await;
    let commands = |kind: &str| {
        let all: Vec<_> = (0..JOBS).map(|at| command(&format!("{kind}-{at}"), &format!("R-{kind}-{at}"))).collect();
        all.into_iter()
    };
    let well = ["send", "--stdin", "--account", "bnc", "--wait", "--timeout-s", "300"];
    let ran = fed(place.command(&well), lines(commands("well"))).await;
    assert_eq!(ran.code, 0, "{}", ran.said);
    assert!(ran.said.contains(&format!("{JOBS} commands confirmed by the broker in ")), "{}", ran.said);
    let last = ran.out.lines().last().unwrap();
    assert!(
        last.starts_with(&format!("{JOBS} commands in, {JOBS} outcomes out in ")) && last.ends_with("/s)"),
        "{last}"
    );
    assert!(ran.out.contains(&format!("[{JOBS}/{JOBS}] ")));
    let row = ran.out.lines().find(|line| line.starts_with("canceled")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["canceled", "canceled", &JOBS.to_string()]);
    assert!(!ran.out.contains('\u{1b}'), "colour where no person reads");

    // One that does not end well, among others, whose accounts stand in their lines.
    let faulty = json!({ "account": "ifortepay", "jobId": "faulty", "originalReferenceNo": "R", "reasn": "typo" });
    let good = json!({ "account": "bnc", "jobId": "good", "originalReferenceNo": "R", "reason": "x" });
    let ran = fed(place.command(&["send", "--stdin", "--wait", "--json"]), lines([faulty, good].into_iter())).await;
    assert_eq!(ran.code, 1, "{}", ran.said);
    assert!(ran.said.contains("1 command ended as neither canceled, paid nor closed"), "{}", ran.said);
    let mut jobs: Vec<_> =
        ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["subject"].clone()).collect();
    jobs.sort_by_key(ToString::to_string);
    assert_eq!(jobs, ["faulty", "good"], "the events and nothing else");

    // Nobody is there to end it.
    drop(worker);
    let late = place.command(&["send", "--account", "bnc", "--reference", "R-late", "--wait", "--timeout-s", "1"]);
    let ran = run(late).await;
    assert_eq!((ran.code, ran.said.contains("no result within 1 s for 1 command")), (75, true), "{}", ran.said);

    let wrong = fed(place.command(&["send", "--stdin", "--account", "bnc"]), "{\"jobId\":\"a\"}\n[]\n".into()).await;
    assert!(wrong.code == 64 && wrong.said.contains("line 2"), "{}", wrong.said);
    let others = ["send", "--stdin", "--account", "bnc", "--field", "merchantId=2"];
    assert_eq!(fed(place.command(&others), String::new()).await.code, 64, "a field that no line would get");
    let hidden = run(place.command(&["send", "--account", "bnc", "--reference", "R", "--field", "jobId=A"])).await;
    assert!(hidden.code == 64 && hidden.said.contains("--job-id"), "{}", hidden.said);
    let both = "{\"jobId\":\"a\",\"account\":\"bnc\",\"account\":\"ifortepay\"}\n";
    let both = fed(place.command(&["send", "--stdin"]), both.into()).await;
    assert!(both.code == 64 && both.said.contains("twice"), "{}", both.said);
    let long = format!("{}\n", json!({ "jobId": "j".repeat(300) }));
    let long = fed(place.command(&["send", "--stdin", "--account", "bnc"]), long).await;
    assert!(long.code == 64 && long.said.contains("jobId has 300 bytes"), "{}", long.said);
    for age in ["2é", "100000000d", ""] {
        let ran = run(place.command(&["watch", "--since", age])).await;
        assert!(ran.code == 64 && ran.said.contains("is no age"), "{age:?}: {}", ran.said);
    }
    let mistyped = place.command(&["send", "--account", "bcn", "--reference", "R-1"]);
    let ran = run(mistyped).await;
    assert!(ran.said.contains("did you mean \"bnc\"?"), "{}", ran.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn colour_is_for_a_person_at_a_terminal() {
    let place = place().await;
    let _worker = place.worker().await;
    let sent = run(place.command(&["send", "--account", "bnc", "--reference", "R-1", "--wait"])).await;
    assert_eq!(sent.code, 0, "{}", sent.said);
    let watching = ["watch", "--since", "1h", "--count", "1"];
    let on_a_terminal = |variable: (&str, &str)| {
        let plain = place.command(&watching);
        let line: Vec<_> =
            [plain.get_program()].into_iter().chain(plain.get_args()).map(|part| part.to_str().unwrap()).collect();
        // script(1), of Debian's essential packages, is a terminal.
        let mut terminal = Command::new("script");
        terminal
            .args(["-qec", &line.join(" "), "/dev/null"])
            .stdin(Stdio::null())
            .env("TERM", "xterm")
            .env_remove("NO_COLOR");
        terminal.envs(plain.get_envs().map(|(name, value)| (name, value.unwrap())));
        terminal.env(variable.0, variable.1);
        run(terminal)
    };
    let coloured = on_a_terminal(("A", "1")).await.out;
    assert!(coloured.contains("\u{1b}[32mcanceled"), "{coloured:?}");
    let plain = on_a_terminal(("NO_COLOR", "1")).await.out;
    assert!(plain.contains("canceled") && !plain.contains('\u{1b}'), "{plain:?}");
    let piped = run(place.command(&watching)).await.out;
    assert!(piped.contains("canceled") && !piped.contains('\u{1b}'), "{piped:?}");
}

#[tokio::test]
async fn a_shell_learns_the_commands_and_a_slip_is_named() {
    let place = place().await;
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(place.command(&["completions", shell])).await;
        assert!(ran.code == 0 && ran.out.contains("parked") && ran.out.contains("not-after"), "{shell}");
    }
    let slip = run(place.command(&["watch", "--outcome", "unresolvd"])).await;
    assert!(slip.code == 64 && slip.said.contains("'unresolved'"), "{}", slip.said);
    let slip = run(place.command(&["parkd", "list"])).await;
    assert!(slip.code == 64 && slip.said.contains("'parked'"), "{}", slip.said);
    for command in ["send", "watch", "parked", "sign", "check", "sandbox", "topology"] {
        let help = run(place.command(&[command, "--help"])).await;
        assert!(help.code == 0 && help.out.contains("Examples:"), "{command} has no examples in its help");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_sent_as_it_came_and_what_nobody_sees_is_not_said_to_be_well() {
    let place = place().await;
    let _worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let twice =
        r#"{"account":"bnc","jobId":"twice","originalReferenceNo":"R-1","originalReferenceNo":"R-2","reason":"x"}"#;
    let ran = fed(place.command(&["send", "--stdin", "--wait"]), format!("{twice}\n")).await;
    assert_eq!(ran.code, 1, "{}", ran.said);
    assert_eq!(events.of("twice", WAIT).await["data"]["cause"], "duplicate_key", "it was not mended on its way");
    let long = r#"{"account":"bnc","jobId":"long","originalReferenceNo":"R-3","reason":"x","metadata":{"n":12345678901234567890123}}"#;
    let ran = fed(place.command(&["send", "--stdin", "--wait", "--json"]), format!("{long}\n")).await;
    assert!(ran.code == 0 && ran.out.contains("12345678901234567890123"), "{} {}", ran.out, ran.said);

    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let many: Vec<_> = (0..3).map(|at| command(&format!("unseen-{at}"), &format!("R-u{at}"))).collect();
    let file = place.dir.path().join("many");
    std::fs::write(&file, lines(many.into_iter())).unwrap();
    let mut unseen = place.command(&["send", "--stdin", "--account", "bnc", "--wait"]);
    unseen.stdin(Stdio::from(std::fs::File::open(file).unwrap())).stdout(full());
    assert_eq!(tokio::task::block_in_place(|| unseen.status()).unwrap().code(), Some(69));

    // A publisher's text does not steer the terminal of whoever reads of it.
    let steering = json!({ "account": "bnc", "jobId": "steering", "\u{1b}[2J\nforged": 1, "reason": "x" });
    let ran = fed(place.command(&["send", "--stdin", "--wait"]), lines([steering].into_iter())).await;
    assert!(!ran.out.contains('\u{1b}') && !ran.out.contains("\nforged"), "{:?}", ran.out);
    assert!(ran.out.contains("forged"), "{:?}", ran.out);

    // An event of what cannot be read names no job, and is known all the same.
    for unread in [
        r#"{"account":"bnc","jobId":"order 1","originalReferenceNo":"R-5","reason":"x"}"#,
        r#"{"account":"bnc","jobId":"huge","originalReferenceNo":"R-6","reason":"x","metadata":{"n":1e400}}"#,
    ] {
        let ran = fed(place.command(&["send", "--stdin", "--wait", "--timeout-s", "20"]), format!("{unread}\n")).await;
        assert!(ran.code == 1 && ran.out.contains("invalid"), "{unread}: {} {} {}", ran.code, ran.out, ran.said);
    }
    // Nor is it ended in the middle by nobody's reading what it says beside its output.
    let mut unheard = place.command(&["send", "--account", "bnc", "--reference", "R-7", "--wait"]);
    unheard.stderr(full()).stdout(Stdio::null());
    assert_eq!(tokio::task::block_in_place(|| unheard.status()).unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_shows_what_is_asked_for_as_it_comes() {
    let place = place().await;
    let _worker = place.worker().await;
    let client = place.client().await;
    for (arguments, key, job) in [
        (&["--account", "bnc"][..], "bnc.*", "watched-bnc"),
        (&["--outcome", "invalid"], "*.invalid", "watched-invalid"),
        (&["--account", "ifortepay", "--outcome", "canceled"], "ifortepay.canceled", "watched-ifortepay"),
    ] {
        let mut watch = place.command(&["watch", "--json", "--count", "1"]);
        let watch = watch.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        until("it is bound", WAIT, || {
            Box::pin(async {
                Broker::shared().ctl(&["list_bindings", "routing_key"]).lines().any(|bound| bound == key)
            })
        })
        .await;
        assert!(client.publish("ifortepay", &command(&format!("{job}-1"), &format!("{job}-R1"))).await);
        assert!(client.publish("bnc", &command(&format!("{job}-2"), &format!("{job}-R2"))).await);
        assert!(client.publish("bnc", &json!({ "jobId": format!("{job}-3") })).await);
        let output = tokio::task::block_in_place(|| watch.wait_with_output()).unwrap();
        let event: Value = serde_json::from_slice(&output.stdout).unwrap();
        let shown = (&event["data"]["account"], &event["data"]["outcome"]);
        let right = match key {
            "bnc.*" => shown.0 == "bnc",
            "*.invalid" => shown.1 == "invalid",
            _ => shown == (&json!("ifortepay"), &json!("canceled")),
        };
        assert!(right, "{event}");
    }
}

async fn declared() -> (Place, Client) {
    let place = place().await;
    assert_eq!(run(place.command(&["topology", "declare"])).await.code, 0);
    let client = place.client().await;
    (place, client)
}

/// Publishes so many events of so many bytes, as a worker does.
async fn publish_events(client: &Client, count: usize, bytes: usize) {
    let mut unconfirmed = VecDeque::new();
    for number in 0..count {
        let data = json!({ "account": "bnc", "outcome": "canceled", "jobId": format!("job-{number}") });
        let event = json!({ "time": chrono::Utc::now().to_rfc3339(), "data": data, "more": "x".repeat(bytes) });
        let (exchange, options) = (client.names.events().into(), lapin::options::BasicPublishOptions::default());
        let event = event.to_string();
        let sent =
            client.channel.basic_publish(exchange, "bnc.canceled".into(), options, event.as_bytes(), persistent());
        unconfirmed.push_back(sent.await.unwrap());
        if unconfirmed.len() > 1_000 {
            assert!(unconfirmed.pop_front().unwrap().await.unwrap().is_ack());
        }
    }
    for confirm in unconfirmed {
        assert!(confirm.await.unwrap().is_ack());
    }
}

fn spawned(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn end_of(child: Child) -> (i32, String) {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_sent_as_they_come_and_a_break_says_where_to_go_on() {
    let (place, client) = declared().await;
    let line = |at: usize| format!("{}\n", command(&format!("line-{at}"), &format!("R-line-{at}")));
    let queue = place.names.commands_of("bnc");
    for signal in ["-INT", "-TERM"] {
        let before = client.depth(&queue).await;
        let mut send = spawned(place.command(&["send", "--stdin", "--account", "bnc"]));
        // Held, as its end would be an end of the lines.
        let mut input = send.stdin.take().unwrap();
        input.write_all((1..=3).map(line).collect::<String>().as_bytes()).unwrap();
        until("they are there before the input ends", WAIT, || {
            let (client, queue) = (&client, &queue);
            Box::pin(async move { client.depth(queue).await == before + 3 })
        })
        .await;
        // The confirms are on their way then.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert!(Command::new("kill").args([signal, &send.id().to_string()]).status().unwrap().success());
        let (code, said) = end_of(send).await;
        let wanted = "broken off; 3 commands confirmed, all up to line 3: send again from line 4 on";
        assert!(code == 75 && said.contains(wanted), "{code} {said}");
        drop(input);
    }

    let faulty: String = (1..=2_500).map(line).chain(["[]\n".to_owned()]).chain((1..=9).map(line)).collect();
    let ran = fed(place.command(&["send", "--stdin", "--account", "bnc"]), faulty).await;
    let wanted =
        "line 2501: not a JSON object; 2500 commands confirmed, all up to line 2500: send again from line 2501 on";
    assert!(ran.code == 64 && ran.said.contains(wanted), "{} {}", ran.code, ran.said);
    assert_eq!(client.depth(&queue).await, 2_506, "those before it are sent, and none after it");
    let endless = fed(place.command(&["send", "--stdin", "--account", "bnc"]), "x".repeat(2 << 20)).await;
    assert!(endless.code == 64 && endless.said.contains("line 1: it has more than"), "{}", endless.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_what_is_sent_or_read() {
    let (place, client) = declared().await;
    let out = place.dir.path().join("out");
    let send = async |count: usize| {
        let file = place.dir.path().join("lines");
        let mut one = command("job", "R-1");
        one["metadata"] = json!("x".repeat(3_000));
        std::fs::write(&file, format!("{one}\n").repeat(count)).unwrap();
        let mut send = place.command(&["send", "--stdin", "--account", "bnc"]);
        send.stdin(Stdio::from(std::fs::File::open(file).unwrap()));
        measured(send, &out).await
    };
    is_alike("send", &send(1_500).await, &send(15_000).await);

    let watch = async || measured(place.command(&["watch", "--since", "1h", "--idle-s", "2", "--json"]), &out).await;
    publish_events(&client, 1_500, 3_000).await;
    let few = watch().await;
    assert_eq!(read(&out).lines().count(), 1_500);
    publish_events(&client, 13_500, 3_000).await;
    let many = watch().await;
    assert_eq!(read(&out).lines().count(), 15_000);
    is_alike("watch --since", &few, &many);
}

/// The broker keeps 100,000 events for it and drops the oldest, so that one that is left open in a pager does not fill the broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_not_read_is_bounded_and_says_that_events_may_be_missed() {
    const MANY: usize = 102_000;
    let (place, client) = declared().await;
    let bound = || Broker::shared().ctl(&["list_bindings", "source_name", "routing_key"]);
    let is_bound = || bound().lines().any(|line| line.starts_with(&place.names.results()) && line.contains("*.*"));
    let mut watch = spawned(place.command(&["watch", "--json", "--idle-s", "3"]));
    until("it is bound", WAIT, || Box::pin(async { is_bound() })).await;
    publish_events(&client, 600, 0).await;
    let before = memory_of(&watch).unwrap();
    publish_events(&client, MANY - 600, 0).await;
    let after = memory_of(&watch).unwrap();
    assert!(after * 10 < before * 13, "{before} KiB, then {after} KiB");

    let out = BufReader::new(watch.stdout.take().unwrap());
    let shown = tokio::task::spawn_blocking(move || out.lines().count());
    let (code, said) = end_of(watch).await;
    let shown = shown.await.unwrap();
    assert!((100_000..MANY).contains(&shown), "{shown} of {MANY} are shown");
    assert!(code == 0 && said.contains("some may be missed. watch --since shows them"), "{code} {said}");
    assert_eq!(said.lines().count(), 1, "it is said once: {said}");
}
