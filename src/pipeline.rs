//! THE STORY: one command's life, from the message to the confirmed effect.
//!
//! [`Pipeline::handle`] takes a message and returns `Ok` once the broker has confirmed everything that had to happen; only
//! then may the message be acknowledged. It tells, from the top: decide (an attempt at the provider, if one is due), then
//! either wait in a retry bucket, or park, publish the event, answer the requester.
//!
//! What touches the world is behind three narrow seams: [`Gateway`] (the provider), [`Outbox`] (the broker), [`World`]
//! (clock and chance).

use crate::{
    command::{CancelCommand, Rejection, Terms},
    event::{About, Event, Finish, Said, Subject},
    message::{Carried, DeadLetter, Message, Origin},
    outcome::Cause,
    retry::{self, CallRecord, Later, Policy, Progress},
    snap::{
        Operation, Reply, SendError,
        profile::{CommandField, QueryCall, Status},
        request::Partner,
        response::Answer,
    },
    verdict::{self, Asked, Verdict},
};
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use std::{
    future::Future,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};
use tracing::{debug, info, warn};

/// A message that workers died of this often is given up.
pub const MAX_DELIVERIES: u64 = 50;
/// How long a message written by another version of the worker waits for one that can read it.
const FOREIGN_DELAY: Duration = Duration::from_secs(30);

/// The provider, as the story needs it.
pub trait Gateway: Send + Sync {
    /// Sends one signed request, with a fresh timestamp, and waits for its reply within a limit.
    fn send(&self, operation: Operation, body: Vec<u8>, external_id: &str) -> impl Future<Output = Sent> + Send;
    /// This token is not accepted: the next call must have another.
    fn forget_token(&self, token: &SecretString) -> impl Future<Output = ()> + Send;
}

/// What became of a request.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The token fetch that this call had to make first.
    pub token_call: Option<CallRecord>,
    /// The access token that the request carried.
    pub token: Option<SecretString>,
    pub at: DateTime<Utc>,
    pub duration: Duration,
    pub result: Result<Reply, SendError>,
}

/// The broker, as the story needs it. Every method returns when the broker has confirmed the message.
pub trait Outbox: Send + Sync {
    /// Lets a command wait, with what it carries, for at least this long.
    fn retry(
        &self,
        message: &Message,
        progress: &Progress,
        delay: Duration,
    ) -> impl Future<Output = Result<(), NotConfirmed>> + Send;
    /// Lets a command wait with the headers that it came with.
    fn postpone(&self, message: &Message, delay: Duration) -> impl Future<Output = Result<(), NotConfirmed>> + Send;
    /// Keeps a command for a person.
    fn park(
        &self,
        message: &Message,
        progress: &Progress,
        finish: &Finish,
    ) -> impl Future<Output = Result<(), NotConfirmed>> + Send;
    /// Publishes an event.
    fn publish(&self, event: &Event, message: &Message) -> impl Future<Output = Result<(), NotConfirmed>> + Send;
    /// Sends the requester a copy of the event, if it asked for one; best effort.
    fn reply(&self, event: &Event, message: &Message) -> impl Future<Output = ()> + Send;
}

/// The broker did not confirm a message within the limit, or refused it. What was published may exist all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the broker did not confirm: {0}")]
pub struct NotConfirmed(pub String);

/// Clock and chance.
pub trait World: Send + Sync {
    fn now(&self) -> DateTime<Utc>;
    /// Evenly spread in [0, 1).
    fn jitter(&self) -> f64;
    /// Unguessable and never the same.
    fn random(&self) -> u128;
}

/// How a message ended. In each case the broker has confirmed what had to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its outcome is published.
    Finished(Cause),
    /// It waits in a retry bucket.
    Scheduled(Later),
    /// It waits for a worker that can read what it carries.
    Postponed,
}

/// What an attempt came to.
enum Step {
    Finish(Finish),
    Wait(Later, Duration),
}

