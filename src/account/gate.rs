//! How much is taken from a queue now: all that there is room for, one command at a time, or nothing.

use crate::{
    breaker::{Breaker, News, Rules, State},
    settings,
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Between two ways of taking there is a moment without a consumer; so long it is none that is missed.
const SWITCH_WITHIN: Duration = Duration::from_secs(5);

/// A queue that is suspect has a connection that ends again and again, and is worked all the same: the longest pause between two, and
/// the time to connect.
const SUSPECT_WITHIN: Duration = Duration::from_secs(20);

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
    /// How many messages were begun.
    begun: AtomicUsize,
    inner: Mutex<Inner>,
    changed: Notify,
    started: Instant,
}

struct Inner {
    breaker: Breaker,
    /// The settings say so.
    paused: bool,
    /// The broker takes no messages, so that nothing could be told.
    blocked: bool,
    consumer: Consumer,
    /// A message in the queue could not be read.
    suspect: bool,
}

/// Whether the broker has our consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consumer {
    Registered,
    /// Left off on purpose, or about to begin, since then.
    Switching(Instant),
    Missing,
}

/// How a gate stands at one moment.
#[derive(Debug, Clone, Copy)]
pub struct View {
    pub taking: Taking,
    pub paused: bool,
    pub breaker: State,
    /// How long a rest still takes.
    pub rest_left: Option<Duration>,
    pub consuming: bool,
    /// A message in the queue could not be read, so it is consumed one message at a time.
    pub suspect: bool,
    /// The queue is consumed, or on purpose is not.
    pub as_it_should_be: bool,
}

impl Gate {
    pub fn new(limit: u16, rules: Rules, state: settings::State) -> Self {
        let inner = Inner {
            breaker: Breaker::new(rules),
            paused: state == settings::State::Paused,
            blocked: false,
            consumer: Consumer::Missing,
            suspect: false,
        };
        Self {
            limit,
            slots: Arc::new(Semaphore::new(limit.into())),
            working: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            inner: Mutex::new(inner),
            changed: Notify::new(),
            started: Instant::now(),
        }
    }

    /// A gate without an account: only the broker closes it.
    pub fn open(limit: u16) -> Self {
        Self::new(limit, Rules::default(), settings::State::Active)
    }

    pub fn view(&self) -> View {
        let now = self.started.elapsed();
        let mut inner = self.lock();
        let breaker = inner.breaker.state(now);
        let rest_left = if let State::Resting { until, .. } = breaker { Some(until.saturating_sub(now)) } else { None };
        let taking = match breaker {
            _ if inner.paused || inner.blocked => Taking::Nothing,
            State::Closed => Taking::All,
            State::Trying { .. } => Taking::One,
            State::Resting { .. } => Taking::Nothing,
        };
        let consuming = inner.consumer == Consumer::Registered;
        let switch_within = if inner.suspect { SUSPECT_WITHIN } else { SWITCH_WITHIN };
        let as_it_should_be = match inner.consumer {
            _ if taking == Taking::Nothing => true,
            Consumer::Registered => true,
            Consumer::Switching(since) => since.elapsed() < switch_within,
            Consumer::Missing => false,
        };
        View { taking, paused: inner.paused, breaker, rest_left, consuming, suspect: inner.suspect, as_it_should_be }
    }

    /// Waits until commands are taken otherwise than so.
    pub async fn until_other_than(&self, taking: Taking) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let view = self.view();
            if view.taking != taking {
                return;
            }
            // A rest ends by itself; of everything else somebody tells.
            match view.rest_left {
                Some(left) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep(left) => {}
                },
                None => changed.await,
            }
        }
    }

    /// What the settings say; true if that is a change.
    pub fn pause(&self, paused: bool) -> bool {
        self.change(|inner, _| std::mem::replace(&mut inner.paused, paused) != paused)
    }

    /// Whether the broker takes messages.
    pub fn block(&self, blocked: bool) {
        self.change(|inner, _| inner.blocked = blocked);
    }

    /// What visits that begin now belong to.
    pub fn era(&self) -> u32 {
        self.lock().breaker.era()
    }

    /// A visit that began in this era has ended: the breaker's states before and after.
    pub fn hear(&self, era: u32, news: News<'_>) -> (State, State) {
        self.change(|inner, now| {
            let before = inner.breaker.state(now);
            inner.breaker.hear(era, news, now, fastrand::f64());
            (before, inner.breaker.state(now))
        })
    }

    /// A consumer is about to begin again, where one was left off on purpose.
    pub fn begin_consuming(&self) {
        let mut inner = self.lock();
        if let Consumer::Switching(since) = &mut inner.consumer {
            *since = Instant::now();
        }
    }

    /// A message in the queue could not be read, which has ended the connection; true if that is news. The next one begins soon.
    pub fn suspect(&self) -> bool {
        let mut inner = self.lock();
        inner.consumer = Consumer::Switching(Instant::now());
        !std::mem::replace(&mut inner.suspect, true)
    }

    /// Every message can be read again.
    pub fn trust(&self) {
        self.lock().suspect = false;
    }

    /// The connection has ended for a reason that is no message's.
    pub fn lose(&self) {
        self.lock().consumer = Consumer::Missing;
    }

    /// The broker has our consumer, until this is dropped. Dropped without [`Registered::leave`], it is missing.
    pub fn registered(self: &Arc<Self>) -> Registered {
        self.lock().consumer = Consumer::Registered;
        Registered { gate: self.clone(), after: Consumer::Missing }
    }

    /// Waits for room to work on one more message.
    pub async fn room(&self) -> Room {
        Room(self.slots.clone().acquire_owned().await.expect("the semaphore is never closed"))
    }

    /// A message is being worked on, until this is dropped.
    pub fn begin(self: &Arc<Self>, room: Room) -> Working {
        self.working.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Working { gate: self.clone(), _room: room }
    }

    /// How many messages are being worked on.
    pub fn in_flight(&self) -> usize {
        self.working.load(Ordering::Relaxed)
    }

    /// How many messages were begun so far.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    fn change<T>(&self, act: impl FnOnce(&mut Inner, Duration) -> T) -> T {
        let done = act(&mut self.lock(), self.started.elapsed());
        self.changed.notify_waiters();
        done
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in there can panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A consumer that the broker has.
pub struct Registered {
    gate: Arc<Gate>,
    after: Consumer,
}

