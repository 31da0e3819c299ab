//! When an account rests: the circuit breaker. Pure: the time since some fixed moment, and chance, come in as arguments.
//!
//! Closed, the account takes commands. It rests when most of its last calls failed, or when the provider has refused
//! five different commands in a row for reasons that lie in our keys, ids or rights: then no command is to blame, and
//! going on would only hurt. After the rest it tries with one command at a time; failure makes it rest again, twice as
//! long, and success closes the breaker.

use std::{collections::VecDeque, time::Duration};

/// So many different commands refused in a row are no accident of one of them.
const DENIALS: usize = 5;
/// So many good calls in a row end a trial.
const GOOD_CALLS: u32 = 3;

/// When to rest, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How many of the last calls are looked at; half as many are enough for a verdict.
    pub calls: u32,
    /// The share of them that has to fail.
    pub failure_percent: u32,
    /// The first rest; it doubles from rest to rest.
    pub initial: Duration,
    pub max: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { calls: 20, failure_percent: 80, initial: Duration::from_secs(1), max: Duration::from_secs(60) }
    }
}

/// What makes an account rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Calls fail: the provider is down, does not answer, or answers with errors of its own.
    Failing,
    /// The provider refuses our keys, ids or rights.
    Misconfigured,
}

impl Why {
    pub fn name(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Misconfigured => "misconfigured",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    /// Takes nothing until then.
    Resting {
        until: Duration,
        why: Why,
    },
    /// Takes one command at a time.
    Trying {
        why: Why,
        good: u32,
        bad: u32,
    },
}

/// What one call says of the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It answered, and knows us.
    Good,
    /// It did not answer, or with an error of its own.
    Bad,
    /// It does not accept us, or we did not ask: nothing about its health.
    Neither,
}

/// The state machine of one account.
#[derive(Debug, Clone)]
pub struct Breaker {
    rules: Rules,
    state: State,
    /// Whether each of the last calls failed.
    window: VecDeque<bool>,
    /// The commands that were refused since one was accepted, each once.
    denied: Vec<String>,
    /// How many rests there have been since calls went well.
    rests: u32,
    /// Good calls since the breaker closed.
    good: u32,
}

impl Breaker {
    pub fn new(rules: Rules) -> Self {
        Self { rules, state: State::Closed, window: VecDeque::new(), denied: Vec::new(), rests: 0, good: 0 }
    }

    /// The state at this time: a rest that is over has become a trial.
    pub fn state(&mut self, now: Duration) -> State {
        if let State::Resting { until, why } = self.state
            && now >= until
        {
            self.state = State::Trying { why, good: 0, bad: 0 };
        }
        self.state
    }

    /// A call has ended.
    pub fn call(&mut self, sign: Sign, now: Duration, jitter: f64) {
        match (self.state, sign) {
            (_, Sign::Neither) | (State::Resting { .. }, _) => {}
            (State::Closed, _) => self.note(sign == Sign::Bad, now, jitter),
            (State::Trying { why, good, bad }, Sign::Bad) if self.is_failing(bad + 1, good + bad + 1) => {
                self.rest(why, now, jitter);
            }
            (State::Trying { why, good, bad }, Sign::Bad) => self.state = State::Trying { why, good, bad: bad + 1 },
            (State::Trying { why: Why::Failing, good, .. }, Sign::Good) if good + 1 >= GOOD_CALLS => self.close(),
            // Only an accepted command proves the keys.
            (State::Trying { why, good, bad }, Sign::Good) => self.state = State::Trying { why, good: good + 1, bad },
        }
    }

    /// The provider has refused this command for reasons that lie in the account.
    pub fn denied(&mut self, command: &str, now: Duration, jitter: f64) {
        match self.state {
            State::Resting { .. } => {}
            State::Trying { why: Why::Misconfigured, .. } => self.rest(Why::Misconfigured, now, jitter),
            State::Closed | State::Trying { .. } => {
                if !self.denied.iter().any(|known| known == command) {
                    self.denied.push(command.to_owned());
                }
                if self.denied.len() >= DENIALS {
                    self.rest(Why::Misconfigured, now, jitter);
                }
            }
        }
    }

    /// The provider has let a command in: keys, ids and rights are good.
    pub fn accepted(&mut self) {
        self.denied.clear();
        if matches!(self.state, State::Trying { why: Why::Misconfigured, .. }) {
            self.close();
        }
    }

