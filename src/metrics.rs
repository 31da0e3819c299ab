//! Every metric: its name, labels and help text. Labels come from enums and the settings; whatever can be counted is
//! there from the start, at zero, so that a first failure is seen as an increase.

use crate::{
    breaker::State,
    outcome::Cause,
    pipeline::Called,
    snap::{Operation, SendError},
    verdict::Verdict,
};
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::{collections::BTreeSet, time::Duration};

/// The label of messages for an account that is not in the settings; no account can have this name.
pub const UNKNOWN: &str = "unknown";

/// What a token call can come to, as the verdict label says it.
const OF_TOKEN: [&str; 3] = ["granted", "no_token", "token_refused"];

/// From a millisecond of a sandbox to the longest time limit.
const CALL_BUCKETS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// From a command that is cancelled at once to one that waited for a cut-off time.
const COMMAND_BUCKETS: [f64; 14] =
    [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0];

/// All metrics of this process.
pub struct Metrics {
    registry: Registry,
    accounts: BTreeSet<String>,
    received: IntCounterVec,
    results: IntCounterVec,
    calls: IntCounterVec,
    call_duration: HistogramVec,
    command_duration: HistogramVec,
    retries: IntCounterVec,
    parked: IntCounterVec,
    left: IntCounterVec,
    in_flight: IntGaugeVec,
    breaker: IntGaugeVec,
    paused: IntGaugeVec,
    clock_skew: GaugeVec,
    broker_connected: IntGauge,
    broker_blocked: IntGauge,
}

