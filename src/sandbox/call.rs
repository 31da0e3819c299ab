//! One call from check to answer: who calls, what it asks, which fault is in the way, what it changes.

use super::{
    CanceledAgain, Sandbox, Unknown, World,
    answer::{self, Answer, Delivery},
    check::{self, Caller},
    faults::Fault,
    ledger::{CallSeen, Number, References, State, Transaction},
};
use crate::snap::{
    Operation,
    profile::{CommandField, Status},
    request::Partner,
};
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How many calls are told that a transaction does not exist, once that fault befalls it.
const NOT_FOUND_FOR: u32 = 2;

/// A call as it came.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub account: &'a str,
    pub partner: &'a Partner,
    pub operation: Operation,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

/// What becomes of a call.
pub struct Decided {
    pub delivery: Delivery,
    /// The transaction that will be cancelled by itself, after a 202.
    pub cancel_later: Option<Number>,
}

/// A call that is being decided.
struct Case<'a> {
    account: &'a str,
    partner: &'a Partner,
    operation: Operation,
    fields: Map<String, Value>,
    references: References,
    at: DateTime<Utc>,
    fault: Option<Fault>,
    transaction: Option<Number>,
    took_effect: bool,
    canceled_again: CanceledAgain,
}

impl Sandbox {
    /// Decides a call: when this returns, all its effects have happened but that of a cancel accepted with 202.
    pub(super) fn decide(&self, call: Call<'_>, at: DateTime<Utc>) -> Decided {
        let Call { account, partner, operation, headers, body } = call;
        let fields: Option<Map<String, Value>> = serde_json::from_slice(body).ok();
        let caller = check::caller(partner, operation, headers, body, at);
        let external_id = caller.as_ref().ok().and_then(|caller| caller.external_id.clone());
        let checked = caller.and_then(|c| check::fields(partner, operation, fields.as_ref()).map(|()| c));
        let fields = fields.unwrap_or_default();
        let references = check::references(partner, operation, &fields);
        let mut case = Case {
            account,
            partner,
            operation,
            fields,
            references,
            at,
            fault: None,
            transaction: None,
            took_effect: false,
            canceled_again: self.options.canceled_again,
        };
        let mut world = self.world();
        let admitted = checked.and_then(|caller| {
            let replay = world.desk(account).admit(&caller, partner.profile.external_id.repeat, body, at)?;
            Ok((caller, replay))
        });
        let delivery = match admitted {
            Err(refusal) => Delivery::Whole(refusal.answer(operation)),
            Ok(_) if operation == Operation::Token => world.grant(&mut case, self.options.token_lifetime),
            Ok((caller, replay)) => world.transact(&mut case, &caller, replay, self.options.unknown),
        };
        world.record(&mut case, &delivery, external_id);
        let accepted = case.fault == Some(Fault::Accepted) && operation == Operation::Cancel;
        Decided { delivery, cancel_later: case.transaction.filter(|_| accepted) }
    }

    /// What was accepted with 202 takes effect, unless the transaction has changed meanwhile.
    pub(super) fn cancel_accepted(&self, number: Number, at: DateTime<Utc>) {
        let mut world = self.world();
        let pending = world.ledger.get(number).filter(|transaction| transaction.state == State::Pending);
        let Some(transaction) = pending else { return };
        transaction.change(State::Canceled, "accepted cancel", at);
        let account = transaction.account.clone();
        world.desk(&account).counts.took_effect += 1;
    }
}

impl World {
    /// A token call.
    fn grant(&mut self, case: &mut Case<'_>, lifetime: Duration) -> Delivery {
        case.fault = self.draw(case.account).filter(|fault| fault.befalls_token_calls());
        let desk = self.desk(case.account);
        deliver(case.fault, case.operation, || {
            let name = |names: &[String], usual: &str| names.first().map_or(usual, String::as_str).to_owned();
            let call = case.partner.profile.token.as_ref();
            let mut fields = Map::new();
            let token_name = call.map_or_else(|| "accessToken".into(), |call| name(&call.access_token, "accessToken"));
            fields.insert(token_name, desk.issue_token(lifetime).into());
            fields.insert("tokenType".into(), "Bearer".into());
            let lifetime_name = call.map_or_else(|| "expiresIn".into(), |call| name(&call.expires_in, "expiresIn"));
            fields.insert(lifetime_name, lifetime.as_secs_f64().to_string().into());
            Answer::with(Operation::Token, "20000", fields)
        })
    }

