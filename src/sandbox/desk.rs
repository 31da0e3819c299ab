//! What the provider keeps of one account: its tokens, the X-EXTERNAL-IDs of the day, and counts of what reached it.

use super::{
    answer::Answer,
    check::{Caller, Refusal},
    faults::Faults,
    ledger::CallSeen,
};
use crate::snap::{profile::Repeat, sign};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

#[derive(Default)]
pub struct Desk {
    /// Faults of this account alone, instead of everybody's.
    pub faults: Option<Faults>,
    pub counts: Counts,
    tokens: HashMap<String, Instant>,
    used: UsedIds,
}

/// What reached the provider, counted.
#[derive(Default)]
pub struct Counts {
    pub calls: BTreeMap<&'static str, Tally>,
    pub injected: BTreeMap<&'static str, u64>,
    /// Cancels that changed a transaction.
    pub took_effect: u64,
}

/// Calls of one operation, by what was answered.
#[derive(Default, Serialize)]
pub struct Tally {
    total: u64,
    codes: BTreeMap<String, u64>,
}

#[derive(Default)]
struct UsedIds {
    day: NaiveDate,
    ids: HashMap<String, Use>,
}

/// What an X-EXTERNAL-ID was first used for.
struct Use {
    body: [u8; 32],
    /// What was to be answered, if that call took effect.
    answer: Option<Answer>,
}

impl Desk {
    pub fn issue_token(&mut self, lifetime: Duration) -> String {
        let now = Instant::now();
        self.tokens.retain(|_, until| now < *until);
        let token = uuid::Uuid::new_v4().simple().to_string();
        self.tokens.insert(token.clone(), now + lifetime);
        token
    }

    pub fn drop_token(&mut self, caller: &Caller) {
        if let Some(token) = &caller.token {
            self.tokens.remove(token);
        }
    }

    /// Whether the token holds and the id is fresh. Where a repeated call keeps its id, it is told what the first one was
    /// told if that took effect; if it did not, the repeat is judged anew.
    pub fn admit(
        &mut self,
        caller: &Caller,
        repeat: Repeat,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<Option<Answer>, Refusal> {
        let holds = |token| self.tokens.get(token).is_some_and(|until| Instant::now() < *until);
        if caller.token.as_ref().is_some_and(|token| !holds(token)) {
            return Err(Refusal::invalid_token());
        }
        let Some(id) = &caller.external_id else { return Ok(None) };
        // Ids are unique within a day of Western Indonesia Time.
        let day = now.with_timezone(&sign::wib()).date_naive();
        if self.used.day != day {
            self.used = UsedIds { day, ids: HashMap::new() };
        }
        let body = Sha256::digest(body).into();
        match self.used.ids.get(id) {
            None => {
                self.used.ids.insert(id.clone(), Use { body, answer: None });
                Ok(None)
            }
            Some(first) if repeat == Repeat::Same && first.body == body => Ok(first.answer.clone()),
            Some(_) => Err(Refusal::conflict()),
        }
    }

    /// Keeps the answer of a call that took effect for its repeats.
    pub fn remember(&mut self, caller: &Caller, answer: Answer) {
        if let Some(used) = caller.external_id.as_ref().and_then(|id| self.used.ids.get_mut(id)) {
            used.answer = Some(answer);
        }
    }
}

impl Counts {
    pub fn add(&mut self, seen: &CallSeen) {
        let tally = self.calls.entry(seen.operation.name()).or_default();
        tally.total += 1;
        *tally.codes.entry(seen.code.clone().unwrap_or_else(|| "none".into())).or_default() += 1;
        if let Some(fault) = seen.fault {
            *self.injected.entry(fault).or_default() += 1;
        }
        self.took_effect += u64::from(seen.took_effect);
    }
}
