//! Gives the queues that workers consume the arguments of this version.
//!
//! RabbitMQ cannot change the arguments of a queue. So its messages move, while no worker runs and publishers go on: the queue is
//! unbound, emptied, deleted, declared and bound. What is published meanwhile is kept among the strays. Each step can be done again: an
//! upgrade that was killed goes on with the next one. A message that was in its hands then comes twice, as it does when a worker dies.

use super::{
    Names, Object,
    declare::{self, declared, difference_of, explained, look_at, missing, unbind},
};
use crate::{
    amqp::{ACKNOWLEDGED_WITHIN, AmqpError, headers, outbox::in_bucket},
    message::{Carried, Message, Scalar},
    retry::Progress,
};
use chrono::Utc;
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ErrorKind,
    message::Delivery,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeleteOptions,
    },
    types::FieldTable,
};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// RabbitMQ 4.3.6 forgets what it has confirmed in the first second of a queue's life if it is killed then; 3.10.8 never answers for
/// such a queue again. So a new queue is not used before, and nobody is told before that it is there.
pub const OLD_ENOUGH: Duration = Duration::from_millis(1_200);
/// A queue to which nothing has come for so long after its last binding was taken away gets nothing more: what was routed before is
/// there within milliseconds.
const QUIET: Duration = ACKNOWLEDGED_WITHIN;
/// So long what moves out of a command queue waits for its new queue. Longer, it would come late; shorter, it would mostly become a stray.
const AWAY: Duration = Duration::from_secs(8);
/// A queue that gets messages after so many looks has a binding that we do not know.
const LOOKS: usize = 5;

/// How an upgrade ended.
pub enum Upgraded {
    /// All queues have their arguments, apart from these problems, which an upgrade cannot solve.
    Done { moved: usize, problems: Vec<String> },
    /// These queues have consumers, so no message was moved.
    Consumed(Vec<String>),
    /// These queues are empty as far as AMQP shows. Somebody has to look whether the broker still holds messages of them.
    Drained { moved: usize, queues: Vec<String> },
}

/// A message on its way to where it waits or is handled.
struct Moved {
    exchange: String,
    routing_key: String,
    body: Vec<u8>,
    properties: BasicProperties,
}

/// Moves the messages of each queue that has other arguments than this version wants, and makes it again. `at_once` messages are in
/// hand at a time: one, where others came before with one that cannot be read.
///
/// A command queue is deleted only when somebody has `seen_empty` it: what has expired in it and was not taken by the strays yet, its
/// dead-letter worker holds, and AMQP does not show that.
///
/// # Errors
/// When the connection fails, the broker does not answer or confirm within the limit, or a queue cannot be emptied.
pub async fn upgrade(
    connection: &Connection,
    names: &Names,
    objects: &[Object],
    limit: Duration,
    seen_empty: bool,
    at_once: u16,
) -> Result<Upgraded, AmqpError> {
    let is_all_there = missing(connection, objects, limit).await?.is_empty();
    let (differing, others): (Vec<_>, Vec<_>) =
        declared(connection, objects, limit).await?.into_iter().partition(|(object, error)| {
            matches!(object, Object::Queue { moves: true, .. }) && difference_of(object, error).is_some()
        });
    if !others.is_empty() {
        return Ok(Upgraded::Done { moved: 0, problems: explained(&others) });
    }
    let differing: Vec<_> = differing.into_iter().map(|(object, _)| object).collect();

    let channel = connection.create_channel().await?;
    let mover = Mover { connection, names, objects, limit, at_once, channel };
    let mut consumed = Vec::new();
    for object in &differing {
        if mover.look_at(object.name()).await?.1 > 0 {
            consumed.push(object.name().to_owned());
        }
    }
    if !consumed.is_empty() {
        return Ok(Upgraded::Consumed(consumed));
    }
    if !is_all_there {
        sleep(OLD_ENOUGH).await;
    }

    let strays = names.strays();
    let (strays, commands): (Vec<_>, Vec<_>) = differing.into_iter().partition(|object| object.name() == strays);
    let mut moved = mover.strays(&strays).await?;
    let queues: Vec<_> = commands.iter().map(|object| object.name().to_owned()).collect();
    for queue in &queues {
        mover.unbind(queue).await?;
    }
    for queue in &queues {
        let account = names.account_of(queue).unwrap_or_default();
        moved += mover.empty(queue, |delivery| command(delivery, names, account)).await?;
    }
    if !queues.is_empty() && !seen_empty {
        return Ok(Upgraded::Drained { moved, queues });
    }
    mover.make(&commands).await?;
    // What is left over of an upgrade that was interrupted, too.
    Ok(Upgraded::Done { moved, problems: declare::declare(connection, objects, limit).await? })
}

