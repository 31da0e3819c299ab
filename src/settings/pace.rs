//! How fast and how often an account's provider is called: limits, breaker and retries.

use super::{
    raw::{RawAccount, RawBreaker, RawRetry},
    reader::Reader,
};
use crate::{
    breaker,
    retry::{LONGEST, Policy, SHORTEST},
};
use std::{ops::RangeInclusive, time::Duration};

/// So many messages of an account are in memory at once: 128 MB with the `max_message_size` that the README asks for, 16 GB without it
/// on RabbitMQ 4.
const MAX_IN_FLIGHT: u16 = 1_000;

impl Reader<'_> {
    pub fn limits(&mut self, section: &str, raw: &RawAccount) {
        let key = |key: &str| format!("{section}.{key}");
        let (connect, timeout) = (raw.connect_timeout_ms, raw.timeout_ms);
        if raw.max_in_flight == 0 {
            self.problem(&key("max_in_flight"), "must be at least 1; to take no commands set state = \"paused\"");
        }
        if raw.max_in_flight > MAX_IN_FLIGHT {
            let reason = format!(
                "must be at most {MAX_IN_FLIGHT}: so many messages are held in memory at once; found {}; for more, start another worker",
                raw.max_in_flight
            );
            self.problem(&key("max_in_flight"), reason);
        }
        if connect == 0 {
            self.problem(&key("connect_timeout_ms"), "must be at least 1");
        } else if timeout <= connect && !self.mistakes.is_unread(&key("connect_timeout_ms")) {
            let reason = format!(
                "{timeout} must be longer than connect_timeout_ms ({connect}), or a slow connection could not be told from a lost request"
            );
            self.problem(&key("timeout_ms"), reason);
        }
        if timeout > 60_000 {
            self.problem(
                &key("timeout_ms"),
                "must be at most 60000: an attempt is several calls, and no delivery may be held for more than five minutes",
            );
        }
        if let Some(rate) = raw.max_requests_per_second.filter(|rate| !(0.1..=100_000.0).contains(rate)) {
            let reason = format!("must be 0.1 to 100000; found {rate}; leave it out for no limit");
            self.problem(&key("max_requests_per_second"), reason);
        }
    }

    pub fn breaker(&mut self, section: &str, raw: &RawBreaker) -> breaker::Rules {
        let initial_is_read = !self.mistakes.is_unread(&format!("{section}.breaker.initial_ms"));
        let shortest = if initial_is_read { raw.initial_ms } else { 100 };
        let mut check = |key: &str, found: u64, good: RangeInclusive<u64>, what: &str| {
            if !good.contains(&found) {
                let reason = format!("must be {} to {}{what}; found {found}", good.start(), good.end());
                self.problem(&format!("{section}.breaker.{key}"), reason);
            }
        };
        check("calls", raw.calls.into(), 1..=1000, ": how many of the last calls are looked at");
        check("failure_percent", raw.failure_percent.into(), 1..=100, ": the share of them that failed");
        check("initial_ms", raw.initial_ms, 100..=3_600_000, "");
        if shortest > raw.max_ms && shortest <= 3_600_000 {
            let (key, reason) = match raw.max_ms == RawBreaker::default().max_ms {
                true => ("initial_ms", format!("{shortest} must not be longer than max_ms ({})", raw.max_ms)),
                false => ("max_ms", format!("{} must not be shorter than initial_ms ({shortest})", raw.max_ms)),
            };
            self.problem(&format!("{section}.breaker.{key}"), reason);
        } else {
            check("max_ms", raw.max_ms, 100..=3_600_000, "");
        }
        breaker::Rules {
            calls: raw.calls,
            failure_percent: raw.failure_percent,
            initial: Duration::from_millis(raw.initial_ms),
            max: Duration::from_millis(raw.max_ms),
        }
    }

    pub fn policy(&mut self, section: &str, general: &RawRetry, own: &RawRetry) -> Policy {
        let usual = Policy::default();
        let ms = |own: Option<u64>, general: Option<u64>, usual: Duration| {
            own.or(general).map_or(usual, Duration::from_millis)
        };
        let s = |own: Option<u64>, general: Option<u64>, usual: Duration| {
            own.or(general).map_or(usual, Duration::from_secs)
        };
        let policy = Policy {
            initial: ms(own.initial_ms, general.initial_ms, usual.initial),
            max: ms(own.max_ms, general.max_ms, usual.max),
            max_attempts: own.max_attempts.or(general.max_attempts).unwrap_or(usual.max_attempts),
            max_elapsed: s(own.max_elapsed_s, general.max_elapsed_s, usual.max_elapsed),
            pending: ms(own.pending_ms, general.pending_ms, usual.pending),
            cut_off_initial: ms(own.cut_off_initial_ms, general.cut_off_initial_ms, usual.cut_off_initial),
            cut_off_max_elapsed: s(own.cut_off_max_elapsed_s, general.cut_off_max_elapsed_s, usual.cut_off_max_elapsed),
        };
        // The keys of [retry] hold for every account; a mistake there is told once.
        let mut blame = |key: &str, own: bool, reason: String| {
            let key = if own { format!("{section}.retry.{key}") } else { format!("retry.{key}") };
            if !self.mistakes.is_told(&key) {
                self.problem(&key, reason);
            }
        };
        for (key, is_own, delay) in [
            ("initial_ms", own.initial_ms.is_some(), policy.initial),
            ("max_ms", own.max_ms.is_some(), policy.max),
            ("pending_ms", own.pending_ms.is_some(), policy.pending),
            ("cut_off_initial_ms", own.cut_off_initial_ms.is_some(), policy.cut_off_initial),
        ] {
            if !(SHORTEST..=LONGEST).contains(&delay) {
                let (shortest, longest, found) = (SHORTEST.as_millis(), LONGEST.as_millis(), delay.as_millis());
                let reason =
                    format!("must be {shortest} to {longest} (a quarter of a second to an hour); found {found}");
                blame(key, is_own, reason);
            }
        }
        let (initial, max) = (policy.initial.as_millis(), policy.max.as_millis());
        if initial > max && policy.initial <= LONGEST && policy.max >= SHORTEST {
            // Whichever was given is to blame; where both were, the longest.
            match (own.max_ms.or(general.max_ms).is_some(), own.max_ms.is_some()) {
                (true, is_own) if is_own || own.initial_ms.is_none() => {
                    blame("max_ms", is_own, format!("{max} must not be shorter than initial_ms ({initial})"));
                }
                _ => blame(
                    "initial_ms",
                    own.initial_ms.is_some(),
                    format!("{initial} must not be longer than max_ms ({max})"),
                ),
            }
        }
        if policy.max_attempts == 0 {
            blame("max_attempts", own.max_attempts.is_some(), "must be at least 1".into());
        }
        policy
    }
}