/// One account's commands.
pub struct Pipeline<G, O, W> {
    pub account: String,
    pub partner: std::sync::Arc<Partner>,
    pub policy: Policy,
    /// Settle a confirmed cancel by a query before telling of it.
    pub confirm_cancel: bool,
    pub gateway: G,
    pub outbox: O,
    pub world: W,
    /// When the provider last took a call of ours as rightly ours, in milliseconds; shared by the account's sessions.
    pub accepted_at: std::sync::Arc<AtomicI64>,
}

impl<G: Gateway, O: Outbox, W: World> Pipeline<G, O, W> {
    /// Takes a message through its life, or as far as it goes now.
    ///
    /// # Errors
    /// When the broker has not confirmed what had to be kept: then the message must not be acknowledged.
    pub async fn handle(&self, message: &Message) -> Result<Ending, NotConfirmed> {
        let mut progress = match &message.carried {
            Carried::Progress(progress) => (**progress).clone(),
            Carried::Nothing => Progress::new(message.received_at),
            Carried::Foreign { version, .. } => {
                warn!(version, "written by another version of the worker; it waits for one that can read it");
                self.outbox.postpone(message, FOREIGN_DELAY).await?;
                return Ok(Ending::Postponed);
            }
            Carried::Damaged => {
                warn!("what the message carried cannot be read; its attempts begin anew, with a query");
                Progress { ambiguous: true, ..Progress::new(message.received_at) }
            }
        };
        // Whoever had it before may have sent a cancel.
        progress.ambiguous |= message.redelivered || progress.replay > 0;

        let terms = Terms { profile: &self.partner.profile, defaults: &self.partner.merchant };
        let command = CancelCommand::read(&message.body, message.hints(), terms);
        let job_id =
            command.as_ref().map_or_else(|rejection| rejection.job_id.as_deref(), |command| Some(&command.job_id));
        tracing::Span::current().record("job_id", job_id);
        let step = match (progress.finish.take(), &command) {
            (Some(decided), _) => Step::Finish(decided),
            (None, _) if message.redelivered && message.delivery_count >= MAX_DELIVERIES => {
                Step::Finish(self.finish(Cause::WorkerCrashed, &progress, None))
            }
            // Calls were made for it on other settings: "nothing was sent" would not be true.
            (None, Err(_)) if progress.history.count > 0 => {
                Step::Finish(self.finish(Cause::NoLongerValid, &progress, None))
            }
            (None, Err(rejection)) => {
                Step::Finish(Finish { ambiguous: false, ..self.finish(rejection.cause(), &progress, None) })
            }
            (None, Ok(command)) => Visit::new(self, message, command, &mut progress).attempt().await,
        };
        let finish = match step {
            Step::Finish(finish) => finish,
            Step::Wait(why, delay) => {
                self.outbox.retry(message, &progress, delay).await?;
                debug!(why = why.name(), ?delay, attempts = progress.attempts, "waits for its next attempt");
                return Ok(Ending::Scheduled(why));
            }
        };
        let about = About {
            account: &self.account,
            provider: Some(&self.partner.profile.name),
            subject: command.as_ref().map_or_else(Subject::Rejected, Subject::Command),
            bytes: &message.body,
            traceparent: message.properties.traceparent.as_deref(),
            tracestate: message.properties.tracestate.as_deref(),
        };
        conclude(&self.outbox, &self.world, &self.policy, about, message, progress, finish).await
    }

    fn finish(&self, cause: Cause, progress: &Progress, answer: Option<&Answer>) -> Finish {
        let said = answer.map(Said::from).unwrap_or_default();
        Finish { cause, at: self.world.now(), ambiguous: progress.ambiguous, parked: false, said }
    }

    fn query_call(&self) -> Option<&QueryCall> {
        self.partner.query.as_ref().and(self.partner.profile.query.as_ref())
    }
}