    fn note(&mut self, failed: bool, now: Duration, jitter: f64) {
        if self.window.len() >= self.rules.calls as usize {
            self.window.pop_front();
        }
        self.window.push_back(failed);
        self.good = if failed { self.good } else { self.good.saturating_add(1) };
        if self.good >= self.rules.calls {
            self.rests = 0;
        }
        let (seen, failures) = (self.window.len(), self.window.iter().filter(|failed| **failed).count());
        let enough = (self.rules.calls as usize).div_ceil(2);
        if failed && seen >= enough && self.is_failing(failures as u32, seen as u32) {
            self.rest(Why::Failing, now, jitter);
        }
    }

    fn is_failing(&self, failures: u32, of: u32) -> bool {
        failures * 100 >= self.rules.failure_percent * of
    }

    /// Rests are spread over their upper half, so that many workers do not come back at once.
    fn rest(&mut self, why: Why, now: Duration, jitter: f64) {
        let full = self.rules.initial.saturating_mul(1 << self.rests.min(20)).min(self.rules.max);
        self.rests = self.rests.saturating_add(1);
        self.window.clear();
        self.denied.clear();
        self.state = State::Resting { until: now + full.mul_f64(0.5 + jitter / 2.0), why };
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.good = 0;
        self.window.clear();
        self.denied.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    fn breaker() -> Breaker {
        Breaker::new(Rules::default())
    }

    fn fail(breaker: &mut Breaker, times: u32, now: Duration) {
        for _ in 0..times {
            breaker.call(Sign::Bad, now, 1.0);
        }
    }

    #[test]
    fn an_outage_trips_it_and_three_good_calls_close_it() {
        let mut breaker = breaker();
        fail(&mut breaker, 9, S);
        assert_eq!(breaker.state(S), State::Closed, "nine calls are too few");
        fail(&mut breaker, 1, S);
        assert_eq!(breaker.state(S), State::Resting { until: 2 * S, why: Why::Failing });
        // What was still running says nothing new.
        fail(&mut breaker, 50, S);
        breaker.call(Sign::Good, S, 1.0);
        assert_eq!(breaker.state(S), State::Resting { until: 2 * S, why: Why::Failing });
        for good in 0..3 {
            assert_eq!(breaker.state(2 * S), State::Trying { why: Why::Failing, good, bad: 0 });
            breaker.call(Sign::Good, 2 * S, 1.0);
        }
        assert_eq!(breaker.state(2 * S), State::Closed);
    }

    #[test]
    fn each_failed_trial_doubles_the_rest_up_to_the_limit() {
        let mut breaker = breaker();
        let mut now = S;
        fail(&mut breaker, 10, now);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let State::Resting { until, .. } = breaker.state(now) else { panic!("does not rest") };
            assert_eq!(until - now, S * seconds);
            now = until;
            assert!(matches!(breaker.state(now), State::Trying { .. }));
            fail(&mut breaker, 1, now);
        }
    }

    #[test]
    fn a_trial_is_judged_by_the_same_share_of_failures() {
        let mut breaker = breaker();
        fail(&mut breaker, 10, S);
        assert!(matches!(breaker.state(2 * S), State::Trying { .. }));
        for sign in [Sign::Good, Sign::Bad, Sign::Good, Sign::Bad] {
            breaker.call(sign, 2 * S, 1.0);
            assert!(matches!(breaker.state(2 * S), State::Trying { .. }), "half of the calls are no 80 percent");
        }
        breaker.call(Sign::Good, 2 * S, 1.0);
        assert_eq!(breaker.state(2 * S), State::Closed);
    }

    #[test]
    fn a_provider_that_fails_again_at_once_rests_longer_and_a_healthy_time_forgives() {
        let mut breaker = breaker();
        let rest = |breaker: &mut Breaker, now: Duration| {
            fail(breaker, 20, now);
            let State::Resting { until, .. } = breaker.state(now) else { panic!("does not rest") };
            assert!(matches!(breaker.state(until), State::Trying { .. }));
            (0..3).for_each(|_| breaker.call(Sign::Good, until, 1.0));
            assert_eq!(breaker.state(until), State::Closed);
            until - now
        };
        assert_eq!(rest(&mut breaker, S), S);
        assert_eq!(rest(&mut breaker, 10 * S), 2 * S);
        (0..20).for_each(|_| breaker.call(Sign::Good, 20 * S, 1.0));
        assert_eq!(rest(&mut breaker, 30 * S), S);
    }

