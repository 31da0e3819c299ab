//! Deliveries in, bounded work, acknowledgement out. The only file that acknowledges: after the handler has returned `Ok`,
//! which it does once the broker has confirmed every effect. What was not begun goes back by way of the shortest retry bucket: requeued, it
//! would come as redelivered, and nobody could tell it from a command that was perhaps sent.

use super::{ACKNOWLEDGED_WITHIN, AmqpError, headers, intake::Intake, topology::Names};
use crate::{
    account::{Account, RealWorld, gate::Working},
    message::{Carried, Message},
    pipeline::{Ending, NotConfirmed, Outbox, Pipeline, Strays, World},
    retry::{self, Later, Progress},
    shutdown::Stop,
    worker::Worker,
};
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, future::try_join_all};
use lapin::{
    Channel, Connection, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::FieldTable,
};
use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, error_span, info, warn};

/// No message is held longer, whatever happens. With the usual settings its waits, calls and publishes add up to less.
const HELD_AT_MOST: Duration = Duration::from_secs(290);

/// A stop does not wait longer for the broker to end a consumer.
const CANCEL_WITHIN: Duration = Duration::from_secs(5);

/// A stop does not wait longer for the broker to take back what was not begun.
const HAND_BACK_WITHIN: Duration = Duration::from_secs(5);

/// What is done with a message.
pub trait Handler: Send + Sync + 'static {
    fn handle(&self, message: &Message) -> impl Future<Output = Result<Ending, NotConfirmed>> + Send;
    /// Puts a message that was not begun into the shortest retry bucket, with what is known of it; false where that is not how it goes
    /// back.
    fn put_back(&self, message: &Message) -> impl Future<Output = Result<bool, NotConfirmed>> + Send;
}

impl<O: Outbox + 'static> Handler for Pipeline<Arc<Account>, O, RealWorld> {
    async fn handle(&self, message: &Message) -> Result<Ending, NotConfirmed> {
        Pipeline::handle(self, message).await
    }

    async fn put_back(&self, message: &Message) -> Result<bool, NotConfirmed> {
        let Some(progress) = unbegun(message) else { return Ok(false) };
        self.outbox.retry(message, &progress, Later::Unbegun, retry::SHORTEST).await?;
        Ok(true)
    }
}

impl<O: Outbox + 'static> Handler for Strays<O, RealWorld> {
    async fn handle(&self, message: &Message) -> Result<Ending, NotConfirmed> {
        Strays::handle(self, message).await
    }

    /// A stray is requeued: from a bucket it would come to an account's queue, and what it is says only how it became one.
    async fn put_back(&self, _message: &Message) -> Result<bool, NotConfirmed> {
        Ok(false)
    }
}

/// What a command that was not begun carries on: what it came with, and that another worker may have begun it. None where that cannot be
/// read here.
fn unbegun(message: &Message) -> Option<Progress> {
    let mut progress = match &message.carried {
        Carried::Nothing => Progress::new(message.received_at),
        Carried::Progress(progress) => (**progress).clone(),
        Carried::Foreign { .. } | Carried::Damaged => return None,
    };
    progress.ambiguous |= message.redelivered;
    Some(progress)
}

/// What a session's consumers share.
#[derive(Clone)]
pub struct Shared {
    pub names: Names,
    pub worker: Arc<Worker>,
    pub stop: Stop,
    /// Set when the session has to be made anew.
    pub broken: CancellationToken,
    /// Whether it was said that everything is consumed.
    pub announced: Arc<AtomicBool>,
}

impl Shared {
    /// Says once in a session that all queues are consumed, save those that on purpose are not.
    pub fn announce(&self) {
        if self.worker.lacks().is_empty() && !self.announced.swap(true, Ordering::Relaxed) {
            info!("consuming");
        }
    }
}

