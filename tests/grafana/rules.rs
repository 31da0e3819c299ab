//! The alert rules, as far as others have to fit them. Read line by line: promtool has checked that they are YAML.

use super::read;
use std::collections::BTreeMap;

pub const RULES: &str = "dashboards/prometheus/qris-cancel.rules.yml";

pub struct Alert {
    pub name: String,
    pub annotations: BTreeMap<String, String>,
}

pub fn alerts() -> Vec<Alert> {
    let text = read(RULES);
    let alerts = text.split("- alert: ").skip(1).map(|rest| {
        let (name, rest) = rest.split_once('\n').unwrap();
        let annotations = rest.split("annotations:\n").nth(1).unwrap_or_default();
        let lines = annotations.lines().take_while(|line| line.starts_with("          "));
        let annotations = lines.filter_map(|line| line.trim().split_once(": "));
        let unquoted = annotations.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()));
        Alert { name: name.trim().to_owned(), annotations: unquoted.collect() }
    });
    alerts.collect()
}

/// The rules with two seconds for a minute, waits of six to ten, and other bounds for a late command and an old one. A busy machine
/// may miss a scrape or two.
pub fn hastened(late: &str, old: &str) -> String {
    let mut text = read(RULES);
    for (bound, short) in [("60", late), ("7200", old)] {
        let (bound, short): (String, String) = [bound, short].map(|seconds| format!("le=~\"{seconds}([.]0)?\"")).into();
        assert!(text.contains(&bound), "no rule asks for {bound}");
        text = text.replace(&bound, &short);
    }
    text = text.replace("] offset 15m)", "] offset 30s)");
    let mut hastened = String::new();
    for line in text.lines() {
        match line.trim().strip_prefix("for: ") {
            Some(wait) => hastened += &line.replace(wait, &format!("{}s", (2 * minutes(wait)).clamp(6, 10))),
            None => hastened += &with_short_windows(line),
        }
        hastened.push('\n');
    }
    hastened
}

fn with_short_windows(line: &str) -> String {
    let mut parts = line.split('[');
    let mut short = parts.next().unwrap().to_owned();
    for part in parts {
        short.push('[');
        match part.split_once(']') {
            Some((window, rest)) if window != "." => short += &format!("{}s]{rest}", 2 * minutes(window)),
            _ => short += part,
        }
    }
    short
}

fn minutes(duration: &str) -> u64 {
    let (number, unit) = duration.split_at(duration.len() - 1);
    number.parse::<u64>().unwrap() * [("m", 1), ("h", 60), ("d", 1440)].iter().find(|known| known.0 == unit).unwrap().1
}
