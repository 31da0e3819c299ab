//! The parking queue, read from its beginning to its end; what is not taken out goes back to its place.
//!
//! What was read stays with the broker as unacknowledged until the end: given back earlier, it would come again at once. A consumer gets
//! at most [`WINDOW`] messages, and when these are read, it is cancelled and another goes on: so this process never has more of them in its
//! memory, however long the queue is.
//!
//! What goes back keeps its order this way only (RabbitMQ 3.10.8, 4.0.5): what the consumers of a channel hold goes back in the order of
//! their names when the channel closes, if they are at most 32. So each channel has no more, and the channels close one after the
//! other. With more, or with `basic.nack` and `multiple`, the order is lost.

use crate::{
    amqp::{ACKNOWLEDGED_WITHIN, headers},
    cli::{Failure, broker::Broker},
    message::Message,
    parked::Parked,
};
use chrono::Utc;
use futures_util::StreamExt;
use lapin::{
    Channel, Consumer,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Messages that have come and are not read yet. Of the largest commands, 64 KiB, these are 32 MiB.
const WINDOW: u32 = 500;
/// Consumers on a channel.
const CONSUMERS: u32 = 32;
/// So long a message may take to come before the rest is taken not to come: another reader may have it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What goes back is in its place a moment later.
const BACK: Duration = Duration::from_millis(5);

/// A parked copy in our hands.
pub struct Copy {
    pub parked: Parked,
    pub message: Message,
    pub hold: Hold,
}

/// What it takes to take a copy out.
#[derive(Debug, Clone, Copy)]
pub struct Hold {
    /// By its channel, which are counted from zero.
    channel: usize,
    tag: u64,
    /// Whether the consumer that it came from is still the latest, its number says.
    consumer: u32,
}

/// A channel, and how many messages it holds that were read from it.
struct Held {
    channel: Channel,
    count: u32,
}

pub struct Queue<'a> {
    broker: &'a Broker,
    channels: Vec<Held>,
    consumer: Option<Consumer>,
    /// How many consumers there have been.
    consumers: u32,
    /// How many messages the latest may hold, and how many of them were read and not taken out.
    room: u32,
    in_room: u32,
    /// What was there at the beginning and has not come yet.
    left: u32,
    taken_out: bool,
    /// Acknowledgements since the broker has last answered anything.
    unanswered: u32,
    others: u32,
}

impl<'a> Queue<'a> {
    pub async fn open(broker: &'a Broker) -> Result<Self, Failure> {
        let (left, others) = broker.depth(&broker.names.parked()).await?;
        let (channels, consumer, consumers, room, in_room) = (Vec::new(), None, 0, 0, 0);
        Ok(Self { unanswered: 0, broker, channels, consumer, consumers, room, in_room, left, taken_out: false, others })
    }

