//! `run`: the worker.

use super::Failure;
use crate::{admin, amqp::session, settings::Settings, shutdown::Stop, telemetry, worker::Worker};
use std::{path::PathBuf, sync::Arc};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::{error, info};

pub async fn run(settings: Settings, path: PathBuf) -> Result<(), Failure> {
    telemetry::start(&settings.log).map_err(Failure::Usage)?;
    let stop = Stop::on_signals(settings.grace).map_err(|e| Failure::Unavailable(format!("signals: {e}")))?;
    let listen = settings.listen;
    let unavailable = |e: std::io::Error| {
        Failure::Unavailable(format!(
            "http.listen {listen}: {e}; set another with QRIS_CANCEL__HTTP__LISTEN=127.0.0.1:PORT"
        ))
    };
    let listener = TcpListener::bind(listen).await.map_err(unavailable)?;
    info!(address = %listener.local_addr().map_err(unavailable)?, "metrics and status are served");
    for account in &settings.accounts {
        let profile = &account.partner.profile;
        info!(
            account = account.name,
            provider = profile.name,
            notes = profile.notes.join(" "),
            query = account.partner.query.is_some(),
            paused = account.state == crate::settings::State::Paused,
            "account"
        );
    }
    let worker = Arc::new(Worker::new(settings, stop).map_err(Failure::Unavailable)?);
    let mut hang_ups = signal(SignalKind::hangup()).map_err(|e| Failure::Unavailable(format!("signals: {e}")))?;
    let renewed = worker.clone();
    tokio::spawn(async move {
        while hang_ups.recv().await.is_some() {
            match Settings::load(&path) {
                Ok(settings) => renewed.renew(&settings),
                Err(mistakes) => error!(%mistakes, "the settings cannot be read anew; the old ones hold"),
            }
        }
    });
    let operators = worker.clone();
    tokio::spawn(async move {
        if let Err(error) = admin::serve(listener, operators).await {
            error!(%error, "metrics and status are no longer served");
        }
    });
    session::run(&worker).await?;
    info!("stopped");
    Ok(())
}
