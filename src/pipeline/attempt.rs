//! One attempt: a visit to the provider with a cancel, a query, or both, and what follows from what it says.
//!
//! An ambiguous command is queried before it is cancelled again. What a cancel leaves open is settled by a query at once.

mod call;

use super::{Gateway, Outbox, Pipeline, Step, World};
use crate::{
    breaker::{Health, News},
    command::CancelCommand,
    event::Finish,
    message::{Carried, Message},
    outcome::Cause,
    retry::{self, Later, Progress},
    snap::{Operation, profile::Status, response::Answer},
    verdict::Verdict,
};
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use std::{sync::atomic::Ordering, time::Duration};

/// So many denials in a row, while others pass, show that the provider refuses this command. Fewer can be chance: where one node of two
/// has an old key, every second call is denied, and five in a row come once in 32 times.
const DENIALS_IN_A_ROW: u32 = 5;

/// One visit to the provider for a command.
pub(super) struct Visit<'a, G, O, W> {
    pipeline: &'a Pipeline<G, O, W>,
    command: &'a CancelCommand,
    progress: &'a mut Progress,
    message: &'a Message,
    /// The last answer of this visit.
    answer: Option<Answer>,
    /// The access token of the last call.
    token: Option<SecretString>,
    /// The longest that the provider asked us to wait.
    retry_after: Option<Duration>,
    /// When the first call began.
    asked_at: Option<DateTime<Utc>>,
    /// The provider did not let this visit's cancel in, and that is not excused.
    cancel_denied: bool,
    /// What this visit says of the provider: that of its last cancel, else of its last query.
    told: Option<(Operation, Health)>,
    /// A cancel was let in.
    accepted: bool,
    /// We were not let in, and that lies in the account.
    denied: bool,
    /// That the last call was not let in says nothing of the account: it was not tried again, or another call had found it out.
    excused: bool,
    /// The worker had to stop in the middle.
    interrupted: bool,
    /// The provider has accepted a cancel in this visit without finishing it: it needs its time, whatever a query says.
    pending: bool,
}

impl<'a, G: Gateway, O: Outbox, W: World> Visit<'a, G, O, W> {
    pub(super) fn new(
        pipeline: &'a Pipeline<G, O, W>,
        message: &'a Message,
        command: &'a CancelCommand,
        progress: &'a mut Progress,
    ) -> Self {
        Self {
            pipeline,
            command,
            progress,
            message,
            answer: None,
            token: None,
            retry_after: None,
            asked_at: None,
            cancel_denied: false,
            told: None,
            accepted: false,
            denied: false,
            excused: false,
            interrupted: false,
            pending: false,
        }
    }

    pub(super) async fn attempt(mut self, claim: &G::Claim) -> Step {
        let step = self.visit().await;
        if let Some((operation, health)) = self.told {
            let digest = self.denied.then(|| hex::encode(Sha256::digest(&self.message.body)));
            let news = News { operation, health, accepted: self.accepted, denied: digest.as_deref() };
            self.pipeline.gateway.note_visit(claim, news);
        }
        step
    }

