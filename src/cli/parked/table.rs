//! Parked commands as a table that a person reads. Pure.

use super::counts::Counts;
use crate::{cli::plain, parked::Parked};

const HEAD: [&str; 7] = ["PARKED AT", "ACCOUNT", "JOB", "WHY", "ATTEMPTS", "CALLS", "WHAT TO DO"];

/// Rows of which the widths of the columns are made. All that come later keep them, so that a list of any length is printed as it is read.
const PAGE: usize = 500;

/// The least that a column of a longer list has, as what comes later is not known: a UUID as job, a long cause.
const LEAST: [usize; 7] = [20, 16, 36, 24, 8, 5, 0];

/// What is printed of each row, and at the end how many there are.
#[derive(Default)]
pub struct Table {
    /// The rows of the first page, until it is full.
    page: Vec<[String; 7]>,
    widths: Option<[usize; 7]>,
    counts: Counts,
}

impl Table {
    /// Takes a row in, and returns what can be printed now.
    pub fn add(&mut self, parked: &Parked) -> Vec<String> {
        self.counts.add(format!("{} {}", account(parked), parked.cause.map_or("-", |cause| cause.name())));
        match &self.widths {
            Some(widths) => vec![line(&row(parked), widths)],
            None => {
                self.page.push(row(parked));
                if self.page.len() < PAGE { vec![] } else { self.first_page() }
            }
        }
    }

    fn first_page(&mut self) -> Vec<String> {
        let rows = std::mem::take(&mut self.page);
        let is_all = rows.len() < PAGE;
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            let least = if is_all { 0 } else { LEAST[column] };
            cells.chain([HEAD[column].len(), least]).max().unwrap_or_default()
        };
        let widths = std::array::from_fn(width);
        let mut lines = vec![line(&HEAD.map(str::to_owned), &widths)];
        lines.extend(rows.iter().map(|row| line(row, &widths)));
        self.widths = Some(widths);
        lines
    }

    /// The rest, with how many are as is said: parked.
    pub fn end(mut self, what_of_them: &str) -> Vec<String> {
        if self.counts.is_empty() {
            return vec!["nothing is parked that was asked for".into()];
        }
        let mut lines = if self.widths.is_none() { self.first_page() } else { vec![] };
        let counts: Vec<_> = self.counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        lines.extend([String::new(), format!("{} {what_of_them}: {}", self.counts.total(), counts.join(", "))]);
        lines
    }
}

fn row(parked: &Parked) -> [String; 7] {
    let why = parked.cause.map_or("-", |cause| cause.name());
    let effect = if parked.may_have_taken_effect == Some(true) { ", may have taken effect" } else { "" };
    let again = match parked.replay {
        0 => String::new(),
        1 => ", replayed once".to_owned(),
        often => format!(", replayed {often} times"),
    };
    [
        parked.parked_at.clone().unwrap_or_else(|| "-".into()),
        account(parked),
        plain(&parked.name()),
        format!("{why}{effect}{again}"),
        parked.attempts.to_string(),
        parked.calls_total.to_string(),
        parked.to_do.to_owned(),
    ]
}

/// A stray can have any routing key, none too.
fn account(parked: &Parked) -> String {
    if parked.account.is_empty() { "\"\"".to_owned() } else { plain(&parked.account) }
}

fn line(cells: &[String; 7], widths: &[usize; 7]) -> String {
    let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    padded.join("  ").trim_end().to_owned()
}
