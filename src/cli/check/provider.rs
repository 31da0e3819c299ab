//! Does an account's provider let us in? TLS, clock, token and keys, without anything that could change a transaction.

use super::{Finding, Grade};
use crate::{
    account::RealWorld,
    command::{CancelCommand, Hints, Terms},
    pipeline::World,
    settings::Account,
    snap::{
        Operation, Reply, SendError,
        client::{Client, MinTls, Options},
        profile::{CommandField, SigningMode, Source},
        request::Partner,
        response::Answer,
        token::{NoToken, Tokens},
    },
    verdict::{self, Asked, Verdict},
};
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use serde_json::{Map, Value, json};

/// More than this is worth telling: signatures carry the time.
const SKEW: TimeDelta = TimeDelta::seconds(5);

/// One account's findings, in the order in which they explain each other.
pub async fn findings(account: &Account) -> Vec<Finding> {
    let mut check = Check { account, findings: Vec::new(), skew: None };
    let reached = check.reach().await;
    let elsewhere = account.partner.token_base_url != account.partner.base_url;
    let mut token = None;
    if account.partner.needs_token() && (reached || elsewhere) {
        token = check.token().await;
    }
    check.keys(reached, token).await;
    check.findings
}

struct Check<'a> {
    account: &'a Account,
    findings: Vec<Finding>,
    /// How far the provider's clock is ahead of ours, once it has told.
    skew: Option<TimeDelta>,
}

impl Check<'_> {
    fn partner(&self) -> &Partner {
        &self.account.partner
    }

    fn add(&mut self, grade: Grade, text: impl Into<String>) {
        self.findings.push(Finding::new(grade, &self.account.name, text));
    }

    /// TCP, TLS and the clock. Whether anything more can be tried.
    async fn reach(&mut self) -> bool {
        let url = self.partner().base_url.clone();
        let https = url.starts_with("https:");
        let with = async |min_tls| match Client::new(&Options { min_tls, ..self.account.client.clone() }) {
            Ok(client) => client.look(&format!("{url}/")).await,
            Err(why) => Err(SendError::NotSent(why)),
        };
        let mut tls = if https { "TLS 1.3" } else { "plain HTTP" };
        let mut begun = RealWorld.now();
        let mut looked = with(MinTls::V1_3).await;
        if https && matches!(looked, Err(SendError::NotSent(_))) {
            begun = RealWorld.now();
            let older = with(MinTls::V1_2).await;
            if !matches!(older, Err(SendError::NotSent(_))) {
                (looked, tls) = (older, "TLS 1.2");
            }
        }
        match looked {
            Err(SendError::NotSent(why)) => {
                self.add(Grade::Unreached, format!("{url} cannot be reached: {why}"));
                return false;
            }
            Ok(reply) => {
                self.add(Grade::Good, format!("{url} is there ({tls})"));
                self.clock(&reply, begun);
            }
            Err(other) => {
                let text = format!("{url} is there ({tls}), but leaves a HEAD request without an answer: {other}");
                self.add(Grade::Unknown, text);
            }
        }
        if tls == "TLS 1.2" && self.account.client.min_tls == MinTls::V1_3 {
            let text = "it speaks only TLS 1.2, and this account wants 1.3 (as the standard does since July 2026): ask the bank, \
                        or set min_tls = \"1.2\"";
            self.add(Grade::Wrong, text);
            return false;
        }
        true
    }

    /// Compares the clocks, once: the reply was made at some time since the call began.
    fn clock(&mut self, reply: &Reply, begun: DateTime<Utc>) {
        let Some(date) = reply.date.filter(|_| self.skew.is_none()) else { return };
        self.skew = Some(date - date.clamp(begun, RealWorld.now().max(begun)));
        match self.skewed() {
            Some(off) => {
                self.add(Grade::Wrong, format!("{off}: signatures carry the time; set this machine's clock by NTP"))
            }
            None => self.add(Grade::Good, "this machine's clock agrees with the provider's"),
        }
    }

    /// How the clock is off, if it is.
    fn skewed(&self) -> Option<String> {
        let skew = self.skew.filter(|skew| skew.abs() > SKEW)?;
        let direction = if skew > TimeDelta::zero() { "behind" } else { "ahead of" };
        Some(format!("this machine's clock is {} s {direction} the provider's", skew.abs().num_seconds()))
    }

    async fn token(&mut self) -> Option<SecretString> {
        let client = match Client::new(&self.account.client) {
            Ok(client) => client,
            Err(why) => {
                self.add(Grade::Wrong, why);
                return None;
            }
        };
        match Tokens::default().get(self.partner(), &client, || async { RealWorld.now() }).await {
            Ok(fetched) => {
                self.add(Grade::Good, "the token call gives a token");
                Some(fetched.token)
            }
            Err(NoToken { error: SendError::TokenRefused(said), .. }) => {
                let text = format!("the token call is refused: {said}. {}", self.advice(Operation::Token));
                self.add(Grade::Wrong, text);
                None
            }
            Err(NoToken { error, call, .. }) => {
                let answered = call.is_some_and(|call| call.http_status.is_some());
                let url = &self.partner().token_base_url;
                let text = match answered {
                    true => format!(
                        "the token call at {url} gives no token: {error}; are token_base_url and the path right?"
                    ),
                    false => format!("the token call at {url} fails: {error}"),
                };
                self.add(if answered { Grade::Wrong } else { Grade::Unreached }, text);
                None
            }
        }
    }

    /// Tries the keys with a query of a transaction that does not exist.
    async fn keys(&mut self, reached: bool, token: Option<SecretString>) {
        if self.partner().query.is_none() {
            let text = "whether its keys are accepted cannot be told: there is no query, and nothing else is harmless";
            return self.add(Grade::Unknown, text);
        }
        if !reached || (self.partner().needs_token() && token.is_none()) {
            return self.add(Grade::Unknown, "whether its keys are accepted could not be tried");
        }
        let (Some(command), Ok(client)) = (made_up(self.partner()), Client::new(&self.account.client)) else {
            return self.add(Grade::Unknown, "whether its keys are accepted cannot be told: no query could be made up");
        };
        let (operation, partner) = (Operation::Query, self.partner());
        let body = partner.body(operation, &command);
        let external_id = partner.external_id(operation, b"", true, RealWorld.random());
        let begun = RealWorld.now();
        let request = partner.transaction(operation, body, &external_id, token.as_ref(), begun);
        let reply = client.send(request).await;
        if let Ok(reply) = &reply {
            self.clock(reply, begun);
        }
        let (grade, mut text) = judged(&reply, self.partner());
        if grade == Grade::Wrong && is_refusal(&reply) {
            text = format!("{text}. {}", self.advice(operation));
        }
        self.add(grade, text);
    }

    /// What to look at when a signature is refused, the likeliest first.
    fn advice(&self, operation: Operation) -> String {
        let (name, partner) = (&self.account.name, self.partner());
        let token = operation == Operation::Token;
        let mut look = Vec::new();
        look.extend(self.skewed());
        if (token || partner.mode == SigningMode::Asymmetric)
            && let Some(key) = &partner.private_key
        {
            look.push(format!("whether the provider has this public key of ours, SHA-256 {}", key.fingerprint()));
        } else {
            look.push("client_secret".into());
        }
        if token {
            look.push("client_key".into());
        } else {
            let path = partner.query.as_ref().map(|route| route.signed_path.as_str()).unwrap_or_default();
            look.push(format!("the path that is signed, {path}"));
            look.push("partner_id".into());
            look.push(format!("the signing mode, {}", partner.mode.name()));
        }
        look.push(format!("what is signed: `sign --account {name} --operation {}`", operation.name()));
        format!("Look at, in this order: {}", look.join("; "))
    }
}

