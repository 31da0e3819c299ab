//! The result event: what is decided ([`Finish`]), and how it is told ([`Event`]). Pure.
//!
//! An event is a structured CloudEvents 1.0 event. It is made of the command, its progress and the finish, so that the
//! finish alone has to travel when an event could not be published: the same id and the same content come out again.

use crate::{
    command::{Amount, CancelCommand, Rejection, Violation},
    outcome::{Cause, Outcome},
    retry::{CallRecord, Progress},
    snap::{
        profile::CommandField,
        response::{Answer, normalised_time},
    },
};
use chrono::{DateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The media type of an event.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// Name space of the event ids (UUID version 5). The name is the JSON array of account, job id, originalReferenceNo,
/// originalPartnerReferenceNo, outcome and replay number, each a text, an absent one empty; for an `invalid` command the
/// SHA-256 of its bytes follows.
pub const NAMESPACE: Uuid = Uuid::from_u128(0x6e1f_63a4_5c1d_4c0e_9d0b_71b2_8e5a_3f47);

/// What was decided about a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finish {
    pub cause: Cause,
    pub at: DateTime<Utc>,
    /// A cancel may have taken effect without our knowing.
    pub ambiguous: bool,
    /// The copy for a person is parked already.
    #[serde(default)]
    pub parked: bool,
    /// How often the broker did not confirm the event.
    #[serde(default)]
    pub tellings: u32,
    #[serde(default, skip_serializing_if = "Said::is_nothing")]
    pub said: Said,
}

/// What the provider's deciding, or last, answer said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_transaction_status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paid_time: Option<String>,
    /// Value and currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<(String, String)>,
}

impl Said {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl From<&Answer> for Said {
    fn from(answer: &Answer) -> Self {
        Self {
            response_code: answer.code.map(|code| code.to_string()),
            response_message: answer.message.clone(),
            latest_transaction_status: answer.status.clone(),
            cancel_time: answer.cancel_time.clone(),
            paid_time: answer.paid_time.clone(),
            amount: answer.amount.clone().map(|amount| (amount.value, amount.currency)),
        }
    }
}

/// What the message turned out to be.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    Command(&'a CancelCommand),
    Rejected(&'a Rejection),
}

/// A result event, ready to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: Uuid,
    /// `<account>.<outcome>`.
    pub routing_key: String,
    /// The job id, where the command could be read: the correlation id of a command that brought none.
    pub job_id: Option<String>,
    pub cause: Cause,
    pub body: Vec<u8>,
}

/// Where an event is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The account's name; for a message whose account nobody knows, its routing key.
    pub account: &'a str,
    /// The profile's name, where there is an account.
    pub provider: Option<&'a str>,
    pub subject: Subject<'a>,
    /// The command's bytes.
    pub bytes: &'a [u8],
    pub traceparent: Option<&'a str>,
    pub tracestate: Option<&'a str>,
}

impl Event {
    pub fn new(about: About<'_>, progress: &Progress, finish: &Finish) -> Self {
        let digest = hex::encode(Sha256::digest(about.bytes));
        let outcome = finish.cause.outcome();
        let account = account_name(about.account);
        let (job_id, reference, partner_reference, metadata, violations) = match about.subject {
            Subject::Command(command) => (
                Some(command.job_id.as_str()),
                command.text(CommandField::OriginalReferenceNo),
                command.text(CommandField::OriginalPartnerReferenceNo),
                command.metadata.as_deref(),
                [].as_slice(),
            ),
            Subject::Rejected(rejection) => (
                rejection.job_id.as_deref(),
                rejection.original_reference_no.as_deref(),
                rejection.original_partner_reference_no.as_deref(),
                rejection.metadata.as_deref(),
                rejection.violations.as_slice(),
            ),
        };
        let tells_violations = outcome == Outcome::Invalid || finish.cause == Cause::NoLongerValid;
        let (said, at) = (&finish.said, rfc3339(finish.at));
        let id = id(about.account, job_id, reference, partner_reference, outcome, progress.replay, &digest);
        let envelope = Envelope {
            specversion: "1.0",
            id,
            source: format!("/qris-cancel/{account}"),
            kind: event_type(outcome),
            subject: job_id,
            time: &at,
            datacontenttype: "application/json",
            traceparent: about.traceparent,
            tracestate: about.tracestate,
            data: Data {
                job_id,
                account,
                provider: about.provider,
                outcome,
                cause: finish.cause,
                may_have_taken_effect: matches!(outcome, Outcome::Unresolved | Outcome::Refused)
                    .then_some(finish.ambiguous),
                original_reference_no: reference,
                original_partner_reference_no: partner_reference,
                response_code: said.response_code.as_deref(),
                response_message: said.response_message.as_deref(),
                latest_transaction_status: said.latest_transaction_status.as_deref(),
                cancel_time: said.cancel_time.as_deref(),
                cancel_time_normalised: said.cancel_time.as_deref().and_then(normalised_time),
                paid_time: said.paid_time.as_deref(),
                paid_time_normalised: said.paid_time.as_deref().and_then(normalised_time),
                amount: said.amount.clone().map(|(value, currency)| Amount { value, currency }),
                received_at: rfc3339(progress.first_seen),
                finished_at: &at,
                command_digest: &digest,
                attempts: progress.attempts,
                calls_total: progress.history.count,
                calls: &progress.history.calls,
                violations: if tells_violations { violations } else { &[] },
                replay: progress.replay,
                metadata,
            },
        };
        Self {
            id,
            routing_key: format!("{account}.{}", outcome.name()),
            job_id: job_id.map(str::to_owned),
            cause: finish.cause,
            body: serde_json::to_vec(&envelope).expect("texts and numbers are JSON"),
        }
    }
}

