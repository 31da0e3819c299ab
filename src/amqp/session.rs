//! A session with the broker: connects to publish, runs an intake for each account, one for the strays and one for those that
//! expired, and when it breaks begins again, until the stop.
//!
//! Publishing has a connection of its own: a broker in alarm blocks a connection that publishes, and nothing at all is
//! written on it then, acknowledgements included. Each intake has its own, too, so that what goes wrong with one queue stays
//! with it.

use super::{
    AmqpError,
    consumer::Shared,
    intake::{Intake, close},
    outbox::AmqpOutbox,
    topology::{self, Names},
};
use crate::{
    account::{RealWorld, gate::Gate},
    pauses::Pauses,
    pipeline::{Pipeline, Strays},
    retry::Policy,
    worker::Worker,
};
use futures_util::{StreamExt, future::try_join_all};
use lapin::{Connection, Event};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64},
    },
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// A session that held this long was a good one: the next pause is short again.
const GOOD_SESSION: Duration = Duration::from_secs(30);

/// Works until the stop.
///
/// # Errors
/// When the broker's objects are not as they must be at the first session; later faults are waited out.
pub async fn run(worker: &Arc<Worker>) -> Result<(), AmqpError> {
    let mut pauses = pauses();
    let mut first = true;
    loop {
        let begun = Instant::now();
        let ended = session(worker, &mut first).await;
        worker.set_connected(false);
        match ended {
            Ok(()) => return Ok(()),
            Err(error @ (AmqpError::Topology(_) | AmqpError::Address)) if first => return Err(error),
            Err(error) => error!(%error, "the session with the broker ended"),
        }
        if begun.elapsed() > GOOD_SESSION {
            pauses.reset();
        }
        let pause = pauses.next_pause();
        info!(pause_ms = pause.as_millis() as u64, "connecting again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = worker.stop.soon.cancelled() => return Ok(()),
        }
    }
}

/// 100 ms, 120 ms, 144 ms, … 8 s: about a fifth of the outage so far, so that work goes on soon after a short one. Each is
/// spread by half, so that many workers do not come back at once.
pub(super) fn pauses() -> Pauses {
    Pauses::new(Duration::from_millis(100), Duration::from_secs(8), 1.2)
}

/// Connects, and counts it.
pub(super) async fn connect(worker: &Worker, purpose: &str) -> Result<Connection, AmqpError> {
    let connected = super::connect(&worker.login(), purpose).await;
    worker.metrics.broker.connected(connected.is_ok());
    connected
}

async fn session(worker: &Arc<Worker>, first: &mut bool) -> Result<(), AmqpError> {
    let Worker { settings, accounts, stop, .. } = &**worker;
    let publishing = tokio::select! {
        connection = connect(worker, "publishes") => connection?,
        () = stop.soon.cancelled() => return Ok(()),
    };
    let publishing = Arc::new(publishing);
    if *first {
        tokio::spawn(look_at_version(worker.clone()));
    }
    let names = Names::new(&settings.amqp.prefix);
    let objects = Arc::new(topology::objects(&names, &settings.account_names(), settings.results_log));
    tokio::select! {
        prepared = topology::prepare(&publishing, &settings.amqp, &objects) => prepared?,
        () = stop.soon.cancelled() => return Ok(()),
    }
    let shared = Shared {
        names: names.clone(),
        worker: worker.clone(),
        stop: stop.clone(),
        broken: CancellationToken::new(),
        announced: Arc::new(AtomicBool::new(false)),
    };
    // Whatever ends the session ends its helpers, too.
    let _ends = shared.broken.clone().drop_guard();
    watch(&publishing, &shared);
    let outbox = AmqpOutbox::open(publishing.clone(), names.clone(), worker.clone(), shared.broken.clone()).await?;
    worker.set_connected(true);

    let intake = |queue: String, gate: &Arc<Gate>| Intake {
        objects: objects.clone(),
        queue,
        gate: gate.clone(),
        shared: shared.clone(),
    };
    let mut intakes = Vec::new();
    for account in accounts {
        let pipeline = Pipeline {
            account: account.settings.name.clone(),
            partner: account.settings.partner.clone(),
            policy: account.settings.policy,
            confirm_cancel: account.settings.confirm_cancel,
            gateway: account.clone(),
            outbox: outbox.clone(),
            world: RealWorld,
            accepted_at: account.accepted_at.clone(),
        };
        let queue = names.commands_of(&account.settings.name);
        intakes.push(tokio::spawn(intake(queue, &account.gate).run(pipeline)));
    }
    for (queue, gate) in [(names.strays(), &worker.strays), (names.strays_expired(), &worker.expired_strays)] {
        let strays = Strays {
            accounts: settings.account_names(),
            policy: Policy::default(),
            outbox: outbox.clone(),
            world: RealWorld,
            looked_at: AtomicI64::default(),
        };
        intakes.push(tokio::spawn(intake(queue, gate).run(strays)));
    }
    *first = false;

    let ended = try_join_all(intakes).await;
    outbox.close().await;
    close(&publishing).await;
    ended?.into_iter().collect()
}

/// Says what an old broker lets publishers do.
async fn look_at_version(worker: Arc<Worker>) {
    match super::version(&worker.login()).await {
        Ok(Some(version)) if super::is_before_3_13(&version) => warn!(
            version,
            "whoever may publish commands can stop every retry of a node of this RabbitMQ; where publishers are not trusted use 3.13 or later"
        ),
        Ok(version) => debug!(version, "the broker's version"),
        Err(error) => debug!(%error, "the broker's version cannot be read"),
    }
}

/// Follows what the broker says of the publishing connection.
fn watch(publishing: &Arc<Connection>, shared: &Shared) {
    let mut events = publishing.events_listener();
    let publishing = Arc::downgrade(publishing);
    let shared = shared.clone();
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = shared.broken.cancelled() => return,
            };
            match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    warn!(reason, "the broker takes no messages now; waiting");
                    shared.worker.set_blocked(true);
                }
                Some(Event::ConnectionUnblocked) => {
                    info!("the broker takes messages again");
                    shared.worker.set_blocked(false);
                }
                // Our own closing is told this way, too.
                Some(Event::Error(_)) if shared.stop.soon.is_cancelled() => {}
                // A channel that the broker closes is told the same way; its publishes show it.
                Some(Event::Error(error))
                    if !publishing.upgrade().is_some_and(|connection| connection.status().connected()) =>
                {
                    warn!(%error, "the publishing connection failed");
                    shared.broken.cancel();
                }
                Some(_) => {}
                None => return,
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_short_after_a_short_outage_and_never_long() {
        let (mut pauses, mut outage) = (pauses(), Duration::ZERO);
        while outage < Duration::from_secs(600) {
            let longest = pauses.mean().mul_f64(1.5);
            assert!(longest < Duration::from_secs(15), "{longest:?}");
            assert!(
                outage > Duration::from_secs(5) || longest < Duration::from_secs(2),
                "{longest:?} after {outage:?}"
            );
            outage += pauses.mean();
            pauses.next_pause();
        }
    }
}