/// Tells how a command ended: parked copy confirmed (if any), event confirmed, requester answered. What the broker does
/// not take now travels in a retry bucket as decided, and is told again; the provider is not asked again.
async fn conclude<O: Outbox, W: World>(
    outbox: &O,
    world: &W,
    policy: &Policy,
    about: About<'_>,
    message: &Message,
    mut progress: Progress,
    mut finish: Finish,
) -> Result<Ending, NotConfirmed> {
    let event = Event::new(about, &progress, &finish);
    let told = async {
        if finish.cause.outcome().is_parked() && !finish.parked {
            outbox.park(message, &progress, &finish).await?;
            finish.parked = true;
        }
        outbox.publish(&event, message).await
    };
    if let Err(error) = told.await {
        warn!(%error, cause = finish.cause.name(), "decided, but not told; will be told again");
        let delay =
            retry::next(policy, &mut progress, Later::Unpublished, None, world.jitter()).unwrap_or(retry::SHORTEST);
        progress.finish = Some(finish);
        outbox.retry(message, &progress, delay).await?;
        return Ok(Ending::Scheduled(Later::Unpublished));
    }
    outbox.reply(&event, message).await;
    info!(
        outcome = finish.cause.outcome().name(),
        cause = finish.cause.name(),
        event_id = %event.id,
        attempts = progress.attempts,
        "finished"
    );
    Ok(Ending::Finished(finish.cause))
}

/// Messages that no account's queue took, or that the broker took out of one.
pub struct Strays<O, W> {
    /// The accounts of this worker's settings.
    pub accounts: Vec<String>,
    pub policy: Policy,
    pub outbox: O,
    pub world: W,
}

impl<O: Outbox, W: World> Strays<O, W> {
    /// Tells of a stray and parks it.
    ///
    /// # Errors
    /// When the broker has not confirmed what had to be kept.
    pub async fn handle(&self, message: &Message) -> Result<Ending, NotConfirmed> {
        let mut progress = match &message.carried {
            Carried::Progress(progress) => (**progress).clone(),
            Carried::Nothing => Progress::new(message.received_at),
            Carried::Foreign { .. } => {
                self.outbox.postpone(message, FOREIGN_DELAY).await?;
                return Ok(Ending::Postponed);
            }
            Carried::Damaged => Progress { ambiguous: true, ..Progress::new(message.received_at) },
        };
        let known = self.accounts.contains(&message.routing_key);
        let decided = progress.finish.as_ref().map(|finish| finish.cause);
        let cause = match (decided, message.origin) {
            (Some(cause), _) => cause,
            (None, Origin::DeadLettered(DeadLetter::Expired)) => Cause::ExpiredInQueue,
            (None, Origin::DeadLettered(DeadLetter::Other)) => Cause::WorkerCrashed,
            // It was published before the account's queue was there.
            (None, Origin::Published | Origin::Due) if known => {
                self.outbox.retry(message, &progress, retry::SHORTEST).await?;
                return Ok(Ending::Scheduled(Later::Unpublished));
            }
            (None, Origin::Published) => Cause::UnknownAccount,
            (None, Origin::Due) => Cause::AccountRemoved,
        };
        let rejection = match cause {
            Cause::UnknownAccount => Rejection::unknown_account(&message.body, message.hints(), &message.routing_key),
            _ => Rejection::peek(&message.body, message.hints()),
        };
        tracing::Span::current().record("job_id", rejection.job_id.as_deref());
        // What a worker did with it before the broker took it is not known.
        let ambiguous = cause != Cause::UnknownAccount && (progress.ambiguous || message.origin != Origin::Due);
        let decided = Finish { cause, at: self.world.now(), ambiguous, parked: false, said: Said::default() };
        let finish = progress.finish.take().unwrap_or(decided);
        let about = About {
            account: &message.routing_key,
            provider: None,
            subject: Subject::Rejected(&rejection),
            bytes: &message.body,
            traceparent: message.properties.traceparent.as_deref(),
            tracestate: message.properties.tracestate.as_deref(),
        };
        conclude(&self.outbox, &self.world, &self.policy, about, message, progress, finish).await
    }
}

/// One visit to the provider for a command: a cancel, a query, or both.
struct Visit<'a, G, O, W> {
    pipeline: &'a Pipeline<G, O, W>,
    command: &'a CancelCommand,
    progress: &'a mut Progress,
    digest: String,
    /// The last answer of this visit.
    answer: Option<Answer>,
    /// The access token of the last call.
    token: Option<SecretString>,
    /// How long the provider asked us to wait, in its last reply.
    asked: Option<Duration>,
    /// The worker had to stop in the middle.
    interrupted: bool,
    /// The provider has accepted a cancel in this visit without finishing it: it needs its time, whatever a query says.
    pending: bool,
}

