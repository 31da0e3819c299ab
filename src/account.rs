//! One account at work: its gate, its connection pool, its access token, the transactions it has in hand, and what it has
//! learnt of its provider. It outlives the sessions with the broker.

mod claims;
pub mod gate;
mod pace;

use crate::{
    breaker::{Health, News, State, Why},
    metrics::{self, Metrics},
    pipeline::{Called, Gateway, Sent, World},
    settings,
    shutdown::Stop,
    snap::{
        Operation, SendError,
        client::{self, Client},
        request::Partner,
        token::{NoToken, Tokens},
    },
    traces::Span,
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use claims::{Claim, Claims};
use gate::Gate;
use pace::Pace;
use secrecy::SecretString;
use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use tracing::{error, info, warn};

/// A command waits no longer for another of its transaction; then it goes into a retry bucket, and leaves its room to others.
const CLAIM_WITHIN: Duration = Duration::from_secs(1);
/// One that is delivered again waits for its own call that still runs.
const CLAIM_AGAIN_WITHIN: Duration = Duration::from_secs(30);
/// A clock that is further off than this is likely why a provider refuses our signatures.
const NOTABLE_SKEW_S: f64 = 30.0;
/// So long after an answer its Date says something of the provider's clock.
const SKEW_HOLDS: TimeDelta = TimeDelta::minutes(15);

/// A provider, as one account speaks to it.
pub struct Account {
    pub settings: Arc<settings::Account>,
    pub gate: Arc<Gate>,
    /// When the provider last took a call of ours as rightly ours, in milliseconds.
    pub accepted_at: Arc<AtomicI64>,
    line: RwLock<Arc<Line>>,
    claims: Arc<Claims>,
    pace: Option<Pace>,
    seen: Mutex<Seen>,
    /// That the provider refuses us was told, and it has accepted nothing since.
    doubted: AtomicBool,
    pub metrics: Arc<metrics::Provider>,
    stop: Stop,
}

/// What a call is signed and sent with. A call that has begun keeps its own when another takes its place.
struct Line {
    partner: Arc<Partner>,
    options: client::Options,
    client: Client,
    /// Made with these keys.
    tokens: Tokens,
}

impl Line {
    fn new(settings: &settings::Account) -> Result<Arc<Self>, String> {
        let (partner, options) = (settings.partner.clone(), settings.client.clone());
        Ok(Arc::new(Self { partner, client: Client::new(&options)?, options, tokens: Tokens::default() }))
    }
}

/// Which of the breaker's times a visit belongs to.
type Era = u32;

/// What an account has seen of its provider.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The provider's clock less ours, in seconds, and when that was seen.
    clock_skew: Option<(DateTime<Utc>, f64)>,
    /// The last call that failed or was not accepted: when, and in a few words what.
    pub last_error: Option<(DateTime<Utc>, String)>,
}

impl Seen {
    /// The provider's clock less ours, in seconds, if it has answered lately: of an idle account nobody knows.
    pub fn clock_skew(&self, now: DateTime<Utc>) -> Option<f64> {
        self.clock_skew.filter(|(at, _)| now - at < SKEW_HOLDS).map(|(_, seconds)| seconds)
    }
}