/// An account's name as it may stand in a source and a routing key; `unknown` for anything else.
pub fn account_name(name: &str) -> &str {
    if is_account_name(name) { name } else { "unknown" }
}

/// Whether a text has the form of an account's name: `[a-z0-9][a-z0-9_-]{0,47}`, and not `unknown`.
pub fn is_account_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=48).contains(&bytes.len())
        && plain(bytes[0])
        && bytes.iter().all(|&b| plain(b) || b == b'_' || b == b'-')
        && name != "unknown"
}

fn id(
    account: &str,
    job_id: Option<&str>,
    reference: Option<&str>,
    partner: Option<&str>,
    outcome: Outcome,
    replay: u32,
    digest: &str,
) -> Uuid {
    let replay = replay.to_string();
    let mut name = vec![
        account,
        job_id.unwrap_or_default(),
        reference.unwrap_or_default(),
        partner.unwrap_or_default(),
        outcome.name(),
        &replay,
    ];
    // Two faulty messages of one job are two mistakes to tell of; two readable ones are the same command.
    if outcome == Outcome::Invalid || job_id.is_none() {
        name.push(digest);
    }
    Uuid::new_v5(&NAMESPACE, &serde_json::to_vec(&name).expect("texts are JSON"))
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// What became of a cancel command: a structured CloudEvents 1.0 event. New fields may come; readers skip what they do not know.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ResultEvent", title = "QRIS cancel event")]
pub struct Envelope<'a> {
    #[schemars(extend("const" = "1.0"))]
    specversion: &'a str,
    /// The same for each copy of an event: a consumer counts it once.
    id: Uuid,
    /// `/qris-cancel/` and the account.
    #[schemars(regex(pattern = "^/qris-cancel/[a-z0-9][a-z0-9_-]{0,47}$"))]
    source: String,
    #[serde(rename = "type")]
    #[schemars(extend("enum" = Outcome::ALL.map(event_type)))]
    kind: String,
    /// The job id.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    /// When it was decided.
    #[schemars(extend("format" = "date-time"))]
    time: &'a str,
    #[schemars(extend("const" = "application/json"))]
    datacontenttype: &'a str,
    /// The command's, as W3C Trace Context has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<&'a str>,
    data: Data<'a>,
}

/// What became of a cancel command. What is unknown is absent, never null.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ResultData", extend("allOf" = [
    { "if": { "properties": { "outcome": { "const": "invalid" } } }, "then": { "required": ["violations"] } },
    {
        "if": { "properties": { "outcome": { "enum": ["refused", "unresolved"] } } },
        "then": { "required": ["mayHaveTakenEffect"] },
    },
]))]
struct Data<'a> {
    /// The command's; absent where it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<&'a str>,
    /// The account's name, or `unknown`.
    account: &'a str,
    /// The short name of the account's profile; absent where nobody has the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    outcome: Outcome,
    cause: Cause,
    /// With `unresolved` and `refused`: whether a cancel may have worked without our knowing.
    #[serde(skip_serializing_if = "Option::is_none")]
    may_have_taken_effect: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_reference_no: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_partner_reference_no: Option<&'a str>,
    /// Of the provider's deciding, or last, answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_transaction_status: Option<&'a str>,
    /// As the provider wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel_time: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    cancel_time_normalised: Option<String>,
    /// As the provider wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    paid_time: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    paid_time_normalised: Option<String>,
    /// As the provider wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<Amount>,
    /// When a worker first saw the command.
    #[schemars(extend("format" = "date-time"))]
    received_at: String,
    #[schemars(extend("format" = "date-time"))]
    finished_at: &'a str,
    /// SHA-256 of the command's bytes.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    command_digest: &'a str,
    /// Visits to the provider.
    attempts: u32,
    /// Calls to the provider, of which `calls` has the first and last ten.
    calls_total: u32,
    #[schemars(length(max = 20))]
    calls: &'a [CallRecord],
    /// With `invalid` and the cause `no_longer_valid`: every rule that is broken.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schemars(length(min = 1))]
    violations: &'a [Violation],
    /// How often the command was replayed from parking.
    replay: u32,
    /// The command's, as it came.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "verbatim")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    metadata: Option<&'a RawValue>,
}

fn event_type(outcome: Outcome) -> String {
    format!("qris.cancel.{}.v1", outcome.name())
}

fn verbatim<S: Serializer>(value: &Option<&RawValue>, serializer: S) -> Result<S::Ok, S::Error> {
    value.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_accounts_name_is_lower_case_and_short() {
        for good in ["a", "0", "ifortepay", "bnc-2_x", &"a".repeat(48)] {
            assert!(is_account_name(good), "{good}");
        }
        for bad in ["", "unknown", "-a", "_a", "A", "a.b", "a b", "é", &"a".repeat(49)] {
            assert!(!is_account_name(bad), "{bad}");
            assert_eq!(account_name(bad), "unknown");
        }
    }

    proptest! {
        #[test]
        fn ids_of_different_things_differ(a in "[a-z]{1,3}", b in "[a-z\",]{0,3}", c in "[a-z\",]{0,3}", d in "[a-z\",]{0,3}") {
            let one = |job: &str, r: &str, p: &str| id(&a, Some(job), Some(r), Some(p), Outcome::Canceled, 0, "");
            prop_assert_eq!(one(&b, &c, &d), one(&b, &c, &d));
            if c != d {
                prop_assert_ne!(one(&b, &c, &d), one(&b, &d, &c));
                prop_assert_ne!(one(&c, &b, &d), one(&d, &b, &c));
            }
        }
    }
}
