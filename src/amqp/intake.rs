//! One queue, consumed on a connection of its own, as much of it as its gate lets through. What goes wrong here (a queue
//! deleted, a message that cannot be read) is tried again here, and other queues do not notice.
//!
//! A message that cannot be read ends the connection each time that it is delivered. Then the queue is suspect: it is consumed one
//! message at a time with short pauses, so that the broker soon reaches its limit of deliveries and moves the message away.

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
use tracing::{debug, error, warn};

/// A connection that held this long was a good one: the next pause is short again, and messages are fetched ahead again.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);
/// So long, what still runs when a connection is gone can end before its messages come again. What takes longer is a call,
/// and then the transaction is in hand.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);
/// Between two deliveries of a message that cannot be read. The broker moves it away after 100, which so take about half a minute.
const SUSPECT_PAUSE: Duration = Duration::from_millis(250);
/// So many connections in a row that the broker has ended, twice its limit of deliveries and some, without a message in between that can
/// be read: this may be no matter of a message, and the usual pauses spare the broker.
const SUSPECT_ROUNDS: u32 = 250;

/// A queue to consume.
pub struct Intake {
    /// Everything on the broker.
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
        let (mut pauses, mut preparing, mut rounds) = (pauses(), Preparing::Nothing, 0);
        loop {
            let (begun, tasks, suspect) = (Instant::now(), TaskTracker::new(), self.gate.view().suspect);
            let begun_before = self.gate.begun();
            let ended = self.connected(&handler, suspect, &tasks, preparing).await;
            tasks.close();
            if self.shared.stop.soon.is_cancelled() {
                tasks.wait().await;
                return Ok(());
            }
            if tokio::time::timeout(SETTLE_WITHIN, tasks.wait()).await.is_err() {
                debug!(queue = self.queue, running = tasks.len(), "calls still run; their commands wait for them");
            }
            preparing = Preparing::Own;
            let Err(error) = ended else {
                self.trust();
                continue;
            };
            if self.shared.broken.is_cancelled() {
                return Err(error);
            }
            if begun.elapsed() > GOOD_CONNECTION {
                pauses.reset();
            }
            let pause = match &error {
                AmqpError::Unreadable { error, .. } => {
                    self.suspect(error);
                    rounds = if self.gate.begun() > begun_before { 1 } else { rounds + 1 };
                    suspect_pause(error, rounds).unwrap_or_else(|| pauses.next_pause())
                }
                _ => {
                    self.gate.lose();
                    error!(%error, queue = self.queue, "the connection ended; consuming again soon");
                    pauses.next_pause()
                }
            };
            // A stray that an object of ours has missed.
            let is_of_strays = self.queue == self.shared.names.strays();
            if is_of_strays && matches!(error, AmqpError::LeftUnacknowledged { .. }) {
                preparing = Preparing::All;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.stop.soon.cancelled() => return Ok(()),
                () = self.shared.broken.cancelled() => return Err(error),
            }
        }
    }

    /// Says once that a message cannot be read.
    fn suspect(&self, error: &lapin::Error) {
        if !self.gate.suspect() {
            debug!(%error, queue = self.queue, "the message that cannot be read was delivered again");
            return;
        }
        error!(
            %error,
            queue = self.queue,
            unreadable = self.shared.names.unreadable(),
            "a message in this queue ends the connection on which it is delivered: this worker cannot read it, or the broker cannot write it. \
             The queue is consumed one message at a time until the broker moves that message away, after its limit of deliveries; then \
             look for it in the queue that `unreadable` names"
        );
    }

    /// For a good while, nothing has come that cannot be read.
    fn trust(&self) {
        if self.gate.view().suspect {
            self.gate.trust();
            warn!(
                queue = self.queue,
                unreadable = self.shared.names.unreadable(),
                "every message in this queue can be read again; it is consumed as usual"
            );
        }
    }

    /// Consumes on one connection until the stop, a fault, or the time to leave one-by-one.
    async fn connected<H: Handler>(
        &self,
        handler: &Arc<H>,
        one_by_one: bool,
        tasks: &TaskTracker,
        preparing: Preparing,
    ) -> Result<(), AmqpError> {
        let purpose = format!("consumes {}", self.queue);
        let connection = tokio::select! {
            connection = connect(&self.shared.worker, &purpose) => connection?,
            () = self.shared.stop.soon.cancelled() => return Ok(()),
        };
        let ended = async {
            tokio::select! {
                prepared = self.prepare(&connection, preparing) => prepared?,
                () = self.shared.stop.soon.cancelled() => return Ok(()),
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

    /// Makes, or looks at, what may have been deleted since the session began. Other objects than the queue's own are no reason not to
    /// consume it.
    async fn prepare(&self, connection: &Connection, preparing: Preparing) -> Result<(), AmqpError> {
        let settings = &self.shared.worker.settings.amqp;
        if preparing == Preparing::Nothing {
            return Ok(());
        }
        let own = topology::of_queue(&self.objects, &self.queue);
        if preparing == Preparing::Own {
            match topology::prepare(connection, settings, &own).await {
                // An exchange that it is bound to may be gone.
                Err(AmqpError::Topology(_)) => {}
                prepared => return prepared,
            }
        }
        match topology::prepare(connection, settings, &self.objects).await {
            Err(AmqpError::Topology(problems)) => {
                warn!(problems, "the broker's objects are not as they should be; look at them with `topology verify`");
                topology::prepare(connection, settings, &own).await
            }
            prepared => prepared,
        }
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

/// The pause after so many rounds in a row; none where the broker is to be spared. What lapin cannot parse is a message beyond doubt, and
/// the broker takes several of them by turns: of five, none leaves the queue before some 500 rounds.
fn suspect_pause(error: &lapin::Error, rounds: u32) -> Option<Duration> {
    let is_a_message = matches!(error.kind(), ErrorKind::ParsingError(_));
    (is_a_message || rounds <= SUSPECT_ROUNDS).then_some(SUSPECT_PAUSE)
}

/// What is looked at before a queue is consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preparing {
    /// The session has just looked at everything.
    Nothing,
    Own,
    /// Another object has missed a message.
    All,
}

/// Closes a connection in good order, within a limit.
pub async fn close(connection: &Connection) {
    let closing = connection.close(200, "done".into());
    if !matches!(tokio::time::timeout(Duration::from_secs(2), closing).await, Ok(Ok(()))) {
        debug!("a connection was closed already");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError};

    #[test]
    fn many_messages_that_cannot_be_read_are_no_reason_to_slow_down_and_a_broker_in_trouble_is() {
        let broken = AMQPError::new(AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR), "".into());
        let broken = lapin::Error::from(ErrorKind::ProtocolError(broken));
        assert_eq!(suspect_pause(&broken, SUSPECT_ROUNDS), Some(SUSPECT_PAUSE));
        assert_eq!(suspect_pause(&broken, SUSPECT_ROUNDS + 1), None);
        let nonsense = lapin::types::parsing::parse_short_string(&b"\x01\xff"[..]).expect_err("no UTF-8");
        let unread = lapin::Error::from(ErrorKind::ParsingError(nonsense));
        assert_eq!(suspect_pause(&unread, 100 * SUSPECT_ROUNDS), Some(SUSPECT_PAUSE));
    }
}