impl<'a, G: Gateway, O: Outbox, W: World> Visit<'a, G, O, W> {
    fn new(
        pipeline: &'a Pipeline<G, O, W>,
        message: &Message,
        command: &'a CancelCommand,
        progress: &'a mut Progress,
    ) -> Self {
        let digest = hex::encode(Sha256::digest(&message.body));
        Self {
            pipeline,
            command,
            progress,
            digest,
            answer: None,
            token: None,
            asked: None,
            interrupted: false,
            pending: false,
        }
    }

    async fn attempt(mut self) -> Step {
        let calls_before = self.progress.history.count;
        self.progress.attempts += 1;
        if self.can_query() && (self.progress.ambiguous || self.progress.query_first) {
            match self.query().await {
                Verdict::Status(Status::Open) => {}
                settled_or_not => return self.after_query(settled_or_not, Later::Open),
            }
        }
        if self.is_too_late(Operation::Cancel) {
            if self.progress.history.count == calls_before {
                self.progress.attempts -= 1;
            }
            return self.finish(Cause::NotAfterPassed);
        }
        match self.cancel().await {
            Verdict::Canceled if self.pipeline.confirm_cancel && self.can_query() => {
                self.progress.ambiguous = true;
                self.settle_by_query(Later::Open).await
            }
            Verdict::Canceled => self.finish(Cause::Canceled),
            Verdict::Verify if self.can_query() => self.settle_by_query(Later::Open).await,
            Verdict::Verify => self.finish(Cause::NoQuery),
            Verdict::Refused { cause, malformed } if malformed || !self.progress.ambiguous => self.finish(cause),
            Verdict::Refused { cause, .. } if self.can_query() => {
                let refusal = self.answer.clone();
                match self.query().await {
                    Verdict::Status(Status::Open) => {
                        self.answer = refusal;
                        self.finish(cause)
                    }
                    settled_or_not => self.after_query(settled_or_not, Later::Open),
                }
            }
            Verdict::Refused { .. } => self.finish(Cause::NoQuery),
            verdict @ (Verdict::Unknown | Verdict::Pending) => {
                self.progress.ambiguous = true;
                self.pending = verdict == Verdict::Pending;
                let still_open = if self.pending { Later::Pending } else { Later::Open };
                match self.can_query() && !self.interrupted {
                    true => self.settle_by_query(still_open).await,
                    false if verdict == Verdict::Pending => self.later(Later::Pending),
                    false => self.later(Later::Unknown),
                }
            }
            Verdict::CutOff => self.later(Later::CutOff),
            Verdict::Misconfigured { .. } => self.later(Later::Misconfigured),
            _ => self.later(Later::Busy),
        }
    }

    /// The provider has answered the cancel, or not: a query says how the transaction stands.
    async fn settle_by_query(mut self, still_open: Later) -> Step {
        self.progress.query_first = true;
        let verdict = self.query().await;
        self.after_query(verdict, still_open)
    }

    fn after_query(self, verdict: Verdict, still_open: Later) -> Step {
        // Only a query that says "open" lets a cancel be sent again without asking first.
        self.progress.query_first = verdict != Verdict::Status(Status::Open);
        match verdict {
            Verdict::Status(Status::Canceled) if self.progress.ambiguous => self.finish(Cause::Canceled),
            Verdict::Status(Status::Canceled) => self.finish(Cause::AlreadyCanceled),
            Verdict::Status(Status::Paid) => self.finish(Cause::Paid),
            Verdict::Status(Status::Refunded) => self.finish(Cause::Refunded),
            Verdict::Status(Status::Failed) => self.finish(Cause::Failed),
            Verdict::Status(Status::Expired) => self.finish(Cause::Expired),
            Verdict::Status(Status::Open) => self.later(still_open),
            Verdict::Status(Status::Paying) => self.later(Later::Paying),
            Verdict::Status(Status::NotFound) => self.later(Later::NotFound),
            Verdict::Misconfigured { .. } => self.later(Later::Misconfigured),
            _ => self.later(Later::QueryFailed),
        }
    }

