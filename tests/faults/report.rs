//! The figures of each fault, and the table that they make.

use super::{full, support::judge::Account};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, ops::Deref, path::PathBuf, time::Duration};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/RELIABILITY.md");
const BEGINS: &str = "<!-- the table begins -->\n";
const ENDS: &str = "<!-- the table ends -->";
const TOPICS: [(&str, &str); 5] = [
    ("worker", "The worker"),
    ("rabbitmq", "RabbitMQ"),
    ("network", "The network"),
    ("provider", "The provider"),
    ("limits", "Every time limit"),
];

/// Every fault. A test whose fault is not here fails, and one whose line is missing is named below the table.
#[rustfmt::skip]
const FAULTS: [(&str, &str); 67] = [
    ("worker", "Clock a minute and an hour ahead and back (`faketime`)"),
    ("worker", "Log on a full disk (`/dev/full`)"),
    ("worker", "Newer headers beside a version that cannot read them"),
    ("worker", "No more memory (`prlimit --as`)"),
    ("worker", "Rolling restart of three workers"),
    ("worker", "SIGKILL after the call, before the event"),
    ("worker", "SIGKILL after the event's confirm, before the acknowledgement"),
    ("worker", "SIGKILL after the event, before its confirm"),
    ("worker", "SIGKILL at any moment, again and again"),
    ("worker", "SIGKILL before a retry is published"),
    ("worker", "SIGKILL between a retry's confirm and the acknowledgement"),
    ("worker", "SIGKILL between the parked copy and its event"),
    ("worker", "SIGTERM under load, while calls hang"),
    ("worker", "Two workers on the same queues, and one is killed"),
    ("rabbitmq", "A consumer's queue refuses events"),
    ("rabbitmq", "Acknowledgement timeout (406) closes channels"),
    ("rabbitmq", "An operator closes every connection, three times"),
    ("rabbitmq", "Cluster of three: SIGKILL of the node that leads, and back"),
    ("rabbitmq", "Cluster of three: SIGKILL of two, and one of them back"),
    ("rabbitmq", "Cluster of three: the node that leads is frozen, shorter than `net_ticktime`"),
    ("rabbitmq", "Command queues deleted (`basic.cancel`), and made again"),
    ("rabbitmq", "Disk alarm: connections that publish are blocked"),
    ("rabbitmq", "Exchanges and bindings deleted while it runs"),
    ("rabbitmq", "Frozen for less than the heartbeat"),
    ("rabbitmq", "Frozen for longer than the heartbeat"),
    ("rabbitmq", "Memory alarm: connections that publish are blocked"),
    ("rabbitmq", "Retry buckets are full and refuse"),
    ("rabbitmq", "SIGKILL, and back after a long outage"),
    ("rabbitmq", "SIGKILL, and back after a short outage"),
    ("rabbitmq", "Stopped in good order, and back"),
    ("rabbitmq", "The password ends, and is renewed"),
    ("rabbitmq", "Three workers lose it at once, and do not come back in step"),
    ("network", "Broker: 1 % of packets lost, 300 ms there and back"),
    ("network", "Broker: 2,000 bytes a second"),
    ("network", "Broker: 300 ms late"),
    ("network", "Broker: black hole"),
    ("network", "Broker: connections reset"),
    ("network", "Broker: half open, nothing comes back"),
    ("network", "Broker: its name cannot be resolved (DNS gone)"),
    ("network", "Broker: reset mid-frame, after 5,000 to 200,000 bytes"),
    ("network", "Provider: 1 % of packets lost, 300 ms there and back"),
    ("network", "Provider: 300 ms late"),
    ("network", "Provider: 500 bytes a second"),
    ("network", "Provider: black hole"),
    ("network", "Provider: connections reset"),
    ("network", "Provider: half open, no answer comes back"),
    ("network", "Provider: its name cannot be resolved (DNS gone)"),
    ("network", "Provider: kept-alive connection closed as a request goes out"),
    ("network", "Provider: reset in the middle, after 3,001 bytes"),
    ("provider", "\"Not found\" for a while"),
    ("provider", "202 for ever, given up after three attempts"),
    ("provider", "202, and it takes effect two seconds later"),
    ("provider", "5xx to a third of the calls"),
    ("provider", "Answers for another transaction"),
    ("provider", "Answers of 100 MB"),
    ("provider", "Certificate of another authority"),
    ("provider", "Down, for one account of two"),
    ("provider", "Token endpoint down, tokens end after a second"),
    ("provider", "Tokens end at once, and a third are declared invalid"),
    ("provider", "Wrong key for one account"),
    ("limits", "Broker: nobody answers a call for a connection"),
    ("limits", "Broker: takes messages and does not confirm them"),
    ("limits", "Provider: every call hangs after it took effect"),
    ("limits", "Provider: every call hangs, and nothing was done"),
    ("limits", "Provider: nobody answers a call for a connection"),
    ("limits", "Provider: the token call hangs"),
    ("limits", "Worker: SIGTERM, and calls outlast the grace period"),
];
/// How a fault is named whose row comes of the second best way to make it.
const BY_A_MODEL: &str = " (by a model of TCP's waits)";
/// How a fault is named whose test had the machine to itself.
const ALONE: &str = ", alone";
const MISSING: &str = "Not run on this machine, or not passed: ";

/// As a length stands in the table.
fn told(length: Duration) -> String {
    match length.as_secs() {
        seconds if seconds >= 60 && seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        _ => format!("{} s", (length.as_secs_f64() * 10.0).round() / 10.0),
    }
}

/// One line of the table.
#[derive(Serialize, Deserialize)]
pub struct Row {
    topic: String,
    fault: String,
    full: bool,
    alone: bool,
    lasted_ms: u64,
    commands: usize,
    lost: usize,
    contradicted: usize,
    repeats: usize,
    unrecorded: usize,
    for_a_person: usize,
    recovered_ms: Option<u64>,
    took_s: u64,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("faults")
}

