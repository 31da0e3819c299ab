//! `check`: what the worker will do with these settings, and whether broker and providers let it. It never cancels anything
//! and leaves nothing behind.

mod broker;
mod provider;

use super::{Failure, plain, print};
use crate::{
    limits,
    settings::{Account, Amqp, Settings, State},
    snap::{
        client::MinTls,
        profile::SigningMode,
        request::{Partner, Route},
    },
};
use clap::Args;
use futures_util::future::{join, join_all};
use lapin::uri::{AMQPScheme, AMQPUri};
use secrecy::ExposeSecret;
use std::fmt;

#[derive(Args)]
#[command(after_help = "Examples:
  qris-cancel-worker check --config worker.toml             what the worker would do with these settings
  qris-cancel-worker check --config worker.toml --connect   and whether broker, token endpoint and provider answer")]
pub struct Arguments {
    /// Reach the broker and every provider, too: permissions, TLS, clock, token, and whether the keys are accepted, which a
    /// query of a transaction that does not exist tells. No cancel is sent and no message is published.
    #[arg(long)]
    connect: bool,
}

/// What was found out about one thing.
#[derive(Debug)]
struct Finding {
    grade: Grade,
    /// The broker, or an account.
    about: String,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Good,
    /// It cannot be told.
    Unknown,
    /// It is there, and says no; or it is there and something is wrong with it.
    Wrong,
    Unreached,
}

impl Finding {
    fn new(grade: Grade, about: &str, text: impl Into<String>) -> Self {
        Self { grade, about: about.to_owned(), text: text.into() }
    }
}

/// A finding can repeat a provider's or broker's words.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.grade {
            Grade::Good => "ok",
            Grade::Unknown => "??",
            Grade::Wrong | Grade::Unreached => "!!",
        };
        write!(f, "{mark} {}: {}", self.about, plain(&self.text))
    }
}

pub async fn run(settings: &Settings, arguments: Arguments) -> Result<(), Failure> {
    print(&about_broker(&settings.amqp))?;
    print(&about_traces(settings))?;
    print(&about_open_files(settings))?;
    for account in &settings.accounts {
        print(&format!("\naccount {}\n{}", account.name, about_account(account)))?;
    }
    if !arguments.connect {
        print("\nThe settings are good. With --connect, broker and providers are tried, too.")?;
        return Ok(());
    }
    print("")?;
    let providers = join_all(settings.accounts.iter().map(|account| provider::findings(account)));
    let (broker, providers) = join(broker::findings(settings), providers).await;
    let findings: Vec<Finding> = broker.into_iter().chain(providers.into_iter().flatten()).collect();
    for finding in &findings {
        print(&finding.to_string())?;
    }
    let bad = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    match (bad(Grade::Unreached), bad(Grade::Wrong)) {
        (0, 0) => Ok(()),
        (0, wrong) => Err(Failure::No(format!("{wrong} of {} findings have to be mended", findings.len()))),
        (unreached, wrong) => Err(Failure::Unavailable(format!(
            "{} of {} findings have to be mended; {unreached} times something could not be reached",
            unreached + wrong,
            findings.len()
        ))),
    }
}

fn about_broker(amqp: &Amqp) -> String {
    let address = match amqp.url.expose_secret().parse::<AMQPUri>() {
        Ok(uri) => {
            let scheme = if uri.scheme == AMQPScheme::AMQPS { "amqps" } else { "amqp" };
            let authority = uri.authority;
            format!("{scheme}://{}@{}:{}", authority.userinfo.username, authority.host, authority.port)
                + &format!(", virtual host {:?}", uri.vhost)
        }
        Err(_) => "an address that cannot be read".into(),
    };
    let declares = if amqp.declare { "makes what is missing there" } else { "only checks what is there" };
    let clear = match amqp.in_clear_to() {
        Some(_) => "\n  !! password, commands and events go there in clear; use amqps://",
        None => "",
    };
    format!("broker {address}\n  names begin with {}; the worker {declares}{clear}", amqp.prefix)
}

