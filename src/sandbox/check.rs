//! Is a call right? Headers, time, signature and body, by the account's profile alone. Pure.

use super::{answer::Answer, ledger::References};
use crate::snap::{
    Operation,
    profile::{CommandField, Escapes, Field, Placeholder, SigningMode, Source, Template, TimestampForm},
    request::{Ids, Partner},
    sign,
};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};

/// How far X-TIMESTAMP may be off.
const MAX_SKEW: TimeDelta = TimeDelta::minutes(5);
/// The longest X-EXTERNAL-ID.
const MAX_EXTERNAL_ID: usize = 36;

/// A call whose caller is who it says.
#[derive(Debug)]
pub struct Caller {
    pub token: Option<String>,
    pub external_id: Option<String>,
}

/// Why a call is refused: a case of the standard's table, and the words that go with it.
#[derive(Debug)]
pub struct Refusal {
    case: &'static str,
    message: String,
}

impl Refusal {
    pub fn answer(&self, operation: Operation) -> Answer {
        Answer::saying(operation, self.case, &self.message, Map::new())
    }

    pub fn invalid_token() -> Self {
        Self { case: "40101", message: "Invalid Token (B2B)".into() }
    }

    pub fn conflict() -> Self {
        Self { case: "40900", message: "Conflict".into() }
    }

    fn missing(name: &str) -> Self {
        Self { case: "40002", message: format!("Invalid Mandatory Field {{{name}}}") }
    }

    fn format(name: &str) -> Self {
        Self { case: "40001", message: format!("Invalid Field Format {{{name}}}") }
    }

    fn unauthorized(why: &str) -> Self {
        Self { case: "40100", message: format!("Unauthorized. [{why}]") }
    }
}

/// Whether the calls of this account can be checked at all; else why not.
pub fn speakable(partner: &Partner) -> Result<(), String> {
    if let Some((setting, why)) = partner.lacks().into_iter().next() {
        return Err(format!("{setting} is missing: {why}"));
    }
    let calls = [Some(Operation::Cancel), partner.needs_token().then_some(Operation::Token)];
    for operation in calls.into_iter().flatten() {
        let of_call = operation == Operation::Cancel && partner.needs_token();
        let token = of_call.then_some(Placeholder::Token);
        for wanted in [Placeholder::Signature, Placeholder::Timestamp].into_iter().chain(token) {
            let alone = |template: &Template| template.around().is_some_and(|(_, held, _)| held == wanted);
            if !expected(partner, operation).any(|(_, template)| alone(template)) {
                let (call, held) = (operation.name(), wanted.name());
                return Err(format!(
                    "no header of a {call} call holds {{{held}}} as its only value: it cannot be checked"
                ));
            }
        }
    }
    Ok(())
}

/// Checks the headers, the time and the signature.
pub fn caller(
    partner: &Partner,
    operation: Operation,
    headers: &HeaderMap,
    body: &[u8],
    now: DateTime<Utc>,
) -> Result<Caller, Refusal> {
    content_type(headers)?;
    let sent = values(partner, operation, headers)?;
    let value = |wanted| sent.get(&wanted).copied();
    let timestamp = value(Placeholder::Timestamp).ok_or_else(|| Refusal::missing("X-TIMESTAMP"))?;
    time(timestamp, form(partner, operation), now)?;
    let external_id = value(Placeholder::ExternalId);
    if external_id.is_some_and(|id| id.len() > MAX_EXTERNAL_ID || !id.bytes().all(|b| b.is_ascii_digit())) {
        return Err(Refusal::format("X-EXTERNAL-ID"));
    }
    let token = value(Placeholder::Token);
    let signed = string_to_sign(partner, operation, body, timestamp, token.unwrap_or_default());
    let signature = value(Placeholder::Signature).ok_or_else(|| Refusal::missing("X-SIGNATURE"))?;
    if !signature_fits(partner, operation, &signed, signature) {
        return Err(Refusal::unauthorized("Signature"));
    }
    Ok(Caller { token: token.map(str::to_owned), external_id: external_id.map(str::to_owned) })
}

/// Checks the fields of a cancel's or a query's body, or the grant of a token call's.
pub fn fields(partner: &Partner, operation: Operation, body: Option<&Map<String, Value>>) -> Result<(), Refusal> {
    let body = body.ok_or(Refusal { case: "40000", message: "Bad Request".into() })?;
    let profile = &partner.profile;
    match operation {
        Operation::Token => {
            let grant = profile.token.as_ref().map_or("grantType", |call| &call.grant_field);
            constant(grant, "client_credentials", body)
        }
        Operation::Cancel | Operation::Query => {
            for field in body_fields(partner, operation) {
                self::field(field, body)?;
            }
            let named = references(partner, operation, body);
            let external_id = value_of(partner, operation, body, CommandField::OriginalExternalId);
            let names_call = external_id.and_then(Value::as_str).is_some_and(|id| !id.is_empty());
            if named.reference.is_none() && named.partner_reference.is_none() && !names_call {
                return Err(Refusal::missing(CommandField::OriginalReferenceNo.name()));
            }
            Ok(())
        }
    }
}

