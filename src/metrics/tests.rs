use super::*;
use crate::{
    breaker::Health,
    outcome::Cause,
    pipeline::{Called, Sent},
    retry::Later,
    settings::Settings,
    snap::{Code, Operation, Reply, response::Answer},
    traces::Span,
    verdict::Verdict,
};
use std::{collections::BTreeSet, path::Path, time::Duration};

/// With an account that has everything an account can have.
fn metrics() -> Metrics {
    let text = "[amqp]\nurl = { env = \"AMQP_URL\" }\n[accounts.shop]\nprofile = \"ifortepay\"\n\
                base_url = \"https://provider.example\"\npartner_id = \"p\"\nmax_requests_per_second = 1.0\n\
                private_key = { file = \"tests/vectors/midtrans-public-sample-key.pem\" }\n";
    let environment = BTreeMap::from([("AMQP_URL".to_owned(), "amqp://127.0.0.1".to_owned())]);
    let settings = Settings::read("metrics", text, &environment, Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    Metrics::new(&settings.accounts).unwrap()
}

/// What is served when nothing has happened.
fn served() -> String {
    let metrics = metrics();
    let gate = crate::account::gate::Gate::open(3);
    let before = metrics.text().unwrap();
    // A skew of zero would claim that the clocks agree.
    assert!(!before.contains("clock_skew_seconds"));
    metrics.provider("shop").unwrap().stands(&gate.view(), 3, Some(0.5));
    metrics.text().unwrap()
}

#[test]
fn everything_is_there_from_the_start_at_zero() {
    let text = served();
    for line in [
        r#"qris_cancel_commands_received_total{account="shop"} 0"#,
        r#"qris_cancel_results_total{account="shop",cause="canceled",outcome="canceled"} 0"#,
        r#"qris_cancel_results_total{account="unknown",cause="unknown_account",outcome="invalid"} 0"#,
        r#"qris_cancel_calls_total{account="shop",operation="query",verdict="status_paid"} 0"#,
        r#"qris_cancel_calls_total{account="shop",operation="token",verdict="token_refused"} 0"#,
        r#"qris_cancel_call_duration_seconds_count{account="shop",operation="cancel"} 0"#,
        r#"qris_cancel_response_codes_total{account="shop",code="5047300",operation="token"} 0"#,
        r#"qris_cancel_command_duration_seconds_count{account="shop",outcome="canceled"} 0"#,
        r#"qris_cancel_queue_wait_seconds_count{account="unknown"} 0"#,
        r#"qris_cancel_rate_limit_wait_seconds_count{account="shop"} 0"#,
        r#"qris_cancel_retries_scheduled_total{account="shop"} 0"#,
        r#"qris_cancel_retry_age_seconds_count{account="shop"} 0"#,
        r#"qris_cancel_parked_total{account="shop",cause="attempts_exhausted"} 0"#,
        r#"qris_cancel_account_info{account="shop",profile="ifortepay"} 1"#,
        r#"qris_cancel_in_flight{account="shop"} 3"#,
        r#"qris_cancel_in_flight_limit{account="shop"} 20"#,
        r#"qris_cancel_breaker_state{account="shop"} 0"#,
        "qris_cancel_broker_connected 0",
        r#"qris_cancel_broker_connects_total{result="failed"} 0"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
    }
    let counts = text.lines().filter(|line| !line.starts_with('#') && line.contains("_total"));
    let not_zero: Vec<_> = counts.filter(|line| line.starts_with("qris_") && !line.ends_with(" 0")).collect();
    assert!(not_zero.is_empty(), "{not_zero:?}");
}

/// What was seen long ago says nothing of now.
#[test]
fn a_skew_that_is_no_longer_known_goes() {
    let (metrics, gate) = (metrics(), crate::account::gate::Gate::open(3));
    let shows = |skew| {
        metrics.provider("shop").unwrap().stands(&gate.view(), 0, skew);
        metrics.text().unwrap().contains("clock_skew_seconds{account=\"shop\"}")
    };
    assert_eq!([None, Some(40.0), None, None, Some(1.0)].map(shows), [false, true, false, false, true]);
}

#[test]
fn an_ending_counts_by_its_outcome_and_a_replay_has_no_duration() {
    let metrics = metrics();
    let commands = metrics.commands("shop");
    commands.finished(Cause::Paid, Some(Duration::from_secs(30)));
    commands.finished(Cause::AttemptsExhausted, Some(Duration::from_secs(30)));
    commands.finished(Cause::Canceled, None);
    commands.waits(Some(Later::Busy), Duration::from_secs(1), Some(Duration::from_secs(10_000)));
    commands.waits(Some(Later::CutOff), Duration::from_secs(1), None);
    let text = metrics.text().unwrap();
    for line in [
        r#"qris_cancel_command_duration_seconds_bucket{account="shop",outcome="paid",le="60"} 1"#,
        r#"qris_cancel_command_duration_seconds_bucket{account="shop",outcome="unresolved",le="60"} 1"#,
        r#"qris_cancel_command_duration_seconds_count{account="shop",outcome="canceled"} 0"#,
        r#"qris_cancel_retry_age_seconds_bucket{account="shop",le="7200"} 0"#,
        r#"qris_cancel_retry_age_seconds_count{account="shop"} 1"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn a_code_that_is_not_in_the_table_or_of_another_service_is_other() {
    let metrics = metrics();
    let sent = Sent {
        token_call: None,
        is_hearsay: false,
        no_token_for: None,
        no_token_at: None,
        token: None,
        at: chrono::DateTime::UNIX_EPOCH,
        duration: Duration::ZERO,
        result: Ok(Reply { http_status: 200, body: Vec::new(), retry_after: None, date: None }),
        span: Span::default(),
    };
    for code in [Some("2007700"), Some("2007799"), Some("2005100"), None] {
        let answer = code.map(|code| Answer { code: Code::parse(code), ..Answer::default() });
        let (operation, verdict, health) = (Operation::Cancel, Verdict::Unknown, Health::Good);
        let call = Called { operation, verdict, health, sent: &sent, answer: answer.as_ref() };
        metrics.provider("shop").unwrap().call(&call);
    }
    let text = metrics.text().unwrap();
    let counted = text.lines().filter(|line| line.contains("response_codes_total{") && !line.ends_with(" 0"));
    let counted: Vec<_> = counted.map(|line| line.strip_prefix("qris_cancel_response_codes_total").unwrap()).collect();
    let expected = [("2007700", 1), ("none", 1), ("other", 2)];
    let expected =
        expected.map(|(code, times)| format!(r#"{{account="shop",code="{code}",operation="cancel"}} {times}"#));
    assert_eq!(counted, expected);
}

/// A series: the metric's name without what a histogram adds, and its labels.
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
}

/// Names with their types, and the series, of what is served.
fn parsed(text: &str) -> (BTreeMap<String, String>, Vec<Series>) {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE qris_cancel_")?.split_once(' '));
    let types: BTreeMap<_, _> = types.map(|(name, of)| (name.to_owned(), of.to_owned())).collect();
    let lines = text.lines().filter_map(|line| line.strip_prefix("qris_cancel_"));
    let series = lines.map(|line| {
        let (name, labels) = line.rsplit_once(' ').unwrap().0.split_once('{').unwrap_or((line, ""));
        let name = name.split(' ').next().unwrap();
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let name = of_histogram.filter(|name| types.contains_key(*name)).unwrap_or(name).to_owned();
        let labels = labels.split(',').filter_map(|label| label.trim_end_matches('}').split_once('='));
        let labels = labels.map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned()));
        Series { name, labels: labels.filter(|(label, _)| label != "le").collect() }
    });
    let series = series.collect();
    (types, series)
}

/// The cells of the page's rows with so many of them.
fn rows(cells: usize) -> impl Iterator<Item = Vec<&'static str>> {
    let rows = include_str!("../../docs/METRICS.md").lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    rows.filter(move |row| row.len() == cells)
}

