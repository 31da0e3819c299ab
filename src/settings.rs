//! All configuration: one TOML file, every key of which the environment can override. The only file that reads the
//! environment.
//!
//! Reading has two steps: `form` makes of the file what stands in it, with unknown keys refused; `reader` makes of that the
//! [`Settings`] that the worker uses, with profiles found, secrets and keys loaded, and everything checked. What is wrong in
//! the first step is mended or left out for the second, so that every problem is told at once.

mod account;
mod files;
mod form;
mod mistakes;
pub mod names;
mod pace;
mod raw;
mod reader;
mod syntax;
mod traces;

use crate::{
    breaker,
    retry::Policy,
    snap::{client, request::Partner},
};
use lapin::uri::{AMQPScheme, AMQPUri};
use reader::Reader;
use secrecy::{ExposeSecret, SecretString};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

pub use raw::{LogFormat, State};

/// Names the settings file where no `--config` does.
pub const CONFIG_VARIABLE: &str = "QRIS_CANCEL_CONFIG";
/// Variables with this prefix override a key: `QRIS_CANCEL__RETRY__MAX_ATTEMPTS=5`.
pub const OVERRIDE_PREFIX: &str = "QRIS_CANCEL__";

/// What the worker runs with.
pub struct Settings {
    pub amqp: Amqp,
    pub results_log: Option<ResultsLog>,
    pub log: Log,
    /// Where traces go, if anywhere.
    pub traces: Option<Traces>,
    /// Why there are none although the environment asks for them.
    pub no_traces: Vec<String>,
    /// Where operators' HTTP is served.
    pub listen: SocketAddr,
    /// How long calls may go on after a signal to stop.
    pub grace: Duration,
    pub accounts: Vec<Arc<Account>>,
    /// Everything as it was read, without the states of the accounts, to see whether anything else has changed.
    pub apart_from_states: String,
}

/// The broker.
#[derive(Clone)]
pub struct Amqp {
    /// Holds the password.
    pub url: SecretString,
    /// Every name of ours begins with it.
    pub prefix: String,
    /// Declare what is missing; otherwise only check that it is there.
    pub declare: bool,
    /// For TCP, TLS and the handshake together.
    pub connect_timeout: Duration,
    /// How long the broker may take to confirm a message.
    pub confirm_timeout: Duration,
    /// Queues that a `reply_to` may name; `*` at the end stands for any rest.
    pub reply_to_allow: Vec<String>,
    pub tls: AmqpTls,
}

impl Amqp {
    /// The host to which password, commands and events go in clear, if it is another machine.
    pub fn in_clear_to(&self) -> Option<String> {
        let uri: AMQPUri = self.url.expose_secret().parse().ok()?;
        let host = uri.authority.host;
        let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        (uri.scheme == AMQPScheme::AMQP && !is_here).then_some(host)
    }
}

/// Certificates for `amqps`.
#[derive(Clone, Default)]
pub struct AmqpTls {
    /// PEM of the authorities to trust instead of the system's.
    pub ca: Option<String>,
    /// PEM of our certificate chain and key.
    pub client: Option<(Vec<u8>, SecretString)>,
}

/// The stream that keeps every event for some days.
#[derive(Debug, Clone, Copy)]
pub struct ResultsLog {
    pub max_age: Duration,
    pub max_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct Log {
    pub format: LogFormat,
    /// A filter as `tracing` writes it: `info`, `warn,qris_cancel_worker=debug`.
    pub level: String,
}

/// Traces, and the collector that they are sent to.
pub struct Traces {
    /// Of OTLP over HTTP, with the path.
    pub endpoint: String,
    /// What the collector knows us by.
    pub headers: Vec<(String, SecretString)>,
    /// The share of traces that is recorded, of those that begin here; whoever begins one decides for all.
    pub sample_ratio: f64,
    pub service_name: String,
    /// What else is known of this process: name and value.
    pub resource: Vec<(String, String)>,
}

/// One merchant's credentials at one provider, with its limits.
pub struct Account {
    pub name: String,
    pub partner: Arc<Partner>,
    pub client: client::Options,
    pub policy: Policy,
    pub max_in_flight: u16,
    /// For all calls of this worker, token calls included.
    pub max_requests_per_second: Option<f64>,
    pub state: State,
    pub breaker: breaker::Rules,
    pub confirm_cancel: bool,
}

impl Account {
    /// How many commands are worked on at the same time: no more than could each have a call within 20 s at the account's rate.
    pub fn at_once(&self) -> u16 {
        let turns = self.max_requests_per_second.map_or(f64::MAX, |rate| (rate * 20.0).max(1.0));
        // A float that is too large becomes the largest number.
        self.max_in_flight.min(turns as u16)
    }
}

/// One thing that is wrong, where, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, with its sections: `accounts.bnc.cancel_path`; or the variable that overrides it.
    pub key: String,
    /// Line in the file, from 1.
    pub line: Option<usize>,
    pub reason: String,
}

/// Everything that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub struct SettingsError {
    pub place: String,
    pub problems: Vec<Problem>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            let of_environment = problem.key.starts_with(OVERRIDE_PREFIX);
            let place = if of_environment { "environment" } else { &self.place };
            let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
            let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
            let end = if at + 1 < self.problems.len() { "\n" } else { "" };
            write!(f, "{place}{line}: {key}{}{end}", problem.reason)?;
        }
        Ok(())
    }
}

