//! What a command carries from attempt to attempt ([`Progress`]) and when its next attempt is, if there is one
//! ([`next`]). Pure: time and jitter come in as arguments.

use crate::{event::Finish, snap::Operation};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// No delay is shorter: the smallest bucket's.
pub const SHORTEST: Duration = Duration::from_millis(250);
/// No single delay is longer, whatever a provider asks for.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// How long and how often to try.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Delay after the first attempt; it doubles from attempt to attempt.
    pub initial: Duration,
    /// The longest such delay.
    pub max: Duration,
    pub max_attempts: u32,
    /// Limit for the sum of all delays that were chosen; one that the provider asks for may go past it, and is the last. Time in a queue
    /// does not count.
    pub max_elapsed: Duration,
    /// Shortest delay after the provider has accepted a cancel without finishing it.
    pub pending: Duration,
    /// First delay at the provider's cut-off time; it doubles up to an hour.
    pub cut_off_initial: Duration,
    /// Limit for the sum of such delays.
    pub cut_off_max_elapsed: Duration,
}

impl Default for Policy {
    /// 1 s, 2 s, 4 s, … 4 min 16 s, 5 min, 5 min, … until 20 attempts or an hour of delays.
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(300),
            max_attempts: 20,
            max_elapsed: Duration::from_secs(3600),
            pending: Duration::from_secs(60),
            cut_off_initial: Duration::from_secs(300),
            cut_off_max_elapsed: Duration::from_secs(86_400),
        }
    }
}

/// Where a command stands. The broker holds it, in the headers of a message that waits for its next attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Attempts that count against the limit.
    pub attempts: u32,
    /// Attempts that ended as "misconfigured" and do not count, and times that it was a stray of its account's.
    pub doubts: u32,
    /// When the provider last refused us so; none where the last attempt ended otherwise.
    pub doubted_at: Option<DateTime<Utc>>,
    /// Attempts in a row whose cancel was denied while the provider took cancels of other commands.
    pub denied_in_a_row: u32,
    /// Before a replay, a cancel may have been sent whose call is not in the history.
    pub perhaps_sent: bool,
    /// Sum of the chosen delays.
    pub waited: Duration,
    /// Sum of the delays chosen for a cut-off time.
    pub cut_off: Duration,
    /// A cancel may have taken effect without our knowing. It stays so: only a settled outcome ends it, with the command.
    pub ambiguous: bool,
    /// The next attempt begins with a query, ambiguous or not.
    pub query_first: bool,
    /// The provider has seen the command's X-EXTERNAL-ID before.
    pub conflict: bool,
    /// When a worker first had the command.
    pub first_seen: DateTime<Utc>,
    /// How often the command was replayed from parking.
    pub replay: u32,
    /// The limit that was given at a replay, in the place of the command's own.
    pub not_after: Option<DateTime<Utc>>,
    pub history: History,
    /// What was decided and still has to be published.
    pub finish: Option<Finish>,
}

impl Progress {
    pub fn new(first_seen: DateTime<Utc>) -> Self {
        Self {
            attempts: 0,
            doubts: 0,
            doubted_at: None,
            denied_in_a_row: 0,
            perhaps_sent: false,
            waited: Duration::ZERO,
            cut_off: Duration::ZERO,
            ambiguous: false,
            query_first: false,
            conflict: false,
            first_seen,
            replay: 0,
            not_after: None,
            history: History::default(),
            finish: None,
        }
    }

    /// How long ago a worker first had the command; none where a person has replayed it, as its time in parking is none of ours.
    pub fn age(&self, now: DateTime<Utc>) -> Option<Duration> {
        (self.replay == 0).then(|| (now - self.first_seen).to_std().unwrap_or_default())
    }

    /// The same where it is put off; none where it has waited for the end of a cut-off time, which takes all night and is no fault.
    pub fn age_of_retry(&self, now: DateTime<Utc>) -> Option<Duration> {
        self.age(now).filter(|_| self.cut_off.is_zero())
    }

    /// Taken out of parking: everything begins anew, with a query, and what was done is remembered.
    pub fn replayed(self, not_after: Option<DateTime<Utc>>) -> Self {
        Self {
            ambiguous: true,
            query_first: true,
            conflict: self.conflict,
            perhaps_sent: self.perhaps_sent || self.ambiguous && self.replay == 0,
            replay: self.replay.saturating_add(1),
            not_after: not_after.or(self.not_after),
            history: self.history,
            ..Self::new(self.first_seen)
        }
    }
}

/// The calls made for a command: how many, and the first and last ten.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub count: u32,
    pub calls: Vec<CallRecord>,
}

impl History {
    const KEPT_FIRST: usize = 10;
    const KEPT: usize = 20;

