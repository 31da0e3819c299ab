//! THE STORY: one command's life, from the message to the confirmed effect.
//!
//! [`Pipeline::handle`] takes a message and returns `Ok` once the broker has confirmed everything that had to happen; only
//! then may the message be acknowledged. It tells, from the top: decide (an attempt at the provider, if one is due), then
//! either wait in a retry bucket, or park, publish the event, answer the requester.
//!
//! An attempt at the provider is told in [`attempt`], messages that belong to no account in [`strays`].
//!
//! What touches the world is behind three narrow seams: [`Gateway`] (the provider), [`Outbox`] (the broker), [`World`]
//! (clock and chance).

mod attempt;
mod strays;

pub use strays::Strays;

use attempt::Visit;

use crate::{
    breaker::{Health, News},
    command::{CancelCommand, Rejection, Terms},
    event::{About, Event, Finish, Said, Subject},
    message::{Carried, Message},
    outcome::Cause,
    retry::{self, CallRecord, Later, Policy, Progress},
    snap::{
        Operation, Reply, SendError,
        profile::{CommandField, QueryCall},
        request::Partner,
        response::Answer,
    },
    telemetry, traces,
    verdict::Verdict,
};
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use std::{future::Future, sync::atomic::AtomicI64, time::Duration};
use tracing::{debug, info, warn};

/// A message that workers died of this often is given up.
pub const MAX_DELIVERIES: u64 = 50;
/// How long a message written by another version of the worker waits for one that can read it.
const FOREIGN_DELAY: Duration = Duration::from_secs(30);

/// The provider, as the story needs it.
pub trait Gateway: Send + Sync {
    /// Sends one signed request, with a fresh timestamp, and waits for its reply within a limit. Nothing is sent after
    /// `not_after`.
    fn send(
        &self,
        operation: Operation,
        body: Vec<u8>,
        external_id: &str,
        not_after: Option<DateTime<Utc>>,
    ) -> impl Future<Output = Sent> + Send;
    /// This token is not accepted: the next call must have another.
    fn forget_token(&self, token: &SecretString) -> impl Future<Output = ()> + Send;
    /// Holds a transaction in hand, for one visit to the provider.
    type Claim: Send + Sync;
    /// Takes a transaction in hand under all the names that it has; `None` if another command of it takes too long. A command
    /// that is delivered again waits for longer, because the other may be itself.
    fn claim(&self, names: Vec<String>, redelivered: bool) -> impl Future<Output = Option<Self::Claim>> + Send;
    /// A call has ended so.
    fn note_call(&self, call: &Called<'_>);
    /// The visit has ended, and says this of the provider.
    fn note_visit(&self, claim: &Self::Claim, news: News<'_>);
}

/// What became of a request.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The token fetch that this call had to make first.
    pub token_call: Option<CallRecord>,
    /// There is no token, and what is known of that is another call's one failure.
    pub is_hearsay: bool,
    /// How long the provider asks us to wait, where it gave no token.
    pub no_token_for: Option<Duration>,
    /// What time it was there, where it gave no token.
    pub no_token_at: Option<DateTime<Utc>>,
    /// The access token that the request carried.
    pub token: Option<SecretString>,
    pub at: DateTime<Utc>,
    pub duration: Duration,
    pub result: Result<Reply, SendError>,
    /// It waits for what is thought of the reply.
    pub span: traces::Span,
}

/// What one call showed.
#[derive(Debug, Clone, Copy)]
pub struct Called<'a> {
    pub operation: Operation,
    pub verdict: Verdict,
    /// What it says of the provider.
    pub health: Health,
    pub sent: &'a Sent,
    pub answer: Option<&'a Answer>,
}

