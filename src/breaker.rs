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
/// So many good visits end a trial, if they are of the kind that failed.
const PROOFS: usize = 3;

/// When to rest, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How many of the last visits are looked at; half as many are enough for a verdict. So many good ones of any kind end a trial.
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
    /// Those since the last cancel that went well.
    queries: VecDeque<bool>,
    /// The commands that were refused since one was accepted, each once.
    denied: Vec<String>,
    /// What failed before the rest.
    failed: Operation,
    /// How many rests there have been since visits went well.
    rests: u32,
    /// Good visits since the breaker closed, or since the trial began.
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
            self.state = State::Trying { why };
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
            if matches!(self.state, State::Trying { why: Why::Misconfigured }) {
                self.close();
            }
        }
        match news.denied {
            Some(command) => self.note_denial(command, now, jitter),
            None => self.note_health(news.operation, news.health, now, jitter),
        }
    }

    fn note_health(&mut self, operation: Operation, health: Health, now: Duration, jitter: f64) {
        if health == Health::Untold || matches!(self.state, State::Resting { .. }) {
            return;
        }
        let failed = health == Health::Bad;
        self.note(operation, failed);
        let enough = (self.rules.calls as usize).div_ceil(2);
        match self.state {
            State::Closed if failed && self.is_failing(operation, enough) => {
                self.rest(Why::Failing, operation, now, jitter);
            }
            State::Closed if self.good >= self.rules.calls => self.rests = 0,
            State::Trying { why } if failed && self.is_failing(operation, 1) && !self.is_about_queries(operation) => {
                self.rest(why, operation, now, jitter);
            }
            State::Trying { why } if !failed && self.is_proven(why) => self.close(),
            _ => {}
        }
    }

    fn note_denial(&mut self, command: &str, now: Duration, jitter: f64) {
        match self.state {
            State::Resting { .. } => {}
            State::Trying { why: Why::Misconfigured } => {
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

    fn note(&mut self, operation: Operation, failed: bool) {
        let window = if operation == Operation::Cancel { &mut self.cancels } else { &mut self.queries };
        if window.len() >= self.rules.calls as usize {
            window.pop_front();
        }
        window.push_back(failed);
        // Queries that fail are no reason to rest while cancels go well.
        if operation == Operation::Cancel && !failed {
            self.queries.clear();
        }
        self.good = self.good.saturating_add(u32::from(!failed));
    }

    /// Whether most of the last visits of this kind failed, and there were enough of them to say so.
    fn is_failing(&self, operation: Operation, enough: usize) -> bool {
        let window = if operation == Operation::Cancel { &self.cancels } else { &self.queries };
        let failures = window.iter().filter(|failed| **failed).count();
        window.len() >= enough && failures * 100 >= self.rules.failure_percent as usize * window.len()
    }

    /// Whether it is queries alone that fail: a cancel of this trial has gone well.
    fn is_about_queries(&self, operation: Operation) -> bool {
        operation != Operation::Cancel && self.cancels.contains(&false)
    }

    /// Whether a trial has gone well. Where cancels failed a few answered queries prove nothing, and where the keys were refused only
    /// an accepted command does; but a long row of good visits ends any trial, or commands that settle by queries alone would be
    /// worked off one at a time.
    fn is_proven(&self, why: Why) -> bool {
        let good = |window: &VecDeque<bool>| window.iter().filter(|failed| !**failed).count();
        let proofs = match (why, self.failed) {
            (Why::Misconfigured, _) => 0,
            (Why::Failing, Operation::Cancel) => good(&self.cancels),
            (Why::Failing, _) => good(&self.cancels) + good(&self.queries),
        };
        proofs >= PROOFS || self.good >= self.rules.calls.max(PROOFS as u32)
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
        self.forget();
    }

    fn forget(&mut self) {
        self.good = 0;
        self.cancels.clear();
        self.queries.clear();
        self.denied.clear();
    }
}

#[cfg(test)]
mod tests;