fn is_binding(object: &Object, to_which: impl Fn(&String) -> bool) -> bool {
    matches!(object, Object::Binding { to, .. } if to_which(to))
}

/// A command goes into a retry bucket, as it does when a worker hands it on. What it carries is believed only if it came from one.
fn command(delivery: &mut Delivery, names: &Names, account: &str) -> Moved {
    let message = headers::message(delivery, names, Utc::now());
    let (exchange, properties) = in_bucket(names, AWAY, &message.properties, carried_on(&message));
    // The copy that a publisher's CC made has another account's key.
    Moved { exchange, routing_key: account.to_owned(), body: message.body, properties }
}

/// What the next worker has to know. The copy does not show that the message was delivered before, so this says it.
fn carried_on(message: &Message) -> Vec<(String, Scalar)> {
    let mut progress = match &message.carried {
        Carried::Foreign { headers, .. } => return headers.clone(),
        Carried::Progress(progress) => (**progress).clone(),
        Carried::Nothing => Progress::new(message.received_at),
        Carried::Damaged => Progress { ambiguous: true, ..Progress::new(message.received_at) },
    };
    progress.ambiguous |= message.redelivered;
    headers::of_progress(&progress)
}

/// A stray goes to the exchange that it came through, so that it is seen to be what it is.
fn stray(delivery: &mut Delivery, names: &Names) -> Moved {
    let through =
        [names.strays(), names.strays_ours_arrived()].into_iter().find(|name| *name == delivery.exchange.as_str());
    Moved {
        exchange: through.unwrap_or_else(|| names.commands()),
        routing_key: delivery.routing_key.as_str().to_owned(),
        properties: headers::of_stray(delivery, names),
        body: std::mem::take(&mut delivery.data),
    }
}

struct Mover<'a> {
    connection: &'a Connection,
    names: &'a Names,
    objects: &'a [Object],
    limit: Duration,
    at_once: u16,
    channel: Channel,
}

