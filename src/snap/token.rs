//! The access token of one account (service 73): fetched by one task at a time, renewed before it ends, dropped when the
//! provider says so. It lives in memory only.

use super::{
    Code, Operation, SendError, client::Client, profile::Encoding, request::Partner, response::TokenAnswer, sign,
};
use crate::{pauses::Pauses, retry::CallRecord};
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use std::{future::Future, time::Duration};
use tokio::{sync::Mutex, time::Instant};

/// A token is renewed this long before it ends, or at half its life if that is later.
const AHEAD: Duration = Duration::from_secs(60);

/// Holds the token.
pub struct Tokens {
    state: Mutex<State>,
}

struct State {
    /// The token, and until when it may be used.
    held: Option<(SecretString, Instant)>,
    /// After a failed fetch: its error, which all who ask until then get without another fetch, and until when it asked us to wait.
    failed: Option<(SendError, Instant, Option<Instant>)>,
    /// How many fetches have failed in a row.
    failures: u32,
    pauses: Pauses,
}

/// Why there is no token.
pub struct NoToken {
    pub error: SendError,
    /// The fetch that was made, if one was.
    pub call: Option<CallRecord>,
    /// Another has made the fetch, and it was one failure, which says nothing to all who hear of it.
    pub is_hearsay: bool,
    /// How long its provider asks us to wait.
    pub retry_after: Option<Duration>,
    /// What time it is there.
    pub date: Option<DateTime<Utc>>,
}

impl NoToken {
    fn new(error: SendError) -> Self {
        Self { error, call: None, is_hearsay: false, retry_after: None, date: None }
    }
}

/// A token, and the call that was made to get it, if one was.
pub struct Fetched {
    pub token: SecretString,
    pub call: Option<CallRecord>,
}

impl Default for Tokens {
    fn default() -> Self {
        let pauses = Pauses::new(Duration::from_millis(250), Duration::from_secs(15), 1.5);
        Self { state: Mutex::new(State { held: None, failed: None, failures: 0, pauses }) }
    }
}

impl Tokens {
    /// The token, fetched if there is none that is still good; a fetch waits for its `turn`, which says what time it is.
    ///
    /// # Errors
    /// When none could be fetched, now or a moment ago.
    pub async fn get<F: Future<Output = DateTime<Utc>>>(
        &self,
        partner: &Partner,
        client: &Client,
        turn: impl Fn() -> F,
    ) -> Result<Fetched, NoToken> {
        let mut state = self.state.lock().await;
        if let Some((token, until)) = &state.held
            && Instant::now() < *until
        {
            return Ok(Fetched { token: token.clone(), call: None });
        }
        if let Some((error, until, asked_until)) = &state.failed
            && Instant::now() < *until
        {
            let retry_after = asked_until.map(|until| until - Instant::now());
            // A provider that asks for a pause has said enough: the account rests, and no other command is taken for that.
            let is_hearsay = state.failures < 2 && retry_after.is_none();
            return Err(NoToken { is_hearsay, retry_after, ..NoToken::new(error.clone()) });
        }
        let at = turn().await;
        let Some(mut request) = partner.token_request(at) else {
            return Err(NoToken::new(SendError::NoToken("the profile has no token call".into())));
        };
        let body_sha256 = sign::body_hash(&request.body, Encoding::Hex);
        let begun = Instant::now();
        let span = client.trace(&mut request);
        let result = client.send(request).await;
        span.answered(&result);
        let answer = result.as_ref().ok().and_then(|reply| {
            let call = partner.profile.token.as_ref()?;
            TokenAnswer::read(&reply.body, &call.access_token, &call.expires_in)
        });
        let code = answer.as_ref().and_then(|answer| answer.code);
        let call = CallRecord {
            number: 0,
            operation: Operation::Token,
            at,
            external_id: None,
            body_sha256,
            http_status: result.as_ref().ok().map(|reply| reply.http_status),
            response_code: code.map(|code| code.to_string()),
            error: result.as_ref().err().map(|error| error.name().to_owned()),
            duration_ms: begun.elapsed().as_millis() as u64,
        };
        let lifetime = partner.profile.token.as_ref().map_or(0, |call| call.expires_default_s);
        let said = result.as_ref().ok().map(|reply| (reply.retry_after, reply.date));
        let (retry_after, date) = said.unwrap_or_default();
        match judge(result.map(|reply| reply.http_status), answer, code) {
            Ok((token, expires_in)) => {
                let life = expires_in.unwrap_or(Duration::from_secs(lifetime));
                let usable = life.saturating_sub(AHEAD).max(life / 2);
                state.held = Some((token.clone(), begun + usable));
                state.failed = None;
                state.failures = 0;
                state.pauses.reset();
                Ok(Fetched { token, call: Some(call) })
            }
            Err(error) => {
                state.held = None;
                let now = Instant::now();
                // A refusal may be mended before.
                let asked = retry_after.filter(|_| !matches!(error, SendError::TokenRefused(_)));
                let asked_until = asked.map(|asked| now + asked);
                let until = (now + state.pauses.next_pause()).max(asked_until.unwrap_or(now));
                state.failed = Some((error.clone(), until, asked_until));
                state.failures = state.failures.saturating_add(1);
                Err(NoToken { call: Some(call), retry_after, date, ..NoToken::new(error) })
            }
        }
    }

    /// Drops the token that a call was made with, if it is still the one that is held.
    pub async fn forget(&self, used: &SecretString) {
        use secrecy::ExposeSecret;
        let mut state = self.state.lock().await;
        let is_held = state.held.as_ref().is_some_and(|(held, _)| held.expose_secret() == used.expose_secret());
        if is_held {
            state.held = None;
        }
    }
}

type Token = (SecretString, Option<Duration>);

/// A success may lack a response code; what counts is HTTP 200 and a token. A refusal may have any HTTP status, as nothing was sent.
fn judge(status: Result<u16, SendError>, answer: Option<TokenAnswer>, code: Option<Code>) -> Result<Token, SendError> {
    let status = status.map_err(|error| SendError::NoToken(error.to_string()))?;
    let message = answer.as_ref().and_then(|answer| answer.message.clone()).unwrap_or_default();
    let said = match code {
        Some(code) => format!("{code} {message}"),
        None => format!("HTTP {status} {message}"),
    };
    match (status, answer) {
        (200, Some(TokenAnswer { access_token: Some(token), expires_in, .. })) => Ok((token, expires_in)),
        (400 | 401 | 403, _) => Err(SendError::TokenRefused(said)),
        _ if code.is_some_and(|code| {
            code.service() == Operation::Token.service() && matches!(code.http_status(), 400 | 401 | 403)
        }) =>
        {
            Err(SendError::TokenRefused(said))
        }
        _ => Err(SendError::NoToken(said)),
    }
}
