//! Stopping in two steps: no new work, then, after a grace period, no more waiting for calls that run.

use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Both steps; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Begin nothing new.
    pub soon: CancellationToken,
    /// Do not wait for calls any longer.
    pub now: CancellationToken,
}

impl Stop {
    /// A stop that SIGTERM or SIGINT begins. A second signal ends the grace period at once.
    ///
    /// # Errors
    /// When the signals cannot be listened to.
    pub fn on_signals(grace: Duration) -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = Self::default();
        let own = stop.clone();
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            tracing::info!(grace_ms = grace.as_millis() as u64, "stopping: finishing what has begun");
            own.soon.cancel();
            tokio::select! { () = tokio::time::sleep(grace) => {}, _ = term.recv() => {}, _ = int.recv() => {} }
            own.now.cancel();
        });
        Ok(stop)
    }
}