impl Mover<'_> {
    /// Strays wait among the expired ones meanwhile, where a worker handles them alike. So there is always a queue for them; one that
    /// comes in the milliseconds in which two are bound comes twice. The old queue dead-letters nowhere, so AMQP shows all that it holds.
    async fn strays(&self, queues: &[Object]) -> Result<usize, AmqpError> {
        let mut moved = 0;
        for queue in queues {
            let surplus = self.objects.iter().filter_map(|object| match object {
                Object::NoBinding { from, to } => Some(super::bind(from, to, "")),
                _ => None,
            });
            self.declare(&surplus.collect::<Vec<_>>()).await?;
            self.unbind(queue.name()).await?;
            moved += self.empty(queue.name(), |delivery| stray(delivery, self.names)).await?;
            self.make(std::slice::from_ref(queue)).await?;
            let surplus = self.objects.iter().filter(|object| matches!(object, Object::NoBinding { .. }));
            self.declare(&surplus.cloned().collect::<Vec<_>>()).await?;
        }
        Ok(moved)
    }

    /// Deletes queues, which have to be empty and unbound, and makes them again.
    async fn make(&self, queues: &[Object]) -> Result<(), AmqpError> {
        for queue in queues {
            // Quorum queues cannot be deleted on the condition that they are empty or unused: RabbitMQ says "not implemented".
            let deleting = self.channel.queue_delete(queue.name().into(), QueueDeleteOptions::default());
            self.within(queue.name(), deleting).await?;
        }
        self.declare(queues).await?;
        if !queues.is_empty() {
            sleep(OLD_ENOUGH).await;
        }
        let is_new = |to: &String| queues.iter().any(|queue| queue.name() == to);
        let bindings: Vec<_> = self.objects.iter().filter(|object| is_binding(object, is_new)).cloned().collect();
        self.declare(&bindings).await
    }

    async fn declare(&self, objects: &[Object]) -> Result<(), AmqpError> {
        let refused = declared(self.connection, objects, self.limit).await?;
        if refused.is_empty() { Ok(()) } else { Err(AmqpError::Topology(explained(&refused).join("\n"))) }
    }

    async fn unbind(&self, queue: &str) -> Result<(), AmqpError> {
        for object in self.objects {
            if let Object::Binding { from, to, to_exchange: false, routing_key } = object
                && to == queue
            {
                self.within(queue, unbind(&self.channel, from, to, routing_key)).await?;
            }
        }
        Ok(())
    }

    /// A queue's messages that nobody has in hand, and its consumers.
    async fn look_at(&self, queue: &str) -> Result<(u32, u32), AmqpError> {
        let seen = self.within(queue, look_at(&self.channel, queue)).await?;
        Ok((seen.message_count(), seen.consumer_count()))
    }

    /// Moves all messages out of a queue, until nothing comes any more. They leave it when the broker has confirmed their copies.
    async fn empty(&self, queue: &str, moved: impl Fn(&mut Delivery) -> Moved) -> Result<usize, AmqpError> {
        let mut count = 0;
        for _ in 0..LOOKS {
            count += self.drain(queue, &moved).await?;
            let now = self.look_at(queue).await?;
            sleep(Duration::from_secs(1)).await;
            let later = self.look_at(queue).await?;
            match (now.0.max(later.0), now.1.max(later.1)) {
                (0, 0) => return Ok(count),
                // Another one's unacknowledged messages would be lost with the queue.
                (_, 1..) => {
                    return Err(AmqpError::Consuming {
                        queue: queue.into(),
                        reason: "a worker has begun to consume it",
                    });
                }
                _ => {}
            }
        }
        let reason = "messages still come, so it has a binding of somebody else's: see rabbitmqctl list_bindings";
        Err(AmqpError::Consuming { queue: queue.into(), reason })
    }

    /// With a consumer, so that another upgrade which runs at the same time sees that there is one.
    async fn drain(&self, queue: &str, moved: impl Fn(&mut Delivery) -> Moved) -> Result<usize, AmqpError> {
        let (taking, giving) = (self.connection.create_channel().await?, self.connection.create_channel().await?);
        giving.confirm_select(ConfirmSelectOptions::default()).await?;
        taking.basic_qos(self.at_once, BasicQosOptions::default()).await?;
        let consuming =
            taking.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = self.within(queue, consuming).await?;
        let (mut count, mut batch) = (0, Vec::new());
        loop {
            // What is there is taken together, so that confirms are not waited for one by one.
            let patience = if batch.is_empty() { QUIET } else { Duration::ZERO };
            match timeout(patience, consumer.next()).await {
                Ok(Some(delivery)) => {
                    batch.push(delivery.map_err(|error| of_reading(queue, error))?);
                    if batch.len() < self.at_once.into() {
                        continue;
                    }
                }
                Ok(None) => {
                    return Err(AmqpError::Consuming { queue: queue.into(), reason: "the broker ended the consumer" });
                }
                Err(_) if batch.is_empty() => break,
                Err(_) => {}
            }
            count += batch.len();
            self.hand_on(&giving, std::mem::take(&mut batch), &moved).await?;
        }
        let cancelling = taking.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        self.within(queue, cancelling).await?;
        // The last acknowledgement is QUIET old by now. What came since then goes back.
        for channel in [taking, giving] {
            self.within(queue, channel.close(200, "done".into())).await?;
        }
        Ok(count)
    }

    async fn hand_on(
        &self,
        channel: &Channel,
        batch: Vec<Delivery>,
        moved: impl Fn(&mut Delivery) -> Moved,
    ) -> Result<(), AmqpError> {
        let mut sent = Vec::new();
        for mut delivery in batch {
            let Moved { exchange, routing_key, body, properties } = moved(&mut delivery);
            let options = BasicPublishOptions::default();
            let sending =
                channel.basic_publish(exchange.as_str().into(), routing_key.into(), options, &body, properties);
            sent.push((self.within(&exchange, sending).await?, delivery.acker, exchange));
        }
        for (confirm, acker, exchange) in sent {
            match self.within(&exchange, confirm).await? {
                Confirmation::Ack(_) => self.within(&exchange, acker.ack(BasicAckOptions::default())).await?,
                _ => {
                    let reason = "it refused a message (is a queue behind it full?)";
                    return Err(AmqpError::Consuming { queue: exchange, reason });
                }
            };
        }
        Ok(())
    }

    async fn within<T>(&self, asked: &str, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, AmqpError> {
        let no_answer = |_| AmqpError::NoAnswer { asked: format!("the broker, asked for {asked},"), limit: self.limit };
        Ok(timeout(self.limit, answer).await.map_err(no_answer)??)
    }
}

/// Of a message that cannot be read, the queue is to be known.
fn of_reading(queue: &str, error: lapin::Error) -> AmqpError {
    match error.kind() {
        ErrorKind::ParsingError(_) => AmqpError::UnreadableInUpgrade(queue.to_owned()),
        _ => error.into(),
    }
}
