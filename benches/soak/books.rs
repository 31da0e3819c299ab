//! What has been done so far: kept in a file after each round, so that a run can go on where it was broken off, and told at
//! the end.

use crate::round::Sums;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub jobs: u64,
    pub seed: u64,
    pub round: u64,
}

/// A look at the worker that lives on, at the end of a round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    pub done: u64,
    pub rate: f64,
    pub memory_mib: f64,
    /// Commands of this run, with this worker.
    pub of_this_run: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Books {
    pub order: Order,
    pub rounds: u64,
    pub done: u64,
    pub seconds: f64,
    pub runs: u32,
    pub kills: u64,
    pub stops: u64,
    pub outcomes: BTreeMap<String, u64>,
    pub faults: BTreeMap<String, u64>,
    pub calls: u64,
    /// Commands that were published twice, and the rounds at a bank that refuses the cancel of what is cancelled already.
    #[serde(default)]
    pub twice: u64,
    #[serde(default)]
    pub refusing_rounds: u64,
    pub repeats: u64,
    pub settled_later: u64,
    pub unrecorded: u64,
    pub broken: Vec<String>,
    pub samples: Vec<Sample>,
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/soak")
}

impl Books {
    fn file(order: &Order) -> PathBuf {
        folder().join(format!("jobs-{}-seed-{}-round-{}.json", order.jobs, order.seed, order.round))
    }

    /// Those of an earlier run of the same order, or new ones.
    pub fn open(order: Order) -> Self {
        let earlier = std::fs::read_to_string(Self::file(&order)).ok();
        let mut books =
            earlier.map(|text| serde_json::from_str(&text).expect("the checkpoint is whole")).unwrap_or(Self {
                order,
                rounds: 0,
                done: 0,
                seconds: 0.0,
                runs: 0,
                kills: 0,
                stops: 0,
                outcomes: BTreeMap::new(),
                faults: BTreeMap::new(),
                calls: 0,
                twice: 0,
                refusing_rounds: 0,
                repeats: 0,
                settled_later: 0,
                unrecorded: 0,
                broken: Vec::new(),
                samples: Vec::new(),
            });
        books.runs += 1;
        books
    }

    pub fn add(&mut self, sums: Sums) {
        for (outcome, count) in sums.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        self.twice += sums.twice;
        self.repeats += sums.repeats;
        self.settled_later += sums.settled_later;
        self.unrecorded += sums.unrecorded;
        self.broken.extend(sums.broken);
    }

    /// Written beside and moved: a checkpoint is whole or the one before.
    pub fn save(&self) {
        let (file, text) = (Self::file(&self.order), serde_json::to_string_pretty(self).unwrap());
        std::fs::create_dir_all(folder()).unwrap();
        std::fs::write(file.with_extension("new"), text).unwrap();
        std::fs::rename(file.with_extension("new"), file).unwrap();
    }

    pub fn report(&self) -> String {
        let mut text = String::new();
        let mut line = |what: String| writeln!(text, "{what}").unwrap();
        let Order { jobs, seed, round } = &self.order;
        line(format!("# Soak: {jobs} commands, seed {seed}\n"));
        line("| | |\n| --- | ---: |".into());
        let mut row = |name: &str, value: String| line(format!("| {name} | {value} |"));
        row("commands", self.done.to_string());
        row("rounds", format!("{} of {round}", self.rounds));
        row("time", format!("{:.0} min in {} run(s)", self.seconds / 60.0, self.runs));
        row("commands a second, all in all", format!("{:.0}", self.done as f64 / self.seconds.max(0.001)));
        for (name, sample) in [("at the start", self.samples.first()), ("at the end", self.samples.last())] {
            let Some(sample) = sample else { continue };
            row(&format!("commands a second {name}"), format!("{:.0}", sample.rate));
            let memory = format!("{:.0} MiB after {} commands", sample.memory_mib, sample.of_this_run);
            row(&format!("memory of the worker that lives on, {name}"), memory);
        }
        row("commands published twice", self.twice.to_string());
        row("rounds at a bank that refuses what is cancelled already", self.refusing_rounds.to_string());
        row("workers killed (SIGKILL)", self.kills.to_string());
        row("workers stopped (SIGTERM)", self.stops.to_string());
        row("calls that reached the provider", self.calls.to_string());
        row("faults injected", self.faults.values().sum::<u64>().to_string());
        row("repeats (events with an id told before, beside those of copies)", self.repeats.to_string());
        row("unresolved, and settled by another copy", self.settled_later.to_string());
        row("cancels that no event tells of (a worker died between)", self.unrecorded.to_string());
        row("**promises broken**", format!("**{}**", self.broken.len()));
        for (title, counts) in [("outcome", &self.outcomes), ("fault", &self.faults)] {
            line(format!("\n| {title} | times |\n| --- | ---: |"));
            for (name, count) in counts {
                line(format!("| `{name}` | {count} |"));
            }
        }
        for broken in self.broken.iter().take(50) {
            line(format!("- {broken}"));
        }
        text
    }
}