    #[test]
    fn half_of_the_calls_failing_is_no_reason_to_rest() {
        let mut breaker = breaker();
        for at in 0..1000 {
            breaker.call(if at % 2 == 0 { Sign::Bad } else { Sign::Good }, S, 1.0);
        }
        assert_eq!(breaker.state(S), State::Closed);
    }

    #[test]
    fn five_different_commands_refused_in_a_row_pause_the_account() {
        let mut breaker = breaker();
        for _ in 0..100 {
            breaker.denied("one bad command", S, 1.0);
        }
        ["b", "c", "d"].iter().for_each(|command| breaker.denied(command, S, 1.0));
        assert_eq!(breaker.state(S), State::Closed, "four commands");
        breaker.accepted();
        ["e", "f", "g", "h"].iter().for_each(|command| breaker.denied(command, S, 1.0));
        assert_eq!(breaker.state(S), State::Closed, "four since one was accepted");
        breaker.denied("i", S, 1.0);
        assert_eq!(breaker.state(S), State::Resting { until: 2 * S, why: Why::Misconfigured });
        // A query that is answered proves nothing about cancels.
        assert_eq!(breaker.state(2 * S), State::Trying { why: Why::Misconfigured, good: 0, bad: 0 });
        (0..10).for_each(|_| breaker.call(Sign::Good, 2 * S, 1.0));
        assert!(matches!(breaker.state(2 * S), State::Trying { why: Why::Misconfigured, .. }));
        breaker.denied("e", 2 * S, 1.0);
        assert_eq!(breaker.state(2 * S), State::Resting { until: 4 * S, why: Why::Misconfigured });
        assert!(matches!(breaker.state(4 * S), State::Trying { .. }));
        breaker.accepted();
        assert_eq!(breaker.state(4 * S), State::Closed);
    }

    #[test]
    fn a_trial_after_an_outage_can_find_the_keys_refused() {
        let mut breaker = breaker();
        fail(&mut breaker, 10, S);
        assert!(matches!(breaker.state(2 * S), State::Trying { why: Why::Failing, .. }));
        ["a", "b", "c", "d", "e"].iter().for_each(|command| breaker.denied(command, 2 * S, 1.0));
        assert!(matches!(breaker.state(2 * S), State::Resting { why: Why::Misconfigured, .. }));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Call(Sign),
        Denied(u8),
        Accepted,
        Time(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop::sample::select(vec![Sign::Good, Sign::Bad, Sign::Neither]).prop_map(Step::Call),
            2 => (0u8..8).prop_map(Step::Denied),
            1 => Just(Step::Accepted),
            1 => (0u64..100_000).prop_map(Step::Time),
        ]
    }

    proptest! {
        #[test]
        fn it_never_rests_without_reason_nor_for_ever(steps in prop::collection::vec(step(), 0..400), jitter in 0.0f64..1.0) {
            let rules = Rules::default();
            let mut breaker = Breaker::new(rules);
            let mut now = Duration::ZERO;
            let mut denied_since_accepted = std::collections::BTreeSet::new();
            for step in steps {
                let before = breaker.state(now);
                match &step {
                    Step::Call(sign) => breaker.call(*sign, now, jitter),
                    Step::Denied(command) => {
                        denied_since_accepted.insert(*command);
                        breaker.denied(&command.to_string(), now, jitter);
                    }
                    Step::Accepted => {
                        denied_since_accepted.clear();
                        breaker.accepted();
                    }
                    Step::Time(ms) => now += Duration::from_millis(*ms),
                }
                let after = breaker.state(now);
                if let State::Resting { until, why } = after {
                    prop_assert!(until > now && until - now <= rules.max);
                    if before != after {
                        let reason = match why {
                            Why::Failing => matches!(step, Step::Call(Sign::Bad)),
                            Why::Misconfigured => matches!(step, Step::Denied(_) | Step::Call(Sign::Bad)),
                        };
                        prop_assert!(reason, "{step:?}: {before:?} -> {after:?}");
                        if before == State::Closed && why == Why::Misconfigured {
                            prop_assert!(denied_since_accepted.len() >= DENIALS);
                        }
                    }
                }
                // A rest ends by time alone.
                if matches!(before, State::Resting { .. }) && !matches!(after, State::Resting { .. }) {
                    prop_assert!(matches!(step, Step::Time(_)));
                }
            }
        }
    }
}