impl Account {
    /// # Errors
    /// When its HTTP client cannot be set up, or there are no metrics for it.
    pub fn new(settings: Arc<settings::Account>, metrics: &Metrics, stop: Stop) -> Result<Self, String> {
        Ok(Self {
            line: RwLock::new(Line::new(&settings)?),
            gate: Arc::new(Gate::new(settings.at_once(), settings.breaker, settings.state)),
            accepted_at: Arc::default(),
            claims: Arc::default(),
            pace: settings.max_requests_per_second.map(Pace::new),
            seen: Mutex::default(),
            doubted: AtomicBool::new(false),
            metrics: metrics.provider(&settings.name).ok_or("no metrics")?,
            settings,
            stop,
        })
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn line(&self) -> Arc<Line> {
        self.line.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Signs and sends with these keys and certificates from the next call on, if they are others. The token goes, as it was another key's.
    ///
    /// # Errors
    /// When its HTTP client cannot be set up.
    pub async fn renew(&self, settings: &settings::Account) -> Result<(), String> {
        let now = self.line();
        if now.partner.has_the_keys_of(&settings.partner) && now.options.goes_the_way_of(&settings.client) {
            return Ok(());
        }
        let line = Line::new(settings)?;
        *self.line.write().unwrap_or_else(PoisonError::into_inner) = line;
        info!(account = self.settings.name, "signs and sends with new keys from now on");
        Ok(())
    }

    /// Waits for the turn of a request, and says what time it is then.
    async fn turn(&self) -> DateTime<Utc> {
        if let Some(pace) = &self.pace {
            let asked = Instant::now();
            pace.turn().await;
            self.metrics.waited_for_turn(asked.elapsed());
        }
        RealWorld.now()
    }

    /// Tells when the breaker has changed its state.
    fn tell(&self, (before, after): (State, State)) {
        let (account, seen) = (&self.settings.name, self.seen());
        let clock_skew = seen.clock_skew(RealWorld.now());
        let last_error = seen.last_error.map(|(_, what)| what);
        match (before, after) {
            (State::Closed, State::Resting { why: Why::Failing, .. }) => {
                error!(account, last_error, "calls keep failing: the account takes no commands, and tries again soon");
            }
            (State::Closed | State::Trying { why: Why::Failing }, State::Resting { why: Why::Misconfigured, .. }) => {
                let clock = clock_skew.filter(|skew| skew.abs() > NOTABLE_SKEW_S);
                let look = match clock {
                    Some(_) => "this machine's clock first: it differs from the provider's",
                    None => {
                        "whether the provider has our public key; ids; signed path; rights. `check --connect` tries them, `sign` shows what is signed"
                    }
                };
                error!(
                    account,
                    last_error,
                    clock_skew_s = clock_skew,
                    look_at = look,
                    "ALERT: the provider refuses five different commands in a row, so none of them is to blame: the \
                     account rests, and tries with one at a time. Nothing is lost"
                );
            }
            (State::Trying { .. }, State::Resting { until: _, why }) => {
                warn!(account, last_error, why = why.name(), "the trial failed: the account rests longer");
            }
            (State::Trying { .. }, State::Closed) => info!(account, "the trial went well: the account takes commands"),
            _ => {}
        }
    }
}

impl Gateway for Arc<Account> {
    async fn send(
        &self,
        operation: Operation,
        body: Vec<u8>,
        external_id: &str,
        not_after: Option<DateTime<Utc>>,
    ) -> Sent {
        let mut sent = Sent {
            token_call: None,
            is_hearsay: false,
            no_token_for: None,
            no_token_at: None,
            token: None,
            at: RealWorld.now(),
            duration: Duration::ZERO,
            result: Err(SendError::Stopping),
            span: Span::default(),
        };
        if self.stop.now.is_cancelled() {
            return sent;
        }
        let line = self.line();
        let Line { partner, client, tokens, .. } = &*line;
        if partner.needs_token() {
            let fetched = tokio::select! {
                fetched = tokens.get(partner, client, || self.turn()) => fetched,
                () = self.stop.now.cancelled() => return sent,
            };
            match fetched {
                Ok(fetched) => (sent.token, sent.token_call) = (Some(fetched.token), fetched.call),
                Err(NoToken { error, call, is_hearsay, retry_after, date }) => {
                    (sent.token_call, sent.no_token_for, sent.no_token_at) = (call, retry_after, date);
                    return Sent { is_hearsay, result: Err(error), ..sent };
                }
            }
        }
        // The time is taken last, so that neither a slow token nor the wait for a turn makes it stale.
        sent.at = tokio::select! {
            at = self.turn() => at,
            () = self.stop.now.cancelled() => return sent,
        };
        if not_after.is_some_and(|limit| sent.at > limit) {
            return Sent { result: Err(SendError::TooLate), ..sent };
        }
        let mut request = partner.transaction(operation, body, external_id, sent.token.as_ref(), sent.at);
        sent.span = client.trace(&mut request);
        sent.span.set("qris_cancel.external_id", external_id.to_owned());
        let begun = Instant::now();
        sent.result = tokio::select! {
            result = client.send_before(request, not_after) => result,
            () = self.stop.now.cancelled() => Err(SendError::Interrupted),
        };
        sent.duration = begun.elapsed();
        sent.span.answered(&sent.result);
        sent
    }

    async fn forget_token(&self, token: &SecretString) {
        self.line().tokens.forget(token).await;
    }

    fn note_call(&self, call: &Called<'_>) {
        self.metrics.call(call);
        call.sent.span.judged(call.verdict, call.answer);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let (sent, fetch) = (call.sent, call.sent.token_call.as_ref());
            // A wrong clock shows first where no token is given for it.
            let refused = sent.no_token_at.zip(fetch);
            let refused = refused.map(|(date, fetch)| (date, fetch.at, Duration::from_millis(fetch.duration_ms)));
            let date = sent.result.as_ref().ok().and_then(|reply| reply.date);
            if let Some((date, at, took)) = date.map(|date| (date, sent.at, sent.duration)).or(refused) {
                seen.clock_skew = Some((at, skew(date, at, took)));
            }
            if call.health != Health::Good {
                let what = match (&call.sent.result, call.answer.and_then(|answer| answer.code)) {
                    (Ok(reply), Some(code)) => {
                        let message = call.answer.and_then(|answer| answer.message.as_deref()).unwrap_or_default();
                        format!("HTTP {}, {code} {message}", reply.http_status)
                    }
                    (Ok(reply), None) => format!("HTTP {} with no response code", reply.http_status),
                    (Err(error), _) => error.to_string(),
                };
                seen.last_error = Some((call.sent.at, format!("{}: {what}", call.operation.name())));
            }
        }
    }

    type Claim = (Claim, Era);

    async fn claim(&self, names: Vec<String>, redelivered: bool) -> Option<Self::Claim> {
        let limit = if redelivered { CLAIM_AGAIN_WITHIN } else { CLAIM_WITHIN };
        let claim = self.claims.claim(names, limit).await?;
        Some((claim, self.gate.era()))
    }

    fn note_visit(&self, (_, era): &Self::Claim, news: News<'_>) {
        if news.denied.is_some() && !self.doubted.swap(true, Ordering::Relaxed) {
            let last_error = self.seen().last_error.map(|(_, what)| what);
            warn!(
                account = self.settings.name,
                last_error,
                "the provider refuses us, for reasons that lie in keys, ids or rights; `check --connect` tells more. Its \
                 commands wait, and use up no attempts"
            );
        }
        if news.accepted {
            self.doubted.store(false, Ordering::Relaxed);
        }
        let (before, after) = self.gate.hear(*era, news);
        if let (State::Closed | State::Trying { .. }, State::Resting { why, .. }) = (before, after) {
            self.metrics.rests(why);
        }
        self.tell((before, after));
    }
}

/// The provider's clock less ours, in seconds, as far as an answer shows it: a Date has whole seconds, and was written some
/// time during the call.
pub fn skew(date: DateTime<Utc>, sent: DateTime<Utc>, duration: Duration) -> f64 {
    let answered = sent + TimeDelta::from_std(duration).unwrap_or_default();
    let behind = (date + TimeDelta::seconds(1) - sent).min(TimeDelta::zero());
    let ahead = (date - answered).max(TimeDelta::zero());
    (behind + ahead).as_seconds_f64()
}

/// The clock of this machine, and real chance.
#[derive(Debug, Clone, Copy)]
pub struct RealWorld;

impl World for RealWorld {
    /// Milliseconds are what events and headers carry.
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(3)
    }

    fn jitter(&self) -> f64 {
        fastrand::f64()
    }

    fn random(&self) -> u128 {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random numbers");
        u128::from_ne_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skew_of_an_idle_account_is_not_known() {
        let at = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let seen = Seen { clock_skew: Some((at, 40.0)), last_error: None };
        assert_eq!(seen.clock_skew(at + SKEW_HOLDS - TimeDelta::seconds(1)), Some(40.0));
        assert_eq!(seen.clock_skew(at + SKEW_HOLDS), None);
    }

    #[test]
    fn only_what_the_clocks_cannot_explain_is_skew() {
        let at = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let skew = |seconds: i64| skew(at + TimeDelta::seconds(seconds), at, Duration::from_secs(20));
        for during_the_call in [-1, 0, 7, 20] {
            assert_eq!(skew(during_the_call), 0.0);
        }
        assert_eq!(skew(320), 300.0);
        assert_eq!(skew(-301), -300.0);
    }
}
