//! Messages out: retries, parked copies, events, replies. Returns only when the broker has confirmed.
//!
//! Publishes are pipelined on one channel, sent in the order of their numbers, and never `mandatory`: lapin pairs returned
//! messages with the wrong confirm then. Alternate exchanges catch what is unroutable instead.

use super::{
    headers,
    replies::{self, Replies},
    topology::Names,
};
use crate::{
    account::RealWorld,
    event::{CONTENT_TYPE, Event, Finish},
    message::{Carried, Message, Properties, Scalar},
    metrics::Published,
    pauses::Pauses,
    pipeline::{NotConfirmed, Outbox, World},
    retry::{Later, Progress},
    traces::Span,
    worker::Worker,
};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use std::{
    future::poll_fn,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// No publish is held much longer while the broker refuses or is blocked: with its calls, an event and a retry, a delivery
/// stays under five minutes.
const HOLD: Duration = Duration::from_secs(45);

/// Why a message was not confirmed.
enum Unconfirmed {
    /// The broker said that it has not taken it.
    Refused,
    /// It may have been taken.
    Unknown(String),
}

impl Unconfirmed {
    fn at(self, exchange: &str) -> NotConfirmed {
        match self {
            Self::Refused => NotConfirmed(format!("{exchange} refused the message")),
            Self::Unknown(why) => NotConfirmed(format!("{exchange}: {why}")),
        }
    }
}

/// Publishes for one session.
#[derive(Clone)]
pub struct AmqpOutbox(Arc<Inner>);

struct Inner {
    names: Names,
    connection: Arc<Connection>,
    channel: std::sync::Mutex<Channel>,
    /// Held while a message gets its number and is queued to be sent.
    turn: std::sync::Mutex<()>,
    /// Held while another channel is opened.
    renewing: Mutex<()>,
    replies: Replies,
    worker: Arc<Worker>,
    /// Set when the session has to be made anew.
    broken: CancellationToken,
}

impl AmqpOutbox {
    /// Opens the publishing channel.
    ///
    /// # Errors
    /// When the broker does not let us.
    pub async fn open(
        connection: Arc<Connection>,
        names: Names,
        worker: Arc<Worker>,
        broken: CancellationToken,
    ) -> lapin::Result<Self> {
        let channel = std::sync::Mutex::new(confirming(&connection).await?);
        let (turn, renewing) = (std::sync::Mutex::default(), Mutex::default());
        let replies = Replies::new(worker.clone());
        Ok(Self(Arc::new(Inner { names, connection, channel, turn, renewing, replies, worker, broken })))
    }

    /// Ends what is open beside the session's connection.
    pub async fn close(&self) {
        self.0.replies.close().await;
    }

    async fn confirmed(
        &self,
        what: Published,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), Unconfirmed> {
        let (metrics, begun) = (&self.0.worker.metrics.broker, Instant::now());
        let span = Span::publish(exchange, routing_key, &properties);
        let published = self.published(exchange, routing_key, body, properties, begun).await;
        match &published {
            Ok(()) => metrics.confirmed(what, begun.elapsed()),
            Err(Unconfirmed::Refused) => {
                metrics.nacked(what);
                span.fail("refused");
            }
            Err(Unconfirmed::Unknown(_)) => {
                metrics.failed(what);
                span.fail("not_confirmed");
            }
        }
        published
    }

    async fn published(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
        begun: Instant,
    ) -> Result<(), Unconfirmed> {
        let inner = &self.0;
        let channel = self.channel();
        let publishing = async {
            let options = BasicPublishOptions::default();
            let sending = channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties);
            inner.in_turn(sending).await?.await
        };
        tokio::pin!(publishing);
        loop {
            match tokio::time::timeout(self.confirm_timeout(), &mut publishing).await {
                Ok(Ok(Confirmation::Ack(_))) => return Ok(()),
                Ok(Ok(_)) => {
                    self.renew(&channel).await;
                    return Err(Unconfirmed::Refused);
                }
                Ok(Err(error)) => {
                    inner.broken.cancel();
                    return Err(Unconfirmed::Unknown(error.to_string()));
                }
                // A blocked connection writes nothing; a new one would not either.
                Err(_) if inner.worker.broker.is_blocked() && self.may_hold(begun) => {}
                // One queue that does not confirm is no reason to tear everybody's connections.
                Err(_) => return Err(Unconfirmed::Unknown(format!("no confirm within {:?}", begun.elapsed()))),
            }
        }
    }

    fn confirm_timeout(&self) -> Duration {
        self.0.worker.settings.amqp.confirm_timeout
    }

    fn channel(&self) -> Channel {
        self.0.channel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes another channel. RabbitMQ (3.10.8) goes on refusing on the one that it has refused on when the queue's limit
    /// is lifted, however empty the queue is then.
    async fn renew(&self, refused: &Channel) {
        let inner = &self.0;
        let Ok(_renewing) = inner.renewing.try_lock() else { return };
        if self.channel().id() != refused.id() {
            return;
        }
        match tokio::time::timeout(self.confirm_timeout(), confirming(&inner.connection)).await {
            Ok(Ok(new)) => *inner.channel.lock().unwrap_or_else(PoisonError::into_inner) = new,
            Ok(Err(error)) => debug!(%error, "no other channel to publish on"),
            Err(_) => debug!("no other channel to publish on in time"),
        }
    }

    fn may_hold(&self, since: Instant) -> bool {
        since.elapsed() < HOLD && !self.0.worker.stop.now.is_cancelled() && !self.0.broken.is_cancelled()
    }

    /// Publishes into a bucket. A bucket that is full refuses; then this slows down and tries again, within a limit.
    async fn wait(
        &self,
        message: &Message,
        why: Option<Later>,
        delay: Duration,
        age: Option<Duration>,
        ours: Vec<(String, Scalar)>,
    ) -> Result<(), NotConfirmed> {
        let (bucket, waiting) = in_bucket(&self.0.names, delay, &message.properties, ours);
        let mut pauses = Pauses::new(Duration::from_millis(200), Duration::from_secs(10), 1.5);
        let begun = Instant::now();
        loop {
            let properties = waiting.clone();
            match self.confirmed(Published::Retry, &bucket, &message.routing_key, &message.body, properties).await {
                Ok(()) => {
                    self.0.worker.metrics.commands(&message.routing_key).waits(why, delay, age);
                    return Ok(());
                }
                Err(Unconfirmed::Refused) if self.may_hold(begun) => {
                    let pause = pauses.next_pause();
                    warn!(bucket, ?pause, "the bucket refused a retry (is it full?); trying again");
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error.at(&bucket)),
            }
        }
    }

    /// Whether a requester's queue may be written to.
    fn may_reply_to(&self, queue: &str) -> bool {
        if let Some(is_direct) = replies::is_direct(queue) {
            return is_direct;
        }
        !self.0.names.is_ours(queue)
            && self.0.worker.settings.amqp.reply_to_allow.iter().any(|allowed| match allowed.strip_suffix('*') {
                Some(stem) => queue.starts_with(stem),
                None => queue == allowed,
            })
    }
}

/// The bucket for a delay, and the properties of a copy that waits there so long.
pub fn in_bucket(
    names: &Names,
    delay: Duration,
    properties: &Properties,
    ours: Vec<(String, Scalar)>,
) -> (String, BasicProperties) {
    let (bucket, ms) = names.bucket_for(delay);
    (bucket, headers::copied(properties, ours).with_expiration(ms.to_string().into()))
}

async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

fn of_event(event: &Event, message: &Message) -> BasicProperties {
    let correlation_id = message.properties.correlation_id.clone().or_else(|| event.job_id.clone());
    let (traceparent, tracestate) = message.trace_context();
    let only_trace = Properties {
        message_id: Some(event.id.to_string()),
        correlation_id,
        content_type: Some(CONTENT_TYPE.into()),
        kind: Some(format!("qris.cancel.{}.v1", event.cause.outcome().name())),
        app_id: Some("qris-cancel-worker".into()),
        traceparent: traceparent.map(str::to_owned),
        tracestate: tracestate.map(str::to_owned),
        ..Default::default()
    };
    headers::copied(&only_trace, vec![])
}

impl Inner {
    /// Sends messages in the order of their numbers. lapin takes a message's number and queues its frames in two steps, both in
    /// the first poll; if another thread's message got in between, the two would have each other's confirm, and a refused
    /// retry would be taken for a confirmed one.
    async fn in_turn<T>(&self, sending: impl Future<Output = T>) -> T {
        tokio::pin!(sending);
        poll_fn(|context| {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            sending.as_mut().poll(context)
        })
        .await
    }
}

impl Outbox for AmqpOutbox {
    async fn retry(
        &self,
        message: &Message,
        progress: &Progress,
        why: Later,
        delay: Duration,
    ) -> Result<(), NotConfirmed> {
        let age = progress.age_of_retry(RealWorld.now());
        self.wait(message, Some(why), delay, age, headers::of_progress(progress)).await
    }

    async fn postpone(&self, message: &Message, delay: Duration) -> Result<(), NotConfirmed> {
        let kept = match &message.carried {
            Carried::Foreign { headers, .. } => headers.clone(),
            _ => vec![],
        };
        self.wait(message, None, delay, None, kept).await
    }

    async fn park(&self, message: &Message, progress: &Progress, finish: &Finish) -> Result<(), NotConfirmed> {
        let ours = headers::of_parked(&message.routing_key, progress, finish);
        let (parked, properties) = (self.0.names.parked(), headers::copied(&message.properties, ours));
        let confirmed =
            self.confirmed(Published::Parked, &parked, &message.routing_key, &message.body, properties).await;
        confirmed.map_err(|error| error.at(&parked))
    }

    async fn publish(&self, event: &Event, message: &Message) -> Result<(), NotConfirmed> {
        let (events, properties) = (self.0.names.events(), of_event(event, message));
        let confirmed = self.confirmed(Published::Event, &events, &event.routing_key, &event.body, properties).await;
        confirmed.map_err(|error| error.at(&events))
    }

    async fn reply(&self, event: &Event, message: &Message) {
        let Some(queue) = &message.properties.reply_to else { return };
        if !self.may_reply_to(queue) {
            debug!(reply_to = queue, "no courtesy copy: the settings do not allow this queue");
            return;
        }
        self.0.replies.send(queue, &event.body, of_event(event, message)).await;
    }
}
