//! The figures of each fault, and the table that they make.

use super::{full, support::judge::Account};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

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

/// As a length stands in the table.
pub fn told(length: Duration) -> String {
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

impl Row {
    pub fn new(
        topic: &str,
        fault: &str,
        account: &Account,
        lasted: Duration,
        recovered: Option<Duration>,
        took: Duration,
    ) -> Self {
        assert!(TOPICS.iter().any(|(known, _)| *known == topic));
        let outcome = |name| account.outcomes.get(name).copied().unwrap_or_default();
        Self {
            topic: topic.to_owned(),
            fault: fault.to_owned(),
            full: full(),
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

    pub fn write(&self) {
        let name: String = self.fault.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        std::fs::create_dir_all(folder()).unwrap();
        let text = serde_json::to_string(self).unwrap();
        println!("{text}");
        std::fs::write(folder().join(format!("{}-{name}.json", self.topic)), text).unwrap();
    }

    fn line(&self) -> String {
        let Self { fault, commands, lost, contradicted, repeats, unrecorded, for_a_person, .. } = self;
        let recovered = self.recovered_ms.map_or("–".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1000.0));
        let lasted = if self.lasted_ms == 0 { "–".to_owned() } else { told(Duration::from_millis(self.lasted_ms)) };
        format!(
            "| {fault} | {lasted} | {commands} | {lost} | {contradicted} | {repeats} | {unrecorded} | {for_a_person} | {recovered} |\n"
        )
    }
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
    table
}

/// Every fault of the document's table lost and contradicted nothing, and adds up; `make faults` has it write the table anew.
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
    for cells in &rows {
        assert_eq!((cells[4].as_str(), cells[5].as_str()), ("0", "0"), "{cells:?}");
    }
}
