//! A session with the broker: connects, consumes, and on any fault begins again, until the stop.
//!
//! It has two connections, one to consume and one to publish: a broker in alarm blocks a connection that publishes, and
//! nothing at all is written on it then, acknowledgements included.

use super::{
    AmqpError, connect,
    consumer::{self, Shared},
    outbox::AmqpOutbox,
    topology::{self, Names},
};
use crate::{
    account::{Account, RealWorld},
    pipeline::{Pipeline, Strays},
    retry::Policy,
    settings::Settings,
    shutdown::Stop,
};
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff};
use futures_util::{StreamExt, future::try_join_all};
use lapin::{Connection, Event};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Strays need little: they are looked at, told of and parked.
const STRAYS_AT_ONCE: u16 = 16;
/// A session that held this long was a good one: the next pause is short again.
const GOOD_SESSION: Duration = Duration::from_secs(30);

/// Works until the stop.
///
/// # Errors
/// When the broker's objects are not as they must be at the first session; later faults are waited out.
pub async fn run(settings: &Settings, accounts: Vec<Arc<Account>>, stop: Stop) -> Result<(), AmqpError> {
    let mut pauses = pauses();
    let mut first = true;
    loop {
        let begun = Instant::now();
        let ended = session(settings, &accounts, &stop, &mut first).await;
        match ended {
            Ok(()) => return Ok(()),
            Err(error @ AmqpError::Topology(_)) if first => return Err(error),
            Err(error) => error!(%error, "the session with the broker ended"),
        }
        if begun.elapsed() > GOOD_SESSION {
            pauses.reset();
        }
        let pause = pauses.next_backoff().unwrap_or(Duration::from_secs(10));
        info!(pause_ms = pause.as_millis() as u64, "connecting again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.soon.cancelled() => return Ok(()),
        }
    }
}

/// 100 ms, 200 ms, … 10 s, each spread by half, so that many workers do not come back at once.
fn pauses() -> ExponentialBackoff {
    ExponentialBackoffBuilder::new()
        .with_initial_interval(Duration::from_millis(100))
        .with_multiplier(2.0)
        .with_randomization_factor(0.5)
        .with_max_interval(Duration::from_secs(10))
        .with_max_elapsed_time(None)
        .build()
}

async fn session(
    settings: &Settings,
    accounts: &[Arc<Account>],
    stop: &Stop,
    first: &mut bool,
) -> Result<(), AmqpError> {
    let (consuming, publishing) = tokio::select! {
        connections = async { tokio::try_join!(connect(&settings.amqp, "consumes"), connect(&settings.amqp, "publishes")) } => connections?,
        () = stop.soon.cancelled() => return Ok(()),
    };
    let publishing = Arc::new(publishing);
    let names = Names::new(&settings.amqp.prefix);
    let objects = topology::objects(&names, &settings.account_names(), settings.results_log);
    topology::prepare(&publishing, &settings.amqp, &objects).await?;
    let shared = Shared {
        names: names.clone(),
        stop: stop.clone(),
        broken: CancellationToken::new(),
        blocked: Arc::new(AtomicBool::new(false)),
        unblocked: Arc::new(Notify::new()),
    };
    // Whatever ends the session ends its helpers, too.
    let _ends = shared.broken.clone().drop_guard();
    watch(&publishing, &shared);
    let outbox = AmqpOutbox::open(
        publishing.clone(),
        names.clone(),
        settings.amqp.confirm_timeout,
        settings.amqp.reply_to_allow.clone(),
        shared.blocked.clone(),
        shared.broken.clone(),
    )
    .await?;

    let mut consumers = Vec::new();
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
        let (channel, shared) = (consuming.create_channel().await?, shared.clone());
        let queue = names.commands_of(&account.settings.name);
        let limit = account.settings.max_in_flight;
        consumers.push(tokio::spawn(async move {
            breaks(consumer::run(channel, &queue, limit, pipeline, shared.clone()).await, &shared)
        }));
    }
    let strays = Strays { accounts: settings.account_names(), policy: Policy::default(), outbox, world: RealWorld };
    let (channel, queue, own) = (consuming.create_channel().await?, names.strays(), shared.clone());
    consumers.push(tokio::spawn(async move {
        breaks(consumer::run(channel, &queue, STRAYS_AT_ONCE, strays, own.clone()).await, &own)
    }));
    *first = false;
    info!(accounts = accounts.len(), prefix = settings.amqp.prefix, "consuming");

    let ended = try_join_all(consumers).await;
    for connection in [&consuming, &*publishing] {
        let closing = connection.close(200, "done".into());
        if !matches!(tokio::time::timeout(Duration::from_secs(2), closing).await, Ok(Ok(()))) {
            info!("the connection was closed already");
        }
    }
    match ended {
        Ok(results) => results.into_iter().collect(),
        Err(panicked) => Err(AmqpError::Topology(format!("a consumer failed: {panicked}"))),
    }
}

/// One consumer's end is the session's end.
fn breaks(ended: Result<(), AmqpError>, shared: &Shared) -> Result<(), AmqpError> {
    if ended.is_err() {
        shared.broken.cancel();
    }
    ended
}

/// Follows what the broker says of the publishing connection.
fn watch(publishing: &Connection, shared: &Shared) {
    let mut events = publishing.events_listener();
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
                    shared.blocked.store(true, Ordering::Relaxed);
                }
                Some(Event::ConnectionUnblocked) => {
                    info!("the broker takes messages again");
                    shared.blocked.store(false, Ordering::Relaxed);
                    shared.unblocked.notify_waiters();
                }
                Some(Event::Error(error)) => {
                    warn!(%error, "the publishing connection failed");
                    shared.broken.cancel();
                }
                Some(_) => {}
                None => return,
            }
        }
    });
}