impl Metrics {
    /// # Errors
    /// When two metrics have the same name.
    pub fn new<'a>(accounts: impl IntoIterator<Item = &'a str>) -> prometheus::Result<Self> {
        let accounts: BTreeSet<String> = accounts.into_iter().map(str::to_owned).collect();
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(format!("qris_cancel_{name}"), help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(format!("qris_cancel_{name}"), help), &["account"])?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let plain = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("qris_cancel_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            let options = HistogramOpts::new(format!("qris_cancel_{name}"), help).buckets(buckets.to_vec());
            let histogram = HistogramVec::new(options, labels)?;
            registry.register(Box::new(histogram.clone()))?;
            prometheus::Result::Ok(histogram)
        };
        let received = counter(
            "commands_received_total",
            "Messages taken from the command queue, repeats and returns from retry included.",
            &["account"],
        )?;
        let results =
            counter("results_total", "Result events that the broker confirmed.", &["account", "outcome", "cause"])?;
        let calls = counter(
            "calls_total",
            "Calls to the provider, those included that could not be sent.",
            &["account", "operation", "verdict"],
        )?;
        let call_duration = histogram(
            "call_duration_seconds",
            "From sending a request to its answer or failure.",
            &CALL_BUCKETS,
            &["account", "operation"],
        )?;
        let command_duration = histogram(
            "command_duration_seconds",
            "From a command's first delivery to its confirmed result event, waiting included.",
            &COMMAND_BUCKETS,
            &["account"],
        )?;
        let retries = counter("retries_scheduled_total", "Commands put into a retry bucket.", &["account"])?;
        let parked = counter("parked_total", "Commands set aside for a person.", &["account", "cause"])?;
        let left = counter(
            "left_unacknowledged_total",
            "Deliveries whose effect the broker did not confirm; it delivers them again.",
            &["account"],
        )?;
        let in_flight = gauge("in_flight", "Commands being worked on.")?;
        let breaker =
            gauge("breaker_state", "The circuit breaker: 0 closed, 1 tries one command at a time, 2 takes none.")?;
        let paused = gauge("paused", "1 while the settings say that the account takes no commands.")?;
        let clock_skew = GaugeVec::new(
            Opts::new(
                "qris_cancel_clock_skew_seconds",
                "The provider's clock, by the Date of its last answer, less ours. Right to about a second.",
            ),
            &["account"],
        )?;
        registry.register(Box::new(clock_skew.clone()))?;
        let broker_connected = plain("broker_connected", "1 while there is a connection to publish on.")?;
        let broker_blocked = plain("broker_blocked", "1 while the broker takes no messages (memory or disk alarm).")?;
        let build = IntGaugeVec::new(Opts::new("qris_cancel_build_info", "Always 1."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;

        let metrics = Self {
            registry,
            accounts,
            received,
            results,
            calls,
            call_duration,
            command_duration,
            retries,
            parked,
            left,
            in_flight,
            breaker,
            paused,
            clock_skew,
            broker_connected,
            broker_blocked,
        };
        metrics.begin_at_zero(UNKNOWN, false);
        for account in &metrics.accounts {
            metrics.begin_at_zero(account, true);
        }
        Ok(metrics)
    }

    /// The label for a message with this routing key, which anybody can make up.
    pub fn label<'a>(&self, routing_key: &'a str) -> &'a str {
        if self.accounts.contains(routing_key) { routing_key } else { UNKNOWN }
    }

    fn begin_at_zero(&self, account: &str, has_provider: bool) {
        for counter in [&self.received, &self.retries, &self.left] {
            counter.with_label_values(&[account]);
        }
        for cause in Cause::ALL {
            let outcome = cause.outcome();
            self.results.with_label_values(&[account, outcome.name(), cause.name()]);
            if outcome.is_parked() {
                self.parked.with_label_values(&[account, cause.name()]);
            }
        }
        self.command_duration.with_label_values(&[account]);
        if !has_provider {
            return;
        }
        for verdict in Verdict::OF_CANCEL {
            self.calls.with_label_values(&[account, Operation::Cancel.name(), verdict.name()]);
        }
        for verdict in Verdict::OF_QUERY {
            self.calls.with_label_values(&[account, Operation::Query.name(), verdict.name()]);
        }
        for verdict in OF_TOKEN {
            self.calls.with_label_values(&[account, Operation::Token.name(), verdict]);
        }
        for operation in Operation::ALL {
            self.call_duration.with_label_values(&[account, operation.name()]);
        }
    }

    /// A message was taken from a queue.
    pub fn received(&self, account: &str) {
        self.received.with_label_values(&[account]).inc();
    }

    /// A command's event is confirmed.
    pub fn finished(&self, account: &str, cause: Cause, since_first_seen: Duration) {
        let outcome = cause.outcome();
        self.results.with_label_values(&[account, outcome.name(), cause.name()]).inc();
        if outcome.is_parked() {
            self.parked.with_label_values(&[account, cause.name()]).inc();
        }
        self.command_duration.with_label_values(&[account]).observe(since_first_seen.as_secs_f64());
    }

    /// A command waits in a retry bucket.
    pub fn scheduled(&self, account: &str) {
        self.retries.with_label_values(&[account]).inc();
    }

    /// A delivery was left unacknowledged.
    pub fn left(&self, account: &str) {
        self.left.with_label_values(&[account]).inc();
    }

    /// A call has ended.
    pub fn call(&self, account: &str, call: &Called<'_>) {
        let observe = |operation: Operation, verdict: &str, duration: Duration| {
            self.calls.with_label_values(&[account, operation.name(), verdict]).inc();
            self.call_duration.with_label_values(&[account, operation.name()]).observe(duration.as_secs_f64());
        };
        if let Some(token) = &call.sent.token_call {
            let verdict = match &call.sent.result {
                Err(SendError::TokenRefused(_)) => "token_refused",
                Err(SendError::NoToken(_)) => "no_token",
                _ => "granted",
            };
            observe(Operation::Token, verdict, Duration::from_millis(token.duration_ms));
        }
        // Where the token failed, or the worker had to stop, the call itself was never made.
        if !matches!(
            call.sent.result,
            Err(SendError::NoToken(_) | SendError::TokenRefused(_) | SendError::TooLate | SendError::Stopping)
        ) {
            observe(call.operation, call.verdict.name(), call.sent.duration);
        }
    }

    /// How an account stands at this moment.
    pub fn account(&self, account: &str, in_flight: usize, state: State, paused: bool, clock_skew: Option<f64>) {
        self.in_flight.with_label_values(&[account]).set(i64::try_from(in_flight).unwrap_or(i64::MAX));
        self.breaker.with_label_values(&[account]).set(match state {
            State::Closed => 0,
            State::Trying { .. } => 1,
            State::Resting { .. } => 2,
        });
        self.paused.with_label_values(&[account]).set(paused.into());
        if let Some(seconds) = clock_skew {
            self.clock_skew.with_label_values(&[account]).set(seconds);
        }
    }

    /// How the broker stands at this moment.
    pub fn broker(&self, connected: bool, blocked: bool) {
        self.broker_connected.set(connected.into());
        self.broker_blocked.set(blocked.into());
    }

    /// Everything, as Prometheus reads it.
    ///
    /// # Errors
    /// When a metric cannot be written.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_lists_every_metric_and_no_other() {
        let metrics = Metrics::new(["shop"]).unwrap();
        metrics.account("shop", 0, State::Closed, false, Some(0.5));
        let text = metrics.text().unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE qris_cancel_"));
        let ours: BTreeSet<_> = types.map(|rest| rest.split(' ').next().unwrap()).collect();
        let rows = include_str!("../README.md").lines().filter(|line| line.starts_with("| `qris_cancel_"));
        let names = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
        let told: BTreeSet<_> = names.map(|name| name.strip_prefix("qris_cancel_").unwrap()).collect();
        assert_eq!(told, ours);
    }

    #[test]
    fn everything_is_there_from_the_start_at_zero() {
        let metrics = Metrics::new(["shop"]).unwrap();
        metrics.account("shop", 3, State::Closed, false, None);
        let text = metrics.text().unwrap();
        for line in [
            r#"qris_cancel_commands_received_total{account="shop"} 0"#,
            r#"qris_cancel_results_total{account="shop",cause="canceled",outcome="canceled"} 0"#,
            r#"qris_cancel_results_total{account="unknown",cause="unknown_account",outcome="invalid"} 0"#,
            r#"qris_cancel_calls_total{account="shop",operation="query",verdict="status_paid"} 0"#,
            r#"qris_cancel_calls_total{account="shop",operation="token",verdict="token_refused"} 0"#,
            r#"qris_cancel_call_duration_seconds_count{account="shop",operation="cancel"} 0"#,
            r#"qris_cancel_command_duration_seconds_count{account="shop"} 0"#,
            r#"qris_cancel_retries_scheduled_total{account="shop"} 0"#,
            r#"qris_cancel_parked_total{account="shop",cause="attempts_exhausted"} 0"#,
            r#"qris_cancel_in_flight{account="shop"} 3"#,
            r#"qris_cancel_breaker_state{account="shop"} 0"#,
            "qris_cancel_broker_connected 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
        // A skew of zero would claim that the clocks agree.
        assert!(!text.contains("clock_skew_seconds{"));
        assert!(!text.contains(r#"parked_total{account="shop",cause="canceled"}"#), "nothing settled is parked");
    }
}
