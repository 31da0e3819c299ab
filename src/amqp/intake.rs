//! One queue, consumed on a connection of its own: on a fault it connects and consumes again, and disturbs no other account.
//!
//! A message that the client library cannot read (a property that is not UTF-8) ends the connection before anybody has seen
//! it, and the broker delivers it again. Its queue is then consumed one message at a time: all before it are done with, none
//! is fetched and torn again and again together with it. It stays at the head of its queue until an operator takes it out;
//! rejecting it unseen could hit a good one that has taken its place.

use super::{
    AmqpError, connect,
    consumer::{self, Handler, Shared},
    session::pauses,
    topology::{self, Object},
};
use crate::{settings::Amqp, shutdown::Stop};
use backoff::backoff::Backoff;
use lapin::{Connection, ErrorKind};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

/// A connection that held this long was a good one: the next pause is short again, and messages are fetched ahead again.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);

/// A queue to consume.
pub struct Intake {
    pub amqp: Amqp,
    pub objects: Arc<Vec<Object>>,
    pub queue: String,
    /// How many messages are worked on at the same time.
    pub limit: u16,
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
            let ended = self.consume(&handler, one_by_one, &tasks, prepared).await;
            // A command comes again when its connection is gone: its running call has to end before that.
            tasks.close();
            tasks.wait().await;
            if self.shared.stop.soon.is_cancelled() {
                return Ok(());
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
            let pause = pauses.next_backoff().unwrap_or(Duration::from_secs(10));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.stop.soon.cancelled() => return Ok(()),
                () = self.shared.broken.cancelled() => return Err(error),
            }
        }
    }

    async fn consume<H: Handler>(
        &self,
        handler: &Arc<H>,
        one_by_one: bool,
        tasks: &TaskTracker,
        prepared: bool,
    ) -> Result<(), AmqpError> {
        let purpose = format!("consumes {}", self.queue);
        let connection = tokio::select! {
            connection = connect(&self.amqp, &purpose) => connection?,
            () = self.shared.stop.soon.cancelled() => return Ok(()),
        };
        // The queue may have been deleted since the session began.
        if !prepared {
            topology::prepare(&connection, &self.amqp, &self.objects).await?;
        }
        let channel = connection.create_channel().await?;
        let soon = self.shared.stop.soon.child_token();
        let shared = Shared { stop: Stop { soon: soon.clone(), ..self.shared.stop.clone() }, ..self.shared.clone() };
        let limit = if one_by_one { 1 } else { self.limit };
        let consuming = consumer::run(channel, &self.queue, limit, handler.clone(), &shared, tasks);
        tokio::pin!(consuming);
        let ended = tokio::select! {
            ended = &mut consuming => ended,
            () = tokio::time::sleep(GOOD_CONNECTION), if one_by_one => {
                soon.cancel();
                consuming.await
            }
        };
        close(&connection).await;
        ended
    }
}

/// Closes a connection in good order, within a limit.
pub async fn close(connection: &Connection) {
    let closing = connection.close(200, "done".into());
    if !matches!(tokio::time::timeout(Duration::from_secs(2), closing).await, Ok(Ok(()))) {
        debug!("a connection was closed already");
    }
}