/// The transaction that a body names, whatever else is wrong with it.
pub fn references(partner: &Partner, operation: Operation, body: &Map<String, Value>) -> References {
    let text = |wanted| value_of(partner, operation, body, wanted)?.as_str().filter(|text| !text.is_empty());
    References {
        reference: text(CommandField::OriginalReferenceNo).map(str::to_owned),
        partner_reference: text(CommandField::OriginalPartnerReferenceNo).map(str::to_owned),
    }
}

/// What a body says in the field that is filled from this one of a command.
pub fn value_of<'a>(
    partner: &Partner,
    operation: Operation,
    body: &'a Map<String, Value>,
    wanted: CommandField,
) -> Option<&'a Value> {
    let field = body_fields(partner, operation).iter().find(|field| field.source == Source::Command(wanted))?;
    given(field, body)
}

/// What a body holds where this field belongs.
fn given<'a>(field: &Field, body: &'a Map<String, Value>) -> Option<&'a Value> {
    match field.place() {
        (Some(object), name) => body.get(object)?.get(name),
        (None, name) => body.get(name),
    }
}

fn body_fields(partner: &Partner, operation: Operation) -> &[Field] {
    match operation {
        Operation::Cancel => &partner.profile.cancel.fields,
        Operation::Query => partner.profile.query.as_ref().map_or(&[], |query| &query.fields),
        Operation::Token => &[],
    }
}

/// The headers that a call must carry; one that would hold a token only where there is one.
fn expected(partner: &Partner, operation: Operation) -> impl Iterator<Item = (&String, &Template)> {
    let of_token = partner.profile.token.as_ref().filter(|_| operation == Operation::Token);
    let headers = of_token.map_or(&partner.profile.headers, |call| &call.headers);
    let with_token = partner.needs_token();
    headers
        .iter()
        .filter(move |(_, template)| with_token || !template.placeholders().any(|held| held == Placeholder::Token))
}

/// The values that the headers hold; those that are the account's own must be right.
fn values<'a>(
    partner: &Partner,
    operation: Operation,
    headers: &'a HeaderMap,
) -> Result<HashMap<Placeholder, &'a str>, Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    let mut sent = HashMap::new();
    for (name, template) in expected(partner, operation) {
        let whole = text(name).ok_or_else(|| Refusal::missing(name))?;
        if let Some((before, placeholder, after)) = template.around() {
            let inner = whole.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            let inner = inner.filter(|inner| !inner.is_empty()).ok_or_else(|| Refusal::format(name))?;
            sent.insert(placeholder, inner);
        }
    }
    for (name, template) in expected(partner, operation) {
        let right = template.render(|held| of_account(&partner.ids, held).or_else(|| sent.get(&held).copied()));
        if right.as_deref() != text(name) {
            let names_us = |held| matches!(held, Placeholder::PartnerId | Placeholder::ClientKey);
            let unknown = template.placeholders().any(names_us);
            return Err(if unknown { Refusal::unauthorized("Unknown Client") } else { Refusal::format(name) });
        }
    }
    Ok(sent)
}

fn of_account(ids: &Ids, placeholder: Placeholder) -> Option<&str> {
    match placeholder {
        Placeholder::PartnerId => ids.partner_id.as_deref(),
        Placeholder::ClientKey => ids.client_key.as_deref(),
        Placeholder::ChannelId => ids.channel_id.as_deref(),
        Placeholder::Origin => ids.origin.as_deref(),
        _ => None,
    }
}

fn content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let given = given.ok_or_else(|| Refusal::missing("Content-Type"))?;
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") { Ok(()) } else { Err(Refusal::format("Content-Type")) }
}

fn form(partner: &Partner, operation: Operation) -> TimestampForm {
    let of_token = partner.profile.token.as_ref().filter(|_| operation == Operation::Token);
    of_token.and_then(|call| call.timestamp).unwrap_or(partner.profile.timestamp)
}

fn time(text: &str, form: TimestampForm, now: DateTime<Utc>) -> Result<(), Refusal> {
    let at = DateTime::parse_from_rfc3339(text).map_err(|_| Refusal::format("X-TIMESTAMP"))?.to_utc();
    if sign::timestamp(at, form) != text {
        return Err(Refusal::format("X-TIMESTAMP"));
    }
    if (now - at).abs() > MAX_SKEW {
        return Err(Refusal::unauthorized("X-TIMESTAMP is more than 5 minutes off"));
    }
    Ok(())
}

