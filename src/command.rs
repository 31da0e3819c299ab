//! A cancel command: from the bytes of a message to a [`CancelCommand`] that can be sent, or a [`Rejection`] that names
//! every faulty field with its rule. Pure.
//!
//! The message is JSON in UTF-8, plain or as the `data` of a structured CloudEvents 1.0 event. Nothing passes that is
//! not understood: a typo in a payment command must not look like an optional field that was left out.

mod envelope;
pub(crate) mod json;
mod reader;

use crate::{
    outcome::Cause,
    snap::{
        profile::{CommandField, Field, Profile},
        request::MerchantDefaults,
    },
};
use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use envelope::{cloud_event_data, media_type, text};
pub use json::Members;
use reader::Reader;

/// The longest command, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// The longest job id, in characters.
pub const MAX_JOB_ID: usize = 128;
/// A field's name in a violation is cut to this many characters.
const MAX_NAME: usize = 128;
/// More violations than this help nobody.
const MAX_VIOLATIONS: usize = 100;

/// What a message says about its bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints<'a> {
    pub content_type: Option<&'a str>,
    pub content_encoding: Option<&'a str>,
    pub message_id: Option<&'a str>,
}

/// What an account makes of a command: the fields its provider takes, and what stands in for absent ones.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    pub profile: &'a Profile,
    pub defaults: &'a MerchantDefaults,
}

/// A command that can be sent.
#[derive(Debug, Clone)]
pub struct CancelCommand {
    pub job_id: String,
    /// The text fields that are present, from the command or the account's defaults.
    texts: BTreeMap<CommandField, String>,
    /// Merchant fields that the command brought itself.
    pub own_merchant_fields: bool,
    pub amount: Option<Amount>,
    pub additional_info: Option<Members>,
    /// No cancel is sent after this.
    pub not_after: Option<DateTime<Utc>>,
    /// When the QR stops being payable.
    pub qr_expires_at: Option<DateTime<Utc>>,
    /// Goes into the events as it came.
    pub metadata: Option<Box<RawValue>>,
}

/// An amount as SNAP writes it: `{"value":"10000.00","currency":"IDR"}`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Amount {
    pub value: String,
    pub currency: String,
}

/// Why a command is not sent, with what could be read of it for the event.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// Never empty.
    pub violations: Vec<Violation>,
    pub job_id: Option<String>,
    pub original_reference_no: Option<String>,
    pub original_partner_reference_no: Option<String>,
    pub metadata: Option<Box<RawValue>>,
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Violation {
    /// The field's name or path; empty for the message as a whole.
    pub field: String,
    pub cause: Cause,
    /// What was expected.
    pub rule: String,
}

impl CancelCommand {
    /// Reads a command for an account on these terms.
    ///
    /// # Errors
    /// Every violation at once.
    pub fn read(bytes: &[u8], hints: Hints<'_>, terms: Terms<'_>) -> Result<Self, Rejection> {
        let mut reader = Reader::open(bytes, hints)?;
        let members = reader.members.clone();
        match reader.command(terms) {
            Some(command) if reader.violations.is_empty() => Ok(command),
            _ => {
                reader.members = members;
                Err(reader.peek())
            }
        }
    }

    /// The text of a field, if it is present.
    pub fn text(&self, field: CommandField) -> Option<&str> {
        self.texts.get(&field).map(String::as_str)
    }
}

impl Rejection {
    /// Rejects a message whose account nobody knows, reading of it what can be read.
    pub fn unknown_account(bytes: &[u8], hints: Hints<'_>, routing_key: &str) -> Self {
        let rule = format!(
            "no account is named {:?}: the routing key must be the name of an account in the worker's settings",
            cut(routing_key)
        );
        let violation = Violation { field: String::new(), cause: Cause::UnknownAccount, rule };
        let mut rejection = Self::peek(bytes, hints);
        rejection.violations = vec![violation];
        rejection
    }

    /// What can be read of a message without judging it.
    pub fn peek(bytes: &[u8], hints: Hints<'_>) -> Self {
        match Reader::open(bytes, hints) {
            Ok(mut reader) => reader.peek(),
            Err(rejection) => rejection,
        }
    }

    /// The event's cause: that of the gravest violation.
    pub fn cause(&self) -> Cause {
        self.violations.iter().map(|violation| violation.cause).min().unwrap_or(Cause::NotJson)
    }

    /// Whether settings decide that it is faulty: it is a command, and what is wrong with it another profile, another version of it or other
    /// values of the account may allow.
    pub fn is_by_the_accounts_terms(&self) -> bool {
        let by_terms = [Cause::UnknownField, Cause::MissingField, Cause::FieldValue, Cause::ConstantOverridden];
        self.violations.iter().all(|violation| by_terms.contains(&violation.cause))
    }

    fn whole(cause: Cause, rule: impl Into<String>) -> Self {
        let violation = Violation { field: String::new(), cause, rule: rule.into() };
        Self {
            violations: vec![violation],
            job_id: None,
            original_reference_no: None,
            original_partner_reference_no: None,
            metadata: None,
        }
    }
}

fn violation(field: &str, cause: Cause, rule: impl Into<String>) -> Violation {
    Violation { field: cut(field), cause, rule: rule.into() }
}

fn cut(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests;
