//! The house rules and the documents: what they say is so.

use qris_cancel_worker::{
    command::{CancelCommand, Hints, Terms},
    event::{About, Event, Finish, Said, Subject},
    outcome::Cause,
    retry::{CallRecord, Progress},
    settings::Settings,
    snap::{
        Operation,
        profile::{BUILT_IN, Profile, Source},
    },
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(HERE).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The text of a source file without its tests.
fn code(path: &str) -> String {
    read(path).split("#[cfg(test)]").next().unwrap().to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// A fenced block of the README that begins like this.
fn block(language: &str, begins: &str) -> String {
    let (readme, fence) = (read("README.md"), format!("```{language}\n"));
    let mut blocks = readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap());
    let found = blocks.find(|block| block.contains(begins));
    found.unwrap_or_else(|| panic!("the README has no {language} block with {begins}")).to_owned()
}

#[test]
fn pure_files_touch_nothing() {
    let touches = [
        "tokio",
        "reqwest",
        "lapin",
        "std::fs",
        "std::net",
        "std::env",
        "Utc::now",
        "Instant",
        "fastrand",
        "SystemTime",
        "new_v4",
        "println",
    ];
    for file in [
        "src/breaker.rs",
        "src/command.rs",
        "src/command/envelope.rs",
        "src/command/reader.rs",
        "src/snap/profile/check.rs",
        "src/command/json.rs",
        "src/event.rs",
        "src/message.rs",
        "src/outcome.rs",
        "src/parked.rs",
        "src/cli/parked/table.rs",
        "src/retry.rs",
        "src/schema.rs",
        "src/schema/asyncapi.rs",
        "src/schema/command.rs",
        "src/schema/event.rs",
        "src/verdict.rs",
        "src/snap/compare.rs",
        "src/snap/compare/readings.rs",
        "src/snap/compare/variations.rs",
        "src/snap/request.rs",
        "src/snap/sign.rs",
        "src/snap/response.rs",
        "src/traces/parent.rs",
    ] {
        let code = code(file);
        for touch in touches {
            assert!(!code.contains(touch), "{file} is pure, and holds {touch}");
        }
    }
}

#[test]
fn one_file_acknowledges_two_know_reqwest_and_one_reads_the_environment() {
    let mut files = Vec::new();
    sources(&Path::new(HERE).join("src"), &mut files);
    for path in files {
        let name = path.strip_prefix(HERE).unwrap().to_str().unwrap().to_owned();
        let code = code(&name);
        // `watch` and `send` acknowledge events of the log or of a queue of their own, which takes nothing from anybody, `parked` what a
        // person said, and an upgrade what it has moved while no worker runs.
        let at_hand =
            ["src/cli/broker.rs", "src/cli/parked/queue.rs", "src/amqp/topology/upgrade.rs"].contains(&name.as_str());
        let acknowledges = code.contains("BasicAckOptions") && !at_hand;
        assert!(!acknowledges || name == "src/amqp/consumer.rs", "{name} acknowledges");
        let speaks_http = ["src/snap/client.rs", "src/traces/export.rs"].contains(&name.as_str());
        assert!(!code.contains("reqwest::") || speaks_http, "{name} knows reqwest");
        assert!(!code.contains("std::env::") || name == "src/settings.rs", "{name} reads the environment");
    }
}

#[test]
fn the_readmes_settings_are_good() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("keys")).unwrap();
    for name in ["ifortepay", "bnc"] {
        let key = Path::new(HERE).join("tests/vectors/midtrans-public-sample-key.pem");
        std::fs::copy(key, dir.path().join(format!("keys/{name}.pem"))).unwrap();
    }
    let environment = [("AMQP_URL", "amqps://worker:pw@rabbit.example:5671/%2f"), ("BNC_CLIENT_KEY", "key")];
    let environment: BTreeMap<_, _> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let settings = Settings::read("README.md", &block("toml", "[amqp]"), &environment, dir.path())
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(settings.account_names(), ["bnc", "ifortepay"]);

    // Its command is a command, and its event is what becomes of it.
    let partner = &settings.accounts[1].partner;
    let bytes = block("json", "\"reason\"");
    let terms = Terms { profile: &partner.profile, defaults: &partner.merchant };
    let command = CancelCommand::read(bytes.as_bytes(), Hints::default(), terms).unwrap_or_else(|e| panic!("{e:#?}"));
    let at = |text: &str| chrono::DateTime::parse_from_rfc3339(text).unwrap().to_utc();
    let expected: Value = serde_json::from_str(&block("json", "specversion")).unwrap();
    let call = &expected["data"]["calls"][0];
    let mut progress = Progress { attempts: 1, ..Progress::new(at(expected["data"]["receivedAt"].as_str().unwrap())) };
    progress.history.push(CallRecord {
        number: 0,
        operation: Operation::Cancel,
        at: at(call["at"].as_str().unwrap()),
        external_id: Some(call["externalId"].as_str().unwrap().to_owned()),
        body_sha256: call["bodySha256"].as_str().unwrap().to_owned(),
        http_status: Some(200),
        response_code: Some("2007700".into()),
        error: None,
        duration_ms: 120,
    });
    let text = |field: &str| Some(expected["data"][field].as_str().unwrap().to_owned());
    let said = Said {
        response_code: text("responseCode"),
        response_message: text("responseMessage"),
        cancel_time: text("cancelTime"),
        ..Said::default()
    };
    let finish = Finish {
        cause: Cause::Canceled,
        at: at(expected["time"].as_str().unwrap()),
        ambiguous: false,
        parked: false,
        tellings: 0,
        said,
    };
    let about = About {
        account: "ifortepay",
        provider: Some("ifortepay"),
        subject: Subject::Command(&command),
        bytes: bytes.as_bytes(),
        traceparent: None,
        tracestate: None,
    };
    let mut event: Value = serde_json::from_slice(&Event::new(about, &progress, &finish).body).unwrap();
    // The README's bytes are these, and its id and digest were made of others.
    event["id"] = expected["id"].clone();
    event["data"]["commandDigest"] = expected["data"]["commandDigest"].clone();
    assert_eq!(event, expected, "the README's event is not what an event looks like");
}

