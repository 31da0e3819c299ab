//! One worker: everything of it that outlives a session with the broker, and whether it does what it should.

use crate::{
    account::{Account, gate::Gate},
    amqp::Standing,
    metrics::Metrics,
    settings::{Settings, State},
    shutdown::Stop,
};
use std::sync::Arc;
use tracing::{info, warn};

/// Strays need little: they are looked at, told of and parked.
const STRAYS_AT_ONCE: u16 = 16;

pub struct Worker {
    pub settings: Settings,
    pub accounts: Vec<Arc<Account>>,
    /// The gate of the queue of strays.
    pub strays: Arc<Gate>,
    pub broker: Arc<Standing>,
    pub metrics: Arc<Metrics>,
    pub stop: Stop,
}

impl Worker {
    /// # Errors
    /// When an account's HTTP client or the metrics cannot be set up.
    pub fn new(settings: Settings, stop: Stop) -> Result<Self, String> {
        let names = settings.accounts.iter().map(|account| account.name.as_str());
        let metrics = Arc::new(Metrics::new(names).map_err(|e| format!("metrics: {e}"))?);
        let mut accounts = Vec::new();
        for account in &settings.accounts {
            let ready = Account::new(account.clone(), metrics.clone(), stop.clone());
            accounts.push(Arc::new(ready.map_err(|e| format!("account {}: {e}", account.name))?));
        }
        let strays = Arc::new(Gate::open(STRAYS_AT_ONCE));
        Ok(Self { settings, accounts, strays, broker: Arc::default(), metrics, stop })
    }

    /// Why it does not do what it should, if so.
    pub fn lacks(&self) -> Vec<String> {
        let mut lacks = Vec::new();
        if self.stop.soon.is_cancelled() {
            lacks.push("it is stopping".to_owned());
        }
        if !self.broker.is_connected() {
            lacks.push("there is no connection to the broker".to_owned());
        }
        for account in &self.accounts {
            if !account.gate.is_as_it_should_be() {
                lacks.push(format!("the commands of {} are not consumed", account.settings.name));
            }
        }
        if !self.strays.is_as_it_should_be() {
            lacks.push("strays are not consumed".to_owned());
        }
        lacks
    }

    /// Takes over from new settings what can change while the worker runs: which accounts are paused.
    pub fn renew(&self, new: &Settings) {
        for account in &self.accounts {
            let name = &account.settings.name;
            let Some(new) = new.accounts.iter().find(|new| new.name == *name) else { continue };
            let paused = new.state == State::Paused;
            if account.gate.pause(paused) {
                let what = if paused { "is paused: its commands wait in RabbitMQ" } else { "is active again" };
                info!(account = name, "the account {what}");
            }
        }
        if new.apart_from_states != self.settings.apart_from_states {
            warn!("other settings have changed, too; they take effect when the worker is started anew");
        }
    }
}