    /// The next copy of those that were there at the beginning.
    pub async fn next(&mut self) -> Result<Option<Copy>, Failure> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.in_room >= self.room {
            self.consume_on().await?;
        }
        let (Some(consumer), Some(held)) = (self.consumer.as_mut(), self.channels.last_mut()) else { return Ok(None) };
        let Ok(delivery) = timeout(PATIENCE, consumer.next()).await else { return Ok(None) };
        let Some(delivery) = delivery else {
            let (parked, why) =
                (self.broker.names.parked(), "was it deleted, or did it take longer than the consumer timeout?");
            return Err(Failure::Unavailable(format!("the broker ended the reading of {parked}: {why}")));
        };
        let mut delivery = delivery?;
        self.left -= 1;
        self.in_room += 1;
        held.count += 1;
        let message = headers::message(&mut delivery, &self.broker.names, Utc::now());
        let hold = Hold { channel: self.channels.len() - 1, tag: delivery.delivery_tag, consumer: self.consumers };
        Ok(Some(Copy { parked: Parked::new(&message), message, hold }))
    }

    /// All that the latest consumer may hold was read: another goes on.
    async fn consume_on(&mut self) -> Result<(), Failure> {
        self.end_consumer().await?;
        if self.consumers.is_multiple_of(CONSUMERS) {
            self.channels.push(Held { channel: self.broker.another_channel().await?, count: 0 });
        }
        let Some(Held { channel, .. }) = self.channels.last() else { return Ok(()) };
        self.consumers += 1;
        (self.room, self.in_room) = (WINDOW.min(self.left), 0);
        let prefetch = u16::try_from(self.room).expect("a window is small");
        self.broker.within(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let (queue, name) = (self.broker.names.parked(), format!("parked-{:010}", self.consumers));
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(queue.into(), name.into(), options, none);
        self.consumer = Some(self.broker.within(consumer).await?);
        Ok(())
    }

    async fn end_consumer(&mut self) -> Result<(), Failure> {
        if let (Some(consumer), Some(held)) = (self.consumer.take(), self.channels.last()) {
            let cancelled = held.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
            self.broker.within(cancelled).await?;
        }
        Ok(())
    }

    /// Takes a copy out for good.
    pub async fn take_out(&mut self, hold: Hold) -> Result<(), Failure> {
        let held = &mut self.channels[hold.channel];
        self.broker.within(held.channel.basic_ack(hold.tag, BasicAckOptions::default())).await?;
        held.count -= 1;
        // What is sent faster than the broker takes it lies in memory meanwhile.
        self.unanswered += 1;
        if self.unanswered >= WINDOW {
            self.unanswered = 0;
            self.broker.depth(&self.broker.names.parked()).await?;
        }
        // The broker sends its consumer one more.
        self.in_room = self.in_room.saturating_sub(u32::from(hold.consumer == self.consumers));
        self.taken_out = true;
        Ok(())
    }

    /// Looks whether all that was read is still held, when a person has had the time to think.
    ///
    /// # Errors
    /// When the broker has taken it back. RabbitMQ 4.3.6 says nothing then of acknowledgements that come after it, and keeps the messages.
    pub async fn still_held(&mut self) -> Result<(), Failure> {
        // It ends the consumer that there is, and the channel of those that were cancelled.
        let has_ended = match &mut self.consumer {
            Some(consumer) => matches!(timeout(Duration::ZERO, consumer.next()).await, Ok(None | Some(Err(_)))),
            None => false,
        };
        if !has_ended && self.channels.iter().all(|held| held.channel.status().connected()) {
            return Ok(());
        }
        Err(Failure::NotYet(
            "the broker has taken back what was read, after its consumer_timeout or as the connection is lost, so nothing is done to \
             it. Run it again and answer sooner"
                .into(),
        ))
    }

    /// Lets go of what was not taken out, and returns when it lies in its place again.
    ///
    /// # Errors
    /// When not all that was there has come.
    pub async fn give_back(mut self) -> Result<(), Failure> {
        let parked = self.broker.names.parked();
        // What was taken out has left it room, and it would be sent what the first channels give back.
        self.end_consumer().await?;
        // What is there and does not come although nobody else has it is kept back by the broker.
        let kept_back = if self.left > 0 { self.broker.depth(&parked).await?.0.min(self.left) } else { 0 };
        if self.taken_out {
            sleep(ACKNOWLEDGED_WITHIN).await;
        }
        let mut back = 0;
        for held in &self.channels {
            self.broker.within(held.channel.close(200, "read".into())).await?;
            back += held.count;
            let begun = Instant::now();
            while self.broker.depth(&parked).await?.0 < back && begun.elapsed() < PATIENCE {
                sleep(BACK).await;
            }
        }
        match (self.left, kept_back) {
            (0, _) => Ok(()),
            (left, 0) => Err(Failure::NotYet(format!(
                "{left} more were there and did not come: another reader has them. Run it again when that one has ended; \
                 rabbitmqctl list_consumers shows who reads {parked}"
            ))),
            (left, kept_back) => Err(Failure::NotYet(format!(
                "{left} more were there and did not come within {PATIENCE:?}, though the broker has {kept_back} that nobody \
                 holds: is it overloaded, or does a policy limit {parked}? Run it again"
            ))),
        }
    }

    /// How many others read this queue: what they hold is not seen here.
    pub fn others(&self) -> u32 {
        self.others
    }

    /// How many there were, as far as they were read.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// No more of it is wanted.
    pub fn enough(&mut self) {
        self.left = 0;
    }
}

/// What is to be taken out at last. Neighbours take no more room than one.
#[derive(Debug, Default)]
pub struct Holds {
    /// The first of each run, and how many they are.
    runs: Vec<(Hold, u64)>,
    count: u64,
}

impl Holds {
    pub fn add(&mut self, hold: Hold) {
        self.count += 1;
        match self.runs.last_mut() {
            Some((first, count)) if first.channel == hold.channel && first.tag + *count == hold.tag => *count += 1,
            _ => self.runs.push((hold, 1)),
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Each of them. Nothing is read any more then, so whose credit it was does not matter.
    pub fn each(self) -> impl Iterator<Item = Hold> {
        self.runs.into_iter().flat_map(|(first, count)| (0..count).map(move |at| Hold { tag: first.tag + at, ..first }))
    }
}