/// A command about nothing, of which a query can be made.
fn made_up(partner: &Partner) -> Option<CancelCommand> {
    let mut command = Map::new();
    let reference = format!("CHECK{:015}", fastrand::u64(..1_000_000_000_000_000));
    for field in &partner.profile.cancel.fields {
        let Source::Command(from) = field.source else { continue };
        let text = |text: &str| json!(text.chars().take(field.max).collect::<String>());
        let value: Value = match from {
            CommandField::OriginalReferenceNo | CommandField::OriginalPartnerReferenceNo => text(&reference),
            _ if !field.required => continue,
            CommandField::MerchantId | CommandField::SubMerchantId | CommandField::ExternalStoreId
                if partner.merchant.get(from).is_some() =>
            {
                continue;
            }
            CommandField::Amount => json!({ "value": "1.00", "currency": "IDR" }),
            CommandField::AdditionalInfo => json!({}),
            CommandField::Reason => text("check"),
            _ => text("0"),
        };
        command.insert(from.name().into(), value);
    }
    let bytes = Value::Object(command).to_string();
    let hints = Hints { message_id: Some("check"), ..Hints::default() };
    let terms = Terms { profile: &partner.profile, defaults: &partner.merchant };
    CancelCommand::read(bytes.as_bytes(), hints, terms).ok()
}

