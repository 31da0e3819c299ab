//! `run`: the worker.

use super::Failure;
use crate::{
    admin,
    amqp::session,
    limits, service,
    settings::{Settings, State},
    shutdown::Stop,
    telemetry,
    worker::Worker,
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::{error, info, warn};

/// What was done last is traced, too, unless the collector takes longer.
const LAST_SPANS_WITHIN: Duration = Duration::from_secs(2);

/// A broker's connection whose thread has panicked never answers again, and nobody is told. All state is with the broker: better to
/// end, and be started anew.
fn end_with_the_brokers_threads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        if std::thread::current().name().is_some_and(|name| name.starts_with("lapin")) {
            std::process::exit(70);
        }
    }));
}

pub async fn run(path: &Path) -> Result<(), Failure> {
    end_with_the_brokers_threads();
    let signals = |e: std::io::Error| Failure::Unavailable(format!("signals: {e}"));
    // First of all, because without a listener this signal ends the process.
    let mut hang_ups = signal(SignalKind::hangup()).map_err(signals)?;
    let settings = Settings::load(path)?;
    telemetry::start(&settings.log).map_err(Failure::Usage)?;
    let stop = Stop::on_signals(settings.grace).map_err(signals)?;
    let listen = settings.listen;
    let unavailable = |e: std::io::Error| {
        let mend = "set another with QRIS_CANCEL__HTTP__LISTEN=127.0.0.1:PORT";
        Failure::Unavailable(format!("http.listen {listen}: {e}; {mend}"))
    };
    let listener = TcpListener::bind(listen).await.map_err(unavailable)?;
    info!(address = %listener.local_addr().map_err(unavailable)?, "metrics and status are served");
    for reason in &settings.no_traces {
        warn!(reason, "there are no traces, as the environment asks for them in a way that is no good; commands go on");
    }
    if let Some(host) = settings.amqp.in_clear_to() {
        warn!(
            host,
            "password, commands and events go to the broker in clear, and whoever is on the way can change them; use amqps://"
        );
    }
    for account in &settings.accounts {
        let profile = &account.partner.profile;
        info!(
            account = account.name,
            provider = profile.name,
            notes = profile.notes.join(" "),
            query = account.partner.query.is_some(),
            paused = account.state == State::Paused,
            "account"
        );
    }
    match limits::raise_open_files() {
        Ok(limit) => {
            if let Some(reason) = limits::too_few_open_files(limit, &settings.accounts) {
                warn!(reason, "the limit of open files is too low for these accounts");
            }
        }
        Err(error) => warn!(%error, "the limit of open files cannot be raised, and stays as it was"),
    }
    let worker = Arc::new(Worker::new(settings, stop).map_err(Failure::Unavailable)?);
    let (renewed, path) = (worker.clone(), path.to_owned());
    tokio::spawn(async move {
        while hang_ups.recv().await.is_some() {
            match Settings::load(&path) {
                Ok(settings) => renewed.renew(&settings).await,
                Err(mistakes) => error!(%mistakes, "the settings cannot be read anew; the old ones hold"),
            }
        }
    });
    tokio::spawn(admin::serve(listener, worker.clone()));
    service::started(&worker);
    let stop = worker.stop.soon.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        service::stopping();
    });
    session::run(&worker).await?;
    worker.traces.flush(LAST_SPANS_WITHIN).await;
    info!("stopped");
    Ok(())
}
