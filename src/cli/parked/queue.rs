//! The parking queue, read from its beginning to its end; what is not taken out goes back to its place.

use crate::{
    amqp::{ACKNOWLEDGED_WITHIN, headers},
    cli::{Failure, broker::Broker},
    message::Message,
    parked::Parked,
};
use chrono::Utc;
use futures_util::StreamExt;
use lapin::{
    Acker, Channel, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions},
    types::FieldTable,
};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// So long a message may take to come before the rest is taken not to come: another reader may have it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A parked copy in our hands.
pub struct Copy {
    pub parked: Parked,
    pub message: Message,
    pub acker: Acker,
}

pub struct Queue<'a> {
    broker: &'a Broker,
    channel: Channel,
    consumer: Option<Consumer>,
    /// What was there at the beginning and has not come yet.
    left: u32,
    /// What has come and was not taken out.
    held: u32,
    taken_out: bool,
}

impl<'a> Queue<'a> {
    pub async fn open(broker: &'a Broker) -> Result<Self, Failure> {
        let (left, channel) = (broker.ready(&broker.names.parked()).await?, broker.another_channel().await?);
        let consumer = match left {
            0 => None,
            _ => {
                let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
                Some(
                    broker
                        .within(channel.basic_consume(broker.names.parked().into(), "".into(), options, none))
                        .await?,
                )
            }
        };
        Ok(Self { broker, channel, consumer, left, held: 0, taken_out: false })
    }

    /// The next copy of those that were there at the beginning.
    pub async fn next(&mut self) -> Result<Option<Copy>, Failure> {
        let Some(consumer) = self.consumer.as_mut().filter(|_| self.left > 0) else { return Ok(None) };
        let Ok(delivery) = timeout(PATIENCE, consumer.next()).await else { return Ok(None) };
        let Some(delivery) = delivery else {
            return Err(Failure::Unavailable("the broker ended the connection".into()));
        };
        let mut delivery = delivery?;
        self.left -= 1;
        self.held += 1;
        let message = headers::message(&mut delivery, &self.broker.names, Utc::now());
        Ok(Some(Copy { parked: Parked::new(&message), message, acker: delivery.acker }))
    }

    /// Takes a copy out for good.
    pub async fn take_out(&mut self, acker: &Acker) -> Result<(), Failure> {
        if !self.broker.within(acker.ack(BasicAckOptions::default())).await? {
            return Err(Failure::Unavailable("the connection is lost".into()));
        }
        self.held -= 1;
        self.taken_out = true;
        Ok(())
    }

    /// Lets go of what was not taken out, and returns when it lies in its place again.
    ///
    /// # Errors
    /// When not all that was there has come.
    pub async fn give_back(self) -> Result<(), Failure> {
        if self.taken_out {
            sleep(ACKNOWLEDGED_WITHIN).await;
        }
        self.broker.within(self.channel.close(200, "read".into())).await?;
        let begun = Instant::now();
        while self.broker.ready(&self.broker.names.parked()).await? < self.held && begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(20)).await;
        }
        match self.left {
            0 => Ok(()),
            left => {
                Err(Failure::NotYet(format!("{left} more were there and did not come: another reader may have them")))
            }
        }
    }

    /// No more of it is wanted.
    pub fn enough(&mut self) {
        self.left = 0;
    }
}