    /// A cancel or a query that is in order.
    fn transact(
        &mut self,
        case: &mut Case<'_>,
        caller: &Caller,
        mut replay: Option<Answer>,
        unknown: Unknown,
    ) -> Delivery {
        // A call without a token cannot have an expired one.
        let possible = |fault: &Fault| *fault != Fault::ExpiredToken || caller.token.is_some();
        case.fault = self.draw(case.account).filter(possible);
        let known = self.ledger.find(case.account, &case.references);
        case.transaction = known.or_else(|| {
            let new = || self.ledger.open(case.account, &case.references, State::Pending, "first call", case.at);
            (unknown == Unknown::Pending).then(new)
        });
        let mut transaction = case.transaction.and_then(|number| self.ledger.get(number));
        if let (Some(Fault::NotFoundForAWhile), Some(transaction)) = (case.fault, &mut transaction) {
            transaction.not_found_for = NOT_FOUND_FOR;
        }
        let mut effect = None;
        let delivery = deliver(case.fault, case.operation, || {
            if let Some(first) = replay.take() {
                return first;
            }
            let (answer, took_effect) = case.act(transaction);
            effect = took_effect.then(|| answer.clone());
            answer
        });
        case.took_effect = effect.is_some();
        if case.fault == Some(Fault::ExpiredToken) {
            self.desk(case.account).drop_token(caller);
        }
        if let Some(answer) = effect {
            self.desk(case.account).remember(caller, answer);
        }
        delivery
    }

    /// Every call draws once, so that the same order of calls meets the same faults.
    fn draw(&mut self, account: &str) -> Option<Fault> {
        let number = self.random.f64();
        let own = self.desks.get(account).and_then(|desk| desk.faults.as_ref());
        own.unwrap_or(&self.faults).drawn(number)
    }

    fn record(&mut self, case: &mut Case<'_>, delivery: &Delivery, external_id: Option<String>) {
        let seen = CallSeen {
            at: case.at,
            operation: case.operation,
            code: delivery.code().map(|code| code.to_string()),
            fault: case.fault.map(Fault::name),
            external_id,
            took_effect: case.took_effect,
        };
        tracing::debug!(
            account = case.account,
            operation = seen.operation.name(),
            code = seen.code,
            fault = seen.fault,
            external_id = seen.external_id,
            "call"
        );
        self.desk(case.account).counts.add(&seen);
        // A call that was refused has reached its transaction, too, if there is one.
        let number = case.transaction.or_else(|| self.ledger.find(case.account, &case.references));
        if let Some(transaction) = number.and_then(|number| self.ledger.get(number)) {
            transaction.record(seen);
        }
    }
}