    async fn visit(&mut self) -> Step {
        if self.can_query() && (self.progress.ambiguous || self.progress.query_first) {
            match self.query().await {
                Verdict::Status(Status::Open) => {}
                settled_or_not => return self.after_query(settled_or_not, Later::Open),
            }
        }
        if self.is_too_late(Operation::Cancel) {
            return self.end(Cause::NotAfterPassed);
        }
        match self.cancel().await {
            Verdict::Canceled if self.pipeline.confirm_cancel && self.can_query() => {
                self.progress.ambiguous = true;
                self.settle_by_query(Later::Open).await
            }
            Verdict::Canceled => self.end(Cause::Canceled),
            Verdict::Verify if self.can_query() => self.settle_by_query(Later::Open).await,
            Verdict::Refused { cause, malformed: true } => self.end(cause),
            // The command may have been published twice, or a worker that died may have left a copy of it: then a refusal can be the
            // echo of a cancel that took effect. Only of a QR that is still open it is a no.
            Verdict::Refused { cause, .. } if self.can_query() => {
                let refusal = self.answer.clone();
                match self.query().await {
                    Verdict::Status(Status::Open) => {
                        self.answer = refusal;
                        self.end(cause)
                    }
                    settled_or_not => self.after_query(settled_or_not, Later::Open),
                }
            }
            Verdict::Verify | Verdict::Refused { .. } => {
                self.progress.ambiguous = self.may_have_a_twin();
                self.end(Cause::NoQuery)
            }
            verdict @ (Verdict::Unknown | Verdict::Pending) => {
                self.progress.ambiguous = true;
                self.pending = verdict == Verdict::Pending;
                let (still_open, no_query) = match self.pending {
                    true => (Later::Pending, Later::Pending),
                    false => (Later::Open, Later::Unknown),
                };
                if self.can_query() && !self.interrupted {
                    self.settle_by_query(still_open).await
                } else {
                    self.later(no_query)
                }
            }
            Verdict::CutOff => self.later(Later::CutOff),
            Verdict::Misconfigured { merchant } => {
                self.cancel_denied = !self.excused;
                self.deny(merchant);
                match self.later(Later::Misconfigured) {
                    Step::Finish(finish) if finish.cause == Cause::NotAuthorized => self.refuse(finish).await,
                    step => step,
                }
            }
            // The first alone: `call` settles the next two, and the others are a query's.
            Verdict::Retry | Verdict::Token | Verdict::Unauthorized | Verdict::Status(_) | Verdict::QueryFailed => {
                self.later(Later::Busy)
            }
        }
    }

    /// Whether a worker that died may have left another copy of the command, which may have cancelled the transaction. It leaves two when it
    /// dies between a retry's confirm and the acknowledgement, and only the one that is delivered again shows it.
    fn may_have_a_twin(&self) -> bool {
        self.progress.ambiguous || matches!(self.message.carried, Carried::Progress(_))
    }

    /// The command was denied to the end, alone. That is told of a QR that is still open; a copy of the command may have been let in.
    async fn refuse(&mut self, denied: Finish) -> Step {
        let cause = match self.query().await {
            Verdict::Status(Status::Open) => return Step::Finish(denied),
            verdict => self.settled(verdict).unwrap_or(Cause::AttemptsExhausted),
        };
        Step::Finish(self.pipeline.decision(cause, self.progress, self.answer.as_ref()))
    }

    /// The provider has answered the cancel, or not: a query says how the transaction stands.
    async fn settle_by_query(&mut self, still_open: Later) -> Step {
        let verdict = self.query().await;
        self.after_query(verdict, still_open)
    }

    fn after_query(&mut self, verdict: Verdict, still_open: Later) -> Step {
        // A command that is not ambiguous is cancelled again without asking first only where a query has just said "open".
        self.progress.query_first = verdict != Verdict::Status(Status::Open);
        if let Some(cause) = self.settled(verdict) {
            return self.end(cause);
        }
        match verdict {
            Verdict::Status(Status::Open) => self.later(still_open),
            Verdict::Status(Status::Paying) => self.later(Later::Paying),
            Verdict::Status(Status::NotFound) => self.later(Later::NotFound),
            Verdict::Misconfigured { merchant } => {
                self.deny(merchant);
                self.later(Later::Misconfigured)
            }
            _ => self.later(Later::QueryFailed),
        }
    }

    /// How the command ends when a query has said this; `None` where that ends nothing.
    fn settled(&self, verdict: Verdict) -> Option<Cause> {
        match verdict {
            Verdict::Status(Status::Canceled) if self.progress.ambiguous => Some(Cause::Canceled),
            Verdict::Status(Status::Canceled) => Some(Cause::AlreadyCanceled),
            Verdict::Status(Status::Paid) => Some(Cause::Paid),
            Verdict::Status(Status::Refunded) => Some(Cause::Refunded),
            Verdict::Status(Status::Failed) => Some(Cause::Failed),
            Verdict::Status(Status::Expired) => Some(Cause::Expired),
            _ => None,
        }
    }

