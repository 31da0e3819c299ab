//! One call of an attempt: sent, judged, recorded, and made again at once where only its token or its timestamp was stale.

use super::Visit;
use crate::{
    breaker::Health,
    pipeline::{Called, Gateway, Outbox, Sent, World},
    retry::CallRecord,
    snap::{Code, Operation, SendError, profile::CommandField, response::Answer},
    verdict::{self, Asked, Verdict},
};
use chrono::TimeDelta;
use sha2::{Digest, Sha256};
use std::sync::atomic::Ordering;
use tracing::debug;

/// No call of a visit begins later than this after its first: a visit is several calls, and a delivery must not be held for
/// more than five minutes.
const CALLS_BEGIN_WITHIN: TimeDelta = TimeDelta::seconds(45);

impl<G: Gateway, O: Outbox, W: World> Visit<'_, G, O, W> {
    /// One call; with a new token, or a fresh timestamp, once more at once if that is what the provider asks for.
    pub(super) async fn call(&mut self, operation: Operation) -> Verdict {
        let (mut renewed, mut repeated) = (false, false);
        self.excused = false;
        loop {
            let now = self.pipeline.world.now();
            if now - *self.asked_at.get_or_insert(now) > CALLS_BEGIN_WITHIN {
                debug!(operation = operation.name(), "no time left in this attempt");
                return nothing_done(operation);
            }
            let verdict = self.send(operation).await;
            match verdict {
                Verdict::Token => {
                    let token = self.token.take();
                    if let Some(token) = &token {
                        self.pipeline.gateway.forget_token(token).await;
                    }
                    // Keys that have just earned a token are right. Where a bank has one live token for a client, another worker's has
                    // ended it.
                    if renewed && token.is_some() {
                        self.tell_bad(operation);
                        return nothing_done(operation);
                    }
                    if renewed || self.is_too_late(operation) {
                        self.excused = !renewed;
                        return Verdict::Misconfigured { merchant: false };
                    }
                    renewed = true;
                }
                Verdict::Unauthorized if !repeated && !self.is_too_late(operation) => repeated = true,
                Verdict::Unauthorized => {
                    self.excused = !repeated;
                    return Verdict::Misconfigured { merchant: false };
                }
                verdict => return verdict,
            }
        }
    }

    /// The provider fails, whatever the verdict on its last answer alone says of it.
    fn tell_bad(&mut self, operation: Operation) {
        if let Some((told, health)) = &mut self.told
            && *told == operation
        {
            *health = Health::Bad;
        }
    }

    async fn send(&mut self, operation: Operation) -> Verdict {
        let pipeline = self.pipeline;
        let body = pipeline.partner.body(operation, self.command);
        let body_sha256 = hex::encode(Sha256::digest(&body));
        let external_id = pipeline.partner.external_id(
            operation,
            &self.message.body,
            self.progress.conflict,
            pipeline.world.random(),
        );
        let not_after = self.not_after().filter(|_| operation == Operation::Cancel);
        let sent = pipeline.gateway.send(operation, body, &external_id, not_after).await;

        let answer = sent.result.as_ref().ok().and_then(|reply| Answer::read(&reply.body));
        let asked = Asked {
            reference: self.command.text(CommandField::OriginalReferenceNo),
            partner_reference: self.command.text(CommandField::OriginalPartnerReferenceNo),
        };
        let result = sent.result.as_ref().map(|reply| (reply, answer.as_ref()));
        let verdict = match pipeline.query_call() {
            Some(call) if operation == Operation::Query => verdict::of_query(result, asked, call),
            _ => verdict::of_cancel(result, asked, &pipeline.partner.profile.codes),
        };
        // A query that is answered says nothing about our right to cancel.
        if operation == Operation::Cancel && verdict.is_accepted() {
            pipeline.accepted_at.fetch_max(sent.at.timestamp_millis(), Ordering::Relaxed);
        }
        let code = answer.as_ref().and_then(|answer| answer.code);
        self.excused = sent.is_hearsay;
        let health = if self.excused { Health::Untold } else { verdict::health(result, operation, verdict) };
        pipeline.gateway.note_call(&Called { operation, verdict, health, sent: &sent, answer: answer.as_ref() });
        debug!(
            operation = operation.name(),
            verdict = verdict.name(),
            code = code.as_ref().map(|code| code.as_str()),
            error = sent.result.as_ref().err().map(tracing::field::display),
            duration_ms = sent.duration.as_millis() as u64,
            "asked the provider"
        );
        self.record(operation, &sent, external_id, body_sha256, code);
        if operation == Operation::Cancel || self.told.is_none_or(|(before, _)| before != Operation::Cancel) {
            self.told = Some((operation, health));
        }
        self.accepted |= operation == Operation::Cancel && verdict.is_accepted();
        self.interrupted |= matches!(sent.result, Err(SendError::Interrupted | SendError::Stopping));
        let wait = sent.result.as_ref().ok().and_then(|reply| reply.retry_after);
        self.retry_after = self.retry_after.max(wait).max(sent.no_token_for);
        self.token = sent.token;
        // What is said of another transaction is no news of this one.
        if let Some(news) = answer.filter(|answer| !answer.is_about_another(asked.reference, asked.partner_reference)) {
            self.remember(news);
        }
        verdict
    }

    /// What the command carries on of a call.
    fn record(
        &mut self,
        operation: Operation,
        sent: &Sent,
        external_id: String,
        body_sha256: String,
        code: Option<Code>,
    ) {
        self.progress.conflict |= code.is_some_and(|code| code.http_status() == 409);
        let history = &mut self.progress.history;
        if let Some(token_call) = &sent.token_call {
            history.push(token_call.clone());
        }
        history.push(CallRecord {
            number: 0,
            operation,
            at: sent.at,
            external_id: Some(external_id),
            body_sha256,
            http_status: sent.result.as_ref().ok().map(|reply| reply.http_status),
            response_code: code.map(|code| code.to_string()),
            error: sent.result.as_ref().err().map(|error| error.name().to_owned()),
            duration_ms: sent.duration.as_millis() as u64,
        });
    }

    /// The last answer counts. A query's has no cancelTime: the cancel's own is kept.
    fn remember(&mut self, mut news: Answer) {
        let before = self.answer.take();
        news.cancel_time = news.cancel_time.or(before.and_then(|before| before.cancel_time));
        self.answer = Some(news);
    }
}

/// A call that told nothing, after which nothing can have happened.
fn nothing_done(operation: Operation) -> Verdict {
    match operation {
        Operation::Cancel => Verdict::Retry,
        _ => Verdict::QueryFailed,
    }
}
