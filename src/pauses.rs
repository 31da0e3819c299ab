//! How long to wait before something is tried again on the spot: longer and longer, spread by half, and without an end. (A command
//! waits for its next attempt in the broker: [`crate::retry`] says how long.)

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff};
use std::time::Duration;

/// A row of pauses.
pub struct Pauses(ExponentialBackoff);

impl Pauses {
    /// From the first to the longest, each so many times the one before.
    pub fn new(first: Duration, longest: Duration, factor: f64) -> Self {
        let row = ExponentialBackoffBuilder::new()
            .with_initial_interval(first)
            .with_multiplier(factor)
            .with_randomization_factor(0.5)
            .with_max_interval(longest)
            .with_max_elapsed_time(None)
            .build();
        Self(row)
    }

    pub fn next_pause(&mut self) -> Duration {
        // Without a limit to the time that has elapsed there always is one.
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// All is well again: the next is the first.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// The mean of the next one.
    #[cfg(test)]
    pub fn mean(&self) -> Duration {
        self.0.current_interval
    }
}