/// Consumes one queue until it is told to leave off, or a fault; then hands back what was not begun. What still runs goes on as
/// one of the tasks, and is acknowledged as it ends.
///
/// # Errors
/// When the channel or the connection failed, the broker ended the consumer, or a message had to be left unacknowledged.
pub async fn run<H: Handler>(
    connection: &Connection,
    intake: &Intake,
    limit: u16,
    handler: &Arc<H>,
    tasks: &TaskTracker,
    until: &CancellationToken,
) -> Result<(), AmqpError> {
    let channel = connection.create_channel().await?;
    // No more than is worked on: what waits here could not be given to another worker, and comes back as redelivered when it
    // is handed back.
    channel.basic_qos(limit, BasicQosOptions::default()).await?;
    let (queue, options) = (intake.queue.as_str().into(), BasicConsumeOptions::default());
    // A node of a cluster that has lost its majority never answers this, and all the same stays connected.
    let registering = channel.basic_consume(queue, "".into(), options, FieldTable::default());
    let Ok(consumer) = tokio::time::timeout(intake.shared.worker.settings.amqp.confirm_timeout, registering).await
    else {
        let reason = "the broker did not register the consumer in time (has the queue a leader?)";
        return Err(AmqpError::Consuming { queue: intake.queue.clone(), reason });
    };
    // Before this, no message can have ended the connection.
    let mut consumer = consumer?;
    let registered = intake.gate.registered();
    if intake.shared.announced.load(Ordering::Relaxed) && !intake.gate.view().suspect {
        info!(queue = intake.queue, limit, "consuming again");
    }
    intake.shared.announce();
    let work = Work {
        handler: handler.clone(),
        intake,
        until: until.clone(),
        torn: CancellationToken::new(),
        running: TaskTracker::new(),
        acknowledged: Arc::default(),
        tasks: tasks.clone(),
    };
    // After a fault, what still runs can no longer be acknowledged here.
    let in_hand = work.take(&mut consumer).await?;
    work.hand_back_unbegun(&channel, &mut consumer, in_hand).await?;
    registered.leave();
    let (running, acknowledged) = (work.running, work.acknowledged);
    running.close();
    tasks.spawn(async move {
        running.wait().await;
        let last = *acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last {
            tokio::time::sleep_until(last + ACKNOWLEDGED_WITHIN).await;
        }
        // A message that was left unacknowledged comes again then.
        if let Err(error) = channel.close(200, "done".into()).await {
            debug!(%error, "a channel was closed already");
        }
    });
    Ok(())
}

struct Work<'a, H> {
    handler: Arc<H>,
    intake: &'a Intake,
    until: CancellationToken,
    /// Set when a message was left unacknowledged: it comes again once this connection is gone.
    torn: CancellationToken,
    /// What runs on this channel.
    running: TaskTracker,
    /// When the last message was acknowledged on this channel.
    acknowledged: Arc<Mutex<Option<Instant>>>,
    /// What runs for this queue.
    tasks: TaskTracker,
}

