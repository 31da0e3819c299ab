//! What becomes of the commands of one account.

use super::{count, registrar::Registrar, table};
use crate::{
    message::{Carried, Message, Origin},
    outcome::{Cause, Outcome},
    retry::Later,
};
use prometheus::{Gauge, Histogram, IntCounter, Result};
use std::{collections::BTreeMap, time::Duration};

/// Why a message waits that was written by another version of the worker.
const FOREIGN: &str = "foreign";

/// What becomes of the commands of one account, or of those of no account.
pub struct Commands {
    received: IntCounter,
    queue_wait: Histogram,
    results: BTreeMap<Cause, IntCounter>,
    parked: BTreeMap<Cause, IntCounter>,
    duration: BTreeMap<Outcome, Histogram>,
    retries: IntCounter,
    retry_delay: BTreeMap<Option<Later>, Histogram>,
    retry_age: Histogram,
    left: IntCounter,
    suspect: Gauge,
}

impl Commands {
    pub(super) fn new(registrar: &mut Registrar<'_>, account: &str) -> Result<Self> {
        let (mut results, mut parked) = (BTreeMap::new(), BTreeMap::new());
        let (mut duration, mut retry_delay) = (BTreeMap::new(), BTreeMap::new());
        for cause in Cause::ALL.iter().copied() {
            let labels = [account, cause.outcome().name(), cause.name()];
            results.insert(cause, registrar.counter(&table::RESULTS, &labels)?);
            if cause.outcome().is_parked() {
                parked.insert(cause, registrar.counter(&table::PARKED, &[account, cause.name()])?);
            }
        }
        for outcome in Outcome::ALL {
            duration.insert(outcome, registrar.histogram(&table::COMMAND_DURATION, &[account, outcome.name()])?);
        }
        for why in Later::ALL.map(Some).into_iter().chain([None]) {
            let labels = [account, why.map_or(FOREIGN, Later::name)];
            retry_delay.insert(why, registrar.histogram(&table::RETRY_DELAY, &labels)?);
        }
        Ok(Self {
            received: registrar.counter(&table::COMMANDS_RECEIVED, &[account])?,
            queue_wait: registrar.histogram(&table::QUEUE_WAIT, &[account])?,
            results,
            parked,
            duration,
            retries: registrar.counter(&table::RETRIES_SCHEDULED, &[account])?,
            retry_delay,
            retry_age: registrar.histogram(&table::RETRY_AGE, &[account])?,
            left: registrar.counter(&table::LEFT_UNACKNOWLEDGED, &[account])?,
            suspect: registrar.gauge(&table::QUEUE_SUSPECT, &[account])?,
        })
    }

    /// A message was taken from a queue.
    pub fn received(&self, message: &Message) {
        self.received.inc();
        let is_first =
            message.origin == Origin::Published && matches!(message.carried, Carried::Nothing) && !message.redelivered;
        if let Some(published_at) = message.properties.timestamp.filter(|_| is_first) {
            let now = message.received_at.timestamp_millis() as f64 / 1000.0;
            // A publisher's clock may be ahead of ours.
            self.queue_wait.observe((now - published_at as f64).max(0.0));
        }
    }

    /// A command's event is confirmed, so long after its first delivery.
    pub fn finished(&self, cause: Cause, age: Option<Duration>) {
        count(&self.results, &cause);
        if cause.outcome().is_parked() {
            count(&self.parked, &cause);
        }
        if let (Some(durations), Some(age)) = (self.duration.get(&cause.outcome()), age) {
            durations.observe(age.as_secs_f64());
        }
    }

    /// A command waits in a retry bucket, so long after its first delivery; without a reason of its own, because another version of
    /// the worker wrote it.
    pub fn waits(&self, why: Option<Later>, delay: Duration, age: Option<Duration>) {
        self.retries.inc();
        if let Some(delays) = self.retry_delay.get(&why) {
            delays.observe(delay.as_secs_f64());
        }
        if let Some(age) = age {
            self.retry_age.observe(age.as_secs_f64());
        }
    }

    /// How the queue stands at this moment.
    pub fn stands(&self, suspect: bool) {
        self.suspect.set(f64::from(suspect));
    }

    /// A delivery was left unacknowledged.
    pub fn left(&self) {
        self.left.inc();
    }
}
