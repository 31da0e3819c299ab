//! One worker: everything of it that outlives a session with the broker, and whether it does what it should.

use crate::{
    account::{Account, RealWorld, gate::Gate},
    amqp::Standing,
    metrics::Metrics,
    pipeline::World,
    settings::{Amqp, Settings, State},
    shutdown::Stop,
    traces::Traces,
};
use std::sync::{Arc, PoisonError, RwLock};
use tracing::{error, info, warn};

/// Strays need little: they are looked at, told of and parked.
const STRAYS_AT_ONCE: u16 = 16;

pub struct Worker {
    pub settings: Settings,
    login: RwLock<Amqp>,
    pub accounts: Vec<Arc<Account>>,
    /// The gate of the queue of strays.
    pub strays: Arc<Gate>,
    /// The gate of the queue of strays that expired.
    pub expired_strays: Arc<Gate>,
    pub broker: Standing,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
    pub stop: Stop,
}

impl Worker {
    /// # Errors
    /// When an account's HTTP client, the metrics or the traces cannot be set up.
    pub fn new(settings: Settings, stop: Stop) -> Result<Self, String> {
        let metrics = Arc::new(Metrics::new(&settings.accounts).map_err(|e| format!("metrics: {e}"))?);
        metrics.process.settings_loaded(RealWorld.now());
        let mut accounts = Vec::new();
        for account in &settings.accounts {
            let ready = Account::new(account.clone(), &metrics, stop.clone());
            accounts.push(Arc::new(ready.map_err(|e| format!("account {}: {e}", account.name))?));
        }
        let [strays, expired_strays] = [(), ()].map(|()| Arc::new(Gate::open(STRAYS_AT_ONCE)));
        let traces = Traces::start(settings.traces.as_ref())?;
        let login = RwLock::new(settings.amqp.clone());
        let broker = Standing::default();
        Ok(Self { settings, login, accounts, strays, expired_strays, broker, metrics, traces, stop })
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
            if !account.gate.view().as_it_should_be {
                lacks.push(format!("the commands of {} are not consumed", account.settings.name));
            }
        }
        if !self.strays.view().as_it_should_be {
            lacks.push("strays are not consumed".to_owned());
        }
        if !self.expired_strays.view().as_it_should_be {
            lacks.push("expired strays are not consumed".to_owned());
        }
        lacks
    }

    /// Takes over from new settings what can change while the worker runs, and says what else has changed. What accounts are
    /// paused changes in any case; what stands in the files that the settings name (keys, secrets, certificates, the broker's
    /// address) only where the settings themselves are the same, as otherwise new keys could meet old ids.
    pub async fn renew(&self, new: &Settings) {
        self.metrics.process.settings_loaded(RealWorld.now());
        let mut later = Vec::new();
        for account in &self.accounts {
            let name = &account.settings.name;
            let Some(new) = new.accounts.iter().find(|new| new.name == *name) else {
                later.push(format!("{name} is gone"));
                continue;
            };
            account.gate.pause(new.state == State::Paused);
        }
        let is_known = |name: &String| self.accounts.iter().any(|account| account.settings.name == *name);
        later.extend(new.account_names().iter().filter(|name| !is_known(name)).map(|name| format!("{name} is new")));
        let profiles = |settings: &Settings| {
            let texts = settings.accounts.iter().map(|account| account.partner.profile.text.clone());
            texts.collect::<Vec<_>>()
        };
        if new.apart_from_states == self.settings.apart_from_states && profiles(new) == profiles(&self.settings) {
            self.renew_secrets(new).await;
        } else if later.is_empty() {
            later.push("other settings have changed, or a profile".to_owned());
        }
        if !later.is_empty() {
            warn!(changes = later.join("; "), "these changes take effect when the worker is started anew");
        }
        let paused = self.accounts.iter().filter(|account| account.gate.view().paused);
        let paused: Vec<_> = paused.map(|account| account.settings.name.as_str()).collect();
        info!(paused = paused.join(", "), "the settings were read anew");
    }

    async fn renew_secrets(&self, new: &Settings) {
        *self.login.write().unwrap_or_else(PoisonError::into_inner) = new.amqp.clone();
        for (account, new) in self.accounts.iter().zip(&new.accounts) {
            if let Err(error) = account.renew(new).await {
                error!(account = new.name, error, "its new keys cannot be used; the old ones hold");
            }
        }
    }

    /// How the broker is reached from now on.
    pub fn login(&self) -> Amqp {
        self.login.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the broker takes messages: without that, no command is begun, because nothing could be told of it.
    pub fn set_blocked(&self, blocked: bool) {
        self.broker.set_blocked(blocked);
        for gate in self.accounts.iter().map(|account| &account.gate).chain([&self.strays, &self.expired_strays]) {
            gate.block(blocked);
        }
    }

    /// Whether there is a connection to publish on.
    pub fn set_connected(&self, connected: bool) {
        self.broker.set_connected(connected);
        self.set_blocked(false);
    }
}
