//! From the settings file as it stands to settings that were checked: profiles found, secrets and keys loaded, every problem
//! noted on the way.

use super::{
    Account, Amqp, AmqpTls, Log, Problem, ResultsLog, Settings,
    raw::{self, Raw, RawAccount, RawAmqp, RawBreaker, RawRetry},
};
use crate::{
    breaker,
    event::is_account_name,
    retry::{LONGEST, Policy, SHORTEST},
    snap::{
        client,
        key::PrivateKey,
        profile::{Profile, UrlPath},
        request::{Ids, MerchantDefaults, Partner, Route},
    },
};
use lapin::uri::{AMQPScheme, AMQPUri};
use secrecy::{ExposeSecret, SecretString};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Turns raw settings into checked ones, noting every problem on the way.
pub struct Reader<'a> {
    pub text: &'a str,
    pub environment: &'a BTreeMap<String, String>,
    pub base: &'a Path,
    pub problems: Vec<Problem>,
}

impl Reader<'_> {
    pub fn settings(&mut self, raw: Raw) -> Option<Settings> {
        let amqp = self.amqp(raw.amqp);
        let accounts = self.accounts(raw.accounts, &raw.retry);
        let listen = raw.http.listen.parse::<SocketAddr>();
        if listen.is_err() {
            self.problem("http.listen", "must be an address and a port, like 127.0.0.1:9464");
        }
        let results_log = raw.results_log.enabled.then(|| ResultsLog {
            max_age: Duration::from_secs(raw.results_log.max_age_h.saturating_mul(3600)),
            max_bytes: raw.results_log.max_bytes,
        });
        Some(Settings {
            amqp: amqp?,
            results_log,
            log: Log { format: raw.log.format, level: raw.log.level },
            listen: listen.ok()?,
            grace: Duration::from_millis(raw.worker.grace_ms),
            accounts,
            apart_from_states: String::new(),
        })
    }

    pub fn accounts(&mut self, raw: BTreeMap<String, RawAccount>, retry: &RawRetry) -> Vec<Arc<Account>> {
        let accounts: Vec<_> =
            raw.into_iter().filter_map(|(name, account)| self.account(name, account, retry)).map(Arc::new).collect();
        if accounts.is_empty() && self.problems.is_empty() {
            self.problem("accounts", "there is no account: add a section [accounts.NAME]");
        }
        accounts
    }

    pub fn amqp(&mut self, raw: RawAmqp) -> Option<Amqp> {
        let url = self.secret("amqp.url", &raw.url);
        if let Some(url) = &url {
            match url.expose_secret().parse::<AMQPUri>() {
                // The reason would show the address, and with it the password.
                Err(_) => {
                    self.problem("amqp.url", "is no AMQP address; it looks like amqps://user:password@host:5671/vhost")
                }
                Ok(uri) if uri.scheme == AMQPScheme::AMQP && raw.tls.is_some() => {
                    self.problem("amqp.tls", "the address is amqp://, which has no TLS; make it amqps://");
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
            self.problem("amqp.prefix", "must be 1 to 100 letters, digits, points, - or _, and not begin with amq.");
        }
        for (key, ms) in
            [("connect_timeout_ms", raw.connect_timeout_ms), ("confirm_timeout_ms", raw.confirm_timeout_ms)]
        {
            if !(500..=100_000).contains(&ms) {
                self.problem(&format!("amqp.{key}"), "must be 500 to 100000 (half a second to 100 s)");
            }
        }
        for allowed in &raw.reply_to_allow {
            let stem = allowed.trim_end_matches('*');
            if stem.is_empty() || raw.prefix.starts_with(stem) || stem.starts_with(&raw.prefix) || stem.contains('*') {
                let reason = format!(
                    "{allowed:?} must be a queue's name, or the beginning of one and a *, and not match our own queues ({}…)",
                    raw.prefix
                );
                self.problem("amqp.reply_to_allow", reason);
            }
        }
        let tls = raw.tls.unwrap_or_default();
        let ca = tls
            .ca_file
            .and_then(|path| self.file("amqp.tls.ca_file", &path))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let client = self.identity("amqp.tls", tls.cert_file.as_ref(), tls.key_file.as_ref());
        Some(Amqp {
            url: url?,
            prefix: raw.prefix,
            declare: raw.declare,
            connect_timeout: Duration::from_millis(raw.connect_timeout_ms),
            confirm_timeout: Duration::from_millis(raw.confirm_timeout_ms),
            reply_to_allow: raw.reply_to_allow,
            tls: AmqpTls { ca, client },
        })
    }

    fn account(&mut self, name: String, raw: RawAccount, retry: &RawRetry) -> Option<Account> {
        let before = self.problems.len();
        let section = format!("accounts.{name}");
        let key = |key: &str| format!("{section}.{key}");
        if !is_account_name(&name) {
            self.problem(&section, "an account's name is 1 to 48 lower-case letters, digits, - or _, begins with a letter or digit, and is not `unknown`");
        }
        let base_url = self.base_url(&key("base_url"), &raw.base_url);
        let profile = match Profile::find(&raw.profile, self.base) {
            Ok(profile) => profile,
            Err(error) => {
                self.problem(&key("profile"), error.to_string());
                return None;
            }
        };
        let mode = raw.signing_mode.unwrap_or(profile.signing.modes[0]);
        if !profile.signing.modes.contains(&mode) {
            let known: Vec<_> = profile.signing.modes.iter().map(|mode| mode.name()).collect();
            self.problem(
                &key("signing_mode"),
                format!("{} does not sign so; it takes {}", profile.title, known.join(" or ")),
            );
        }
        let uses_token = profile.needs_token(mode);
        let own_host = uses_token && profile.token.as_ref().is_some_and(|token| token.own_host);
        let token_base_url = match &raw.token_base_url {
            Some(url) => self.base_url(&key("token_base_url"), url),
            None if own_host => {
                self.problem(
                    &key("token_base_url"),
                    format!("{} gives tokens on another host than base_url; name it", profile.title),
                );
                None
            }
            None => base_url.clone(),
        };
        let cancel = self.route(
            &key("cancel_path"),
            [&raw.cancel_path, &raw.cancel_signed_path],
            [&profile.cancel.path, &profile.cancel.signed_path],
        );
        if cancel.is_none() {
            let reason = format!(
                "{} does not publish the path of its cancel: set cancel_path to the one that it gave you",
                profile.title
            );
            self.problem(&key("cancel_path"), reason);
        }
        let query = match &profile.query {
            Some(call) => self.route(
                &key("query_path"),
                [&raw.query_path, &raw.query_signed_path],
                [&call.path, &call.signed_path],
            ),
            None => None,
        };
        if profile.query.is_none() && raw.query_path.is_some() {
            self.problem(&key("query_path"), "the profile says nothing of a query; add a [query] section to it");
        }
        let client_key = raw.client_key.as_ref().and_then(|text| self.text(&key("client_key"), text));
        let client_secret = raw.client_secret.as_ref().and_then(|source| self.secret(&key("client_secret"), source));
        let private_key = raw.private_key.as_ref().and_then(|source| self.private_key(&key("private_key"), source));
        let key_is_wrong = raw.private_key.is_some() && private_key.is_none();
        if raw.max_in_flight == 0 {
            self.problem(&key("max_in_flight"), "must be at least 1");
        }
        if raw.connect_timeout_ms == 0 || raw.timeout_ms <= raw.connect_timeout_ms {
            self.problem(
                &key("timeout_ms"),
                "must be longer than connect_timeout_ms, or a slow connection could not be told from a lost request",
            );
        }
        if raw.timeout_ms > 60_000 {
            self.problem(
                &key("timeout_ms"),
                "must be at most 60000: an attempt is several calls, and no delivery may be held for more than five minutes",
            );
        }
        if raw.max_requests_per_second.is_some_and(|rate| !(0.01..=100_000.0).contains(&rate)) {
            self.problem(&key("max_requests_per_second"), "must be 0.01 to 100000; leave it out for no limit");
        }
        let breaker = self.breaker(&section, &raw.breaker);
        let proxy = raw.proxy.as_ref().and_then(|text| self.proxy(&key("proxy"), text));
        let ca = raw.ca_file.as_ref().and_then(|path| self.file(&key("ca_file"), path));
        let identity = self.identity(&section, raw.cert_file.as_ref(), raw.key_file.as_ref());
        let policy = self.policy(&section, retry, &raw.retry);
        let partner = Partner {
            mode,
            // Whatever is missing was noted above; the rest is looked at all the same, so that every problem is told.
            base_url: base_url.unwrap_or_default(),
            token_base_url: token_base_url.unwrap_or_default(),
            cancel: cancel.unwrap_or_else(|| Route { path: String::new(), signed_path: String::new() }),
            query,
            ids: Ids {
                partner_id: raw.partner_id,
                client_key,
                channel_id: raw.channel_id.or_else(|| profile.defaults.channel_id.clone()),
                origin: raw.origin.or_else(|| profile.defaults.origin.clone()),
            },
            merchant: MerchantDefaults {
                merchant_id: raw.merchant_id,
                sub_merchant_id: raw.sub_merchant_id,
                external_store_id: raw.external_store_id,
            },
            private_key,
            client_secret,
            profile,
        };
        for (lacking, reason) in partner.lacks() {
            let told = self.problems.iter().any(|problem| problem.key == key(lacking));
            let is_there = lacking == "private_key" && key_is_wrong;
            if !told && !is_there {
                self.problem(&key(lacking), format!("is missing: {reason}"));
            }
        }
        if raw.confirm_cancel && partner.query.is_none() {
            self.problem(&key("confirm_cancel"), "needs a query, and there is no query_path");
        }
        let client = client::Options {
            connect_timeout: Duration::from_millis(raw.connect_timeout_ms),
            timeout: Duration::from_millis(raw.timeout_ms),
            min_tls: raw.min_tls,
            proxy,
            ca,
            identity,
        };
        let account = Account {
            name,
            partner: Arc::new(partner),
            client,
            policy,
            max_in_flight: raw.max_in_flight,
            max_requests_per_second: raw.max_requests_per_second,
            state: raw.state,
            breaker,
            confirm_cancel: raw.confirm_cancel,
        };
        (self.problems.len() == before).then_some(account)
    }

    fn breaker(&mut self, section: &str, raw: &RawBreaker) -> breaker::Rules {
        let mut check = |key: &str, good: bool, reason: &str| {
            if !good {
                self.problem(&format!("{section}.breaker.{key}"), reason);
            }
        };
        check("calls", (1..=1000).contains(&raw.calls), "must be 1 to 1000: how many of the last calls are looked at");
        check(
            "failure_percent",
            (1..=100).contains(&raw.failure_percent),
            "must be 1 to 100: the share of them that failed",
        );
        check("initial_ms", (100..=3_600_000).contains(&raw.initial_ms), "must be 100 to 3600000");
        check("max_ms", (raw.initial_ms..=3_600_000).contains(&raw.max_ms), "must be initial_ms to 3600000 (an hour)");
        breaker::Rules {
            calls: raw.calls,
            failure_percent: raw.failure_percent,
            initial: Duration::from_millis(raw.initial_ms),
            max: Duration::from_millis(raw.max_ms),
        }
    }

    fn proxy(&mut self, key: &str, text: &raw::Text) -> Option<SecretString> {
        let url = self.text(key, text)?;
        let uri = url.parse::<axum::http::Uri>().ok().filter(|uri| uri.host().is_some());
        let Some(uri) = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https"))) else {
            self.problem(key, "is no address like http://proxy.example.co.id:3128");
            return None;
        };
        let has_password = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if has_password && matches!(text, raw::Text::Plain(_)) {
            self.problem(
                key,
                "holds a password, which does not stand in the settings: give { file = \"…\" } or { env = \"…\" }",
            );
            return None;
        }
        Some(url.into())
    }

    /// A certificate chain and its key, in PEM.
    fn identity(
        &mut self,
        section: &str,
        cert: Option<&PathBuf>,
        key: Option<&PathBuf>,
    ) -> Option<(Vec<u8>, SecretString)> {
        match (cert, key) {
            (Some(cert), Some(key)) => {
                let cert = self.file(&format!("{section}.cert_file"), cert);
                let key = self.file(&format!("{section}.key_file"), key);
                cert.zip(key.map(|key| String::from_utf8_lossy(&key).into_owned().into()))
            }
            (None, None) => None,
            _ => {
                self.problem(section, "cert_file and key_file belong together: give both, or neither");
                None
            }
        }
    }

    fn policy(&mut self, section: &str, general: &RawRetry, own: &RawRetry) -> Policy {
        let usual = Policy::default();
        let ms = |own: Option<u64>, general: Option<u64>, usual: Duration| {
            own.or(general).map_or(usual, Duration::from_millis)
        };
        let s = |own: Option<u64>, general: Option<u64>, usual: Duration| {
            own.or(general).map_or(usual, Duration::from_secs)
        };
        let policy = Policy {
            initial: ms(own.initial_ms, general.initial_ms, usual.initial),
            max: ms(own.max_ms, general.max_ms, usual.max),
            max_attempts: own.max_attempts.or(general.max_attempts).unwrap_or(usual.max_attempts),
            max_elapsed: s(own.max_elapsed_s, general.max_elapsed_s, usual.max_elapsed),
            pending: ms(own.pending_ms, general.pending_ms, usual.pending),
            cut_off_initial: ms(own.cut_off_initial_ms, general.cut_off_initial_ms, usual.cut_off_initial),
            cut_off_max_elapsed: s(own.cut_off_max_elapsed_s, general.cut_off_max_elapsed_s, usual.cut_off_max_elapsed),
        };
        // The keys of [retry] hold for every account; a mistake there is told once.
        let mut blame = |key: &str, own: bool, reason: String| {
            let key = if own { format!("{section}.retry.{key}") } else { format!("retry.{key}") };
            if !self.problems.iter().any(|problem| problem.key == key) {
                self.problem(&key, reason);
            }
        };
        for (key, is_own, delay) in [
            ("initial_ms", own.initial_ms.is_some(), policy.initial),
            ("max_ms", own.max_ms.is_some(), policy.max),
            ("pending_ms", own.pending_ms.is_some(), policy.pending),
            ("cut_off_initial_ms", own.cut_off_initial_ms.is_some(), policy.cut_off_initial),
        ] {
            if !(SHORTEST..=LONGEST).contains(&delay) {
                blame(
                    key,
                    is_own,
                    format!(
                        "must be {} to {} (a quarter of a second to an hour)",
                        SHORTEST.as_millis(),
                        LONGEST.as_millis()
                    ),
                );
            }
        }
        if policy.initial > policy.max {
            blame("max_ms", own.max_ms.is_some(), "must not be shorter than initial_ms".into());
        }
        if policy.max_attempts == 0 {
            blame("max_attempts", own.max_attempts.is_some(), "must be at least 1".into());
        }
        policy
    }

    fn base_url(&mut self, key: &str, url: &str) -> Option<String> {
        let plain = url.trim_end_matches('/');
        let uri = plain.parse::<axum::http::Uri>().ok().filter(|uri| uri.host().is_some() && uri.query().is_none());
        let Some(uri) = uri else {
            self.problem(key, format!("{url:?} is no address like https://api.example.co.id"));
            return None;
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            self.problem(key, "must not hold a user or password");
            return None;
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match uri.scheme_str() {
            Some("https") => Some(plain.to_owned()),
            Some("http") if loopback => Some(plain.to_owned()),
            _ => {
                self.problem(key, format!("{url:?} must be https: plain HTTP is only for a sandbox on this machine"));
                None
            }
        }
    }

    /// A call's paths: the account's own, else the profile's; what is signed is what is requested, unless one says otherwise.
    fn route(&mut self, key: &str, own: [&Option<String>; 2], profile: [&Option<UrlPath>; 2]) -> Option<Route> {
        let mut path_of = |own: &Option<String>| match UrlPath::try_from(own.clone()?) {
            Ok(path) => Some(path.as_str().to_owned()),
            Err(reason) => {
                self.problem(key, reason);
                None
            }
        };
        let of_profile = |path: &Option<UrlPath>| path.as_ref().map(|path| path.as_str().to_owned());
        let (own_path, own_signed) = (path_of(own[0]), path_of(own[1]));
        let path = own_path.clone().or_else(|| of_profile(profile[0]))?;
        let signed_path = own_signed
            .or_else(|| if own_path.is_some() { None } else { of_profile(profile[1]) })
            .unwrap_or_else(|| path.clone());
        Some(Route { path, signed_path })
    }

    fn private_key(&mut self, key: &str, source: &raw::SecretSource) -> Option<PrivateKey> {
        let bytes = self.bytes(key, source)?;
        PrivateKey::read(&bytes).map_err(|error| self.problem(key, format!("{}: {error}", source.name()))).ok()
    }

    fn text(&mut self, key: &str, text: &raw::Text) -> Option<String> {
        match text {
            raw::Text::Plain(text) => Some(text.clone()),
            raw::Text::From(source) => self.secret(key, source).map(|secret| secret.expose_secret().to_owned()),
        }
    }

    fn secret(&mut self, key: &str, source: &raw::SecretSource) -> Option<SecretString> {
        let bytes = self.bytes(key, source)?;
        // An editor ends a file with a new line, which is no part of a secret.
        let text = String::from_utf8(bytes).ok().map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
        match text {
            Some(text) if !text.is_empty() => Some(text.into()),
            Some(_) => {
                self.problem(key, format!("{} is empty", source.name()));
                None
            }
            None => {
                self.problem(key, format!("{} is not a text in UTF-8", source.name()));
                None
            }
        }
    }

    fn bytes(&mut self, key: &str, source: &raw::SecretSource) -> Option<Vec<u8>> {
        match source {
            raw::SecretSource::Env(name) => match self.environment.get(name) {
                Some(value) => Some(value.clone().into_bytes()),
                None => {
                    self.problem(key, format!("the environment variable {name} is not set"));
                    None
                }
            },
            raw::SecretSource::File(path) => self.file(key, path),
        }
    }

    fn file(&mut self, key: &str, path: &PathBuf) -> Option<Vec<u8>> {
        let path = self.base.join(path);
        std::fs::read(&path)
            .map_err(|e| self.problem(key, format!("the file {} cannot be read: {e}", path.display())))
            .ok()
    }

    fn problem(&mut self, key: &str, reason: impl Into<String>) {
        self.problems.push(Problem { key: key.to_owned(), line: raw::line_of(self.text, key), reason: reason.into() });
    }
}