impl Settings {
    /// Reads the settings file and the environment.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let place = path.display().to_string();
        let (text, environment) = (read_file(path)?, environment());
        Self::read(&place, &text, &environment, path.parent().unwrap_or(Path::new(".")))
    }

    /// Reads settings from their text; relative paths in it start at `base`.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn read(
        place: &str,
        text: &str,
        environment: &BTreeMap<String, String>,
        base: &Path,
    ) -> Result<Self, SettingsError> {
        let mut reader = Reader::new(environment, base);
        let settings = reader.form(text).and_then(|raw| reader.settings(raw));
        let settings = settings.map(|settings| Self { apart_from_states: without_states(text), ..settings });
        finish(place, settings, reader)
    }

    /// Only what it takes to reach the broker: from the settings file if there is one, else from the variable `AMQP_URL`.
    /// An order service's machine has neither accounts nor keys.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn load_amqp(path: Option<&Path>) -> Result<(Amqp, Vec<String>), SettingsError> {
        let environment = environment();
        let (place, text, base) = match path {
            Some(path) => (path.display().to_string(), read_file(path)?, path.parent().unwrap_or(Path::new("."))),
            None => ("the environment".into(), "[amqp]\nurl = { env = \"AMQP_URL\" }\n".into(), Path::new(".")),
        };
        let mut reader = Reader::new(&environment, base);
        let raw = reader.form(&text);
        let accounts = raw.as_ref().map(|raw| raw.accounts.keys().cloned().collect()).unwrap_or_default();
        let amqp = raw.and_then(|raw| reader.amqp(raw.amqp));
        let read = finish(&place, amqp, reader).map(|amqp| (amqp, accounts));
        read.map_err(|mut error| {
            // Without a file there are no lines.
            error.problems.iter_mut().filter(|_| path.is_none()).for_each(|problem| problem.line = None);
            error
        })
    }

    /// Only what the broker's objects are made of: whoever makes them has no keys of banks.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn load_topology(path: &Path) -> Result<(Amqp, Vec<String>, Option<ResultsLog>), SettingsError> {
        let (text, environment) = (read_file(path)?, environment());
        let mut reader = Reader::new(&environment, path.parent().unwrap_or(Path::new(".")));
        let raw = reader.form(&text);
        let read = raw.and_then(|raw| {
            reader.any_account(&raw.accounts);
            raw.accounts.keys().for_each(|name| reader.account_name(name));
            let accounts = raw.accounts.keys().cloned().collect();
            let (amqp, log) = (reader.amqp(raw.amqp), reader.results_log(&raw.results_log));
            Some((amqp?, accounts, log))
        });
        finish(&path.display().to_string(), read, reader)
    }

    /// Only the accounts, for whoever needs no broker.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn load_accounts(path: &Path) -> Result<Vec<Arc<Account>>, SettingsError> {
        let (text, environment) = (read_file(path)?, environment());
        let mut reader = Reader::new(&environment, path.parent().unwrap_or(Path::new(".")));
        let accounts = reader.form(&text).map(|raw| reader.accounts(raw.accounts, &raw.retry));
        finish(&path.display().to_string(), accounts, reader)
    }

    /// A secret of the command line: `env:NAME` or `file:PATH`.
    ///
    /// # Errors
    /// When it is written otherwise, not there or empty.
    pub fn secret(source: &str) -> Result<SecretString, String> {
        let text = match source.split_once(':') {
            Some(("env", name)) => {
                environment().remove(name).ok_or_else(|| format!("{} is not set", raw::variable(name)))?
            }
            Some(("file", path)) => std::fs::read_to_string(path)
                .map_err(|e| format!("{} cannot be read: {e}", raw::file(path.as_ref())))?,
            _ => return Err("write env:NAME or file:PATH: a secret does not stand on a command line".into()),
        };
        // An editor ends a file with a new line, which is no part of a secret.
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() { Err(format!("{source} is empty")) } else { Ok(text.into()) }
    }

    pub fn account_names(&self) -> Vec<String> {
        self.accounts.iter().map(|account| account.name.clone()).collect()
    }
}

/// What was read, if nothing was wrong with it.
fn finish<T>(place: &str, read: Option<T>, reader: Reader<'_>) -> Result<T, SettingsError> {
    match read {
        Some(read) if reader.mistakes.is_empty() => Ok(read),
        _ => Err(SettingsError { place: place.to_owned(), problems: reader.mistakes.into_problems() }),
    }
}

/// What the file says, save the states of accounts. The environment of a process does not change.
fn without_states(text: &str) -> String {
    let mut table: toml::Table = toml::from_str(text).unwrap_or_default();
    let accounts = table.get_mut("accounts").and_then(toml::Value::as_table_mut);
    for account in accounts.into_iter().flat_map(|accounts| accounts.iter_mut()) {
        if let Some(account) = account.1.as_table_mut() {
            account.remove("state");
        }
    }
    table.to_string()
}

/// The stack of every thread, in bytes: room for the deepest headers that fit into a frame. The client library reads nested headers
/// by recursion, on a thread of its own; on the usual 2 MiB a hostile publisher's message could end the process at each delivery.
const STACK: &str = "67108864";
/// The variable by which alone that thread's stack can be sized.
const STACK_VARIABLE: &str = "RUST_MIN_STACK";

/// Starts this program anew, in the same process, with deep stacks, unless it has them.
///
/// # Errors
/// When it could not be started; then it goes on as it is.
pub fn ensure_deep_stacks() -> std::io::Result<()> {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(STACK_VARIABLE).is_some() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let mut again = std::process::Command::new(std::env::current_exe()?);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    Err(again.args(arguments).env(STACK_VARIABLE, STACK).exec())
}

fn environment() -> BTreeMap<String, String> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    let variables = std::env::vars_os();
    variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

fn read_file(path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path).map_err(|e| SettingsError {
        place: path.display().to_string(),
        problems: vec![Problem {
            key: String::new(),
            line: None,
            reason: format!("cannot be read: {e}; name a settings file with --config or {CONFIG_VARIABLE}"),
        }],
    })
}

#[cfg(test)]
mod tests;
