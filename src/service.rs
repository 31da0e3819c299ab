//! What the service manager is told, where systemd is one: that the worker has started, that it lives, how it stands, that it stops.
//! Elsewhere nothing happens.

use crate::worker::Worker;
use sd_notify::{NotifyState, notify, watchdog_enabled};
use std::{sync::Arc, time::Duration};
use tracing::debug;

/// How often the standing is looked at, unless the watchdog wants to hear more often.
const EVERY: Duration = Duration::from_secs(5);

/// Started: the settings are good and the pages are served. Whether the broker is there is another matter, and changes.
pub fn started(worker: &Arc<Worker>) {
    tell(&[NotifyState::Ready]);
    // A third of the time within which it must be heard of: one look may come late.
    let every = watchdog_enabled().map_or(EVERY, |within| EVERY.min(within / 3));
    let worker = Arc::downgrade(worker);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(every);
        loop {
            ticks.tick().await;
            let Some(worker) = worker.upgrade() else { return };
            let lacks = worker.lacks().join("; ");
            let standing = if lacks.is_empty() { "consuming" } else { &lacks };
            tell(&[NotifyState::Watchdog, NotifyState::Status(standing)]);
        }
    });
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        debug!(%error, "the service manager was not told");
    }
}
