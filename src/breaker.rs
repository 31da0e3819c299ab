//! When an account rests: the circuit breaker. Pure: the time since some fixed moment, and chance, come in as arguments.
//!
//! Closed, the account takes commands. It rests when most of its last visits to the provider failed, or when the provider has refused
//! five different commands in a row for reasons that lie in our keys, ids or rights: then no command is to blame, and
//! going on would only hurt. After the rest it tries with one command at a time; failure makes it rest again, twice as
//! long, and success closes the breaker.

use crate::snap::Operation;
use std::{collections::VecDeque, time::Duration};

/// So many different commands refused in a row are no accident of one of them.
const DENIALS: usize = 5;
/// So many good visits end a trial.
const GOOD_VISITS: u32 = 3;

/// When to rest, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How many of the last visits are looked at; half as many are enough for a verdict.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Visits fail: the provider is down, does not answer, or answers with errors of its own.
    Failing,
    /// The provider refuses our keys, ids or rights.
    Misconfigured,
}

impl Why {
    pub const ALL: [Self; 2] = [Self::Failing, Self::Misconfigured];

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

/// What one visit to the provider says of its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answered, and knows us.
    Good,
    /// It did not answer, or with an error of its own.
    Bad,
    /// It does not accept us, or was not asked.
    Untold,
}

/// What one visit to the provider, of one or several calls, says of it. A visit is one piece of news: a cancel says more than
/// the queries around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News<'a> {
    /// The call that tells.
    pub operation: Operation,
    pub health: Health,
    /// A command was let in: keys, ids and rights are good.
    pub accepted: bool,
    /// This command was refused for reasons that lie in the account.
    pub denied: Option<&'a str>,
}

/// The state machine of one account.
#[derive(Debug, Clone)]
pub struct Breaker {
    rules: Rules,
    state: State,
    /// Whether each of the last visits failed, by the call that tells: an answered query does not make up for cancels that fail.
    cancels: VecDeque<bool>,
    queries: VecDeque<bool>,
    /// The commands that were refused since one was accepted, each once.
    denied: Vec<String>,
    /// What failed before the rest.
    failed: Operation,
    /// How many rests there have been since visits went well.
    rests: u32,
    /// Good visits since the breaker closed.
    good: u32,
    /// Counts the rests: what began before one says nothing of the time after it.
    era: u32,
}

