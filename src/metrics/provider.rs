//! One account's provider: what it answers, and how the account stands with it.

use super::{count, registrar::Registrar, table};
use crate::{
    account::gate::View,
    breaker::{State, Why},
    pipeline::Called,
    settings::Account,
    snap::{Code, Operation, SendError},
    verdict::{self, Verdict},
};
use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, Result};
use std::{collections::BTreeMap, time::Duration};

/// What a token call can come to, as the verdict label says it.
const OF_TOKEN: [&str; 3] = ["granted", "no_token", "token_refused"];

/// What an answer's response code is, as far as a label can say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum CodeLabel {
    /// In the standard's table, or in the account's profile.
    Known(Code),
    Other,
    None,
}

/// What is seen of one account's provider.
pub struct Provider {
    calls: BTreeMap<(Operation, &'static str), IntCounter>,
    call_duration: BTreeMap<Operation, Histogram>,
    response_codes: BTreeMap<(Operation, CodeLabel), IntCounter>,
    rate_limit_wait: Option<Histogram>,
    breaker_trips: BTreeMap<Why, IntCounter>,
    breaker_state: Gauge,
    breaker_reason: BTreeMap<Why, Gauge>,
    in_flight: Gauge,
    paused: Gauge,
    account: String,
    /// A skew of zero, where there is no answer, would claim that the clocks agree.
    clock_skew: GaugeVec,
}

impl Provider {
    pub(super) fn new(registrar: &mut Registrar<'_>, settings: &Account) -> Result<Self> {
        let account = settings.name.as_str();
        let profile = &settings.partner.profile;
        registrar.gauge(&table::ACCOUNT_INFO, &[account, &profile.name])?.set(1.0);
        registrar.gauge(&table::IN_FLIGHT_LIMIT, &[account])?.set(settings.at_once().into());
        let mut calls = BTreeMap::new();
        let of_cancel = Verdict::OF_CANCEL.map(Verdict::name);
        let of_query = Verdict::OF_QUERY.map(Verdict::name);
        for (operation, verdicts) in
            [(Operation::Cancel, &of_cancel[..]), (Operation::Query, &of_query), (Operation::Token, &OF_TOKEN)]
        {
            for verdict in verdicts.iter().copied() {
                let counter = registrar.counter(&table::CALLS, &[account, operation.name(), verdict])?;
                calls.insert((operation, verdict), counter);
            }
        }
        let (mut call_duration, mut response_codes) = (BTreeMap::new(), BTreeMap::new());
        for operation in Operation::ALL {
            let histogram = registrar.histogram(&table::CALL_DURATION, &[account, operation.name()])?;
            call_duration.insert(operation, histogram);
            let known = verdict::known_codes(operation).chain(profile.codes.keys().copied());
            let known = known.filter(|code| code.service() == operation.service()).map(CodeLabel::Known);
            for code in known.chain([CodeLabel::Other, CodeLabel::None]) {
                let labels = [account, operation.name(), &code.name()];
                response_codes.insert((operation, code), registrar.counter(&table::RESPONSE_CODES, &labels)?);
            }
        }
        let (mut breaker_trips, mut breaker_reason) = (BTreeMap::new(), BTreeMap::new());
        for why in Why::ALL {
            breaker_trips.insert(why, registrar.counter(&table::BREAKER_TRIPS, &[account, why.name()])?);
            breaker_reason.insert(why, registrar.gauge(&table::BREAKER_REASON, &[account, why.name()])?);
        }
        let paced = settings.max_requests_per_second.is_some();
        Ok(Self {
            calls,
            call_duration,
            response_codes,
            rate_limit_wait: paced.then(|| registrar.histogram(&table::RATE_LIMIT_WAIT, &[account])).transpose()?,
            breaker_trips,
            breaker_state: registrar.gauge(&table::BREAKER_STATE, &[account])?,
            breaker_reason,
            in_flight: registrar.gauge(&table::IN_FLIGHT, &[account])?,
            paused: registrar.gauge(&table::PAUSED, &[account])?,
            account: account.to_owned(),
            clock_skew: registrar.gauges(&table::CLOCK_SKEW)?,
        })
    }

    /// A call has ended.
    pub fn call(&self, call: &Called<'_>) {
        if let Some(token) = &call.sent.token_call {
            let verdict = match &call.sent.result {
                Err(SendError::TokenRefused(_)) => "token_refused",
                Err(SendError::NoToken(_)) => "no_token",
                _ => "granted",
            };
            self.ended(Operation::Token, verdict, Duration::from_millis(token.duration_ms));
            if token.http_status.is_some() {
                self.answered(Operation::Token, token.response_code.as_deref().and_then(Code::parse));
            }
        }
        // Where the token failed, or the worker had to stop, the call itself was never made.
        if !matches!(
            call.sent.result,
            Err(SendError::NoToken(_) | SendError::TokenRefused(_) | SendError::TooLate | SendError::Stopping)
        ) {
            self.ended(call.operation, call.verdict.name(), call.sent.duration);
        }
        if call.sent.result.is_ok() {
            self.answered(call.operation, call.answer.and_then(|answer| answer.code));
        }
    }

    fn ended(&self, operation: Operation, verdict: &'static str, duration: Duration) {
        count(&self.calls, &(operation, verdict));
        if let Some(durations) = self.call_duration.get(&operation) {
            durations.observe(duration.as_secs_f64());
        }
    }

    fn answered(&self, operation: Operation, code: Option<Code>) {
        let label = match code.map(CodeLabel::Known) {
            Some(known) if self.response_codes.contains_key(&(operation, known)) => known,
            Some(_) => CodeLabel::Other,
            None => CodeLabel::None,
        };
        count(&self.response_codes, &(operation, label));
    }

    /// A request has waited so long for its turn.
    pub fn waited_for_turn(&self, waited: Duration) {
        if let Some(waits) = &self.rate_limit_wait {
            waits.observe(waited.as_secs_f64());
        }
    }

    /// The account begins to rest.
    pub fn rests(&self, why: Why) {
        count(&self.breaker_trips, &why);
    }

    /// How the account stands at this moment.
    pub fn stands(&self, view: &View, in_flight: usize, clock_skew: Option<f64>) {
        let (state, reason) = match view.breaker {
            State::Closed => (0, None),
            State::Trying { why } => (1, Some(why)),
            State::Resting { why, .. } => (2, Some(why)),
        };
        self.breaker_state.set(state.into());
        for (why, gauge) in &self.breaker_reason {
            gauge.set(f64::from(reason == Some(*why)));
        }
        self.in_flight.set(in_flight as f64);
        self.paused.set(f64::from(view.paused));
        match clock_skew {
            Some(seconds) => self.clock_skew.with_label_values(&[&self.account]).set(seconds),
            // It fails where there is none.
            None => self.clock_skew.remove_label_values(&[&self.account]).unwrap_or_default(),
        }
    }
}

impl CodeLabel {
    fn name(&self) -> String {
        match self {
            Self::Known(code) => code.to_string(),
            Self::Other => "other".to_owned(),
            Self::None => "none".to_owned(),
        }
    }
}
