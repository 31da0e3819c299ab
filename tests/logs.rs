//! The log: every line is in docs/OBSERVABILITY.md with its fields, and every line of a run with faults is as it says there.

mod support;

use qris_cancel_worker::sandbox;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};
use support::*;

const SOON: Duration = Duration::from_secs(30);
const HERE: &str = env!("CARGO_MANIFEST_DIR");
const DOCUMENT: &str = include_str!("../docs/OBSERVABILITY.md");

/// By level and message, the fields.
type Lines = BTreeMap<(String, String), BTreeSet<String>>;

fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let table = DOCUMENT.split(heading).nth(1).unwrap().split("\n\n").next().unwrap();
    let rows = table.lines().skip(2).map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect());
    rows.filter(|row: &Vec<_>| row.len() > 1).collect()
}

fn marked(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn documented() -> Lines {
    let rows = rows("| level | message | fields | when, and what to do |");
    rows.iter().map(|row| ((row[0].to_owned(), row[1].to_owned()), marked(row[2]))).collect()
}

/// What stands in the brackets of a macro, split at the commas that are its own.
fn arguments(mut text: &str) -> Vec<String> {
    let (mut found, mut depth, mut now) = (vec![], 1, String::new());
    while depth > 0 {
        if let Some(rest) = text.strip_prefix('"') {
            let end = rest.match_indices('"').find(|(at, _)| !rest[..*at].ends_with('\\')).unwrap().0;
            now.push_str(&text[..end + 2]);
            text = &text[end + 2..];
            continue;
        }
        let c = text.chars().next().unwrap();
        text = &text[c.len_utf8()..];
        depth += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
        match c {
            ',' if depth == 1 => found.push(std::mem::take(&mut now)),
            _ if depth == 0 => found.push(std::mem::take(&mut now)),
            c => now.push(c),
        }
    }
    found.iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

fn written_in(folder: &Path, lines: &mut Lines) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Neither of these starts the log.
        if ["sandbox", "check"].iter().any(|name| path.file_stem().unwrap() == *name) {
            continue;
        }
        if path.is_dir() {
            written_in(&path, lines);
            continue;
        }
        let source = read(&path);
        let code = source.split("#[cfg(test)]").next().unwrap();
        for level in ["error", "warn", "info", "debug"] {
            for (at, name) in code.match_indices(&format!("{level}!(")) {
                let (texts, fields): (Vec<_>, Vec<_>) =
                    arguments(&code[at + name.len()..]).into_iter().partition(|argument| argument.starts_with('"'));
                let [text] = texts.as_slice() else { panic!("{}: {texts:?}", path.display()) };
                let joined = text.trim_matches('"').split("\\\n").map(str::trim_start).collect::<String>();
                let field =
                    |field: String| field.split('=').next().unwrap().trim().trim_start_matches(['%', '?']).to_owned();
                lines.entry((level.to_owned(), joined)).or_default().extend(fields.into_iter().map(field));
            }
        }
    }
}

#[test]
fn every_line_that_the_worker_can_write_is_documented() {
    let mut written = Lines::new();
    written_in(&Path::new(HERE).join("src"), &mut written);
    let documented = documented();
    assert!(written.len() > 40, "{written:#?}");
    for (line, fields) in &written {
        assert_eq!(Some(fields), documented.get(line), "{line:?} is not in docs/OBSERVABILITY.md so");
    }
    for line in documented.keys() {
        assert!(written.contains_key(line), "nothing writes {line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_of_a_run_with_faults_are_as_documented() {
    let faults = "500=0.2,reset_after=0.1,html=0.1,202=0.1,429=0.1".parse().unwrap();
    let options = sandbox::Options { faults, seed: 3, ..sandbox::Options::default() };
    let down = |_: &str| {
        format!(
            "[accounts.down]\nprofile = \"ifortepay\"\nbase_url = \"http://127.0.0.1:1\"\npartner_id = \"P\"\nprivate_key = {{ file = \"{KEY}\" }}\n"
        )
    };
    let place = Place::with_more(Broker::shared(), options, down).await;
    let mut worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let trace = |at: usize| format!("{at:032x}");
    for at in 1..=30 {
        let account = ["ifortepay", "bnc"][at % 2];
        let traceparent = format!("00-{}-00f067aa0ba902b7-01", trace(at));
        let properties = persistent().with_headers(headers(&[("traceparent", text(&traceparent))]));
        let body = command(&format!("job-{at}"), &format!("R-{at}")).to_string();
        assert!(client.publish_raw(&client.names.commands(), account, body.as_bytes(), properties).await);
    }
    for at in 0..12 {
        assert!(client.publish("down", &command(&format!("down-{at}"), &format!("D-{at}"))).await);
    }
    let bad = persistent().with_headers(headers(&[("traceparent", text(&"0".repeat(55)))]));
    let body = command("bad-trace", "R-bad").to_string();
    assert!(client.publish_raw(&client.names.commands(), "bnc", body.as_bytes(), bad).await);
    assert!(client.publish("nobody", &command("stray", "R-stray")).await);
    events.wait(32, SOON * 3).await;
    worker.wait_for_log("the account takes no commands", SOON).await;
    worker.signal("-HUP");
    worker.wait_for_log("the settings were read anew", SOON).await;
    worker.stop("-TERM").await;

    let documented = documented();
    let everywhere: BTreeSet<_> = rows("| field of every line | |").iter().flat_map(|row| marked(row[0])).collect();
    let (mut seen, mut shown) = (Lines::new(), BTreeSet::new());
    for line in worker.read_log().lines() {
        let line: BTreeMap<String, Value> = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        if !line["target"].as_str().unwrap().starts_with("qris_cancel_worker") {
            continue;
        }
        let text = |field: &str| line[field].as_str().unwrap().to_owned();
        let name = (text("level").to_lowercase(), text("message"));
        let own = documented.get(&name).unwrap_or_else(|| panic!("{name:?} is not documented"));
        let inside = line.get("span").and_then(Value::as_object);
        let of_span = inside.into_iter().flatten().map(|(field, _)| format!("span.{field}"));
        for field in line.keys().cloned().chain(of_span) {
            assert!(everywhere.contains(&field) || own.contains(&field), "{name:?} has an undocumented field {field}");
            shown.insert(field.clone());
            seen.entry(name.clone()).or_default().insert(field);
        }
        if let Some(span) = inside {
            let job = span.get("job_id").and_then(Value::as_str).unwrap_or_default();
            let number = job.strip_prefix("job-").and_then(|number| number.parse().ok());
            if !job.is_empty() {
                assert_eq!(span.get("trace_id"), number.map(|at| json!(trace(at))).as_ref(), "{line:?}");
            }
        }
    }
    assert!(everywhere.is_subset(&shown), "not in any line: {:?}", everywhere.difference(&shown).collect::<Vec<_>>());
    // What an operator builds on is there with all its fields.
    for line in ["finished", "waits for its next attempt", "asked the provider", "account", "consuming", "stopped"] {
        let (name, fields) = documented.iter().find(|((_, message), _)| message == line).unwrap();
        let shown = seen.get(name).unwrap_or_else(|| panic!("no line {line}"));
        assert!(fields.is_subset(shown), "{line} has no {:?}", fields.difference(shown).collect::<Vec<_>>());
    }
    println!("{} lines of {} were seen", seen.len(), documented.len());
}
