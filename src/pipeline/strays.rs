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
use std::sync::atomic::{AtomicI64, Ordering};
use tracing::warn;

/// Messages that no account's queue took, or that the broker took out of one.
pub struct Strays<O, W> {
    /// The accounts of this worker's settings.
    pub accounts: Vec<String>,
    pub policy: Policy,
    pub outbox: O,
    pub world: W,
    /// When it last had the broker's objects looked at, in seconds.
    pub looked_at: AtomicI64,
}

const LOOK_EVERY_S: i64 = 60;

impl<O: Outbox, W: World> Strays<O, W> {
    /// Tells of a stray and parks it.
    ///
    /// # Errors
    /// When the broker has not confirmed what had to be kept.
    pub async fn handle(&self, message: &Message) -> Result<Ending, NotConfirmed> {
        let known = self.accounts.contains(&message.routing_key);
        if self.may_lack_an_object(message, known) {
            return Err(NotConfirmed(
                "a queue of ours is gone, or its binding: a message meant for it became a stray".into(),
            ));
        }
        let Some(mut progress) = carried(message) else {
            self.outbox.postpone(message, FOREIGN_DELAY).await?;
            return Ok(Ending::Postponed);
        };
        // The copy of a command that was given up: its pipeline tells of it.
        if let Some(finish) = &message.parked {
            warn!(account = message.routing_key, "a parked copy that found no queue; it is parked again");
            self.outbox.park(message, &progress, finish).await?;
            return Ok(Ending::Rerouted);
        }
        let decided = progress.finish.as_ref().map(|finish| finish.cause);
        let cause = match (message.origin, decided) {
            // It was published before the account's queue was there, or while something was missing. What was decided of it the
            // account can tell in full.
            (Origin::Published | Origin::Due | Origin::PastItsQueue, _) if known => {
                // Whoever had it before may have sent a copy on, which may have cancelled.
                progress.ambiguous |= message.redelivered;
                // Should it come back, it waits longer and longer, and is seen.
                progress.doubts += 1;
                let why = Later::Rerouted;
                let delay = retry::next(&self.policy, &mut progress, why, None, self.world.jitter());
                let delay = delay.unwrap_or(retry::LONGEST);
                warn!(account = message.routing_key, ?delay, "a stray of an account that is there; sent to its queue");
                self.outbox.retry(message, &progress, why, delay).await?;
                return Ok(Ending::Rerouted);
            }
            (_, Some(cause)) => cause,
            (Origin::DeadLettered(DeadLetter::Expired), None) => Cause::ExpiredInQueue,
            (Origin::DeadLettered(DeadLetter::Other), None) => Cause::WorkerCrashed,
            (Origin::Published, None) => Cause::UnknownAccount,
            (Origin::Due | Origin::PastItsQueue, None) => Cause::AccountRemoved,
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

    /// Whether it became a stray because somebody has deleted a queue of ours, or a binding. Left unacknowledged, it ends this
    /// connection, and the next one declares what is missing, where it may, and has it delivered again. Once a minute is enough:
    /// each time some other strays come twice, too.
    fn may_lack_an_object(&self, message: &Message, known: bool) -> bool {
        let is_missed = message.origin == Origin::PastItsQueue
            || known && matches!(message.origin, Origin::Due | Origin::Published);
        if !is_missed || message.redelivered {
            return false;
        }
        let (now, before) = (self.world.now().timestamp(), self.looked_at.load(Ordering::Relaxed));
        now - before >= LOOK_EVERY_S
            && self.looked_at.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
