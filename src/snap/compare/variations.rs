//! The mistakes that are made, each as a small function that makes it.

use super::{Call, Hash, Mistake, Parts, Primitive, Shape, route};
use crate::snap::{Operation, profile::SigningMode, sign};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Value, ser};

/// One mistake, and how to make it. One that does not apply changes nothing.
pub struct Variation {
    pub mistake: Mistake,
    pub make: fn(&mut Parts, &Call<'_>),
}

const fn of(name: &'static str, make: fn(&mut Parts, &Call<'_>)) -> Variation {
    Variation { mistake: Mistake { name, mend: None }, make }
}

const fn mend(name: &'static str, mend: &'static str, make: fn(&mut Parts, &Call<'_>)) -> Variation {
    Variation { mistake: Mistake { name, mend: Some(mend) }, make }
}

const SIGNED_PATH: &str = "that path as cancel_signed_path (or query_signed_path)";
const TIMESTAMP: &str = "offset and fraction in the profile's [timestamp]";

/// In an order in which two can be made one after the other.
pub const VARIATIONS: &[Variation] = &[
    // The body.
    of("the body parsed and written again (numbers change)", |parts, _| rewrite(parts, |value| value.to_string())),
    of("the keys of the body sorted", |parts, _| rewrite(parts, |value| sorted(value).to_string())),
    of("white space taken out of the body's values", |parts, _| parts.body.retain(|b| !b.is_ascii_whitespace())),
    of("the body pretty-printed with 2 spaces", |parts, _| rewrite(parts, |value| pretty(&value, b"  "))),
    of("the body pretty-printed with 4 spaces", |parts, _| rewrite(parts, |value| pretty(&value, b"    "))),
    of("a space after each comma and colon of the body, as Python writes it", |parts, _| {
        rewrite(parts, |value| spaced(&value));
    }),
    mend(
        "the slashes of the body escaped, as PHP writes them",
        "escapes = \"php\" in the profile's [signing]",
        |parts, _| {
            edit(parts, |body| body.replace('/', "\\/"));
        },
    ),
    of("what is not ASCII in the body escaped as \\u…", |parts, _| edit(parts, escaped)),
    of("a new line at the end of the body", |parts, _| parts.body.push(b'\n')),
    of("an empty body", |parts, _| parts.body.clear()),
    of("{} for the body", |parts, _| parts.body = b"{}".to_vec()),
    // Its hash.
    of("the body's hash in upper-case hexadecimal", |parts, _| parts.hash = Hash::UpperHex),
    mend("the body's hash in base64", "body_hash = \"base64\" in the profile's [signing]", |parts, _| {
        parts.hash = Hash::Base64;
    }),
    mend("the body's hash in hexadecimal", "body_hash = \"hex\" in the profile's [signing]", |parts, _| {
        parts.hash = Hash::Hex;
    }),
    of("the body itself where its hash belongs", |parts, _| parts.hash = Hash::Plain),
    // The path.
    mend("the requested path instead of the signed one", SIGNED_PATH, |parts, call| {
        if let Some(route) = route(call) {
            parts.path = route.path.clone();
        }
    }),
    mend("the path of the other call", SIGNED_PATH, |parts, call| {
        let other = match call.operation {
            Operation::Cancel => call.partner.query.as_ref(),
            _ => Some(&call.partner.cancel),
        };
        if let Some(other) = other {
            parts.path = other.signed_path.clone();
        }
    }),
    mend("the path without its version", SIGNED_PATH, |parts, _| {
        let is_version = |part: &str| {
            part.strip_prefix('v')
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
        };
        parts.path = parts.path.split('/').filter(|part| !is_version(part)).collect::<Vec<_>>().join("/");
    }),
    mend("a slash at the end of the path", SIGNED_PATH, |parts, _| parts.path.push('/')),
    mend("the base URL's path before the path", SIGNED_PATH, |parts, call| {
        let after_scheme = call.partner.base_url.split_once("://").map_or("", |(_, rest)| rest);
        if let Some(at) = after_scheme.find('/') {
            parts.path.insert_str(0, &after_scheme[at..]);
        }
    }),
    of("the whole URL instead of the path", |parts, call| parts.path.insert_str(0, &call.partner.base_url)),
    of("no slash at the beginning of the path", |parts, _| parts.path = parts.path.trim_start_matches('/').to_owned()),
    // The method.
    of("the method in lower case", |parts, _| parts.method.make_ascii_lowercase()),
    of("no method", |parts, _| parts.method.clear()),
    // The time. The zone first: what follows goes by the text that it leaves.
    mend("the time in UTC, written with Z", TIMESTAMP, |parts, _| {
        zone(parts, |at, digits| at.to_rfc3339_opts(digits, true))
    }),
    mend("the time in UTC, written with +00:00", TIMESTAMP, |parts, _| {
        zone(parts, |at, digits| at.to_rfc3339_opts(digits, false));
    }),
    mend("the time of Jakarta, written with +07:00", TIMESTAMP, |parts, _| {
        zone(parts, |at, digits| at.with_timezone(&sign::wib()).to_rfc3339_opts(digits, false));
    }),
    of("the time in UTC, but labelled +07:00", |parts, _| {
        zone(parts, |at, digits| at.to_rfc3339_opts(digits, true).replace('Z', "+07:00"));
    }),
    of("the time of Jakarta, but labelled Z", |parts, _| {
        zone(parts, |at, digits| at.with_timezone(&sign::wib()).to_rfc3339_opts(digits, false).replace("+07:00", "Z"));
    }),
    mend("the time with milliseconds", TIMESTAMP, |parts, call| {
        if !parts.timestamp.contains('.') {
            let milliseconds = format!(".{:03}", call.at.timestamp_subsec_millis());
            parts.timestamp.insert_str(offset_at(&parts.timestamp), &milliseconds);
        }
    }),
    mend("the time without milliseconds", TIMESTAMP, |parts, _| {
        if let Some(dot) = parts.timestamp.find('.') {
            parts.timestamp.replace_range(dot..offset_at(&parts.timestamp), "");
        }
    }),
    of("the time without its offset", |parts, _| parts.timestamp.truncate(offset_at(&parts.timestamp))),
    of("the offset without its colon (+0700)", |parts, _| {
        if let Some((before, "00")) = parts.timestamp.rsplit_once(':')
            && before.len() > offset_at(&parts.timestamp)
        {
            parts.timestamp = format!("{before}00");
        }
    }),
    // The key and the algorithm.
    mend("the other signing mode", "the other signing_mode in the account", |parts, call| {
        (parts.primitive, parts.shape) = match (call.operation, call.partner.mode) {
            (Operation::Token, _) => (Primitive::HmacSha512, parts.shape),
            (_, SigningMode::Symmetric) => (Primitive::RsaSha256, Shape::WithoutToken),
            (_, SigningMode::Asymmetric) => (Primitive::HmacSha512, Shape::WithToken),
        };
    }),
    of("HMAC-SHA256 instead of HMAC-SHA512", |parts, _| {
        if !parts.primitive.is_rsa() {
            parts.primitive = Primitive::HmacSha256;
        }
    }),
    of("RSA with SHA-512 instead of SHA-256", |parts, _| rsa(parts, Primitive::RsaSha512)),
    of("RSA with SHA-1 instead of SHA-256", |parts, _| rsa(parts, Primitive::RsaSha1)),
    of("RSA-PSS instead of PKCS #1 v1.5", |parts, _| rsa(parts, Primitive::RsaPss)),
    of("a new line at the end of the secret", |parts, _| hmac_key(parts, |secret| [secret, b"\n"].concat())),
    of("the secret decoded from base64", |parts, _| {
        hmac_key(parts, |secret| STANDARD.decode(secret).unwrap_or_else(|_| secret.to_vec()));
    }),
    // The token.
    of("\"Bearer \" before the token", |parts, _| {
        if parts.shape == Shape::WithToken {
            parts.token.insert_str(0, "Bearer ");
        }
    }),
    of("no token in the string", |parts, _| {
        if parts.shape == Shape::WithToken {
            parts.shape = Shape::WithoutToken;
        }
    }),
    of("nothing where the token belongs (two colons)", |parts, _| parts.token.clear()),
    of("the token in the string", |parts, call| {
        if parts.shape == Shape::WithoutToken && call.token.is_some() {
            parts.shape = Shape::WithToken;
        }
    }),
    // A token call's string.
    of("the time before the client key", |parts, _| {
        if parts.shape == Shape::Token {
            parts.shape = Shape::TokenReversed;
        }
    }),
    of("the partner id for the client key", |parts, call| {
        if let Some(partner_id) = &call.partner.ids.partner_id {
            parts.client = partner_id.clone();
        }
    }),
];

fn edit(parts: &mut Parts, change: impl Fn(&str) -> String) {
    if let Ok(text) = std::str::from_utf8(&parts.body) {
        parts.body = change(text).into_bytes();
    }
}

fn rewrite(parts: &mut Parts, write: impl Fn(Value) -> String) {
    if let Ok(value) = serde_json::from_slice(&parts.body) {
        parts.body = write(value).into_bytes();
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            Value::Object(members.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        plain => plain,
    }
}

fn pretty(value: &Value, indent: &[u8]) -> String {
    written(value, ser::PrettyFormatter::with_indent(indent))
}

fn spaced(value: &Value) -> String {
    /// As Python's `json.dumps` separates by default.
    struct Spaced;
    impl ser::Formatter for Spaced {
        fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }

        fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }

        fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
            out.write_all(b": ")
        }
    }
    written(value, Spaced)
}

