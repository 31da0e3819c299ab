//! Messages that no account's queue took, or that the broker took out of one: each is told of and parked.

use super::{Ending, FOREIGN_DELAY, NotConfirmed, Outbox, World, carried, conclude};
use crate::{
    command::Rejection,
    event::{About, Finish, Said, Subject},
    message::{DeadLetter, Message, Origin},
    outcome::Cause,
    retry::{self, Later, Policy},
    telemetry,
};
use tracing::warn;

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
        let Some(mut progress) = carried(message) else {
            self.outbox.postpone(message, FOREIGN_DELAY).await?;
            return Ok(Ending::Postponed);
        };
        let known = self.accounts.contains(&message.routing_key);
        if (message.origin == Origin::PastItsQueue || message.origin == Origin::Due && known) && !message.redelivered {
            // The next session declares what is missing, and the broker delivers this again.
            return Err(NotConfirmed(
                "a queue of ours is gone, or its binding: a message meant for it became a stray".into(),
            ));
        }
        // The copy of a command that was given up: its pipeline tells of it.
        if let Some(finish) = &message.parked {
            warn!(account = message.routing_key, "a parked copy that found no queue; it is parked again");
            self.outbox.park(message, &progress, finish).await?;
            return Ok(Ending::Rerouted);
        }
        let told_before = progress.finish.as_ref().map(|finish| finish.cause);
        let cause = match (told_before, message.origin) {
            (Some(cause), _) => cause,
            (None, Origin::DeadLettered(DeadLetter::Expired)) => Cause::ExpiredInQueue,
            (None, Origin::DeadLettered(DeadLetter::Other)) => Cause::WorkerCrashed,
            // It was published before the account's queue was there.
            (None, Origin::Published | Origin::Due | Origin::PastItsQueue) if known => {
                // Should it come back (a binding that somebody has removed), it waits longer and longer, and is seen.
                progress.doubts += 1;
                let why = Later::Rerouted;
                let delay = retry::next(&self.policy, &mut progress, why, None, self.world.jitter());
                let delay = delay.unwrap_or(retry::LONGEST);
                warn!(account = message.routing_key, ?delay, "a stray of an account that is there; sent to its queue");
                self.outbox.retry(message, &progress, why, delay).await?;
                return Ok(Ending::Rerouted);
            }
            (None, Origin::Published) => Cause::UnknownAccount,
            (None, Origin::Due | Origin::PastItsQueue) => Cause::AccountRemoved,
        };
        let rejection = match cause {
            Cause::UnknownAccount => Rejection::unknown_account(&message.body, message.hints(), &message.routing_key),
            _ => Rejection::peek(&message.body, message.hints()),
        };
        telemetry::name_job(rejection.job_id.as_deref());
        // What a worker did with it before the broker took it is not known.
        let ambiguous = cause != Cause::UnknownAccount && (progress.ambiguous || message.origin != Origin::Due);
        let decided =
            Finish { cause, at: self.world.now(), ambiguous, parked: false, tellings: 0, said: Said::default() };
        let finish = progress.finish.take().unwrap_or(decided);
        let (traceparent, tracestate) = message.trace_context();
        let about = About {
            account: &message.routing_key,
            provider: None,
            subject: Subject::Rejected(&rejection),
            bytes: &message.body,
            traceparent,
            tracestate,
        };
        conclude(&self.outbox, &self.world, &self.policy, about, message, progress, finish).await
    }
}
