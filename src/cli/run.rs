//! `run`: the worker.

use super::Failure;
use crate::{account::Account, amqp::session, settings::Settings, shutdown::Stop, telemetry};
use std::sync::Arc;
use tracing::info;

pub async fn run(settings: Settings) -> Result<(), Failure> {
    telemetry::start(&settings.log).map_err(Failure::Usage)?;
    let stop = Stop::on_signals(settings.grace).map_err(|e| Failure::Unavailable(format!("signals: {e}")))?;
    let mut accounts = Vec::new();
    for account in &settings.accounts {
        let profile = &account.partner.profile;
        info!(
            account = account.name,
            provider = profile.name,
            notes = profile.notes.join(" "),
            query = account.partner.query.is_some(),
            "account"
        );
        let ready = Account::new(account.clone(), stop.clone());
        accounts.push(Arc::new(ready.map_err(|e| Failure::Unavailable(format!("account {}: {e}", account.name)))?));
    }
    session::run(&settings, accounts, stop).await?;
    info!("stopped");
    Ok(())
}