    pub fn push(&mut self, mut call: CallRecord) {
        self.count += 1;
        call.number = self.count;
        if self.calls.len() == Self::KEPT {
            self.calls.remove(Self::KEPT_FIRST);
        }
        self.calls.push(call);
    }
}

/// One request to the provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallRecord {
    /// From 1, over the whole life of the command.
    pub number: u32,
    pub operation: Operation,
    #[serde(serialize_with = "milliseconds")]
    pub at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    pub body_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub duration_ms: u64,
}

/// Times have the same three digits everywhere.
fn milliseconds<S: serde::Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

/// Why a command waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Later {
    /// The transaction is still open: cancel again.
    Open,
    /// The provider works on the cancel.
    Pending,
    /// The customer is paying.
    Paying,
    NotFound,
    /// The query told nothing.
    QueryFailed,
    /// A cancel may have taken effect, and there is no query to tell.
    Unknown,
    /// The provider did nothing, or could not be reached.
    Busy,
    CutOff,
    Misconfigured,
    /// The worker stops.
    Interrupted,
    /// Another command of the same transaction is being worked on.
    InHand,
    /// The outcome is decided; its event, or the parked copy, was not confirmed.
    Unpublished,
    /// It was published before its account's queue was there, and is sent to it.
    Rerouted,
    /// A worker had fetched it and not begun it.
    Unbegun,
}

impl Later {
    pub const ALL: [Self; 14] = [
        Self::Open,
        Self::Pending,
        Self::Paying,
        Self::NotFound,
        Self::QueryFailed,
        Self::Unknown,
        Self::Busy,
        Self::CutOff,
        Self::Misconfigured,
        Self::Interrupted,
        Self::InHand,
        Self::Unpublished,
        Self::Rerouted,
        Self::Unbegun,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Pending => "pending",
            Self::Paying => "paying",
            Self::NotFound => "not_found",
            Self::QueryFailed => "query_failed",
            Self::Unknown => "unknown",
            Self::Busy => "busy",
            Self::CutOff => "cut_off",
            Self::Misconfigured => "misconfigured",
            Self::Interrupted => "interrupted",
            Self::InHand => "in_hand",
            Self::Unpublished => "unpublished",
            Self::Rerouted => "rerouted",
            Self::Unbegun => "unbegun",
        }
    }
}