    /// Lets the command wait for its next attempt, or gives it up when this was its last.
    fn later(self, why: Later) -> Step {
        let world = &self.pipeline.world;
        let why = if self.interrupted { Later::Interrupted } else { why };
        match why {
            // The command is not to blame, unless the provider took others of the account since it was first refused.
            Later::Misconfigured => {
                let accepted = self.pipeline.accepted_at.load(Ordering::Relaxed);
                if self.progress.doubted_at.is_none_or(|doubted| accepted <= doubted.timestamp_millis()) {
                    self.progress.attempts -= 1;
                    self.progress.doubts += 1;
                }
                self.progress.doubted_at = Some(world.now());
            }
            // Neither a stop of ours nor the provider's closing time is an attempt that failed.
            Later::Interrupted | Later::CutOff => self.progress.attempts -= 1,
            _ => {}
        }
        let pending = self.pending.then_some(self.pipeline.policy.pending);
        match retry::next(&self.pipeline.policy, self.progress, why, self.asked.max(pending), world.jitter()) {
            Some(delay) => Step::Wait(why, delay),
            None => {
                let cause = self.cause_of_giving_up(why);
                self.finish(cause)
            }
        }
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
            Later::Misconfigured if !self.progress.ambiguous => Cause::NotAuthorized,
            _ => Cause::AttemptsExhausted,
        }
    }

    fn finish(self, cause: Cause) -> Step {
        Step::Finish(self.pipeline.finish(cause, self.progress, self.answer.as_ref()))
    }

    fn is_too_late(&self, operation: Operation) -> bool {
        operation == Operation::Cancel && self.command.not_after.is_some_and(|limit| self.pipeline.world.now() > limit)
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

    /// One call; with a new token, or a fresh timestamp, once more at once if that is what the provider asks for.
    async fn call(&mut self, operation: Operation) -> Verdict {
        let (mut renewed, mut repeated) = (false, false);
        loop {
            let verdict = self.send(operation).await;
            match verdict {
                Verdict::Token if !renewed && !self.is_too_late(operation) => {
                    renewed = true;
                    if let Some(token) = self.token.take() {
                        self.pipeline.gateway.forget_token(&token).await;
                    }
                }
                Verdict::Unauthorized if !repeated && !self.is_too_late(operation) => repeated = true,
                Verdict::Token | Verdict::Unauthorized => return Verdict::Misconfigured { merchant: false },
                verdict => return verdict,
            }
        }
    }

    async fn send(&mut self, operation: Operation) -> Verdict {
        let pipeline = self.pipeline;
        let body = pipeline.partner.body(operation, self.command);
        let body_sha256 = hex::encode(Sha256::digest(&body));
        let external_id =
            pipeline.partner.external_id(operation, &self.digest, self.progress.conflict, pipeline.world.random());
        let sent = pipeline.gateway.send(operation, body, &external_id).await;

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
        debug!(
            operation = operation.name(),
            verdict = verdict.name(),
            code = code.as_ref().map(|code| code.as_str()),
            error = sent.result.as_ref().err().map(tracing::field::display),
            duration_ms = sent.duration.as_millis() as u64,
            "asked the provider"
        );
        if let Some(token_call) = sent.token_call {
            self.progress.history.push(token_call);
        }
        self.progress.history.push(CallRecord {
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
        self.progress.conflict |= code.is_some_and(|code| code.http_status() == 409);
        self.interrupted |= matches!(sent.result, Err(SendError::Interrupted | SendError::Stopping));
        self.asked = sent.result.as_ref().ok().and_then(|reply| reply.retry_after);
        self.token = sent.token;
        // What is said of another transaction is no news of this one. A query does not repeat when the cancel was.
        if let Some(mut news) =
            answer.filter(|answer| !answer.is_about_another(asked.reference, asked.partner_reference))
        {
            news.cancel_time = news.cancel_time.or_else(|| self.answer.take()?.cancel_time);
            self.answer = Some(news);
        }
        verdict
    }
}
