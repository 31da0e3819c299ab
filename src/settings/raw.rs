//! The settings file as it stands: its sections and keys, and their defaults.

use crate::snap::{client::MinTls, profile::SigningMode};
use serde::{Deserialize, Deserializer, de};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use toml::Value;

/// Nothing in it is required here, so that whatever serde refuses is something that stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    pub amqp: Option<RawAmqp>,
    #[serde(default)]
    pub results_log: RawResultsLog,
    #[serde(default)]
    pub http: RawHttp,
    #[serde(default)]
    pub log: RawLog,
    #[serde(default)]
    pub traces: RawTraces,
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
    pub url: Option<SecretSource>,
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
pub struct RawTraces {
    pub endpoint: Option<String>,
    pub headers: Option<SecretSource>,
    pub sample_ratio: f64,
    pub service_name: Option<String>,
}

impl Default for RawTraces {
    fn default() -> Self {
        Self { endpoint: None, headers: None, sample_ratio: 1.0, service_name: None }
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
    pub profile: Option<String>,
    pub base_url: Option<String>,
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
    pub send_traceparent: bool,
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
            Self::Env(name) => variable(name),
            Self::File(path) => file(path),
        }
    }
}

/// A variable that is named; not, where this may be the secret itself.
pub fn variable(name: &str) -> String {
    let is_name = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    match is_name && name.len() <= 100 {
        true => format!("the environment variable {name}"),
        false => "the environment variable (what stands there is not shown: it may be the secret itself)".into(),
    }
}

/// A file that is named; not, where this may be what should be in it.
pub fn file(path: &Path) -> String {
    let path = path.display().to_string();
    match path.len() <= 255 && !path.contains("-----") && !path.contains(char::is_control) {
        true => format!("the file {path}"),
        false => "the file (what stands there is not shown: it may be what should stand in it)".into(),
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Keys whose value may be a secret, and is therefore never shown.
pub const SECRETS: [&str; 6] = ["url", "client_key", "client_secret", "private_key", "proxy", "headers"];
/// The two ways to give a secret.
const GIVE: &str = "give { file = \"…\" } or { env = \"…\" }";

impl SecretSource {
    /// The reasons never hold the value, which may be the secret itself.
    fn from_value(value: Value) -> Result<Self, String> {
        let Value::Table(table) = value else {
            return Err(format!("a secret does not stand in the settings: {GIVE}; found {}", kind(&value)));
        };
        let mut entries = table.into_iter();
        match (entries.next(), entries.next()) {
            (Some((key, Value::String(name))), None) if key == "env" && !name.is_empty() => Ok(Self::Env(name)),
            (Some((key, Value::String(path))), None) if key == "file" && !path.is_empty() => {
                Ok(Self::File(path.into()))
            }
            (Some((key, Value::String(_))), None) if key == "env" || key == "file" => {
                Err(format!("{key} is empty: {GIVE}"))
            }
            (Some((key, value)), None) if key == "env" || key == "file" => {
                Err(format!("{key} must be a text in quotes; found {}", kind(&value)))
            }
            (Some((key, _)), None) => Err(format!("{key} is no place for a secret: {GIVE}")),
            (None, _) => Err(format!("says nothing: {GIVE}")),
            _ => Err(format!("says too much: {GIVE}, and nothing else")),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

/// How an error begins that tells of something else where a text should be.
pub const TEXT_WANTED: &str = "must be a text in quotes";

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
            table @ Value::Table(_) => SecretSource::from_value(table).map(Self::From).map_err(de::Error::custom),
            other => Err(de::Error::custom(format!("{TEXT_WANTED}, or {}; found {}", &GIVE[5..], kind(&other)))),
        }
    }
}
