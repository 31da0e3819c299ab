//! What operators see: dashboards, alerts, runbook and the stack of containers. The queries are asked of a real Prometheus that
//! watches a real RabbitMQ and real workers, the alerts have to fire under the fault that they are for, and the runbook's commands
//! are typed. `make test-grafana` runs it; WRITE_DASHBOARDS=1 writes the dashboards anew.

#[path = "grafana/alarms.rs"]
mod alarms;
#[path = "grafana/panels.rs"]
mod panels;
#[path = "grafana/prometheus.rs"]
mod prometheus;
#[path = "grafana/queries.rs"]
mod queries;
#[path = "grafana/rules.rs"]
mod rules;
#[path = "grafana/runbook.rs"]
mod runbook;
#[path = "grafana/shape.rs"]
mod shape;
#[path = "grafana/stack.rs"]
mod stack;
#[path = "grafana/stage.rs"]
mod stage;
#[path = "support/mod.rs"]
mod support;

use serde_json::Value;
use std::{collections::BTreeSet, path::Path, process::Command};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(HERE).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// All dashboards, by the name of their file.
fn dashboards() -> Vec<(String, Value)> {
    let mut all: Vec<_> = panels::DASHBOARDS.iter().map(|name| ((*name).to_owned(), panels::dashboard(name))).collect();
    all.push(("runbook".into(), panels::runbook_dashboard()));
    all
}

#[test]
#[allow(clippy::disallowed_methods, reason = "whether to write is no setting of the worker")]
fn the_dashboards_are_made_of_their_panels() {
    for (name, dashboard) in dashboards() {
        let path = Path::new(HERE).join(format!("dashboards/grafana/dashboards/qris-cancel-{name}.json"));
        let text = serde_json::to_string_pretty(&dashboard).unwrap() + "\n";
        if std::env::var("WRITE_DASHBOARDS").is_ok() {
            std::fs::write(&path, text).unwrap();
        } else {
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(written == text, "{} is not what its panels say: run make dashboards", path.display());
        }
    }
}

/// From an alert one finds its panel and its entry in the runbook; from a panel and an entry the alert.
#[test]
fn alerts_panels_and_runbook_lead_to_each_other() {
    let alerts = rules::alerts();
    let entries: BTreeSet<_> = runbook::entries().into_iter().map(|(title, _)| title).collect();
    let named: BTreeSet<_> = alerts.iter().map(|alert| alert.name.clone()).collect();
    assert_eq!(entries, named, "the runbook has an entry for each alert, and no other");
    let dashboards = dashboards();
    let panel_at = |link: &str| {
        let (uid, rest) = link.strip_prefix("/d/").unwrap().split_once("?viewPanel=").unwrap();
        let id: u64 = rest.split('&').next().unwrap().parse().unwrap();
        let (_, dashboard) = dashboards.iter().find(|(_, dashboard)| dashboard["uid"] == uid)?;
        let panel = dashboard["panels"].as_array().unwrap().iter().find(|panel| panel["id"] == id)?;
        Some(format!("{} / {}", dashboard["title"].as_str().unwrap(), panel["title"].as_str().unwrap()))
    };
    for alert in &alerts {
        let annotation =
            |name: &str| alert.annotations.get(name).unwrap_or_else(|| panic!("{} has no {name}", alert.name)).as_str();
        assert!(!annotation("summary").is_empty() && !annotation("description").is_empty());
        assert_eq!(annotation("runbook_url"), format!("docs/RUNBOOK.md#{}", alert.name.to_lowercase()));
        assert_eq!(panel_at(annotation("dashboard")).as_deref(), Some(annotation("panel")), "{}", alert.name);
    }
    for (entry, text) in runbook::entries() {
        assert!(!runbook::commands(&text).is_empty(), "{entry} says nothing to type");
        let see = text.split("**See**").nth(1).unwrap_or_else(|| panic!("{entry} has no **See**"));
        let told = see.split("\n\n").next().unwrap().replace('\n', " ");
        for title in told.split('*').skip(1).step_by(2).filter(|title| *title != "Targets") {
            let is_there = dashboards.iter().any(|(_, dashboard)| {
                let named = dashboard["title"].as_str().unwrap().ends_with(&format!(": {title}"));
                named || dashboard["panels"].as_array().unwrap().iter().any(|panel| panel["title"] == title)
            });
            assert!(is_there, "{entry} says to look at {title:?}, which no dashboard has");
        }
    }
}

#[test]
fn the_dashboards_hold_to_grafanas_rules() {
    let dashboards = dashboards();
    for (name, dashboard) in &dashboards {
        shape::check(name, dashboard, &dashboards);
    }
}

#[test]
fn promtool_finds_no_fault_and_each_alert_has_its_tests() {
    promtool(&["check", "config", "dashboards/prometheus/prometheus.yml"]);
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", rules::RULES]);
    promtool(&["test", "rules", "tests/grafana/alerts_test.yml"]);
    promtool(&["test", "rules", panel_tests().path().to_str().unwrap()]);
    let tests = read("tests/grafana/alerts_test.yml");
    for alert in rules::alerts() {
        let of_it = format!("ALERTS{{alertname=\"{}\", alertstate=\"firing\"", alert.name);
        let (mut fires, mut is_silent) = (false, false);
        for test in tests.split("- interval:").filter(|test| test.contains(&of_it)) {
            fires |= test.contains(&format!("{of_it}, "));
            is_silent |= test.contains("exp_samples: []");
        }
        assert!(fires && is_silent, "{} is not tried both ways in tests/grafana/alerts_test.yml", alert.name);
    }
}

/// tests/grafana/panels_test.yml with the panels' queries in it: `{{overview 1}}` is that of panel 1.
fn panel_tests() -> tempfile::NamedTempFile {
    let text = read("tests/grafana/panels_test.yml");
    let mut parts = text.split("{{");
    let mut filled = parts.next().unwrap().to_owned();
    for part in parts {
        let (named, rest) = part.split_once("}}").unwrap();
        let words: Vec<_> = named.split(' ').collect();
        let expr = queries::of_panel(words[0], words[1], words.get(2).unwrap_or(&".*"));
        // A text in JSON is one in YAML.
        filled += &serde_json::to_string(&expr).unwrap();
        filled += rest;
    }
    let mut file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    std::io::Write::write_all(&mut file, filled.as_bytes()).unwrap();
    file
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(HERE).output();
    let output = output.expect("promtool is there: make test-grafana installs it");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{}", String::from_utf8_lossy(&said));
}
