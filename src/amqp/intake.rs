//! One queue, consumed on a connection of its own, as much of it as its gate lets through. What goes wrong here (a queue
//! deleted, a message that cannot be read) is tried again here, and other queues do not notice.

use super::{
    AmqpError,
    consumer::{self, Handler, Shared},
    session::{connect, pauses},
    topology::{self, Object},
};
use crate::account::gate::{Gate, Taking};
use lapin::{Connection, ErrorKind};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error};

/// A connection that held this long was a good one: the next pause is short again, and messages are fetched ahead again.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);
/// So long, what still runs when a connection is gone can end before its messages come again. What takes longer is a call,
/// and then the transaction is in hand.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);

/// A queue to consume.
pub struct Intake {
    pub objects: Arc<Vec<Object>>,
    pub queue: String,
    pub gate: Arc<Gate>,
    pub shared: Shared,
}

impl Intake {
    /// Gives the queue's messages to the handler until the stop, or until the session is broken.
    ///
    /// # Errors
    /// When the session is broken.
    pub async fn run<H: Handler>(self, handler: H) -> Result<(), AmqpError> {
        let handler = Arc::new(handler);
        let (mut pauses, mut one_by_one, mut prepared) = (pauses(), false, true);
        loop {
            let (begun, tasks) = (Instant::now(), TaskTracker::new());
            let ended = self.connected(&handler, one_by_one, &tasks, prepared).await;
            tasks.close();
            if self.shared.stop.soon.is_cancelled() {
                tasks.wait().await;
                return Ok(());
            }
            if tokio::time::timeout(SETTLE_WITHIN, tasks.wait()).await.is_err() {
                debug!(queue = self.queue, running = tasks.len(), "calls still run; their commands wait for them");
            }
            prepared = false;
            let Err(error) = ended else {
                one_by_one = false;
                continue;
            };
            if self.shared.broken.is_cancelled() {
                return Err(error);
            }
            if begun.elapsed() > GOOD_CONNECTION {
                pauses.reset();
            }
            if matches!(&error, AmqpError::Broker(error) if matches!(error.kind(), ErrorKind::ParsingError(_))) {
                error!(
                    queue = self.queue,
                    one_by_one,
                    "a message in this queue cannot be read: one of its properties is not UTF-8. The queue is consumed one \
                     message at a time; when this repeats, the message is at the head of the queue: take it out with \
                     RabbitMQ's management tools"
                );
                one_by_one = true;
            } else {
                error!(%error, queue = self.queue, "the connection ended; consuming again soon");
            }
            let pause = pauses.next_pause();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.stop.soon.cancelled() => return Ok(()),
                () = self.shared.broken.cancelled() => return Err(error),
            }
        }
    }

    /// Consumes on one connection until the stop, a fault, or the time to leave one-by-one.
    async fn connected<H: Handler>(
        &self,
        handler: &Arc<H>,
        one_by_one: bool,
        tasks: &TaskTracker,
        prepared: bool,
    ) -> Result<(), AmqpError> {
        let purpose = format!("consumes {}", self.queue);
        let connection = tokio::select! {
            connection = connect(&self.shared.worker, &purpose) => connection?,
            () = self.shared.stop.soon.cancelled() => return Ok(()),
        };
        let ended = async {
            // The queue may have been deleted since the session began.
            if !prepared {
                let preparing = topology::prepare(&connection, &self.shared.worker.settings.amqp, &self.objects);
                tokio::select! {
                    prepared = preparing => prepared?,
                    () = self.shared.stop.soon.cancelled() => return Ok(()),
                }
            }
            self.consume(&connection, handler, one_by_one, tasks).await
        };
        let mut ended = ended.await;
        if ended.is_ok() {
            // What still runs is acknowledged on this connection.
            tasks.close();
            tokio::select! {
                () = tasks.wait() => {}
                () = self.shared.broken.cancelled() => ended = Err(AmqpError::session_is_broken(&self.queue)),
            }
        }
        close(&connection).await;
        ended
    }

    async fn consume<H: Handler>(
        &self,
        connection: &Connection,
        handler: &Arc<H>,
        one_by_one: bool,
        tasks: &TaskTracker,
    ) -> Result<(), AmqpError> {
        let Shared { stop, broken, .. } = &self.shared;
        let leaving = tokio::time::sleep(GOOD_CONNECTION);
        tokio::pin!(leaving);
        loop {
            if stop.soon.is_cancelled() || (one_by_one && leaving.is_elapsed()) {
                return Ok(());
            }
            let taking = self.gate.view().taking;
            if taking == Taking::Nothing {
                self.shared.announce();
                tokio::select! {
                    () = self.gate.until_other_than(taking) => continue,
                    () = stop.soon.cancelled() => return Ok(()),
                    () = broken.cancelled() => return Err(AmqpError::session_is_broken(&self.queue)),
                }
            }
            let limit = if one_by_one || taking == Taking::One { 1 } else { self.gate.limit };
            self.gate.begin_consuming();
            let until = CancellationToken::new();
            let consuming = consumer::run(connection, self, limit, handler, tasks, &until);
            tokio::pin!(consuming);
            tokio::select! {
                ended = &mut consuming => ended?,
                () = async {
                    tokio::select! {
                        () = self.gate.until_other_than(taking) => {}
                        () = stop.soon.cancelled() => {}
                        () = &mut leaving, if one_by_one => {}
                    }
                } => {
                    until.cancel();
                    consuming.await?;
                }
            }
        }
    }
}

/// Closes a connection in good order, within a limit.
pub async fn close(connection: &Connection) {
    let closing = connection.close(200, "done".into());
    if !matches!(tokio::time::timeout(Duration::from_secs(2), closing).await, Ok(Ok(()))) {
        debug!("a connection was closed already");
    }
}