impl Registered {
    /// It is left off on purpose.
    pub fn leave(mut self) {
        self.after = Consumer::Switching(Instant::now());
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.gate.lock().consumer = self.after;
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
    use crate::{breaker::Health, snap::Operation};

    fn gate() -> Arc<Gate> {
        Arc::new(Gate::new(4, Rules { calls: 1, ..Rules::default() }, settings::State::Active))
    }

    fn call(gate: &Gate, health: Health) {
        gate.hear(gate.era(), News { operation: Operation::Cancel, health, accepted: false, denied: None });
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_ends_by_itself_and_a_pause_when_somebody_says_so() {
        let gate = gate();
        assert_eq!(gate.view().taking, Taking::All);
        call(&gate, Health::Bad);
        assert_eq!(gate.view().taking, Taking::Nothing);
        gate.until_other_than(Taking::Nothing).await;
        assert_eq!(gate.view().taking, Taking::One);
        gate.pause(true);
        gate.until_other_than(Taking::One).await;
        let waiting = async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            gate.pause(false);
        };
        tokio::join!(gate.until_other_than(Taking::Nothing), waiting);
        assert_eq!(gate.view().taking, Taking::One, "what the breaker says still holds");
        (0..3).for_each(|_| call(&gate, Health::Good));
        assert_eq!(gate.view().taking, Taking::All);
        gate.block(true);
        assert_eq!(gate.view().taking, Taking::Nothing);
        gate.block(false);
        gate.until_other_than(Taking::Nothing).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_sleeps_through_the_end_of_a_rest() {
        let rules =
            Rules { calls: 1, initial: Duration::from_millis(2), max: Duration::from_millis(2), ..Rules::default() };
        let gate = Gate::new(4, rules, settings::State::Active);
        for _ in 0..200 {
            call(&gate, Health::Bad);
            // Begins to wait in the last moment of the rest.
            while gate.view().rest_left.is_some_and(|left| left > Duration::from_micros(fastrand::u64(0..30))) {
                std::hint::spin_loop();
            }
            let waiting = (0..20).map(|_| gate.until_other_than(Taking::Nothing));
            let all = futures_util::future::join_all(waiting);
            tokio::time::timeout(Duration::from_secs(10), all).await.expect("somebody slept on");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_consumer_is_seen_and_a_moment_between_two_is_not() {
        let gate = gate();
        gate.begin_consuming();
        assert!(!gate.view().as_it_should_be, "the first has not begun");
        gate.registered().leave();
        assert!(!gate.view().consuming && gate.view().as_it_should_be);
        tokio::time::sleep(SWITCH_WITHIN).await;
        assert!(!gate.view().as_it_should_be, "it has not begun again");
        gate.begin_consuming();
        assert!(gate.view().as_it_should_be);
        let registered = gate.registered();
        assert!(gate.view().consuming && gate.view().as_it_should_be);
        drop(registered);
        assert!(!gate.view().as_it_should_be, "it was not left off on purpose");
        gate.pause(true);
        assert!(gate.view().as_it_should_be, "now it is off on purpose");
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_suspect_is_ready_while_it_is_worked() {
        let gate = gate();
        drop(gate.registered());
        assert!(gate.suspect() && !gate.suspect(), "it is news once");
        for _ in 0..100 {
            tokio::time::sleep(SWITCH_WITHIN * 2).await;
            assert!(gate.view().suspect && gate.view().as_it_should_be);
            drop(gate.registered());
            gate.suspect();
        }
        gate.lose();
        assert!(!gate.view().as_it_should_be, "the broker has gone");
        gate.begin_consuming();
        assert!(!gate.view().as_it_should_be);
        gate.suspect();
        tokio::time::sleep(SUSPECT_WITHIN).await;
        assert!(!gate.view().as_it_should_be, "nobody works it");
        let _registered = gate.registered();
        gate.trust();
        assert!(!gate.view().suspect && gate.view().as_it_should_be);
    }
}
