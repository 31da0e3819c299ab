//! One account's section: its profile found, its ids, keys and limits checked.

use super::{
    Account,
    files::Pem,
    form,
    mistakes::shown,
    names,
    raw::{self, RawAccount, RawRetry},
    reader::Reader,
};
use crate::{
    event::is_account_name,
    snap::{
        client,
        profile::{BUILT_IN, CommandField, Profile, SigningMode, UrlPath},
        request::{Ids, MerchantDefaults, Partner, Route},
    },
};
use secrecy::SecretString;
use std::{sync::Arc, time::Duration};

impl Reader<'_> {
    pub fn account(&mut self, name: String, raw: RawAccount, retry: &RawRetry) -> Option<Account> {
        let section = format!("accounts.{name}");
        let key = |key: &str| format!("{section}.{key}");
        self.account_name(&name);
        let profile = self.profile(&key("profile"), raw.profile.as_deref());
        let base_url = match &raw.base_url {
            Some(url) => self.base_url(&key("base_url"), url),
            None => {
                self.problem(&key("base_url"), "is missing: the provider's address, like https://api.example.co.id");
                None
            }
        };
        let token_base_url = raw.token_base_url.as_ref().and_then(|url| self.base_url(&key("token_base_url"), url));
        let ids = Ids {
            client_key: raw.client_key.as_ref().and_then(|text| self.text(&key("client_key"), text)),
            partner_id: raw.partner_id.clone(),
            channel_id: raw.channel_id.clone(),
            origin: raw.origin.clone(),
        };
        self.sendable(&section, &ids);
        let client_secret = raw.client_secret.as_ref().and_then(|source| self.secret(&key("client_secret"), source));
        let private_key = raw.private_key.as_ref().and_then(|source| self.private_key(&key("private_key"), source));
        self.limits(&section, &raw);
        let client = client::Options {
            connect_timeout: Duration::from_millis(raw.connect_timeout_ms),
            timeout: Duration::from_millis(raw.timeout_ms),
            min_tls: raw.min_tls,
            proxy: raw.proxy.as_ref().and_then(|text| self.proxy(&key("proxy"), text)),
            ca: raw.ca_file.as_ref().and_then(|path| self.pem(&key("ca_file"), path, Pem::Certificate)),
            identity: self.identity(&section, raw.cert_file.as_ref(), raw.key_file.as_ref()),
            send_traceparent: raw.send_traceparent,
        };
        self.certificates(&section, &client);
        let breaker = self.breaker(&section, &raw.breaker);
        let policy = self.policy(&section, retry, &raw.retry);
        let profile = profile?;
        let mut partner = Partner {
            mode: self.mode(&key("signing_mode"), &raw, &profile),
            // Whatever is missing was told; the rest is looked at all the same, so that every problem is told.
            base_url: base_url.unwrap_or_default(),
            token_base_url: token_base_url.unwrap_or_default(),
            cancel: self.cancel_route(&section, &raw, &profile),
            query: self.query_route(&section, &raw, &profile),
            ids: Ids {
                channel_id: ids.channel_id.or_else(|| profile.defaults.channel_id.clone()),
                origin: ids.origin.or_else(|| profile.defaults.origin.clone()),
                ..ids
            },
            merchant: self.merchant(&section, &raw, &profile),
            private_key,
            client_secret,
            profile,
        };
        self.token_host(&key("token_base_url"), &raw, &mut partner);
        self.lacking(&section, &raw, &partner);
        Some(Account {
            name,
            partner: Arc::new(partner),
            client,
            policy,
            max_in_flight: raw.max_in_flight,
            max_requests_per_second: raw.max_requests_per_second,
            state: raw.state,
            breaker,
            confirm_cancel: raw.confirm_cancel,
        })
    }

    /// What an account is called, its queue is, too.
    pub fn account_name(&mut self, name: &str) {
        if !is_account_name(name) {
            self.problem(&format!("accounts.{name}"), "an account's name is 1 to 48 lower-case letters, digits, - or _, begins with a letter or digit, and is not `unknown`");
        }
    }

    fn profile(&mut self, key: &str, name: Option<&str>) -> Option<Profile> {
        let built_in = BUILT_IN.map(|(name, _)| name);
        let Some(name) = name else {
            self.problem(key, format!("is missing: one of {}, or a file's path", built_in.join(", ")));
            return None;
        };
        let error = match Profile::find(name, self.base) {
            Ok(profile) => return Some(profile),
            Err(error) => error,
        };
        let text = error.line.and_then(|_| std::fs::read_to_string(self.base.join(name)).ok());
        let inside = text.map(|text| form::profile::mistakes(&text)).unwrap_or_default();
        for (line, reason) in &inside {
            self.problem(key, format!("{name}:{line}: {reason}"));
        }
        if !inside.is_empty() {
            return None;
        }
        let meant = names::nearest(name, built_in).filter(|_| !name.contains('/'));
        let hint = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
        self.problem(key, format!("{error}{hint}"));
        // A short name is soon like another; only what is surely meant says what else the account needs.
        let meant = meant.filter(|meant| meant.len() > 4 || meant.eq_ignore_ascii_case(name))?;
        Profile::find(meant, self.base).ok()
    }

    fn mode(&mut self, key: &str, raw: &RawAccount, profile: &Profile) -> SigningMode {
        let modes = &profile.signing.modes;
        match raw.signing_mode {
            Some(mode) if !modes.contains(&mode) => {
                let known: Vec<_> = modes.iter().map(|mode| mode.name()).collect();
                let reason = format!("{} does not sign so; it takes {}", profile.title, known.join(" or "));
                self.problem(key, reason);
                modes[0]
            }
            mode => mode.unwrap_or(modes[0]),
        }
    }

    fn token_host(&mut self, key: &str, raw: &RawAccount, partner: &mut Partner) {
        if raw.token_base_url.is_some() {
            return;
        }
        let own_host = partner.profile.token.as_ref().is_some_and(|token| token.own_host);
        if partner.needs_token() && own_host && !self.mode_is_unread(key) {
            let reason = format!("is missing: {} gives tokens on another host than base_url", partner.profile.title);
            self.problem(key, reason);
        }
        partner.token_base_url = partner.base_url.clone();
    }

    fn mode_is_unread(&self, key: &str) -> bool {
        key.rsplit_once('.').is_some_and(|(section, _)| self.mistakes.is_unread(&format!("{section}.signing_mode")))
    }

    fn cancel_route(&mut self, section: &str, raw: &RawAccount, profile: &Profile) -> Route {
        let route = self.route(
            section,
            [("cancel_path", &raw.cancel_path), ("cancel_signed_path", &raw.cancel_signed_path)],
            [&profile.cancel.path, &profile.cancel.signed_path],
        );
        if route.is_none() && raw.cancel_path.is_none() {
            let reason = format!("is missing: {} does not publish the path of its cancel; ask for it", profile.title);
            self.problem(&format!("{section}.cancel_path"), reason);
        }
        route.unwrap_or_else(|| Route { path: String::new(), signed_path: String::new() })
    }

    fn query_route(&mut self, section: &str, raw: &RawAccount, profile: &Profile) -> Option<Route> {
        let own = [("query_path", &raw.query_path), ("query_signed_path", &raw.query_signed_path)];
        let Some(call) = &profile.query else {
            for (key, _) in own.iter().filter(|(_, path)| path.is_some()) {
                let reason = "the profile says nothing of a query; add a [query] section to it";
                self.problem(&format!("{section}.{key}"), reason);
            }
            return None;
        };
        let route = self.route(section, own, [&call.path, &call.signed_path]);
        if route.is_none() && raw.query_path.is_none() && raw.query_signed_path.is_some() {
            let reason = "needs query_path beside it: where the query is sent to";
            self.problem(&format!("{section}.query_signed_path"), reason);
        }
        route
    }

    /// What stands in for fields that a command leaves out must fit into them.
    fn merchant(&mut self, section: &str, raw: &RawAccount, profile: &Profile) -> MerchantDefaults {
        for (key, value, field) in [
            ("merchant_id", &raw.merchant_id, CommandField::MerchantId),
            ("sub_merchant_id", &raw.sub_merchant_id, CommandField::SubMerchantId),
            ("external_store_id", &raw.external_store_id, CommandField::ExternalStoreId),
        ] {
            let Some(value) = value else { continue };
            let length = value.chars().count();
            let reason = match profile.cancel_field(field) {
                None => format!("{}'s cancel has no such field; remove it", profile.title),
                Some(_) if length == 0 => "is empty; give it a value, or remove it".into(),
                Some(field) if length > field.max => {
                    format!("{} takes at most {} characters; found {length}", profile.title, field.max)
                }
                Some(_) => continue,
            };
            self.problem(&format!("{section}.{key}"), reason);
        }
        MerchantDefaults {
            merchant_id: raw.merchant_id.clone(),
            sub_merchant_id: raw.sub_merchant_id.clone(),
            external_store_id: raw.external_store_id.clone(),
        }
    }

    /// Ids go into headers, which cannot hold everything.
    fn sendable(&mut self, section: &str, ids: &Ids) {
        for (key, id) in [
            ("partner_id", &ids.partner_id),
            ("client_key", &ids.client_key),
            ("channel_id", &ids.channel_id),
            ("origin", &ids.origin),
        ] {
            let Some(id) = id else { continue };
            let reason = if id.is_empty() {
                "is empty; give it a value, or remove it"
            } else if id.trim() != id {
                "has a space or a line break at its beginning or end, which a header cannot hold"
            } else if !id.chars().all(|c| (' '..='~').contains(&c)) {
                "is sent in a header, which holds letters, digits and signs of ASCII only, on one line"
            } else {
                continue;
            };
            self.problem(&format!("{section}.{key}"), reason);
        }
    }

    /// What the profile asks of an account, and is not there.
    fn lacking(&mut self, section: &str, raw: &RawAccount, partner: &Partner) {
        let given = [
            ("client_key", raw.client_key.is_some()),
            ("client_secret", raw.client_secret.is_some()),
            ("private_key", raw.private_key.is_some()),
        ];
        for (lacking, reason) in partner.lacks() {
            let key = format!("{section}.{lacking}");
            let is_there = given.contains(&(lacking, true));
            // With a signing_mode that could not be read, nobody knows which of both is needed.
            let depends = lacking == "client_secret" || lacking == "client_key";
            let unsure = depends && self.mode_is_unread(&key);
            if !is_there && !unsure && !self.mistakes.is_told(&key) {
                self.problem(&key, format!("is missing: {reason}"));
            }
        }
        let query_is_unread = self.mistakes.is_told(&format!("{section}.query_path"));
        if raw.confirm_cancel && partner.query.is_none() && !query_is_unread {
            self.problem(&format!("{section}.confirm_cancel"), "needs a query, and there is no query_path");
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

    fn base_url(&mut self, key: &str, url: &str) -> Option<String> {
        let plain = url.trim_end_matches('/');
        let uri = plain.parse::<axum::http::Uri>().ok().filter(|uri| uri.host().is_some() && uri.query().is_none());
        let Some(uri) = uri else {
            self.problem(key, format!("must be an address like https://api.example.co.id; found {}", shown(url)));
            return None;
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            self.problem(key, "must not hold a user or password");
            return None;
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match uri.scheme_str() {
            None => {
                self.problem(key, format!("{url:?} does not begin with https://"));
                None
            }
            Some("https") => Some(plain.to_owned()),
            Some("http") if loopback => Some(plain.to_owned()),
            _ => {
                self.problem(key, format!("{url:?} must be https: plain HTTP is only for a sandbox on this machine"));
                None
            }
        }
    }

    /// A call's paths: the account's own, else the profile's; what is signed is what is requested, unless one says otherwise.
    fn route(
        &mut self,
        section: &str,
        own: [(&str, &Option<String>); 2],
        profile: [&Option<UrlPath>; 2],
    ) -> Option<Route> {
        let mut path_of = |(key, path): (&str, &Option<String>)| match UrlPath::try_from(path.clone()?) {
            Ok(path) => Some(path.as_str().to_owned()),
            Err(reason) => {
                self.problem(&format!("{section}.{key}"), reason);
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
}