/// The delay until the next attempt, added to what the progress has waited; `None` if the command has to be given up.
///
/// `at_least` is what the provider asks for (Retry-After, or time to finish a cancel that it has accepted): it can lengthen a
/// delay, never shorten it. `jitter` in [0, 1) spreads a delay over its upper half, because the buckets add up to as much again.
pub fn next(
    policy: &Policy,
    progress: &mut Progress,
    why: Later,
    at_least: Option<Duration>,
    jitter: f64,
) -> Option<Duration> {
    let at_least = at_least.unwrap_or_default().min(LONGEST);
    let own = |base: Duration| base.mul_f64(0.5 + jitter / 2.0).clamp(SHORTEST, LONGEST);
    let delay = |base: Duration| own(base).max(at_least);
    let doubled = |times: u32| policy.initial.saturating_mul(1 << times.min(31)).min(policy.max);
    match why {
        Later::Interrupted | Later::InHand | Later::Unbegun => Some(delay(policy.initial)),
        Later::Unpublished => {
            let tellings = progress.finish.as_ref().map_or(0, |finish| finish.tellings);
            Some(delay(doubled(tellings.saturating_sub(1))))
        }
        Later::Rerouted => Some(delay(doubled(progress.doubts.saturating_sub(1)))),
        Later::Misconfigured if progress.attempts < policy.max_attempts => {
            Some(delay(doubled(progress.doubts.saturating_add(progress.attempts).saturating_sub(1))))
        }
        Later::CutOff => {
            let shortest = policy.cut_off_initial.min(LONGEST);
            let delay = delay(shortest.max(progress.cut_off).min(LONGEST)).max(shortest);
            let sum = progress.cut_off + delay;
            (sum <= policy.cut_off_max_elapsed).then(|| {
                progress.cut_off = sum;
                delay
            })
        }
        _ => {
            let base = doubled(progress.attempts.saturating_sub(1));
            // What a provider asks for ends no command that would otherwise have gone on.
            let goes_on = progress.attempts < policy.max_attempts && progress.waited + own(base) <= policy.max_elapsed;
            goes_on.then(|| {
                let delay = delay(base);
                progress.waited += delay;
                delay
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn progress(attempts: u32) -> Progress {
        Progress { attempts, ..Progress::new(DateTime::UNIX_EPOCH) }
    }

    #[test]
    fn neither_parking_nor_a_closing_time_makes_a_command_old() {
        let now = DateTime::UNIX_EPOCH + Duration::from_secs(90);
        let ages = |progress: &Progress| (progress.age(now), progress.age_of_retry(now));
        let old = Some(Duration::from_secs(90));
        assert_eq!(ages(&progress(1)), (old, old));
        assert_eq!(ages(&Progress { cut_off: Duration::from_secs(300), ..progress(1) }), (old, None));
        assert_eq!(ages(&progress(1).replayed(None)), (None, None));
        // Clocks of workers differ.
        assert_eq!(Progress::new(now).age(DateTime::UNIX_EPOCH), Some(Duration::ZERO));
    }

    /// The schedule of a command that is always told the same, with the longest jitter.
    fn schedule(why: Later) -> Vec<u64> {
        let policy = Policy::default();
        let mut progress = progress(0);
        let mut delays = Vec::new();
        loop {
            match why {
                Later::Misconfigured => progress.doubts += 1,
                Later::CutOff => {}
                _ => progress.attempts += 1,
            }
            match next(&policy, &mut progress, why, None, 0.999_999_9) {
                Some(delay) if delays.len() < 30 => delays.push(delay.as_secs_f64().round() as u64),
                _ => return delays,
            }
        }
    }

    #[test]
    fn delays_double_until_five_minutes_and_end_within_the_hour() {
        let delays = schedule(Later::Open);
        assert_eq!(delays[..12], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(delays.len(), 19);
        assert!(delays.iter().sum::<u64>() <= 3600);
    }

    #[test]
    fn a_cut_off_is_waited_out_for_a_day() {
        let delays = schedule(Later::CutOff);
        assert_eq!(delays[..7], [300, 300, 600, 1200, 2400, 3600, 3600]);
        let sum: u64 = delays.iter().sum();
        assert!((82_800..=86_400).contains(&sum), "{sum}");
    }

    #[test]
    fn wrong_keys_give_up_nothing() {
        let delays = schedule(Later::Misconfigured);
        assert_eq!(delays.len(), 30);
        assert_eq!(delays[29], 300);
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        let policy = Policy { max_attempts: 3, ..Policy::default() };
        assert!(next(&policy, &mut progress(2), Later::Open, None, 0.0).is_some());
        assert_eq!(next(&policy, &mut progress(3), Later::Open, None, 0.0), None);
        // A command that alone is refused while others pass has its attempts counted, and ends like any other.
        assert_eq!(next(&policy, &mut progress(3), Later::Misconfigured, None, 0.0), None);
        // The outcome is decided, or the worker stops: that is no reason to give up.
        assert!(next(&policy, &mut progress(3), Later::Unpublished, None, 0.0).is_some());
        assert!(next(&policy, &mut progress(3), Later::Interrupted, None, 0.0).is_some());
    }

    fn any_why() -> impl Strategy<Value = Later> {
        prop::sample::select(Later::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn a_delay_is_within_its_limits_and_never_shorter_than_asked(
            why in any_why(), asked in prop::collection::vec(prop::option::of(0u64..10_000), 1..40), jitter in 0.0f64..1.0, initial in 1u64..100_000,
        ) {
            let policy = Policy { initial: Duration::from_millis(initial), ..Policy::default() };
            let mut progress = progress(0);
            for asked in asked {
                let (asked, waited) = (asked.map(Duration::from_secs), progress.waited);
                progress.attempts += 1;
                let unasked = next(&policy, &mut progress.clone(), why, None, jitter);
                let delay = next(&policy, &mut progress, why, asked, jitter);
                prop_assert!(unasked.is_none() || delay.is_some() || why == Later::CutOff, "asking for a pause ends nothing");
                let Some(delay) = delay else { break };
                prop_assert!(delay >= SHORTEST && delay <= LONGEST);
                prop_assert!(delay >= asked.unwrap_or_default().min(LONGEST));
                prop_assert!(waited <= policy.max_elapsed && progress.waited <= policy.max_elapsed + LONGEST);
                prop_assert!(asked.is_some() || progress.waited <= policy.max_elapsed);
                prop_assert!(progress.cut_off <= policy.cut_off_max_elapsed);
            }
        }

        #[test]
        fn history_keeps_the_first_and_last_ten(count in 0u32..60) {
            let mut history = History::default();
            for _ in 0..count {
                history.push(CallRecord {
                    number: 0, operation: Operation::Cancel, at: DateTime::UNIX_EPOCH, external_id: None,
                    body_sha256: String::new(), http_status: None, response_code: None, error: None, duration_ms: 0,
                });
            }
            let numbers: Vec<_> = history.calls.iter().map(|call| call.number).collect();
            let expected: Vec<_> = (1..=count).filter(|n| *n <= 10 || *n > count.saturating_sub(10)).collect();
            prop_assert_eq!(numbers, expected);
            prop_assert_eq!(history.count, count);
        }
    }
}
