//! How much is taken from a queue now: all that there is room for, one command at a time, or nothing.

use crate::{
    breaker::{Breaker, Rules, Sign, State},
    settings,
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// How commands are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    All,
    One,
    Nothing,
}

/// A queue's gate. It outlives the sessions with the broker.
pub struct Gate {
    /// How many messages are worked on at the same time, over all sessions.
    pub limit: u16,
    slots: Arc<Semaphore>,
    working: AtomicUsize,
    breaker: Mutex<Breaker>,
    paused: AtomicBool,
    /// Whether the broker has our consumer.
    registered: AtomicBool,
    changed: Notify,
    started: Instant,
}

impl Gate {
    pub fn new(limit: u16, rules: Rules, state: settings::State) -> Self {
        Self {
            limit,
            slots: Arc::new(Semaphore::new(limit.into())),
            working: AtomicUsize::new(0),
            breaker: Mutex::new(Breaker::new(rules)),
            paused: AtomicBool::new(state == settings::State::Paused),
            registered: AtomicBool::new(false),
            changed: Notify::new(),
            started: Instant::now(),
        }
    }

    /// A gate that nothing closes.
    pub fn open(limit: u16) -> Self {
        Self::new(limit, Rules::default(), settings::State::Active)
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// True if that is a change.
    pub fn pause(&self, paused: bool) -> bool {
        let changed = self.paused.swap(paused, Ordering::Relaxed) != paused;
        self.changed.notify_waiters();
        changed
    }

    /// The breaker's state now, and how long a rest still takes.
    pub fn breaker(&self) -> (State, Duration) {
        self.with(|breaker, now| {
            let state = breaker.state(now);
            let left =
                if let State::Resting { until, .. } = state { until.saturating_sub(now) } else { Duration::ZERO };
            (state, left)
        })
    }

    pub fn taking(&self) -> Taking {
        match self.breaker().0 {
            _ if self.is_paused() => Taking::Nothing,
            State::Closed => Taking::All,
            State::Trying { .. } => Taking::One,
            State::Resting { .. } => Taking::Nothing,
        }
    }

    /// Waits until commands are taken otherwise than so.
    pub async fn until_other_than(&self, taking: Taking) -> Taking {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = self.taking();
            if now != taking {
                return now;
            }
            // A rest ends by itself; otherwise somebody says so.
            let (state, left) = self.breaker();
            let rests = matches!(state, State::Resting { .. });
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(left), if rests && !self.is_paused() => {}
            }
        }
    }

    /// A call has ended: the states before and after.
    pub fn call(&self, sign: Sign) -> (State, State) {
        self.change(|breaker, now| breaker.call(sign, now, fastrand::f64()))
    }

    /// The provider has refused this command for reasons that lie in the account.
    pub fn denied(&self, command: &str) -> (State, State) {
        self.change(|breaker, now| breaker.denied(command, now, fastrand::f64()))
    }

    /// The provider has let a command in.
    pub fn accepted(&self) -> (State, State) {
        self.change(|breaker, _| breaker.accepted())
    }

    /// Whether the queue is consumed, or not on purpose.
    pub fn is_as_it_should_be(&self) -> bool {
        self.is_registered() || self.taking() != Taking::All
    }

    pub fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Relaxed)
    }

    pub fn set_registered(&self, registered: bool) {
        self.registered.store(registered, Ordering::Relaxed);
    }

    /// Waits for room to work on one more message.
    pub async fn room(&self) -> Room {
        Room(self.slots.clone().acquire_owned().await.expect("the semaphore is never closed"))
    }

    /// A message is being worked on, until this is dropped.
    pub fn begin(self: &Arc<Self>, room: Room) -> Working {
        self.working.fetch_add(1, Ordering::Relaxed);
        Working { gate: self.clone(), _room: room }
    }

    /// How many messages are being worked on.
    pub fn in_flight(&self) -> usize {
        self.working.load(Ordering::Relaxed)
    }

    fn change(&self, act: impl FnOnce(&mut Breaker, Duration)) -> (State, State) {
        let (before, after) = self.with(|breaker, now| {
            let before = breaker.state(now);
            act(breaker, now);
            (before, breaker.state(now))
        });
        if before != after {
            self.changed.notify_waiters();
        }
        (before, after)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Breaker, Duration) -> T) -> T {
        // Nothing in there can panic half-way.
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut breaker, self.started.elapsed())
    }
}

/// Room for one message.
pub struct Room(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

/// One message in work.
pub struct Working {
    gate: Arc<Gate>,
    _room: Room,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.gate.working.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rest_ends_by_itself_and_a_pause_when_somebody_says_so() {
        let rules = Rules { calls: 1, ..Rules::default() };
        let gate = Gate::new(4, rules, settings::State::Active);
        assert_eq!(gate.taking(), Taking::All);
        gate.call(Sign::Bad);
        assert_eq!(gate.taking(), Taking::Nothing);
        assert!(gate.is_as_it_should_be());
        assert_eq!(gate.until_other_than(Taking::Nothing).await, Taking::One);
        gate.pause(true);
        assert_eq!(gate.until_other_than(Taking::One).await, Taking::Nothing);
        let waiting = async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            gate.pause(false);
        };
        let (taking, ()) = tokio::join!(gate.until_other_than(Taking::Nothing), waiting);
        assert_eq!(taking, Taking::One, "what the breaker says still holds");
        for _ in 0..3 {
            gate.call(Sign::Good);
        }
        assert_eq!(gate.taking(), Taking::All);
        assert!(!gate.is_as_it_should_be(), "nobody consumes");
    }
}