impl<H: Handler> Work<'_, H> {
    /// Begins what comes, until it is told to leave off: what it has in hand then, and has not begun.
    async fn take(&self, consumer: &mut Consumer) -> Result<Option<Delivery>, AmqpError> {
        let Intake { queue, gate, shared, .. } = self.intake;
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.until.cancelled() => return Ok(None),
                () = shared.broken.cancelled() => return Err(AmqpError::session_is_broken(queue)),
                () = self.torn.cancelled() => return Err(self.left_unacknowledged()),
                delivery = consumer.next() => delivery,
            };
            let delivery = delivery.transpose().map_err(|error| AmqpError::of_consumer(queue, error))?;
            let Some(delivery) = delivery else {
                let reason = "the broker ended the consumer (was the queue deleted?)";
                return Err(AmqpError::Consuming { queue: queue.clone(), reason });
            };
            // There is none only while commands of an earlier session still run.
            let room = tokio::select! {
                biased;
                () = self.until.cancelled() => return Ok(Some(delivery)),
                () = shared.broken.cancelled() => return Err(AmqpError::session_is_broken(queue)),
                () = self.torn.cancelled() => return Err(self.left_unacknowledged()),
                room = gate.room() => room,
            };
            self.begin(delivery, gate.begin(room));
        }
    }

    fn left_unacknowledged(&self) -> AmqpError {
        AmqpError::LeftUnacknowledged { queue: self.intake.queue.clone() }
    }

    fn begin(&self, mut delivery: Delivery, working: Working) {
        let (handler, metrics) = (self.handler.clone(), self.intake.shared.worker.metrics.clone());
        let mut message = self.message(&mut delivery);
        let traces = &self.intake.shared.worker.traces;
        let trace = traces.process(&mut message, &self.intake.queue, delivery.exchange.as_str());
        let (job_id, trace_id) = (tracing::field::Empty, message.trace_id());
        // Of the gravest level, so that no filter takes the job from a line that it lets through.
        let span = error_span!("command", account = message.routing_key, job_id, trace_id);
        let (traced, acknowledged) = (trace.clone(), self.acknowledged.clone());
        // A panic must not look like a command that was handled.
        let alarm = self.torn.clone().drop_guard();
        let task = async move {
            let metrics = metrics.commands(&message.routing_key);
            metrics.received(&message);
            let handled = tokio::time::timeout(HELD_AT_MOST, handler.handle(&message)).await;
            let handled = handled.unwrap_or_else(|_| Err(NotConfirmed(format!("not done within {HELD_AT_MOST:?}"))));
            trace.handled(&handled);
            let ending = match handled {
                Ok(ending) => ending,
                Err(error) => {
                    error!(%error, "left unacknowledged; the broker will deliver it again");
                    metrics.left();
                    return;
                }
            };
            if let Ending::Finished(cause) = ending {
                metrics.finished(cause, age(&message, RealWorld.now()));
            }
            match delivery.acker.ack(BasicAckOptions::default()).await {
                Ok(true) => *acknowledged.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now()),
                Ok(false) => warn!("the acknowledgement did not reach the broker; it will deliver again"),
                Err(error) => warn!(%error, "the acknowledgement failed; the broker will deliver again"),
            }
            alarm.disarm();
            drop(working);
            trace.end();
        };
        self.tasks.spawn(self.running.track_future(traced.over(task.instrument(span))));
    }

    fn message(&self, delivery: &mut Delivery) -> Message {
        let names = &self.intake.shared.names;
        let mut message = headers::message(delivery, names, RealWorld.now());
        // A copy by `CC` has the key of another account, and with that would come back to it.
        if let Some(account) = names.account_of(&self.intake.queue) {
            message.routing_key = account.to_owned();
        }
        message
    }

    /// Ends the consumer and gives back what it had fetched ahead, all at the same time, so that another worker can begin it.
    async fn hand_back_unbegun(
        &self,
        channel: &Channel,
        consumer: &mut Consumer,
        in_hand: Option<Delivery>,
    ) -> Result<(), AmqpError> {
        // Nor does a node without a majority answer this; what was fetched comes again when the connection is gone.
        let cancelling = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        let Ok(cancelled) = tokio::time::timeout(CANCEL_WITHIN, cancelling).await else {
            let reason = "the broker did not end the consumer in time (has the queue a leader?)";
            return Err(AmqpError::Consuming { queue: self.intake.queue.clone(), reason });
        };
        cancelled.map_err(|error| AmqpError::of_consumer(&self.intake.queue, error))?;
        let mut fetched: Vec<_> = in_hand.into_iter().collect();
        while let Ok(Some(Ok(delivery))) = tokio::time::timeout(Duration::from_secs(5), consumer.next()).await {
            fetched.push(delivery);
        }
        let handing_back = fetched.into_iter().map(|delivery| self.hand_back(delivery));
        try_join_all(handing_back).await.map(drop)
    }

    async fn hand_back(&self, mut delivery: Delivery) -> Result<(), AmqpError> {
        let message = self.message(&mut delivery);
        // A broker in alarm confirms nothing.
        let is_put_back = !self.intake.shared.worker.broker.is_blocked() && self.put_back(&message).await;
        let is_told = match is_put_back {
            true => self.acknowledge(&delivery).await?,
            false => delivery.acker.nack(BasicNackOptions { requeue: true, ..Default::default() }).await?,
        };
        if !is_told {
            warn!("a command that was not begun could not be handed back; the broker will do it");
        }
        Ok(())
    }

    async fn put_back(&self, message: &Message) -> bool {
        match tokio::time::timeout(HAND_BACK_WITHIN, self.handler.put_back(message)).await {
            Ok(Ok(is_put_back)) => is_put_back,
            Ok(Err(error)) => {
                warn!(%error, "a command that was not begun goes back as redelivered; it is asked about before it is cancelled");
                false
            }
            Err(_) => {
                warn!(
                    "a command that was not begun goes back as redelivered; the broker did not confirm its copy in time"
                );
                false
            }
        }
    }

    async fn acknowledge(&self, delivery: &Delivery) -> lapin::Result<bool> {
        let is_told = delivery.acker.ack(BasicAckOptions::default()).await?;
        if is_told {
            *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        Ok(is_told)
    }
}

fn age(message: &Message, now: DateTime<Utc>) -> Option<Duration> {
    match &message.carried {
        Carried::Progress(progress) => progress.age(now),
        _ => Some((now - message.received_at).to_std().unwrap_or_default()),
    }
}
