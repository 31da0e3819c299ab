//! What is counted and measured, for Prometheus. Labels come from enums, the standard and the settings; whatever can be
//! counted is there from the start, at zero, so that a first failure is seen as an increase.
//!
//! [`table`] has every metric's name, type, labels and help text; docs/METRICS.md says when to look at which. What belongs to
//! an account is looked up once, at the start: counting then costs an atomic addition.

mod broker;
mod commands;
mod process;
mod provider;
mod registrar;
mod table;

pub use broker::{Broker, Published};
pub use commands::Commands;
pub use process::Process;
pub use provider::Provider;

use crate::settings::Account;
use prometheus::{Encoder, IntCounter, Registry, TextEncoder};
use registrar::Registrar;
use std::{collections::BTreeMap, sync::Arc};

/// The label of messages for an account that is not in the settings; no account can have this name.
pub const UNKNOWN: &str = "unknown";

/// All metrics of this process.
pub struct Metrics {
    registry: Registry,
    commands: BTreeMap<String, Commands>,
    strangers: Commands,
    providers: BTreeMap<String, Arc<Provider>>,
    pub broker: Broker,
    pub process: Process,
}

impl Metrics {
    /// # Errors
    /// When two metrics have the same name.
    pub fn new(accounts: &[Arc<Account>]) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let mut registrar = Registrar::new(&registry);
        let strangers = Commands::new(&mut registrar, UNKNOWN)?;
        let (mut commands, mut providers) = (BTreeMap::new(), BTreeMap::new());
        for account in accounts {
            commands.insert(account.name.clone(), Commands::new(&mut registrar, &account.name)?);
            providers.insert(account.name.clone(), Arc::new(Provider::new(&mut registrar, account)?));
        }
        let (broker, process) = (Broker::new(&mut registrar)?, Process::new(&mut registrar)?);
        Ok(Self { registry, commands, strangers, providers, broker, process })
    }

    /// Those of the commands with this routing key, which anybody can make up.
    pub fn commands(&self, routing_key: &str) -> &Commands {
        self.commands.get(routing_key).unwrap_or(&self.strangers)
    }

    /// Those of an account's provider; `None` if the account is not in the settings.
    pub fn provider(&self, account: &str) -> Option<Arc<Provider>> {
        self.providers.get(account).cloned()
    }

    /// Everything, as Prometheus reads it.
    ///
    /// # Errors
    /// When a metric cannot be written.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Counts one more of these. All that there can be are there.
fn count<K: Ord>(counters: &BTreeMap<K, IntCounter>, which: &K) {
    if let Some(counter) = counters.get(which) {
        counter.inc();
    }
}

#[cfg(test)]
mod tests;
