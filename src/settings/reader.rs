//! From the settings file as it stands to settings that were checked: profiles found, secrets and keys loaded, every problem
//! noted on the way.

use super::{
    Account, Amqp, AmqpTls, Log, ResultsLog, Settings,
    files::Pem,
    form,
    mistakes::{Mistakes, shown},
    names,
    raw::{Raw, RawAccount, RawAmqp, RawAmqpTls, RawResultsLog, RawRetry},
};
use crate::snap::client;
use lapin::uri::{AMQPScheme, AMQPUri};
use secrecy::ExposeSecret;
use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tracing_subscriber::EnvFilter;

/// Longer than any call and any patience of whoever stops the process.
const MAX_GRACE_MS: u64 = 600_000;

/// Turns raw settings into checked ones, noting every problem on the way.
pub struct Reader<'a> {
    pub environment: &'a BTreeMap<String, String>,
    pub base: &'a Path,
    pub mistakes: Mistakes,
    /// What is no good in the variables that OpenTelemetry has for traces.
    pub no_traces: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(environment: &'a BTreeMap<String, String>, base: &'a Path) -> Self {
        Self { environment, base, mistakes: Mistakes::default(), no_traces: Vec::new() }
    }

    pub fn form(&mut self, text: &str) -> Option<Raw> {
        form::read(text, self.environment, &mut self.mistakes)
    }

    pub fn settings(&mut self, raw: Raw) -> Option<Settings> {
        let amqp = self.amqp(raw.amqp);
        let accounts = self.accounts(raw.accounts, &raw.retry);
        let listen = raw.http.listen.parse::<SocketAddr>();
        if listen.is_err() {
            let reason =
                format!("must be an address and a port, like 127.0.0.1:9464; found {}", shown(&raw.http.listen));
            self.problem("http.listen", reason);
        }
        let results_log = self.results_log(&raw.results_log);
        self.level(&raw.log.level);
        let traces = self.traces(&raw.traces);
        if raw.worker.grace_ms > MAX_GRACE_MS {
            let reason = format!("must be at most {MAX_GRACE_MS} (ten minutes); found {}", raw.worker.grace_ms);
            self.problem("worker.grace_ms", reason);
        }
        Some(Settings {
            amqp: amqp?,
            results_log,
            log: Log { format: raw.log.format, level: raw.log.level },
            traces,
            no_traces: std::mem::take(&mut self.no_traces),
            listen: listen.ok()?,
            grace: Duration::from_millis(raw.worker.grace_ms),
            accounts,
            apart_from_states: String::new(),
        })
    }

    pub fn accounts(&mut self, raw: BTreeMap<String, RawAccount>, retry: &RawRetry) -> Vec<Arc<Account>> {
        self.any_account(&raw);
        raw.into_iter().filter_map(|(name, account)| self.account(name, account, retry)).map(Arc::new).collect()
    }

    pub fn any_account(&mut self, raw: &BTreeMap<String, RawAccount>) {
        if raw.is_empty() && !self.mistakes.is_partly_unread("accounts") {
            self.problem("accounts", "there is no account: add a section [accounts.NAME]");
        }
    }

    pub fn results_log(&mut self, raw: &RawResultsLog) -> Option<ResultsLog> {
        for (key, is_zero) in [("max_age_h", raw.max_age_h == 0), ("max_bytes", raw.max_bytes == 0)] {
            if is_zero {
                let reason = "must be at least 1; for no log at all set enabled = false";
                self.problem(&format!("results_log.{key}"), reason);
            }
        }
        raw.enabled.then(|| ResultsLog {
            max_age: Duration::from_secs(raw.max_age_h.saturating_mul(3600)),
            max_bytes: raw.max_bytes,
        })
    }

    fn level(&mut self, filter: &str) {
        const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
        // tracing takes a misspelt level for the name of a crate, and then logs nothing.
        let is_bare = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric());
        let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        if let Some(word) = filter.split(',').map(str::trim).filter(is_bare).find(|word| !is_level(word)) {
            let meant =
                names::nearest(word, LEVELS).map(|level| format!("; did you mean {level}?")).unwrap_or_default();
            let reason = format!("{word:?} is no level; there are {}{meant}", LEVELS.join(", "));
            self.problem("log.level", reason);
        } else if filter.trim().is_empty() {
            self.problem("log.level", format!("is empty; there are {}", LEVELS.join(", ")));
        } else if EnvFilter::try_new(filter).is_err() {
            let reason = format!("{filter:?} is no filter; one looks like info or warn,qris_cancel_worker=debug");
            self.problem("log.level", reason);
        }
    }

    pub fn amqp(&mut self, raw: Option<RawAmqp>) -> Option<Amqp> {
        let Some(raw) = raw else {
            self.problem("amqp", "is missing: add a section [amqp] with url = { env = \"AMQP_URL\" }");
            return None;
        };
        if raw.url.is_none() {
            self.problem("amqp.url", "is missing: the broker's address, as { env = \"AMQP_URL\" } or { file = \"…\" }");
        }
        let url = raw.url.as_ref().and_then(|url| self.secret("amqp.url", url));
        if let Some(url) = &url {
            match url.expose_secret().parse::<AMQPUri>() {
                // The reason would show the address, and with it the password.
                Err(_) => {
                    self.problem("amqp.url", "is no AMQP address; it looks like amqps://user:password@host:5671/vhost")
                }
                Ok(uri) if uri.scheme == AMQPScheme::AMQP && raw.tls.is_some() => {
                    self.problem("amqp.tls", "the address is amqp://, which has no TLS; make it amqps://");
                }
                // The library takes such an address for localhost, and would give that the password.
                Ok(_) if url.expose_secret().contains("@[") || url.expose_secret().contains("//[") => {
                    self.problem(
                        "amqp.url",
                        "has an IPv6 address in place of a host; give the broker a name, in /etc/hosts for example",
                    );
                }
                Ok(_) => {}
            }
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if raw.prefix.is_empty()
            || raw.prefix.len() > 100
            || !raw.prefix.chars().all(plain)
            || raw.prefix.starts_with("amq.")
        {
            let reason = "must be 1 to 100 letters, digits, points, - or _, and not begin with amq.";
            self.problem("amqp.prefix", format!("{reason}; found {}", shown(&raw.prefix)));
        }
        for (key, ms) in
            [("connect_timeout_ms", raw.connect_timeout_ms), ("confirm_timeout_ms", raw.confirm_timeout_ms)]
        {
            if !(500..=100_000).contains(&ms) {
                self.problem(
                    &format!("amqp.{key}"),
                    format!("must be 500 to 100000 (half a second to 100 s); found {ms}"),
                );
            }
        }
        for allowed in &raw.reply_to_allow {
            let stem = allowed.trim_end_matches('*');
            if stem.is_empty()
                || raw.prefix.starts_with(stem)
                || (!raw.prefix.is_empty() && stem.starts_with(&raw.prefix))
                || stem.contains('*')
            {
                let reason = format!(
                    "{allowed:?} must be a queue's name, or the beginning of one and a *, and not match our own queues ({}…)",
                    raw.prefix
                );
                self.problem("amqp.reply_to_allow", reason);
            }
        }
        let tls = self.amqp_tls(raw.tls.unwrap_or_default());
        Some(Amqp {
            url: url?,
            prefix: raw.prefix,
            declare: raw.declare,
            connect_timeout: Duration::from_millis(raw.connect_timeout_ms),
            confirm_timeout: Duration::from_millis(raw.confirm_timeout_ms),
            reply_to_allow: raw.reply_to_allow,
            tls,
        })
    }

    fn amqp_tls(&mut self, raw: RawAmqpTls) -> AmqpTls {
        let ca = raw.ca_file.and_then(|path| self.pem("amqp.tls.ca_file", &path, Pem::Certificate));
        let client = self.identity("amqp.tls", raw.cert_file.as_ref(), raw.key_file.as_ref());
        let options = client::Options { ca, identity: client, ..client::Options::default() };
        self.certificates("amqp.tls", &options);
        let client::Options { ca, identity: client, .. } = options;
        AmqpTls { ca: ca.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()), client }
    }

    pub fn problem(&mut self, key: &str, reason: impl Into<String>) {
        self.mistakes.tell(key, reason);
    }
}
