//! How we stand with the broker.

use super::{count, registrar::Registrar, table};
use crate::amqp::Standing;
use prometheus::{Gauge, Histogram, IntCounter, Result};
use std::{collections::BTreeMap, time::Duration};

/// What is published and waited for until the broker has confirmed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Published {
    Event,
    Retry,
    Parked,
}

impl Published {
    const ALL: [Self; 3] = [Self::Event, Self::Retry, Self::Parked];

    fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Retry => "retry",
            Self::Parked => "parked",
        }
    }
}

const CONFIRMED: &str = "confirmed";
const NACKED: &str = "nacked";
const FAILED: &str = "failed";

/// How we stand with the broker.
pub struct Broker {
    connected: Gauge,
    blocked: Gauge,
    connects: IntCounter,
    failed_connects: IntCounter,
    publishes: BTreeMap<(Published, &'static str), IntCounter>,
    publish_duration: BTreeMap<Published, Histogram>,
}

impl Broker {
    pub(super) fn new(registrar: &mut Registrar<'_>) -> Result<Self> {
        let (mut publishes, mut publish_duration) = (BTreeMap::new(), BTreeMap::new());
        for what in Published::ALL {
            for result in [CONFIRMED, NACKED, FAILED] {
                let counter = registrar.counter(&table::PUBLISHES, &[what.name(), result])?;
                publishes.insert((what, result), counter);
            }
            publish_duration.insert(what, registrar.histogram(&table::PUBLISH_DURATION, &[what.name()])?);
        }
        Ok(Self {
            connected: registrar.gauge(&table::BROKER_CONNECTED, &[])?,
            blocked: registrar.gauge(&table::BROKER_BLOCKED, &[])?,
            connects: registrar.counter(&table::BROKER_CONNECTS, &["connected"])?,
            failed_connects: registrar.counter(&table::BROKER_CONNECTS, &["failed"])?,
            publishes,
            publish_duration,
        })
    }

    /// How it stands at this moment.
    pub fn stands(&self, standing: &Standing) {
        self.connected.set(f64::from(standing.is_connected()));
        self.blocked.set(f64::from(standing.is_blocked()));
    }

    /// A connection was made, or could not be.
    pub fn connected(&self, is_made: bool) {
        if is_made { self.connects.inc() } else { self.failed_connects.inc() }
    }

    /// The broker has confirmed a message, after this time.
    pub fn confirmed(&self, what: Published, after: Duration) {
        count(&self.publishes, &(what, CONFIRMED));
        if let Some(durations) = self.publish_duration.get(&what) {
            durations.observe(after.as_secs_f64());
        }
    }

    /// The broker has said that it does not take a message.
    pub fn nacked(&self, what: Published) {
        count(&self.publishes, &(what, NACKED));
    }

    /// Whether the broker has taken a message is not known: no confirm came in time, or the channel is gone.
    pub fn failed(&self, what: Published) {
        count(&self.publishes, &(what, FAILED));
    }
}