/// What the answer to such a query says of our keys.
fn judged(reply: &Result<Reply, SendError>, partner: &Partner) -> (Grade, String) {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => return (Grade::Unreached, format!("a query, to try the keys, fails: {error}")),
    };
    let answer = Answer::read(&reply.body).unwrap_or_default();
    let said = match (&answer.code, &answer.message) {
        (Some(code), Some(message)) => format!("{code} {message}"),
        (Some(code), None) => code.to_string(),
        _ => format!("HTTP {}", reply.http_status),
    };
    let own = answer.code.filter(|code| code.service() == Operation::Query.service());
    let status = own.map_or(reply.http_status, |code| code.http_status());
    let verdict = partner.profile.query.as_ref().map(|call| {
        let returned = Ok((reply, Some(&answer)));
        verdict::of_query(returned, Asked::default(), call)
    });
    // The merchant of a command about nothing is made up where the account names none.
    let of_ours = |merchant: bool| !merchant || partner.merchant.get(CommandField::MerchantId).is_some();
    match (status, own) {
        (401, _) => (Grade::Wrong, format!("a query, to try the keys, is refused: {said}")),
        (429 | 500.., _) => (Grade::Unknown, format!("whether its keys are accepted cannot be told: {said}")),
        (_, Some(code)) if code.http_status() != reply.http_status => (
            Grade::Wrong,
            format!(
                "a query is answered by HTTP {} with the code {said}: where the two differ nothing is believed, and so nothing settled",
                reply.http_status
            ),
        ),
        (_, Some(_)) if matches!(verdict, Some(Verdict::Misconfigured { merchant }) if of_ours(merchant)) => {
            (Grade::Wrong, format!("a query, to try the keys, is refused for an id or a right of ours: {said}"))
        }
        (_, Some(_)) => (Grade::Good, format!("its keys are accepted (to a query of nothing it says {said})")),
        (_, None) => (
            Grade::Wrong,
            format!("a query, to try the keys, has an answer that is none ({said}): is query_path right?"),
        ),
    }
}

fn is_refusal(reply: &Result<Reply, SendError>) -> bool {
    reply.as_ref().is_ok_and(|reply| {
        let code = Answer::read(&reply.body).and_then(|answer| answer.code);
        reply.http_status == 401 || code.is_some_and(|code| code.http_status() == 401)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snap::profile::{BUILT_IN, Profile};

    fn partner(name: &str, text: &str) -> Partner {
        Partner {
            profile: Profile::read(name, text).unwrap(),
            mode: SigningMode::Asymmetric,
            base_url: String::new(),
            token_base_url: String::new(),
            cancel: crate::snap::request::Route { path: "/".into(), signed_path: "/".into() },
            query: None,
            ids: Default::default(),
            merchant: Default::default(),
            private_key: None,
            client_secret: None,
        }
    }

    fn grade(http_status: u16, body: &str) -> Grade {
        let (name, text) = BUILT_IN[0];
        judged(&Ok(Reply { http_status, body: body.into(), retry_after: None, date: None }), &partner(name, text)).0
    }

    fn code(code: &str) -> String {
        json!({ "responseCode": code, "responseMessage": "…" }).to_string()
    }

    #[test]
    fn an_answer_of_the_query_says_that_the_keys_are_accepted() {
        for (status, said) in [(404, "4045101"), (200, "2005100"), (400, "4005102"), (409, "4095100"), (404, "4045108")]
        {
            assert_eq!(grade(status, &code(said)), Grade::Good, "{said}");
        }
        for (status, said) in [
            (401, "4015100"),
            (401, "4015101"),
            (401, "4017300"),
            (401, "?"),
            (200, "4015100"),
            // A right, a partner of ours; and what the worker does not believe.
            (403, "4035101"),
            (404, "4045116"),
            (200, "4045101"),
        ] {
            assert_eq!(grade(status, &code(said)), Grade::Wrong, "{said}");
        }
        for (status, said) in [(500, "5005100"), (504, "5045100"), (429, "4295100"), (502, "?")] {
            assert_eq!(grade(status, &code(said)), Grade::Unknown, "{said}");
        }
        assert_eq!(grade(404, "<html>not found</html>"), Grade::Wrong);
        assert_eq!(grade(401, "<html>who are you?</html>"), Grade::Wrong);
        assert_eq!(grade(200, &code("2007700")), Grade::Wrong);
        let timed_out = Err(SendError::TimedOut(std::time::Duration::from_secs(1)));
        let (name, text) = BUILT_IN[0];
        assert_eq!(judged(&timed_out, &partner(name, text)).0, Grade::Unreached);
    }

    #[test]
    fn a_query_of_nothing_can_be_made_up_in_every_dialect() {
        for (name, text) in BUILT_IN {
            let partner = partner(name, text);
            let command = made_up(&partner).unwrap_or_else(|| panic!("{name}"));
            let body = String::from_utf8(partner.body(Operation::Query, &command)).unwrap();
            assert!(body.contains("CHECK"), "{name}: {body}");
        }
    }
}