/// What stands in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

#[test]
fn the_page_has_every_metric_with_its_type_and_labels_and_no_other() {
    let (types, series) = parsed(&served());
    let served: BTreeMap<_, _> = types
        .iter()
        .map(|(name, of)| {
            let labels = series.iter().filter(|series| series.name == *name).flat_map(|series| series.labels.keys());
            (format!("qris_cancel_{name}"), (of.clone(), labels.cloned().collect::<BTreeSet<_>>()))
        })
        .collect();
    let told: BTreeMap<_, _> = rows(4)
        .map(|row| (quoted(row[0]).next().unwrap(), (row[1].to_owned(), quoted(row[2]).collect::<BTreeSet<_>>())))
        .collect();
    assert_eq!(told, served);
}

#[test]
fn the_page_has_every_value_of_a_label_and_no_other() {
    let (_, series) = parsed(&served());
    let mut served: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for series in &series {
        for (label, value) in &series.labels {
            // The verdicts differ from operation to operation, the codes only in the service that they name.
            let operation = series.labels.get("operation").filter(|_| label == "verdict").cloned().unwrap_or_default();
            let digits = value.len() == 7 && value.bytes().all(|byte| byte.is_ascii_digit());
            let value = if digits { format!("{}77{}", &value[..3], &value[5..]) } else { value.clone() };
            if !["account", "profile", "version"].contains(&label.as_str()) {
                served.entry((label.clone(), series.name.clone(), operation)).or_default().insert(value);
            }
        }
    }
    let mut told: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for row in rows(3) {
        let label = quoted(row[0]).next().unwrap();
        let (metrics, operations): (Vec<_>, Vec<_>) = quoted(row[1]).partition(|word| word.contains('_'));
        let operation = operations.into_iter().next().unwrap_or_default();
        for metric in metrics {
            told.insert((label.clone(), metric, operation.clone()), quoted(row[2]).collect());
        }
    }
    assert_eq!(told, served);
}

#[test]
fn the_readme_names_metrics_that_are_there() {
    let (types, _) = parsed(&served());
    let readme = include_str!("../../README.md").split('`').skip(1).step_by(2);
    let named: Vec<_> = readme.filter_map(|word| word.strip_prefix("qris_cancel_")).collect();
    assert!(named.len() >= 5, "{named:?}");
    for name in named {
        assert!(types.contains_key(name), "{name} is not there");
    }
}