#[test]
fn every_test_that_the_readme_names_exists() {
    let readme = read("README.md");
    let table = readme.split("## Promises").nth(1).unwrap().split("\n## ").next().unwrap();
    let named: BTreeSet<_> = table.split('`').skip(1).step_by(2).collect();
    assert!(named.len() >= 10, "{named:?}");
    let mut files = Vec::new();
    sources(&Path::new(HERE).join("tests"), &mut files);
    sources(&Path::new(HERE).join("src"), &mut files);
    let all: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    for name in named {
        assert!(all.contains(&format!("fn {name}(")), "the README names a test {name} that is not there");
    }
}

/// The names in backquotes of a table's cell, without remarks in brackets.
fn names_in(cell: &str) -> BTreeSet<&str> {
    let plain = cell.split('(').map(|part| part.rsplit(')').next().unwrap());
    plain.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn the_documents_list_every_provider_and_the_readme_its_fields() {
    let (readme, providers) = (read("README.md"), read("docs/PROVIDERS.md"));
    for (name, text) in BUILT_IN {
        let listed = format!("\n| [`{name}`](../src/snap/profiles/{name}.toml) |");
        assert!(providers.contains(&listed), "docs/PROVIDERS.md has no row for {name}");
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("the README has no row for {name}"));
        let [_, _, required, optional, _] = row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let (mut must, mut may) = (BTreeSet::new(), BTreeSet::new());
        for field in &Profile::read(name, text).unwrap().cancel.fields {
            let Source::Command(from) = field.source else { continue };
            let set = if field.required && field.constants.is_empty() { &mut must } else { &mut may };
            set.insert(from.name());
        }
        if required.contains("one of the references") {
            may.retain(|field| !["originalReferenceNo", "originalPartnerReferenceNo"].contains(field));
        }
        assert_eq!((names_in(required), names_in(optional)), (must, may), "{name}");
    }
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let folders = [".", "docs"].map(|folder| std::fs::read_dir(Path::new(HERE).join(folder)).unwrap());
    let files = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    for document in files.filter(|path| path.extension().is_some_and(|end| end == "md")) {
        let text = std::fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let there = document.parent().unwrap().join(file);
            let is_heading = |line: &str| line.starts_with("## ") && line[3..].to_lowercase() == anchor;
            let has_anchor = || anchor.is_empty() || !file.is_empty() || text.lines().any(is_heading);
            let is_there = target.contains("://") || (file.is_empty() || there.exists()) && has_anchor();
            assert!(is_there, "{}: {target} is not there", document.display());
        }
    }
}
