//! Deliveries in, bounded work, acknowledgement out. The only file that acknowledges: after the handler has returned `Ok`,
//! which it does once the broker has confirmed every effect. What was not begun goes back; nothing else is ever requeued.

use super::{AmqpError, headers, topology::Names};
use crate::{
    account::{Account, RealWorld},
    message::Message,
    pipeline::{Ending, NotConfirmed, Outbox, Pipeline, Strays, World},
    shutdown::Stop,
};
use futures_util::StreamExt;
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::FieldTable,
};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info, info_span, warn};

/// What is done with a message.
pub trait Handler: Send + Sync + 'static {
    fn handle(&self, message: &Message) -> impl Future<Output = Result<Ending, NotConfirmed>> + Send;
}

impl<O: Outbox + 'static> Handler for Pipeline<Arc<Account>, O, RealWorld> {
    async fn handle(&self, message: &Message) -> Result<Ending, NotConfirmed> {
        Pipeline::handle(self, message).await
    }
}

impl<O: Outbox + 'static> Handler for Strays<O, RealWorld> {
    async fn handle(&self, message: &Message) -> Result<Ending, NotConfirmed> {
        Strays::handle(self, message).await
    }
}

/// What a session's consumers share.
#[derive(Clone)]
pub struct Shared {
    pub names: Names,
    pub stop: Stop,
    /// Set when the session has to be made anew.
    pub broken: CancellationToken,
    /// The broker takes no messages now.
    pub blocked: Arc<AtomicBool>,
    pub unblocked: Arc<Notify>,
    /// How many queues are not consumed yet.
    pub missing: Arc<AtomicUsize>,
}

/// Consumes one queue until the stop or a fault.
///
/// # Errors
/// When the channel or the connection failed, or the broker ended the consumer.
pub async fn run<H: Handler>(
    channel: Channel,
    queue: &str,
    limit: u16,
    handler: Arc<H>,
    shared: &Shared,
    tasks: &TaskTracker,
) -> Result<(), AmqpError> {
    // A little more than can be worked on, so that the next is at hand; the client library's own buffer knows no limit.
    // One at a time means just that.
    let prefetch = if limit == 1 { 1 } else { limit.saturating_add((limit / 4).max(1)) };
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let mut consumer =
        channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    match shared.missing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)) {
        Ok(1) => info!("consuming"),
        Ok(_) => {}
        Err(_) => info!(queue, "consuming again"),
    }
    let slots = Arc::new(Semaphore::new(limit.into()));
    let work = Work { handler, shared: shared.clone(), slots, tasks: tasks.clone() };
    // After a fault, what still runs can no longer be acknowledged here.
    work.take(&mut consumer, queue).await?;
    hand_back_unbegun(&channel, &mut consumer).await?;
    work.tasks.close();
    work.tasks.wait().await;
    Ok(())
}

struct Work<H> {
    handler: Arc<H>,
    shared: Shared,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl<H: Handler> Work<H> {
    async fn take(&self, consumer: &mut Consumer, queue: &str) -> Result<(), AmqpError> {
        let Shared { stop, broken, .. } = &self.shared;
        loop {
            let next = async {
                while self.shared.blocked.load(Ordering::Relaxed) {
                    // Woken, or to look again: a notification can come between the look and the wait.
                    let look_again = Duration::from_millis(500);
                    if tokio::time::timeout(look_again, self.shared.unblocked.notified()).await.is_err() {
                        debug!(queue, "the broker takes no messages; waiting");
                    }
                }
                let slot = self.slots.clone().acquire_owned().await.expect("the semaphore is never closed");
                (slot, consumer.next().await)
            };
            let (slot, delivery) = tokio::select! {
                () = stop.soon.cancelled() => return Ok(()),
                () = broken.cancelled() => return Err(AmqpError::Topology(format!("{queue}: the session is broken"))),
                next = next => next,
            };
            match delivery {
                Some(Ok(delivery)) => self.begin(delivery, slot),
                Some(Err(error)) => return Err(error.into()),
                None => {
                    return Err(AmqpError::Topology(format!(
                        "{queue}: the broker ended the consumer (was the queue deleted?)"
                    )));
                }
            }
        }
    }

    fn begin(&self, mut delivery: Delivery, slot: OwnedSemaphorePermit) {
        let (handler, broken) = (self.handler.clone(), self.shared.broken.clone());
        let message = headers::message(&mut delivery, &self.shared.names, RealWorld.now());
        let span = info_span!("command", account = message.routing_key, job_id = tracing::field::Empty);
        let task = async move {
            // A panic must not look like a command that was handled: it ends the session, and the broker delivers again.
            let alarm = broken.clone().drop_guard();
            match handler.handle(&message).await {
                Ok(_) => match delivery.acker.ack(BasicAckOptions::default()).await {
                    Ok(true) => {}
                    Ok(false) => warn!("the acknowledgement did not reach the broker; it will deliver again"),
                    Err(error) => warn!(%error, "the acknowledgement failed; the broker will deliver again"),
                },
                Err(error) => {
                    error!(%error, "left unacknowledged; the broker will deliver it again");
                    broken.cancel();
                }
            }
            alarm.disarm();
            drop(slot);
        };
        self.tasks.spawn(task.instrument(span));
    }
}

/// Ends the consumer and gives back what it had fetched ahead, so that another worker can begin it.
async fn hand_back_unbegun(channel: &Channel, consumer: &mut Consumer) -> Result<(), AmqpError> {
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    while let Ok(Some(Ok(delivery))) = tokio::time::timeout(Duration::from_secs(5), consumer.next()).await {
        let requeue = BasicNackOptions { requeue: true, ..Default::default() };
        if !delivery.acker.nack(requeue).await? {
            warn!("a command that was not begun could not be handed back; the broker will do it");
        }
    }
    Ok(())
}