fn file(topic: &str, fault: &str) -> PathBuf {
    let name: String = fault.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    folder().join(format!("{topic}-{name}.json"))
}

impl Row {
    /// Whatever comes of this run, the row of an earlier one is gone.
    pub fn new(
        topic: &str,
        fault: &str,
        account: &Account,
        lasted: Duration,
        recovered: Option<Duration>,
        took: Duration,
    ) -> Self {
        let listed = fault.trim_end_matches(BY_A_MODEL);
        assert!(FAULTS.contains(&(topic, listed)), "{listed:?} is not among the faults of {topic:?}");
        std::fs::remove_file(file(topic, fault)).ok();
        let outcome = |name| account.outcomes.get(name).copied().unwrap_or_default();
        Self {
            topic: topic.to_owned(),
            fault: fault.to_owned(),
            full: full(),
            alone: std::env::var_os("ALONE").is_some(),
            lasted_ms: lasted.as_millis() as u64,
            commands: account.commands,
            lost: account.lost.len(),
            contradicted: account.contradicted.len(),
            repeats: account.repeats,
            unrecorded: account.unrecorded,
            for_a_person: outcome("unresolved"),
            recovered_ms: recovered.map(|took| took.as_millis() as u64),
            took_s: took.as_secs(),
        }
    }

    fn write(&self) {
        std::fs::create_dir_all(folder()).unwrap();
        let text = serde_json::to_string(self).unwrap();
        println!("{text}");
        std::fs::write(file(&self.topic, &self.fault), text).unwrap();
    }

    fn line(&self) -> String {
        let alone = if self.alone { ALONE } else { "" };
        let Self { fault, commands, lost, contradicted, repeats, unrecorded, for_a_person, .. } = self;
        let recovered = self.recovered_ms.map_or("–".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1000.0));
        let lasted = if self.lasted_ms == 0 { "–".to_owned() } else { told(Duration::from_millis(self.lasted_ms)) };
        format!(
            "| {fault}{alone} | {lasted} | {commands} | {lost} | {contradicted} | {repeats} | {unrecorded} | {for_a_person} | {recovered} |\n"
        )
    }
}

/// The figures of a test that has held so far. They become a row when it lets go of them and has not failed.
pub struct Passed {
    account: Account,
    row: Row,
}

impl Passed {
    pub fn so_far(account: Account, row: Row) -> Self {
        println!("{account}");
        Self { account, row }
    }
}

impl Deref for Passed {
    type Target = Account;

    fn deref(&self) -> &Account {
        &self.account
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.account.fmt(f)
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.row.write();
        }
    }
}

/// The faults that a table with these lines has no line of.
fn missing<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<&'static str> {
    let there: BTreeSet<_> = lines.map(|line| line.trim_end_matches(ALONE).trim_end_matches(BY_A_MODEL)).collect();
    FAULTS.iter().map(|(_, fault)| *fault).filter(|fault| !there.contains(fault)).collect()
}

/// The table that rows make.
fn table(mut rows: Vec<Row>) -> String {
    rows.sort_by(|a, b| a.fault.cmp(&b.fault));
    let form = if rows.iter().all(|row| row.full) { "real lengths (`FAULTS=full`)" } else { "the quick form" };
    let commands: usize = rows.iter().map(|row| row.commands).sum();
    let mut table = format!("{} faults, {commands} commands, {form}.\n", rows.len());
    for (topic, title) in TOPICS {
        table += &format!(
            "\n### {title}\n\n| fault | for | commands | lost | contradicted | repeats | unrecorded | for a person | back after |\n\
             | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n"
        );
        rows.iter().filter(|row| row.topic == topic).for_each(|row| table += &row.line());
    }
    let missing = missing(rows.iter().map(|row| row.fault.as_str()));
    if !missing.is_empty() {
        table += &format!("\n{MISSING}{}.\n", missing.into_iter().collect::<Vec<_>>().join("; "));
    }
    table
}

/// Every fault of the document's table lost and contradicted nothing, it adds up, and what is not there is named; `make faults` has it write the table anew.
#[test]
fn the_table() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let (before, rest) = document.split_once(BEGINS).unwrap();
    let (told, after) = rest.split_once(ENDS).unwrap();
    if std::env::var_os("WRITE_TABLE").is_some() {
        let files = std::fs::read_dir(folder()).expect("figures of a run");
        let row = |file: std::path::PathBuf| serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let rows = files.map(|file| row(file.unwrap().path())).collect();
        std::fs::write(DOCUMENT, format!("{before}{BEGINS}{}{ENDS}{after}", table(rows))).unwrap();
        return;
    }
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows: Vec<_> =
        told.lines().map(cells).filter(|cells| cells.len() > 9 && cells[3].parse::<u32>().is_ok()).collect();
    let commands: u32 = rows.iter().map(|cells| cells[3].parse::<u32>().unwrap()).sum();
    assert!(
        told.starts_with(&format!("{} faults, {commands} commands, ", rows.len())),
        "{}",
        told.lines().next().unwrap()
    );
    let missing = missing(rows.iter().map(|cells| cells[1].as_str()));
    let named = told.lines().find_map(|line| line.strip_prefix(MISSING)?.strip_suffix('.')).unwrap_or_default();
    let named: BTreeSet<_> = named.split("; ").filter(|name| !name.is_empty()).collect();
    assert_eq!(named, missing, "docs/RELIABILITY.md has no line of these, and has to say so");
    for cells in &rows {
        assert_eq!((cells[4].as_str(), cells[5].as_str()), ("0", "0"), "{cells:?}");
    }
}
