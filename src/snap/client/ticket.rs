//! The one right to send a request, which either its connection takes or whoever gives the call up.

use chrono::{DateTime, Utc};
use hyper::body::{self, Bytes, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

/// The right to send a request: there is one, and the first to take it has it. A connection takes none that has expired.
///
/// hyper puts a request's head into a buffer, takes the body, and writes both; the bytes of the body cannot be had without
/// the ticket. So once we hold it, nothing was written and nothing will be, and nobody can write a request a second time.
#[derive(Clone, Default)]
pub struct Ticket {
    is_taken: Arc<AtomicBool>,
    until: Option<DateTime<Utc>>,
}

impl Ticket {
    pub fn until(until: Option<DateTime<Utc>>) -> Self {
        Self { until, ..Self::default() }
    }

    pub fn take(&self) -> bool {
        !self.is_taken.swap(true, Ordering::SeqCst)
    }

    pub fn has_expired(&self) -> bool {
        self.until.is_some_and(|until| Utc::now() > until)
    }

    /// Waits for its end, which may never come; by the wall clock, which may be set meanwhile.
    pub async fn expires(&self) {
        let Some(until) = self.until else { return std::future::pending().await };
        while !self.has_expired() {
            let left = (until - Utc::now()).to_std().unwrap_or_default();
            tokio::time::sleep(left.clamp(Duration::from_millis(1), Duration::from_secs(1))).await;
        }
    }
}

/// A request's body, which is handed out once.
pub struct Body {
    bytes: Option<Bytes>,
    ticket: Ticket,
}

impl Body {
    pub fn new(bytes: Bytes, ticket: Ticket) -> Self {
        Self { bytes: Some(bytes), ticket }
    }
}

impl body::Body for Body {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let bytes = self.bytes.take();
        Poll::Ready(bytes.map(|bytes| {
            // The call then takes the ticket itself.
            if self.ticket.has_expired() {
                Err("its time has passed")
            } else if self.ticket.take() {
                Ok(Frame::data(bytes))
            } else {
                Err("the call has failed already")
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, Bytes::len) as u64)
    }
}
