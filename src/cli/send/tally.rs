//! What has become of the commands that were sent, by the events of them.

use super::lines::Outgoing;
use crate::{
    cli::{Failure, broker, plain_json, print},
    outcome::Outcome,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

/// What has become of the commands so far.
#[derive(Default)]
pub struct Tally {
    /// By the digest of a command, which the event of a faulty one has, too: results to come. One that was published twice has two.
    waiting: HashMap<[u8; 32], u32>,
    json: bool,
    /// How many were sent.
    pub total: usize,
    /// How many results have come.
    pub seen: usize,
    endings: BTreeMap<(String, String), usize>,
}

impl Tally {
    /// `json`: events are shown as they are.
    pub fn new(json: bool) -> Self {
        Self { json, ..Self::default() }
    }

    pub fn await_result_of(&mut self, command: &Outgoing, has_results: bool) {
        self.total += 1;
        if has_results {
            *self.waiting.entry(Sha256::digest(&command.body).into()).or_default() += 1;
        }
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn missing(&self, what: &str) -> String {
        counted(self.waiting.values().sum::<u32>() as usize, what)
    }

    /// Shows an event, if it is of one of the commands.
    pub fn show(&mut self, data: &[u8]) -> Result<(), Failure> {
        let event: Value = serde_json::from_slice(data).unwrap_or_default();
        let text = |field: &str| event["data"][field].as_str().unwrap_or("-").to_owned();
        let mut digest = [0; 32];
        if hex::decode_to_slice(text("commandDigest"), &mut digest).is_err() {
            return Ok(());
        }
        let Some(left) = self.waiting.get_mut(&digest) else { return Ok(()) };
        *left -= 1;
        if *left == 0 {
            self.waiting.remove(&digest);
        }
        self.seen += 1;
        *self.endings.entry((text("outcome"), text("cause"))).or_default() += 1;
        let goes_on = match self.json {
            true => print(&plain_json(&String::from_utf8_lossy(data)))?,
            false => print(&format!("[{:>4}/{}] {}", self.seen, self.total, broker::line(&event)))?,
        };
        if !goes_on && self.is_waiting() {
            let missing = self.missing("result");
            return Err(Failure::NotYet(format!("nobody reads the results any more; {missing} not seen")));
        }
        Ok(())
    }

    pub fn summary(&self, begun: Instant) -> String {
        let mut lines = vec![format!("\n{:12} {:28} {:>6}", "outcome", "cause", "count")];
        for ((outcome, cause), count) in &self.endings {
            lines.push(format!("{outcome:12} {cause:28} {count:>6}"));
        }
        let ended = self.endings.values().sum();
        lines.push(format!(
            "{} in, {} out{}",
            counted(self.total, "command"),
            counted(ended, "outcome"),
            rate(ended, begun)
        ));
        lines.join("\n")
    }

    /// Whether every command ended well.
    pub fn judge(&self) -> Result<(), Failure> {
        let well = [Outcome::Canceled, Outcome::Paid, Outcome::Closed].map(Outcome::name);
        let bad = self.endings.iter().filter(|((outcome, _), _)| !well.contains(&outcome.as_str()));
        let bad: usize = bad.map(|(_, count)| count).sum();
        match bad {
            0 => Ok(()),
            _ => Err(Failure::No(format!("{} ended as neither canceled, paid nor closed", counted(bad, "command")))),
        }
    }
}

pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// How long it took, and how many a second that is, where there are enough to say so.
pub fn rate(count: usize, begun: Instant) -> String {
    let seconds = begun.elapsed().as_secs_f64();
    if count < 100 { String::new() } else { format!(" in {seconds:.1} s ({:.0}/s)", count as f64 / seconds) }
}
