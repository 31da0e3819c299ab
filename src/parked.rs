//! What is set aside for a person: a parked copy as it is told of ([`Parked`]), and what to do about it. Pure.

use crate::{
    command::Rejection,
    message::{Carried, Message},
    outcome::{Cause, Outcome},
    retry::{CallRecord, Progress},
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// A parked copy, as it is listed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parked {
    pub account: String,
    /// Absent where the copy does not say: then somebody else has put it there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_have_taken_effect: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_reference_no: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_partner_reference_no: Option<String>,
    /// SHA-256 of the command's bytes, as in its event.
    pub command_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_at: Option<String>,
    pub attempts: u32,
    pub calls_total: u32,
    /// How often it was replayed before.
    pub replay: u32,
    pub to_do: &'static str,
}

impl Parked {
    pub fn new(message: &Message) -> Self {
        let finish = message.parked.as_ref();
        let progress = match &message.carried {
            Carried::Progress(progress) => Some(progress),
            _ => None,
        };
        let peeked = Rejection::peek(&message.body, message.hints());
        let cause = finish.map(|finish| finish.cause);
        Self {
            account: message.routing_key.clone(),
            parked_at: finish.map(|finish| rfc3339(finish.at)),
            outcome: cause.map(Cause::outcome),
            cause,
            may_have_taken_effect: finish.map(|finish| finish.ambiguous),
            job_id: peeked.job_id,
            original_reference_no: peeked.original_reference_no,
            original_partner_reference_no: peeked.original_partner_reference_no,
            command_digest: hex::encode(Sha256::digest(&message.body)),
            received_at: progress.map(|progress| rfc3339(progress.first_seen)),
            attempts: progress.map_or(0, |progress| progress.attempts),
            calls_total: progress.map_or(0, |progress| progress.history.count),
            replay: progress.map_or(0, |progress| progress.replay),
            to_do: cause.map_or("find out who put it here: no worker did", to_do),
        }
    }

    /// Whether somebody has to look at it before it is replayed: what its publisher has to mend would end as it did, workers
    /// have died of it, or it would be cancelled again unasked.
    pub fn wants_a_look(&self) -> bool {
        match self.cause {
            Some(Cause::UnknownAccount) => false,
            // No worker of this version has put it there.
            None | Some(Cause::WorkerCrashed | Cause::NoQuery) => true,
            _ => self.outcome == Some(Outcome::Invalid),
        }
    }

    /// What a person calls it: its job id, else the beginning of its digest, which `--digest` takes.
    pub fn name(&self) -> String {
        self.job_id.clone().unwrap_or_else(|| format!("#{}", &self.command_digest[..12]))
    }
}

/// All of a parked copy: what is listed, and the calls, the properties and the command itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Whole<'a> {
    #[serde(flatten)]
    pub parked: &'a Parked,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub calls: &'a [CallRecord],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'a str>,
    /// The bytes, where they are a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<&'a str>,
    /// The bytes in hex, where they are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_hex: Option<String>,
}

impl<'a> Whole<'a> {
    pub fn new(parked: &'a Parked, message: &'a Message) -> Self {
        let properties = &message.properties;
        let command = std::str::from_utf8(&message.body).ok();
        Self {
            parked,
            calls: match &message.carried {
                Carried::Progress(progress) => &progress.history.calls,
                _ => &[],
            },
            message_id: properties.message_id.as_deref(),
            correlation_id: properties.correlation_id.as_deref(),
            reply_to: properties.reply_to.as_deref(),
            content_type: properties.content_type.as_deref(),
            content_encoding: properties.content_encoding.as_deref(),
            app_id: properties.app_id.as_deref(),
            trace_id: message.trace_id(),
            command,
            command_hex: command.is_none().then(|| hex::encode(&message.body)),
        }
    }
}

/// What a parked command carries when it is replayed; else why it cannot be.
///
/// # Errors
/// When another version of the worker has written what it carries.
pub fn replayed(message: &Message, not_after: Option<DateTime<Utc>>) -> Result<Progress, String> {
    // What was decided of it says more than what it carried: of an invalid command nothing was sent, of an expired one nobody knows.
    let perhaps_sent = message.parked.as_ref().map(|finish| finish.ambiguous);
    let replayed = |mut progress: Progress| {
        progress.ambiguous = perhaps_sent.unwrap_or(progress.ambiguous);
        Ok(progress.replayed(not_after))
    };
    match &message.carried {
        Carried::Progress(progress) => replayed((**progress).clone()),
        Carried::Foreign { version, .. } => {
            Err(format!("a worker of another version (headers {version}) has parked it: replay it with that one"))
        }
        Carried::Nothing | Carried::Damaged => replayed(Progress::new(message.received_at)),
    }
}

/// What a person does about a command that ended so.
fn to_do(cause: Cause) -> &'static str {
    match cause {
        Cause::NotJson
        | Cause::TooLarge
        | Cause::WrongEncoding
        | Cause::DuplicateKey
        | Cause::UnknownField
        | Cause::MissingField
        | Cause::FieldValue
        | Cause::ConstantOverridden => "mend the publisher, publish the command put right, discard this one",
        Cause::UnknownAccount => "add the account and replay; a wrong routing key: publish anew, discard this one",
        Cause::AttemptsExhausted => "when the provider is well again: replay",
        Cause::NotAfterPassed => "may it still be cancelled? replay with --not-after; else ask the provider, discard",
        Cause::NotFound => "ask the provider: expired? wrong references? replay what it finds again; else discard",
        Cause::NoQuery => "ask the provider what became of it, then discard; replay would cancel again",
        Cause::ExpiredInQueue => "take the expiration off the publisher's messages, then replay",
        Cause::WorkerCrashed => "see the worker's log; replay it alone, with a version that withstands it",
        Cause::NoLongerValid => {
            "were the account's settings changed? put them back, replay; else ask the provider, discard"
        }
        Cause::AccountRemoved => "put the account back, then replay; else ask the provider, discard",
        Cause::Canceled
        | Cause::AlreadyCanceled
        | Cause::Paid
        | Cause::Expired
        | Cause::Failed
        | Cause::Refunded
        | Cause::ResponseCode
        | Cause::NotAuthorized
        | Cause::NotCancelableByProvider => "nothing: it is settled; discard",
    }
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::Finish,
        message::{Origin, Properties},
    };

    #[test]
    fn what_only_a_person_can_judge_wants_a_look_before_it_is_replayed() {
        let parked = |cause: Option<Cause>| {
            let at = DateTime::UNIX_EPOCH;
            let finish =
                |cause| Finish { cause, at, ambiguous: false, parked: true, tellings: 0, said: Default::default() };
            Parked::new(&Message {
                body: b"{}".to_vec(),
                routing_key: "shop".into(),
                origin: Origin::PastItsQueue,
                redelivered: false,
                delivery_count: 0,
                properties: Properties::default(),
                carried: Carried::Damaged,
                parked: cause.map(finish),
                received_at: at,
                trace: None,
            })
        };
        assert!(parked(None).wants_a_look(), "no worker has put it there");
        let looked_at =
            Cause::ALL.iter().filter(|cause| cause.outcome().is_parked() && parked(Some(**cause)).wants_a_look());
        let looked_at: Vec<_> = looked_at.map(|cause| cause.name()).collect();
        let of_publishers = [
            "not_json",
            "too_large",
            "wrong_encoding",
            "duplicate_key",
            "unknown_field",
            "missing_field",
            "field_value",
            "constant_overridden",
        ];
        assert_eq!(looked_at, [&of_publishers[..], &["no_query", "worker_crashed"]].concat());
    }
}
