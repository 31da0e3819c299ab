//! The settings file as it stands: its sections and keys, their defaults, and what the environment overrides.

use super::{OVERRIDE_PREFIX, Problem};
use crate::snap::{client::MinTls, profile::SigningMode};
use serde::{Deserialize, Deserializer, de};
use std::{collections::BTreeMap, path::PathBuf};
use toml::{Table, Value};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    pub amqp: RawAmqp,
    #[serde(default)]
    pub results_log: RawResultsLog,
    #[serde(default)]
    pub http: RawHttp,
    #[serde(default)]
    pub log: RawLog,
    #[serde(default)]
    pub worker: RawWorker,
    #[serde(default)]
    pub retry: RawRetry,
    #[serde(default)]
    pub accounts: BTreeMap<String, RawAccount>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAmqp {
    pub url: SecretSource,
    #[serde(default = "prefix")]
    pub prefix: String,
    #[serde(default = "yes")]
    pub declare: bool,
    #[serde(default = "connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    #[serde(default = "confirm_timeout_ms")]
    pub confirm_timeout_ms: u64,
    #[serde(default)]
    pub reply_to_allow: Vec<String>,
    pub tls: Option<RawAmqpTls>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct RawAmqpTls {
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawResultsLog {
    pub enabled: bool,
    pub max_age_h: u64,
    pub max_bytes: u64,
}

impl Default for RawResultsLog {
    fn default() -> Self {
        Self { enabled: true, max_age_h: 168, max_bytes: 5_000_000_000 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHttp {
    pub listen: String,
}

impl Default for RawHttp {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9464".into() }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For reading along.
    Human,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    pub format: LogFormat,
    pub level: String,
}

impl Default for RawLog {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: "info".into() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawWorker {
    pub grace_ms: u64,
}

impl Default for RawWorker {
    fn default() -> Self {
        Self { grace_ms: 25_000 }
    }
}

#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct RawRetry {
    pub initial_ms: Option<u64>,
    pub max_ms: Option<u64>,
    pub max_attempts: Option<u32>,
    pub max_elapsed_s: Option<u64>,
    pub pending_ms: Option<u64>,
    pub cut_off_initial_ms: Option<u64>,
    pub cut_off_max_elapsed_s: Option<u64>,
}

/// Whether an account takes commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Active,
    /// On purpose, as for a bank's maintenance: commands wait in RabbitMQ.
    Paused,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBreaker {
    pub calls: u32,
    pub failure_percent: u32,
    pub initial_ms: u64,
    pub max_ms: u64,
}

impl Default for RawBreaker {
    fn default() -> Self {
        Self { calls: 20, failure_percent: 80, initial_ms: 1_000, max_ms: 60_000 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAccount {
    pub profile: String,
    pub base_url: String,
    pub token_base_url: Option<String>,
    pub cancel_path: Option<String>,
    pub cancel_signed_path: Option<String>,
    pub query_path: Option<String>,
    pub query_signed_path: Option<String>,
    pub signing_mode: Option<SigningMode>,
    pub partner_id: Option<String>,
    pub client_key: Option<Text>,
    pub client_secret: Option<SecretSource>,
    pub private_key: Option<SecretSource>,
    pub channel_id: Option<String>,
    pub origin: Option<String>,
    pub merchant_id: Option<String>,
    pub sub_merchant_id: Option<String>,
    pub external_store_id: Option<String>,
    #[serde(default = "max_in_flight")]
    pub max_in_flight: u16,
    pub max_requests_per_second: Option<f64>,
    #[serde(default)]
    pub state: State,
    #[serde(default = "call_connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    #[serde(default = "call_timeout_ms")]
    pub timeout_ms: u64,
    #[serde(default)]
    pub min_tls: MinTls,
    pub proxy: Option<Text>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    #[serde(default)]
    pub confirm_cancel: bool,
    #[serde(default)]
    pub breaker: RawBreaker,
    #[serde(default)]
    pub retry: RawRetry,
}

fn yes() -> bool {
    true
}

fn prefix() -> String {
    "qris.cancel".into()
}

fn connect_timeout_ms() -> u64 {
    10_000
}

fn confirm_timeout_ms() -> u64 {
    30_000
}

fn max_in_flight() -> u16 {
    64
}

fn call_connect_timeout_ms() -> u64 {
    5_000
}

fn call_timeout_ms() -> u64 {
    20_000
}

/// Where a secret is: never in the settings themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    Env(String),
    File(PathBuf),
}

impl SecretSource {
    /// The place, for an error about what is in it.
    pub fn name(&self) -> String {
        match self {
            Self::Env(name) => format!("the environment variable {name}"),
            Self::File(path) => format!("the file {}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a secret does not stand in the settings: give { file = \"…\" } or { env = \"…\" }";
        let Value::Table(table) = Value::deserialize(deserializer)? else {
            return Err(de::Error::custom(expected));
        };
        let mut entries = table.into_iter();
        match (entries.next(), entries.next()) {
            (Some((key, Value::String(name))), None) if key == "env" => Ok(Self::Env(name)),
            (Some((key, Value::String(path))), None) if key == "file" => Ok(Self::File(path.into())),
            _ => Err(de::Error::custom(expected)),
        }
    }
}

/// A text that may stand in the settings or elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    Plain(String),
    From(SecretSource),
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::Plain(text)),
            other => SecretSource::deserialize(other).map(Self::From).map_err(de::Error::custom),
        }
    }
}

impl Raw {
    /// Reads the file's text, with what the environment overrides.
    pub fn read(text: &str, environment: &BTreeMap<String, String>) -> Result<Self, Problem> {
        let mut table: Table = toml::from_str(text).map_err(|e| problem(text, &e))?;
        let mut overridden = Vec::new();
        for (name, value) in environment {
            if let Some(path) = name.strip_prefix(OVERRIDE_PREFIX) {
                apply(&mut table, path, value).map_err(|reason| Problem { key: name.clone(), line: None, reason })?;
                overridden.push(name.as_str());
            }
        }
        let merged = Self::deserialize(table).map_err(|e| e.message().to_owned());
        merged.map_err(|reason| match toml::from_str::<Self>(text) {
            // The file alone tells the line; where it is good, it must be the environment.
            Err(error) if overridden.is_empty() || error.message() == reason => problem(text, &error),
            _ => Problem { key: overridden.join(", "), line: None, reason },
        })
    }
}

/// What the file and the environment say, save the states of accounts.
pub fn without_states(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut table: Table = toml::from_str(text).unwrap_or_default();
    for (name, value) in environment {
        if let Some(path) = name.strip_prefix(OVERRIDE_PREFIX) {
            // What cannot be applied was told when the settings were read.
            apply(&mut table, path, value).unwrap_or_default();
        }
    }
    let accounts = table.get_mut("accounts").and_then(Value::as_table_mut);
    for account in accounts.into_iter().flat_map(|accounts| accounts.iter_mut()) {
        if let Some(account) = account.1.as_table_mut() {
            account.remove("state");
        }
    }
    table.to_string()
}

fn problem(text: &str, error: &toml::de::Error) -> Problem {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    Problem { key: String::new(), line, reason: error.message().to_owned() }
}

/// Sets `ACCOUNTS__BNC__MAX_IN_FLIGHT` in the table: parts are lower-cased, and an account's `-` may be written `_`.
fn apply(table: &mut Table, path: &str, value: &str) -> Result<(), String> {
    let mut parts: Vec<_> = path.split("__").map(str::to_ascii_lowercase).collect();
    let last = parts.pop().filter(|last| !last.is_empty()).ok_or("names no key")?;
    let mut section = table;
    for part in parts {
        let known = section.keys().find(|key| key.replace('-', "_") == part).cloned().unwrap_or(part);
        let next = section.entry(known.clone()).or_insert_with(|| Value::Table(Table::new()));
        section = next.as_table_mut().ok_or_else(|| format!("{known} is a value, not a section"))?;
    }
    let is_toml = toml::from_str::<Table>(&format!("v = {value}")).ok().filter(|table| table.len() == 1);
    let value = is_toml.and_then(|mut table| table.remove("v")).unwrap_or_else(|| Value::String(value.to_owned()));
    section.insert(last, value);
    Ok(())
}

/// The line on which a key stands, or its section.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut current = String::new();
    let mut of_section = None;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            current = header.split(']').next().unwrap_or_default().replace([' ', '"'], "");
            if current == key {
                return Some(at + 1);
            }
            if current == section {
                of_section = Some(at + 1);
            }
        } else if current == section && line.split('=').next().is_some_and(|k| k.trim() == name) {
            return Some(at + 1);
        }
    }
    of_section
}