impl Breaker {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            state: State::Closed,
            cancels: VecDeque::new(),
            queries: VecDeque::new(),
            denied: Vec::new(),
            failed: Operation::Cancel,
            rests: 0,
            good: 0,
            era: 0,
        }
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

    /// What visits that begin now belong to.
    pub fn era(&self) -> u32 {
        self.era
    }

    /// A visit that began in this era has ended.
    pub fn hear(&mut self, era: u32, news: News<'_>, now: Duration, jitter: f64) {
        if era != self.era {
            return;
        }
        if news.accepted {
            self.denied.clear();
            if matches!(self.state, State::Trying { why: Why::Misconfigured, .. }) {
                self.close();
            }
        }
        match news.denied {
            Some(command) => self.note_denial(command, now, jitter),
            None => self.note_health(news.operation, news.health, now, jitter),
        }
    }

    fn note_health(&mut self, operation: Operation, health: Health, now: Duration, jitter: f64) {
        match (self.state, health) {
            (_, Health::Untold) | (State::Resting { .. }, _) => {}
            (State::Closed, _) => self.note(operation, health == Health::Bad, now, jitter),
            (State::Trying { why, good, bad }, Health::Bad) if self.is_failing(bad + 1, good + bad + 1) => {
                self.rest(why, operation, now, jitter);
            }
            (State::Trying { why, good, bad }, Health::Bad) => self.state = State::Trying { why, good, bad: bad + 1 },
            // Where cancels failed, an answered query proves nothing; and only an accepted command proves the keys.
            (State::Trying { why, .. }, Health::Good)
                if why == Why::Misconfigured
                    || (operation != Operation::Cancel && self.failed == Operation::Cancel) => {}
            (State::Trying { good, .. }, Health::Good) if good + 1 >= GOOD_VISITS => self.close(),
            (State::Trying { why, good, bad }, Health::Good) => self.state = State::Trying { why, good: good + 1, bad },
        }
    }

    fn note_denial(&mut self, command: &str, now: Duration, jitter: f64) {
        match self.state {
            State::Resting { .. } => {}
            State::Trying { why: Why::Misconfigured, .. } => {
                self.rest(Why::Misconfigured, Operation::Cancel, now, jitter);
            }
            State::Closed | State::Trying { .. } => {
                if !self.denied.iter().any(|known| known == command) {
                    self.denied.push(command.to_owned());
                }
                if self.denied.len() >= DENIALS {
                    self.rest(Why::Misconfigured, Operation::Cancel, now, jitter);
                }
            }
        }
    }

    fn note(&mut self, operation: Operation, failed: bool, now: Duration, jitter: f64) {
        let calls = self.rules.calls as usize;
        let window = if operation == Operation::Cancel { &mut self.cancels } else { &mut self.queries };
        if window.len() >= calls {
            window.pop_front();
        }
        window.push_back(failed);
        let (seen, failures) = (window.len(), window.iter().filter(|failed| **failed).count());
        self.good = if failed { self.good } else { self.good.saturating_add(1) };
        if self.good >= self.rules.calls {
            self.rests = 0;
        }
        // Queries that fail are no reason to rest while cancels go well.
        let cancels_go_well = operation != Operation::Cancel && self.cancels.contains(&false);
        let enough = seen >= calls.div_ceil(2);
        if failed && enough && !cancels_go_well && self.is_failing(failures as u32, seen as u32) {
            self.rest(Why::Failing, operation, now, jitter);
        }
    }

    fn is_failing(&self, failures: u32, of: u32) -> bool {
        failures * 100 >= self.rules.failure_percent * of
    }

    /// Rests are spread over their upper half, so that many workers do not come back at once.
    fn rest(&mut self, why: Why, failed: Operation, now: Duration, jitter: f64) {
        let full = self.rules.initial.saturating_mul(1 << self.rests.min(20)).min(self.rules.max);
        self.rests = self.rests.saturating_add(1);
        self.era = self.era.wrapping_add(1);
        self.failed = failed;
        self.forget();
        self.state = State::Resting { until: now + full.mul_f64(0.5 + jitter / 2.0), why };
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.good = 0;
        self.forget();
    }

    fn forget(&mut self) {
        self.cancels.clear();
        self.queries.clear();
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

    /// A visit of now.
    fn hear(breaker: &mut Breaker, news: News<'_>, now: Duration) {
        let era = breaker.era();
        breaker.hear(era, news, now, 1.0);
    }

    fn health(operation: Operation, health: Health) -> News<'static> {
        News { operation, health, accepted: false, denied: None }
    }

    fn call(breaker: &mut Breaker, told: Health, now: Duration) {
        hear(breaker, health(Operation::Cancel, told), now);
    }

    fn deny(breaker: &mut Breaker, command: &str, now: Duration) {
        hear(breaker, News { denied: Some(command), ..health(Operation::Cancel, Health::Untold) }, now);
    }

    fn accept(breaker: &mut Breaker, now: Duration) {
        hear(breaker, News { accepted: true, ..health(Operation::Cancel, Health::Good) }, now);
    }

    fn fail(breaker: &mut Breaker, times: u32, now: Duration) {
        for _ in 0..times {
            call(breaker, Health::Bad, now);
        }
    }

    #[test]
    fn an_outage_trips_it_and_three_good_calls_close_it() {
        let mut breaker = breaker();
        fail(&mut breaker, 9, S);
        assert_eq!(breaker.state(S), State::Closed, "nine calls are too few");
        fail(&mut breaker, 1, S);
        assert_eq!(breaker.state(S), State::Resting { until: 2 * S, why: Why::Failing });
        // What was still running says nothing new, not even when the trial has begun.
        fail(&mut breaker, 50, S);
        call(&mut breaker, Health::Good, S);
        assert_eq!(breaker.state(S), State::Resting { until: 2 * S, why: Why::Failing });
        for good in 0..3 {
            assert_eq!(breaker.state(2 * S), State::Trying { why: Why::Failing, good, bad: 0 });
            call(&mut breaker, Health::Good, 2 * S);
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
        for sign in [Health::Good, Health::Bad, Health::Good, Health::Bad] {
            call(&mut breaker, sign, 2 * S);
            assert!(matches!(breaker.state(2 * S), State::Trying { .. }), "half of the calls are no 80 percent");
        }
        call(&mut breaker, Health::Good, 2 * S);
        assert_eq!(breaker.state(2 * S), State::Closed);
    }

    #[test]
    fn a_provider_that_fails_again_at_once_rests_longer_and_a_healthy_time_forgives() {
        let mut breaker = breaker();
        let rest = |breaker: &mut Breaker, now: Duration| {
            fail(breaker, 20, now);
            let State::Resting { until, .. } = breaker.state(now) else { panic!("does not rest") };
            assert!(matches!(breaker.state(until), State::Trying { .. }));
            (0..3).for_each(|_| call(breaker, Health::Good, until));
            assert_eq!(breaker.state(until), State::Closed);
            until - now
        };
        assert_eq!(rest(&mut breaker, S), S);
        assert_eq!(rest(&mut breaker, 10 * S), 2 * S);
        (0..20).for_each(|_| call(&mut breaker, Health::Good, 20 * S));
        assert_eq!(rest(&mut breaker, 30 * S), S);
    }

    #[test]
    fn half_of_the_calls_failing_is_no_reason_to_rest() {
        let mut breaker = breaker();
        for at in 0..1000 {
            call(&mut breaker, if at % 2 == 0 { Health::Bad } else { Health::Good }, S);
        }
        assert_eq!(breaker.state(S), State::Closed);
    }

    #[test]
    fn five_different_commands_refused_in_a_row_pause_the_account() {
        let mut breaker = breaker();
        for _ in 0..100 {
            deny(&mut breaker, "one bad command", S);
        }
        ["b", "c", "d"].iter().for_each(|command| deny(&mut breaker, command, S));
        assert_eq!(breaker.state(S), State::Closed, "four commands");
        accept(&mut breaker, S);
        ["e", "f", "g", "h"].iter().for_each(|command| deny(&mut breaker, command, S));
        assert_eq!(breaker.state(S), State::Closed, "four since one was accepted");
        deny(&mut breaker, "i", S);
        assert_eq!(breaker.state(S), State::Resting { until: 2 * S, why: Why::Misconfigured });
        // A query that is answered proves nothing about cancels.
        assert_eq!(breaker.state(2 * S), State::Trying { why: Why::Misconfigured, good: 0, bad: 0 });
        (0..10).for_each(|_| call(&mut breaker, Health::Good, 2 * S));
        assert!(matches!(breaker.state(2 * S), State::Trying { why: Why::Misconfigured, .. }));
        deny(&mut breaker, "e", 2 * S);
        assert_eq!(breaker.state(2 * S), State::Resting { until: 4 * S, why: Why::Misconfigured });
        assert!(matches!(breaker.state(4 * S), State::Trying { .. }));
        accept(&mut breaker, 4 * S);
        assert_eq!(breaker.state(4 * S), State::Closed);
    }

    #[test]
    fn a_trial_after_an_outage_can_find_the_keys_refused() {
        let mut breaker = breaker();
        fail(&mut breaker, 10, S);
        assert!(matches!(breaker.state(2 * S), State::Trying { why: Why::Failing, .. }));
        ["a", "b", "c", "d", "e"].iter().for_each(|command| deny(&mut breaker, command, 2 * S));
        assert!(matches!(breaker.state(2 * S), State::Resting { why: Why::Misconfigured, .. }));
    }

    #[test]
    fn answered_queries_do_not_make_up_for_cancels_that_fail() {
        let mut breaker = breaker();
        let query = |breaker: &mut Breaker, now| hear(breaker, health(Operation::Query, Health::Good), now);
        for _ in 0..10 {
            assert_eq!(breaker.state(S), State::Closed);
            query(&mut breaker, S);
            fail(&mut breaker, 1, S);
        }
        assert!(matches!(breaker.state(S), State::Resting { .. }));
        assert!(matches!(breaker.state(2 * S), State::Trying { .. }));
        (0..10).for_each(|_| query(&mut breaker, 2 * S));
        assert_eq!(breaker.state(2 * S), State::Trying { why: Why::Failing, good: 0, bad: 0 });
        fail(&mut breaker, 1, 2 * S);
        assert!(matches!(breaker.state(2 * S), State::Resting { .. }));
    }

    #[test]
    fn queries_that_fail_are_a_reason_only_while_no_cancel_goes_well() {
        let fail_queries = |breaker: &mut Breaker| {
            (0..20).for_each(|_| hear(breaker, health(Operation::Query, Health::Bad), S));
        };
        let mut cancels_work = breaker();
        call(&mut cancels_work, Health::Good, S);
        fail_queries(&mut cancels_work);
        assert_eq!(cancels_work.state(S), State::Closed);
        let mut nothing_works = breaker();
        fail_queries(&mut nothing_works);
        assert!(matches!(nothing_works.state(S), State::Resting { .. }));
    }

    #[test]
    fn what_began_before_a_rest_says_nothing_of_the_trial() {
        let mut breaker = breaker();
        let before = breaker.era();
        fail(&mut breaker, 10, S);
        let trying = State::Trying { why: Why::Failing, good: 0, bad: 0 };
        assert_eq!(breaker.state(2 * S), trying);
        for told in [Health::Bad, Health::Good, Health::Good, Health::Good] {
            breaker.hear(before, health(Operation::Cancel, told), 2 * S, 1.0);
            assert_eq!(breaker.state(2 * S), trying);
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Call(Operation, Health),
        Denied(u8),
        Accepted,
        Time(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let operation = prop::sample::select(vec![Operation::Cancel, Operation::Query]);
        let health = prop::sample::select(vec![Health::Good, Health::Bad, Health::Untold]);
        prop_oneof![
            4 => (operation, health).prop_map(|(operation, health)| Step::Call(operation, health)),
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
                    Step::Call(operation, told) => breaker.hear(breaker.era(), health(*operation, *told), now, jitter),
                    Step::Denied(command) => {
                        denied_since_accepted.insert(*command);
                        let command = command.to_string();
                        let news = News { denied: Some(&command), ..health(Operation::Cancel, Health::Untold) };
                        breaker.hear(breaker.era(), news, now, jitter);
                    }
                    Step::Accepted => {
                        denied_since_accepted.clear();
                        let news = News { accepted: true, ..health(Operation::Cancel, Health::Good) };
                        breaker.hear(breaker.era(), news, now, jitter);
                    }
                    Step::Time(ms) => now += Duration::from_millis(*ms),
                }
                let after = breaker.state(now);
                if let State::Resting { until, why } = after {
                    prop_assert!(until > now && until - now <= rules.max);
                    if before != after {
                        let reason = match why {
                            Why::Failing => matches!(step, Step::Call(_, Health::Bad)),
                            Why::Misconfigured => matches!(step, Step::Denied(_) | Step::Call(_, Health::Bad)),
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