    /// The provider refuses us: that lies in the account, unless it objects to merchant fields which the command brought.
    fn deny(&mut self, merchant: bool) {
        let own_fault = merchant && self.command.own_merchant_fields;
        self.denied |= !(self.excused || own_fault);
    }

    /// Lets the command wait for its next attempt, or gives it up when this was its last.
    fn later(&mut self, why: Later) -> Step {
        let why = if self.interrupted { Later::Interrupted } else { why };
        let is_alone = self.others_passed_since(self.progress.doubted_at);
        match why {
            // The command is not to blame, unless the provider has taken a cancel of the account since it last refused this one.
            Later::Misconfigured if !is_alone => self.progress.doubts += 1,
            // Neither a stop of ours nor the provider's closing time is an attempt that failed.
            Later::Interrupted | Later::CutOff => {}
            _ => self.progress.attempts += 1,
        }
        let Pipeline { policy, world, .. } = self.pipeline;
        match why {
            // It has not ended.
            Later::Interrupted => {}
            Later::Misconfigured => {
                self.progress.doubted_at = Some(world.now());
                // What is excused, or happens to all, says nothing of this command. A query that is not let in is another ending.
                if self.cancel_denied {
                    self.progress.denied_in_a_row += u32::from(is_alone);
                } else if !self.excused {
                    self.progress.denied_in_a_row = 0;
                }
            }
            _ => (self.progress.doubted_at, self.progress.denied_in_a_row) = (None, 0),
        }
        let at_least = self.retry_after.max(self.pending.then_some(policy.pending));
        match retry::next(policy, self.progress, why, at_least, world.jitter()) {
            Some(delay) => Step::Wait(why, delay),
            None => self.give_up(why),
        }
    }

    fn others_passed_since(&self, time: Option<DateTime<Utc>>) -> bool {
        let passed = self.pipeline.accepted_at.load(Ordering::Relaxed);
        time.is_some_and(|time| passed > time.timestamp_millis())
    }

    fn give_up(&self, why: Later) -> Step {
        let cause = self.cause_of_giving_up(why);
        Step::Finish(self.pipeline.decision(cause, self.progress, self.answer.as_ref()))
    }

    fn cause_of_giving_up(&self, why: Later) -> Cause {
        match why {
            Later::NotFound => {
                let can_mean_expired = self.pipeline.query_call().is_some_and(|query| query.not_found_can_mean_expired);
                let long_expired = |at: DateTime<Utc>| self.pipeline.world.now() - at > TimeDelta::minutes(5);
                let expired = can_mean_expired
                    && !self.progress.ambiguous
                    && self.command.qr_expires_at.is_some_and(long_expired);
                if expired { Cause::Expired } else { Cause::NotFound }
            }
            Later::Misconfigured if self.is_refused_alone() => Cause::NotAuthorized,
            _ => Cause::AttemptsExhausted,
        }
    }

    /// Whether the provider has refused this command alone, often enough; where there is no query, nobody can tell whether a copy of the
    /// command was let in.
    fn is_refused_alone(&self) -> bool {
        self.progress.denied_in_a_row >= DENIALS_IN_A_ROW && !self.progress.ambiguous && self.can_query()
    }

    /// This visit, if the provider was asked at all, was the command's last attempt.
    fn end(&mut self, cause: Cause) -> Step {
        self.progress.attempts += u32::from(self.asked_at.is_some());
        Step::Finish(self.pipeline.decision(cause, self.progress, self.answer.as_ref()))
    }

    fn is_too_late(&self, operation: Operation) -> bool {
        operation == Operation::Cancel && self.not_after().is_some_and(|limit| self.pipeline.world.now() > limit)
    }

    fn not_after(&self) -> Option<DateTime<Utc>> {
        self.progress.not_after.or(self.command.not_after)
    }

    fn can_query(&self) -> bool {
        self.pipeline.query_call().is_some()
    }

    async fn cancel(&mut self) -> Verdict {
        self.call(Operation::Cancel).await
    }

    async fn query(&mut self) -> Verdict {
        self.call(Operation::Query).await
    }
}
