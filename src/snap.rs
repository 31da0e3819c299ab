//! SNAP, Indonesia's open API standard for payments, in a page.
//!
//! A call is a POST of JSON to a provider. Its service number says what it asks: 77 cancels a QR, 51 queries a payment,
//! 73 fetches an access token. Headers carry who asks (X-PARTNER-ID), an id of the call (X-EXTERNAL-ID, unique within a
//! day), its time (X-TIMESTAMP) and a signature over path, body hash and time. The answer's `responseCode` has seven
//! digits: the HTTP status, the service and a case. What differs between providers is data: [`profile`].
//!
//! Reading order: [`profile`] (the dialects), [`request`] (a command becomes bytes), [`sign`], [`key`], [`token`],
//! [`client`] (the only file that knows reqwest), [`response`] (bytes become an answer), [`compare`] (why two signatures
//! differ).

pub mod client;
pub mod compare;
pub mod key;
pub mod profile;
pub mod request;
pub mod response;
pub mod sign;
pub mod token;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// What a call asks of the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Cancel,
    Query,
    Token,
}

impl Operation {
    pub const ALL: [Self; 3] = [Self::Cancel, Self::Query, Self::Token];

    /// The service number in the middle of a response code.
    pub fn service(self) -> &'static str {
        match self {
            Self::Cancel => "77",
            Self::Query => "51",
            Self::Token => "73",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Query => "query",
            Self::Token => "token",
        }
    }
}

/// A response code: HTTP status (3 digits), service (2), case (2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Code([u8; 7]);

impl Code {
    /// `None` unless the text is seven digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 7] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_digit).then_some(Self(digits))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits are ASCII")
    }

    /// The HTTP status it belongs to.
    pub fn http_status(&self) -> u16 {
        self.as_str()[..3].parse().expect("three digits")
    }

    pub fn service(&self) -> &str {
        &self.as_str()[3..5]
    }

    /// The same case of another service: the standard's table is one for all.
    pub fn of(&self, operation: Operation) -> Self {
        let mut digits = self.0;
        digits[3..5].copy_from_slice(operation.service().as_bytes());
        Self(digits)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Code {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let code = Self::parse(&text).filter(|code| code.service() == Operation::Cancel.service());
        code.ok_or_else(|| format!("{text:?} is no response code of a cancel: three digits, 77, two digits"))
    }
}

/// A provider's answer as it came over the wire.
#[derive(Clone)]
pub struct Reply {
    pub http_status: u16,
    pub body: Vec<u8>,
    /// How long the provider asks us to wait.
    pub retry_after: Option<Duration>,
    /// The provider's clock, by its Date header.
    pub date: Option<DateTime<Utc>>,
}

/// Without the body, in which a token call's answer has the token.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { http_status, body, retry_after, date } = self;
        let body = format_args!("{} bytes", body.len());
        f.debug_struct("Reply")
            .field("http_status", http_status)
            .field("body", &body)
            .field("retry_after", retry_after)
            .field("date", date)
            .finish()
    }
}

/// Why there is no answer. The difference that matters: can the provider have acted?
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No byte of the request was sent.
    #[error("not sent: {0}")]
    NotSent(String),
    /// No access token could be had, so nothing was sent.
    #[error("no access token: {0}")]
    NoToken(String),
    /// The token endpoint says that our keys, ids or rights are wrong; nothing was sent.
    #[error("no access token, the provider refuses us: {0}")]
    TokenRefused(String),
    /// The time limit passed after the request began to go out.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The connection broke, or the answer could not be read, after the request began to go out.
    #[error("broken off: {0}")]
    Broken(String),
    /// The worker had to stop while the call ran.
    #[error("the worker stopped while the call ran")]
    Interrupted,
    /// The command's `notAfter` passed before the request could go out.
    #[error("not sent: it would have been after notAfter")]
    TooLate,
    /// The worker had to stop before the call.
    #[error("not sent: the worker is stopping")]
    Stopping,
}

impl SendError {
    /// Whether the provider may have received the request.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Broken(_) | Self::Interrupted)
    }

    /// A word for events and labels.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotSent(_) => "not_sent",
            Self::NoToken(_) => "no_token",
            Self::TokenRefused(_) => "token_refused",
            Self::TimedOut(_) => "timeout",
            Self::Broken(_) => "broken",
            Self::Interrupted => "interrupted",
            Self::TooLate => "too_late",
            Self::Stopping => "stopping",
        }
    }
}
