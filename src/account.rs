//! One account at work: its connection pool, its access token, and what it has learnt of its provider. It outlives the
//! sessions with the broker.

use crate::{
    pipeline::{Gateway, Sent, World},
    settings,
    shutdown::Stop,
    snap::{Operation, SendError, client::Client, request::Partner, token::Tokens},
};
use chrono::{DateTime, SubsecRound, Utc};
use secrecy::{ExposeSecret, SecretString};
use std::sync::{Arc, atomic::AtomicI64};
use tokio::time::Instant;

/// A provider, as one account speaks to it.
pub struct Account {
    pub settings: Arc<settings::Account>,
    /// When the provider last took a call of ours as rightly ours, in milliseconds.
    pub accepted_at: Arc<AtomicI64>,
    client: Client,
    tokens: Tokens,
    stop: Stop,
}

impl Account {
    /// # Errors
    /// When its HTTP client cannot be set up.
    pub fn new(settings: Arc<settings::Account>, stop: Stop) -> Result<Self, String> {
        let client = Client::new(&settings.client)?;
        Ok(Self { settings, accepted_at: Arc::default(), client, tokens: Tokens::default(), stop })
    }

    fn partner(&self) -> &Partner {
        &self.settings.partner
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
            token: None,
            at: RealWorld.now(),
            duration: std::time::Duration::ZERO,
            result: Err(SendError::Stopping),
        };
        if self.stop.now.is_cancelled() {
            return sent;
        }
        if self.partner().needs_token() {
            let fetched = tokio::select! {
                fetched = self.tokens.get(self.partner(), &self.client, || RealWorld.now()) => fetched,
                () = self.stop.now.cancelled() => return sent,
            };
            match fetched {
                Ok(fetched) => (sent.token, sent.token_call) = (Some(fetched.token), fetched.call),
                Err((error, call)) => return Sent { token_call: call, result: Err(error), ..sent },
            }
        }
        // The time is taken last, so that a slow token does not make it stale.
        sent.at = RealWorld.now();
        if not_after.is_some_and(|limit| sent.at > limit) {
            return Sent { result: Err(SendError::TooLate), ..sent };
        }
        let request = self.partner().transaction(operation, body, external_id, sent.token.as_ref(), sent.at);
        let signature = request.signature.clone();
        let begun = Instant::now();
        sent.result = tokio::select! {
            result = self.client.send(request) => result,
            () = self.stop.now.cancelled() => Err(SendError::Interrupted),
        };
        sent.duration = begun.elapsed();
        if let Ok(reply) = &mut sent.result {
            // What a provider repeats of our secrets must not get into an event.
            for secret in [Some(&signature), sent.token.as_ref()].into_iter().flatten() {
                blot_out(&mut reply.body, secret.expose_secret().as_bytes());
            }
        }
        sent
    }

    async fn forget_token(&self, token: &SecretString) {
        self.tokens.forget(token).await;
    }
}

fn blot_out(text: &mut [u8], secret: &[u8]) {
    let mut at = 0;
    while !secret.is_empty() && at + secret.len() <= text.len() {
        if text[at..].starts_with(secret) {
            text[at..at + secret.len()].fill(b'*');
        }
        at += 1;
    }
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
        // Two version 4 UUIDs: the fixed bits of one are filled with random ones of the other.
        uuid::Uuid::new_v4().as_u128() ^ uuid::Uuid::new_v4().as_u128().rotate_left(64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_repeated_is_blotted_out() {
        let mut text = br#"{"responseMessage":"bad signature abc+/=, abc+/=!"}"#.to_vec();
        blot_out(&mut text, b"abc+/=");
        assert_eq!(text, br#"{"responseMessage":"bad signature ******, ******!"}"#);
        blot_out(&mut text, b"");
        blot_out(&mut text[..2], b"longer than the text");
    }
}
