//! Parked commands as a table that a person reads. Pure.

use crate::{cli::plain, parked::Parked};
use std::collections::BTreeMap;

const HEAD: [&str; 7] = ["PARKED AT", "ACCOUNT", "JOB", "WHY", "ATTEMPTS", "CALLS", "WHAT TO DO"];

/// Ends with how many of them are as is said: parked.
pub fn of(parked: &[Parked], what_of_them: &str) -> String {
    if parked.is_empty() {
        return "nothing is parked that was asked for".into();
    }
    let rows: Vec<_> = parked.iter().map(row).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEAD[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let mut lines = vec![line(&HEAD.map(str::to_owned), &widths)];
    lines.extend(rows.iter().map(|row| line(row, &widths)));
    lines.push(String::new());
    lines.push(sum(parked, what_of_them));
    lines.join("\n")
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

fn line(cells: &[String; 7], widths: &[usize]) -> String {
    let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    padded.join("  ").trim_end().to_owned()
}

/// How many there are, and of what.
fn sum(parked: &[Parked], what_of_them: &str) -> String {
    let mut counts = BTreeMap::<_, u32>::new();
    for one in parked {
        *counts.entry((account(one), one.cause.map_or("-", |cause| cause.name()))).or_default() += 1;
    }
    let counts: Vec<_> = counts.iter().map(|((account, cause), count)| format!("{account} {cause} {count}")).collect();
    format!("{} {what_of_them}: {}", parked.len(), counts.join(", "))
}