fn written(value: &Value, formatter: impl ser::Formatter) -> String {
    let mut out = Vec::new();
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
        .expect("JSON can be written into memory");
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            sign::push_escape(&mut out, c);
        }
    }
    out
}

/// Writes the time anew, with as many digits as it has.
fn zone(parts: &mut Parts, write: impl Fn(DateTime<Utc>, SecondsFormat) -> String) {
    let digits = if parts.timestamp.contains('.') { SecondsFormat::Millis } else { SecondsFormat::Secs };
    if let Ok(at) = DateTime::parse_from_rfc3339(&parts.timestamp) {
        parts.timestamp = write(at.to_utc(), digits);
    }
}

/// Where the offset of a timestamp begins.
fn offset_at(timestamp: &str) -> usize {
    let time = timestamp.find('T').unwrap_or(0);
    timestamp[time..].find(['Z', '+', '-']).map_or(timestamp.len(), |at| time + at)
}

fn rsa(parts: &mut Parts, primitive: Primitive) {
    if parts.primitive.is_rsa() {
        parts.primitive = primitive;
    }
}

fn hmac_key(parts: &mut Parts, change: impl Fn(&[u8]) -> Vec<u8>) {
    if !parts.primitive.is_rsa() {
        parts.secret = change(&parts.secret);
    }
}