impl Case<'_> {
    /// What the call does and is told where no fault is in the way, and whether it changed the transaction.
    fn act(&self, transaction: Option<&mut Transaction>) -> (Answer, bool) {
        let Some(transaction) = transaction else {
            return (Answer::snap(self.operation, "40401"), false);
        };
        let hidden = transaction.not_found_for > 0;
        transaction.not_found_for = transaction.not_found_for.saturating_sub(1);
        match self.operation {
            Operation::Cancel if hidden => (Answer::snap(self.operation, "40401"), false),
            Operation::Cancel => self.cancel(transaction),
            Operation::Query | Operation::Token => (self.query(transaction, hidden), false),
        }
    }

    fn cancel(&self, transaction: &mut Transaction) -> (Answer, bool) {
        let case = match transaction.state {
            State::Pending => "20000",
            State::Paid => "40414",
            State::Expired => "40300",
            State::Canceled => self.canceled_again.case(),
            State::Refunded => "40400",
        };
        let mut fields = self.echo();
        let takes_effect = transaction.state == State::Pending;
        if takes_effect {
            if let Some(amount) = self.sent(CommandField::Amount) {
                transaction.amount = Some(amount.clone());
            }
            transaction.change(State::Canceled, "cancel", self.at);
            fields.insert("cancelTime".into(), answer::time(self.at).into());
            if let Some(info) = self.sent(CommandField::AdditionalInfo) {
                fields.insert("additionalInfo".into(), info.clone());
            }
        }
        (Answer::with(self.operation, case, fields), takes_effect)
    }

    fn query(&self, transaction: &Transaction, hidden: bool) -> Answer {
        // Where a provider knows paid transactions only, it finds no other.
        let meanings: &[Status] = match transaction.state {
            _ if hidden => &[Status::NotFound],
            State::Pending => &[Status::Open, Status::NotFound],
            State::Paid => &[Status::Paid],
            State::Canceled => &[Status::Canceled, Status::NotFound],
            State::Expired => &[Status::Expired, Status::NotFound],
            State::Refunded => &[Status::Refunded],
        };
        let statuses = self.partner.profile.query.as_ref().map(|query| &query.status);
        let status = meanings
            .iter()
            .find_map(|meaning| statuses?.iter().find(|(_, of_profile)| *of_profile == meaning))
            .map(|(status, _)| status.as_str());
        let Some(status) = status else {
            // The profile has no status for it: the standard has these codes.
            return Answer::snap(self.operation, if hidden { "40401" } else { "40400" });
        };
        let mut fields = self.echo();
        fields.insert("latestTransactionStatus".into(), status.into());
        if !hidden {
            let usual = || json!({ "value": "10000.00", "currency": "IDR" });
            fields.insert("amount".into(), transaction.amount.clone().unwrap_or_else(usual));
        }
        if !hidden && transaction.state == State::Paid {
            fields.insert("paidTime".into(), answer::time(transaction.since()).into());
        }
        Answer::with(self.operation, "20000", fields)
    }

    /// The references as the call gave them.
    fn echo(&self) -> Map<String, Value> {
        let references = [CommandField::OriginalReferenceNo, CommandField::OriginalPartnerReferenceNo];
        let sent = references.into_iter().filter_map(|name| Some((name.name().to_owned(), self.sent(name)?.clone())));
        sent.collect()
    }

    fn sent(&self, wanted: CommandField) -> Option<&Value> {
        check::value_of(self.partner, self.operation, &self.fields, wanted)
    }
}

/// How a call is answered under a fault; `act` is what happens where it is let through.
fn deliver(fault: Option<Fault>, operation: Operation, act: impl FnOnce() -> Answer) -> Delivery {
    let plain = |case| Delivery::Whole(Answer::snap(operation, case));
    let late = || Delivery::Late(Answer::snap(operation, "50400"));
    match fault {
        None | Some(Fault::NotFoundForAWhile) => Delivery::Whole(act()),
        Some(Fault::Drip) => Delivery::Dripping(act()),
        Some(Fault::Truncated) => Delivery::Truncated(act()),
        Some(Fault::TimeoutAfter) => {
            act();
            plain("50400")
        }
        Some(Fault::HangAfter) => {
            act();
            late()
        }
        Some(Fault::ResetAfter) => {
            act();
            Delivery::Reset
        }
        Some(Fault::ServerError) => plain("50000"),
        Some(Fault::TooManyRequests) => plain("42900"),
        Some(Fault::Accepted) => plain("20200"),
        Some(Fault::ExpiredToken) => plain("40101"),
        Some(Fault::Hang) => late(),
        Some(Fault::ResetBefore) => Delivery::Reset,
        Some(Fault::Html) => Delivery::Whole(Answer::html(200)),
        Some(Fault::UnavailableHtml) => Delivery::Whole(Answer::html(503)),
    }
}