fn string_to_sign(partner: &Partner, operation: Operation, body: &[u8], timestamp: &str, token: &str) -> String {
    let route = match operation {
        Operation::Token => {
            return sign::token_string(partner.ids.client_key.as_deref().unwrap_or_default(), timestamp);
        }
        Operation::Cancel => Some(&partner.cancel),
        Operation::Query => partner.query.as_ref(),
    };
    let path = route.map_or("", |route| &route.signed_path);
    let hash = sign::body_hash(&as_hashed(body, partner.profile.signing.escapes), partner.profile.signing.body_hash);
    match partner.mode {
        SigningMode::Symmetric => sign::symmetric_string(path, token, &hash, timestamp),
        SigningMode::Asymmetric => sign::asymmetric_string(path, &hash, timestamp),
    }
}

fn signature_fits(partner: &Partner, operation: Operation, signed: &str, signature: &str) -> bool {
    use crate::snap::profile::Encoding;
    let encoding = partner.profile.signing.signature;
    if operation != Operation::Token && partner.mode == SigningMode::Symmetric {
        let secret = partner.client_secret.as_ref().map(|secret| secret.expose_secret());
        return secret.is_some_and(|secret| sign::symmetric(signed, secret, encoding) == signature);
    }
    let bytes = match encoding {
        Encoding::Hex => hex::decode(signature).ok(),
        Encoding::Base64 => STANDARD.decode(signature).ok(),
    };
    let (Some(bytes), Some(key)) = (bytes, &partner.private_key) else { return false };
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_der()).verify(signed.as_bytes(), &bytes).is_ok()
}

/// The bytes that the provider hashes: one that writes PHP encodes the body anew.
fn as_hashed(body: &[u8], escapes: Escapes) -> Vec<u8> {
    let minified = minified(body);
    match (escapes, std::str::from_utf8(&minified)) {
        (Escapes::Php, Ok(text)) => sign::php_escaped(text).into_bytes(),
        _ => minified,
    }
}

/// The body without insignificant white space, whose hash SNAP wants signed. What is not JSON stays as it came.
fn minified(body: &[u8]) -> Vec<u8> {
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_err() {
        return body.to_vec();
    }
    let (mut inside, mut escaped) = (false, false);
    let mut keep = |byte: &u8| {
        let kept = inside || !byte.is_ascii_whitespace();
        if *byte == b'"' && !escaped {
            inside = !inside;
        }
        escaped = inside && *byte == b'\\' && !escaped;
        kept
    };
    body.iter().copied().filter(|byte| keep(byte)).collect()
}

fn field(field: &Field, body: &Map<String, Value>) -> Result<(), Refusal> {
    let name = &field.name;
    let given = given(field, body).filter(|value| !value.is_null());
    match (&field.source, given) {
        (Source::Constant(value), _) => is_constant(name, value, given),
        (_, None) if field.required => Err(Refusal::missing(name)),
        (_, None) => Ok(()),
        (Source::Command(CommandField::Amount), Some(value)) if is_amount(value) => Ok(()),
        (Source::Command(CommandField::AdditionalInfo), Some(Value::Object(info))) => constants(&field.constants, info),
        (Source::Command(CommandField::Amount | CommandField::AdditionalInfo), Some(_)) => Err(Refusal::format(name)),
        (Source::Command(_), Some(Value::String(text))) if text.is_empty() && field.required => {
            Err(Refusal::missing(name))
        }
        (Source::Command(_), Some(Value::String(text))) if text.chars().count() <= field.max => Ok(()),
        (Source::Command(_), Some(_)) => Err(Refusal::format(name)),
    }
}

fn constants(wanted: &BTreeMap<String, String>, body: &Map<String, Value>) -> Result<(), Refusal> {
    wanted.iter().try_for_each(|(name, value)| constant(name, value, body))
}

fn constant(name: &str, wanted: &str, body: &Map<String, Value>) -> Result<(), Refusal> {
    is_constant(name, wanted, body.get(name))
}

fn is_constant(name: &str, wanted: &str, given: Option<&Value>) -> Result<(), Refusal> {
    match given {
        None | Some(Value::Null) => Err(Refusal::missing(name)),
        Some(Value::String(text)) if text == wanted => Ok(()),
        Some(_) => Err(Refusal::format(name)),
    }
}

fn is_amount(value: &Value) -> bool {
    let part = |name| value.get(name).and_then(Value::as_str);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let whole_and_cents = part("value").and_then(|text| text.split_once('.'));
    whole_and_cents
        .is_some_and(|(whole, cents)| digits(whole) && whole.len() <= 16 && digits(cents) && cents.len() == 2)
        && part("currency").is_some_and(|currency| currency.len() == 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_counts_inside_texts_only() {
        let pretty = b"{\n  \"a b\" : \"say \\\" c\\\\\" ,\t\"d\": [ 1, 2 ]\r\n}";
        assert_eq!(minified(pretty), b"{\"a b\":\"say \\\" c\\\\\",\"d\":[1,2]}");
        assert_eq!(minified(b""), b"");
        assert_eq!(minified(b"not JSON"), b"not JSON");
    }
}