/// Of this process: a service has the limits of its unit.
fn about_open_files(settings: &Settings) -> String {
    let limit = limits::raise_open_files();
    if let Some(reason) = limit.as_ref().ok().and_then(|limit| limits::too_few_open_files(*limit, &settings.accounts)) {
        return format!("open files: too few here: {reason}");
    }
    let needed = limits::open_files_needed(&settings.accounts);
    match limit {
        Ok(None) => format!("open files: {needed} are needed at most, and there is no limit here"),
        Ok(Some(limit)) => format!("open files: {needed} are needed at most, and {limit} are allowed here"),
        Err(error) => {
            format!("open files: {needed} are needed at most; how many are allowed here cannot be raised: {error}")
        }
    }
}

fn about_traces(settings: &Settings) -> String {
    match &settings.traces {
        Some(traces) => {
            let share = format!("{} % of those that begin here", traces.sample_ratio * 100.0);
            // Some collectors want a key in the address.
            let address = traces.endpoint.split('?').next().unwrap_or_default();
            format!("traces to {address} as {}, {share}", traces.service_name)
        }
        None if settings.no_traces.is_empty() => "no traces".into(),
        None => format!("no traces, for {}", settings.no_traces.join("; ")),
    }
}

fn about_account(account: &Account) -> String {
    let partner = &account.partner;
    let url = |route: &Route| {
        let other = match route.path == route.signed_path {
            true => String::new(),
            false => format!(", but signs {}", route.signed_path),
        };
        format!("POST {}{}{other}", partner.base_url, route.path)
    };
    let mut rows = vec![("provider", partner.profile.title.clone())];
    rows.extend(partner.profile.notes.iter().map(|note| ("note", note.clone())));
    if account.state == State::Paused {
        rows.push(("state", "paused: its commands wait in RabbitMQ".into()));
    }
    rows.push(("signs", signs(partner)));
    if let Some(key) = &partner.private_key {
        rows.push(("key", format!("RSA, {} bits; SHA-256 of its public key {}", key.bits(), key.fingerprint())));
    }
    rows.push(("cancel", url(&partner.cancel)));
    rows.push((
        "query",
        partner
            .query
            .as_ref()
            .map_or("none: what stays unclear ends for a person; set query_path if there is one".into(), url),
    ));
    if let Some(call) = partner.profile.token.as_ref().filter(|_| partner.needs_token()) {
        rows.push(("token", format!("POST {}{}", partner.token_base_url, call.path.as_str())));
    }
    let rate = account.max_requests_per_second.map_or(String::new(), |rate| format!(", {rate} calls a second"));
    let tls = match account.client.min_tls {
        _ if partner.base_url.starts_with("http:") => "plain HTTP",
        MinTls::V1_3 => "TLS 1.3 or later",
        MinTls::V1_2 => "TLS 1.2 or later",
    };
    rows.push((
        "limits",
        format!(
            "{} in flight{rate}; {:?} to connect, {:?} a call; {tls}",
            account.at_once(),
            account.client.connect_timeout,
            account.client.timeout
        ),
    ));
    if account.client.send_traceparent {
        rows.push(("trace", "requests have a header traceparent, where there are traces".into()));
    }
    let policy = &account.policy;
    rows.push((
        "retries",
        format!(
            "after {:?}, doubling to {:?}, until {} attempts or {:?} of waiting",
            policy.initial, policy.max, policy.max_attempts, policy.max_elapsed
        ),
    ));
    rows.iter().map(|(name, value)| format!("  {name:9} {value}")).collect::<Vec<_>>().join("\n")
}

fn signs(partner: &Partner) -> String {
    match partner.mode {
        SigningMode::Asymmetric => "in asymmetric mode: SHA256withRSA with private_key".into(),
        SigningMode::Symmetric => "in symmetric mode: HMAC-SHA512 with client_secret".into(),
    }
}
