//! A message as the pipeline sees it, whatever the broker library calls its parts.

use crate::{command::Hints, event::Finish, retry::Progress, traces::parent::Parent};
use chrono::{DateTime, Utc};

/// A delivery from the broker.
#[derive(Debug, Clone)]
pub struct Message {
    /// The publisher's bytes, unchanged through every retry.
    pub body: Vec<u8>,
    /// The account whose queue it came from, or died in; of another stray, what its publisher wrote there.
    pub routing_key: String,
    pub origin: Origin,
    /// The broker has delivered it before, to a worker that did not acknowledge it.
    pub redelivered: bool,
    /// How often it came back so, never more than the broker says itself; zero where it does not say.
    pub delivery_count: u64,
    pub properties: Properties,
    pub carried: Carried,
    /// Why it was parked, where it comes from parking or was on its way there.
    pub parked: Option<Finish>,
    pub received_at: DateTime<Utc>,
    /// Of the span in which it is worked on, where that is traced.
    pub trace: Option<TraceContext>,
}

/// W3C trace context, as it is carried on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    pub traceparent: String,
    pub tracestate: Option<String>,
}

/// How a message came to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a publisher.
    Published,
    /// From the exchange that only the retry buckets feed: what it carries is ours.
    Due,
    /// From one of our own exchanges, to the queue behind it or, where somebody has deleted that, past it.
    PastItsQueue,
    /// Dead-lettered by the broker out of a command queue.
    DeadLettered(DeadLetter),
}

/// Why the broker took a message out of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetter {
    /// Its publisher's expiration passed.
    Expired,
    /// Delivered too often, or anything else.
    Other,
}

/// What a message carries of its earlier attempts. Believed only of our own messages.
#[derive(Debug, Clone)]
pub enum Carried {
    /// It is new.
    Nothing,
    Progress(Box<Progress>),
    /// Written by another version of the worker, to be kept as it is.
    Foreign {
        version: i64,
        headers: Vec<(String, Scalar)>,
    },
    /// Ours, and damaged.
    Damaged,
}

/// A header's value. Only scalars are used: a stream drops tables and lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar {
    Bool(bool),
    Integer(i64),
    Text(String),
}

/// The properties that survive a republish; all others are dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub reply_to: Option<String>,
    pub content_type: Option<String>,
    /// A command that has one is not plain JSON; it is kept, so that what is parked can be read.
    pub content_encoding: Option<String>,
    pub kind: Option<String>,
    pub app_id: Option<String>,
    pub timestamp: Option<u64>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
}

impl Message {
    /// The `traceparent` and `tracestate` of what is told of it: of the span that tells, else those that it came with.
    pub fn trace_context(&self) -> (Option<&str>, Option<&str>) {
        match &self.trace {
            Some(trace) => (Some(&trace.traceparent), trace.tracestate.as_deref()),
            None => (self.properties.traceparent.as_deref(), self.properties.tracestate.as_deref()),
        }
    }

    /// The trace that it belongs to, if it names one.
    pub fn trace_id(&self) -> Option<&str> {
        Some(Parent::read(self.trace_context().0?)?.trace_id)
    }

    pub fn hints(&self) -> Hints<'_> {
        Hints {
            content_type: self.properties.content_type.as_deref(),
            content_encoding: self.properties.content_encoding.as_deref(),
            message_id: self.properties.message_id.as_deref(),
        }
    }
}
