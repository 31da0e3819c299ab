//! At most so many requests a second, evenly spaced, in the order of asking.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Gives each request its turn.
pub struct Pace {
    every: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    pub fn new(per_second: f64) -> Self {
        Self { every: Duration::from_secs_f64(1.0 / per_second), next: Mutex::new(Instant::now()) }
    }

    /// Waits for the turn of one request.
    pub async fn turn(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let at = (*next).max(Instant::now());
            *next = at + self.every;
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_allowed() {
        let pace = Pace::new(4.0);
        let begun = Instant::now();
        let ask = || async {
            pace.turn().await;
            begun.elapsed().as_millis()
        };
        let turns = join_all((0..9).map(|_| ask())).await;
        assert_eq!(turns, [0, 250, 500, 750, 1000, 1250, 1500, 1750, 2000]);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!((ask().await, ask().await), (12_000, 12_250), "a quiet time is not saved up");
    }
}