/// The broker, as the story needs it. Every method returns when the broker has confirmed the message.
pub trait Outbox: Send + Sync {
    /// Lets a command wait, with what it carries, for at least this long.
    fn retry(
        &self,
        message: &Message,
        progress: &Progress,
        why: Later,
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
    /// It was sent on to its queue, which was not there when it was published.
    Rerouted,
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
        let Some(mut progress) = carried(message) else {
            self.outbox.postpone(message, FOREIGN_DELAY).await?;
            return Ok(Ending::Postponed);
        };
        // Whoever had it before may have sent a cancel.
        progress.ambiguous |= message.redelivered || progress.replay > 0;

        let terms = Terms { profile: &self.partner.profile, defaults: &self.partner.merchant };
        let command = CancelCommand::read(&message.body, message.hints(), terms);
        let job_id =
            command.as_ref().map_or_else(|rejection| rejection.job_id.as_deref(), |command| Some(&command.job_id));
        telemetry::name_job(job_id);
        // Held until the broker has confirmed what came of it, or has not.
        let mut claim = None;
        let step = match (progress.finish.take(), &command) {
            (Some(decided), _) => Step::Finish(decided),
            (None, _) if message.redelivered && message.delivery_count >= MAX_DELIVERIES => {
                Step::Finish(self.decision(Cause::WorkerCrashed, &progress, None))
            }
            (None, Err(rejection)) if may_have_been_sent(message, rejection) => {
                Step::Finish(self.decision(Cause::NoLongerValid, &progress, None))
            }
            (None, Err(rejection)) => {
                Step::Finish(Finish { ambiguous: false, ..self.decision(rejection.cause(), &progress, None) })
            }
            (None, Ok(command)) => {
                claim = self.gateway.claim(names_of(command), message.redelivered).await;
                match &claim {
                    Some(claim) => Visit::new(self, message, command, &mut progress).attempt(claim).await,
                    None => self.wait_for_another(&mut progress),
                }
            }
        };
        let finish = match step {
            Step::Finish(finish) => finish,
            Step::Wait(why, delay) => {
                self.outbox.retry(message, &progress, why, delay).await?;
                debug!(why = why.name(), ?delay, attempts = progress.attempts, "waits for its next attempt");
                return Ok(Ending::Scheduled(why));
            }
        };
        let (traceparent, tracestate) = message.trace_context();
        let about = About {
            account: &self.account,
            provider: Some(&self.partner.profile.name),
            subject: command.as_ref().map_or_else(Subject::Rejected, Subject::Command),
            bytes: &message.body,
            traceparent,
            tracestate,
        };
        let ended = conclude(&self.outbox, &self.world, &self.policy, about, message, progress, finish).await;
        drop(claim);
        ended
    }

    /// Another command of the transaction is still in hand: this one comes again, and is not to blame.
    fn wait_for_another(&self, progress: &mut Progress) -> Step {
        let delay = retry::next(&self.policy, progress, Later::InHand, None, self.world.jitter());
        Step::Wait(Later::InHand, delay.unwrap_or(retry::SHORTEST))
    }

    fn decision(&self, cause: Cause, progress: &Progress, answer: Option<&Answer>) -> Finish {
        let said = answer.map(Said::from).unwrap_or_default();
        Finish { cause, at: self.world.now(), ambiguous: progress.ambiguous, parked: false, tellings: 0, said }
    }

    fn query_call(&self) -> Option<&QueryCall> {
        self.partner.query.as_ref().and(self.partner.profile.query.as_ref())
    }
}

/// Whether calls were made for a rejected command before, or may have been: `invalid` would claim that nothing was sent.
/// What was delivered before may have been sent by a worker with other settings, unless it is faulty by anybody's.
fn may_have_been_sent(message: &Message, rejection: &Rejection) -> bool {
    let was_sent = match &message.carried {
        // A replay makes every command ambiguous.
        Carried::Progress(progress) => {
            progress.history.count > 0 || progress.perhaps_sent || progress.ambiguous && progress.replay == 0
        }
        Carried::Damaged => true,
        Carried::Nothing | Carried::Foreign { .. } => false,
    };
    was_sent || message.redelivered && rejection.is_by_the_accounts_terms()
}

/// What is known of a message's earlier attempts; `None` where another version of the worker has written it.
fn carried(message: &Message) -> Option<Progress> {
    match &message.carried {
        Carried::Progress(progress) => Some((**progress).clone()),
        Carried::Nothing => Some(Progress::new(message.received_at)),
        Carried::Foreign { version, .. } => {
            warn!(version, "written by another version of the worker; it waits for one that can read it");
            None
        }
        Carried::Damaged => {
            warn!("what the message carried cannot be read; its attempts begin anew, with a query");
            Some(Progress { ambiguous: true, ..Progress::new(message.received_at) })
        }
    }
}

/// What a transaction is called, so that two commands of it are known for such by any name that they share.
fn names_of(command: &CancelCommand) -> Vec<String> {
    use CommandField::{OriginalExternalId, OriginalPartnerReferenceNo, OriginalReferenceNo};
    let named = |field: CommandField| {
        let value = command.text(field).filter(|value| !value.is_empty())?;
        Some(format!("{} {value}", field.name()))
    };
    [OriginalReferenceNo, OriginalPartnerReferenceNo, OriginalExternalId].into_iter().filter_map(named).collect()
}

/// Tells how a command ended: parked copy confirmed (if any), event confirmed, then a courtesy copy to the requester. What
/// the broker does not take now travels in a retry bucket as decided, and is told again; the provider is not asked again.
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
        finish.tellings += 1;
        progress.finish = Some(finish);
        let why = Later::Unpublished;
        let delay = retry::next(policy, &mut progress, why, None, world.jitter()).unwrap_or(retry::SHORTEST);
        outbox.retry(message, &progress, why, delay).await?;
        return Ok(Ending::Scheduled(why));
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
