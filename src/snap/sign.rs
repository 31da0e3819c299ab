//! String to sign and signature, after SNAP's "Keamanan" page. Pure.
//!
//! Three strings exist: a token call signs `clientKey|timestamp`; a transaction signs
//! `METHOD:path:token:bodyhash:timestamp` (symmetric) or `METHOD:path:bodyhash:timestamp` (asymmetric). The token stands
//! in it bare, without `Bearer`. The body's hash is over the very bytes that are sent.

use super::{
    key::PrivateKey,
    profile::{Encoding, Fraction, Offset, TimestampForm},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, FixedOffset, SecondsFormat, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};

/// Every SNAP call is a POST.
const METHOD: &str = "POST";

/// Bytes as text.
pub fn encode(bytes: &[u8], encoding: Encoding) -> String {
    match encoding {
        Encoding::Hex => hex::encode(bytes),
        Encoding::Base64 => STANDARD.encode(bytes),
    }
}

/// SHA-256 of a body as it is sent.
pub fn body_hash(body: &[u8], encoding: Encoding) -> String {
    encode(&Sha256::digest(body), encoding)
}

/// JSON with its texts escaped as PHP's `json_encode` does, however they were escaped before.
pub fn php_escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut chars = json.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('u') => push_unit(&mut out, &chars.by_ref().take(4).collect::<String>()),
                second => out.extend([Some(c), second].into_iter().flatten()),
            },
            '/' => out.push_str("\\/"),
            c if c.is_ascii() => out.push(c),
            c => push_escape(&mut out, c),
        }
    }
    out
}

/// What was written as `\u` and these digits.
fn push_unit(out: &mut String, digits: &str) {
    let unit = u16::from_str_radix(digits, 16);
    match unit.ok().and_then(|unit| u8::try_from(unit).ok()).map(char::from) {
        Some('\u{8}') => out.push_str("\\b"),
        Some('\t') => out.push_str("\\t"),
        Some('\n') => out.push_str("\\n"),
        Some('\u{c}') => out.push_str("\\f"),
        Some('\r') => out.push_str("\\r"),
        Some(c @ ('"' | '\\' | '/')) => out.extend(['\\', c]),
        Some(c @ ' '..='\u{7f}') => out.push(c),
        _ => out.extend(["\\u", &digits.to_ascii_lowercase()]),
    }
}

/// `\u…`, two of them beyond the basic plane.
pub fn push_escape(out: &mut String, c: char) {
    c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
}

/// What a token call signs.
pub fn token_string(client_key: &str, timestamp: &str) -> String {
    format!("{client_key}|{timestamp}")
}

/// What a transaction signs in symmetric mode.
pub fn symmetric_string(path: &str, token: &str, body_hash: &str, timestamp: &str) -> String {
    format!("{METHOD}:{path}:{token}:{body_hash}:{timestamp}")
}

/// What a transaction signs in asymmetric mode: no token, even where the call carries one.
pub fn asymmetric_string(path: &str, body_hash: &str, timestamp: &str) -> String {
    format!("{METHOD}:{path}:{body_hash}:{timestamp}")
}

/// HMAC-SHA512 with the client secret.
pub fn symmetric(string_to_sign: &str, client_secret: &str, encoding: Encoding) -> String {
    let mut mac =
        <Hmac<Sha512> as KeyInit>::new_from_slice(client_secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(string_to_sign.as_bytes());
    encode(&mac.finalize().into_bytes(), encoding)
}

/// SHA256withRSA with the private key.
pub fn asymmetric(string_to_sign: &str, key: &PrivateKey, encoding: Encoding) -> String {
    encode(&key.sign(string_to_sign), encoding)
}

/// X-TIMESTAMP in the form that a provider wants.
pub fn timestamp(at: DateTime<Utc>, form: TimestampForm) -> String {
    let digits = match form.fraction {
        Fraction::None => SecondsFormat::Secs,
        Fraction::Milliseconds => SecondsFormat::Millis,
    };
    match form.offset {
        Offset::Utc => at.to_rfc3339_opts(digits, true),
        Offset::Wib => at.with_timezone(&wib()).to_rfc3339_opts(digits, false),
    }
}

/// Western Indonesia Time, UTC+7, in which SNAP's times and days are reckoned.
pub fn wib() -> FixedOffset {
    FixedOffset::east_opt(7 * 3600).expect("seven hours are an offset")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const VECTORS: &str = include_str!("../../tests/vectors/signatures.json");

    fn key() -> PrivateKey {
        PrivateKey::read(include_bytes!("../../tests/vectors/midtrans-public-sample-key.pem")).unwrap()
    }

    fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
        vector[field].as_str().unwrap_or_else(|| panic!("{vector} has no {field}"))
    }

    #[test]
    fn every_published_signature_comes_out() {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        let vectors = vectors["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 7);
        for vector in vectors {
            let name = text(vector, "name");
            let time = text(vector, "timestamp");
            let hash = vector["body"].as_str().map(|body| body_hash(body.as_bytes(), Encoding::Hex));
            assert_eq!(hash.as_deref(), vector["body_sha256"].as_str(), "{name}");
            let hash = hash.unwrap_or_default();
            let (string, signature): (_, Box<dyn Fn(Encoding) -> String>) = match text(vector, "kind") {
                "token" => {
                    let string = token_string(text(vector, "client_key"), time);
                    (string.clone(), Box::new(move |e| asymmetric(&string, &key(), e)))
                }
                "symmetric" => {
                    let string = symmetric_string(text(vector, "path"), text(vector, "access_token"), &hash, time);
                    let secret = text(vector, "client_secret");
                    (string.clone(), Box::new(move |e| symmetric(&string, secret, e)))
                }
                "asymmetric" => {
                    let string = asymmetric_string(text(vector, "path"), &hash, time);
                    (string.clone(), Box::new(move |e| asymmetric(&string, &key(), e)))
                }
                other => panic!("{name}: unknown kind {other}"),
            };
            assert_eq!(string, text(vector, "string_to_sign"), "{name}");
            assert_eq!(signature(Encoding::Base64), text(vector, "signature_base64"), "{name}");
            if let Some(hex) = vector["signature_hex"].as_str() {
                assert_eq!(signature(Encoding::Hex), hex, "{name}");
            }
        }
    }

    #[test]
    fn the_traps_do_not() {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        let placeholder = text(&vectors["never_expect"], "value");
        let traps: Vec<_> =
            vectors["body_hash_traps"].as_array().unwrap().iter().map(|trap| text(trap, "sha256")).collect();
        assert_eq!(traps.len(), 2);
        for vector in vectors["vectors"].as_array().unwrap() {
            for field in ["signature_base64", "signature_hex"] {
                assert_ne!(vector[field].as_str(), Some(placeholder));
            }
            if let Some(body) = vector["body"].as_str() {
                assert!(!traps.contains(&body_hash(body.as_bytes(), Encoding::Hex).as_str()));
            }
        }
        // The traps are the hashes of the mistakes that they name: made here on purpose, they come out.
        let sorted = r#"{"additionalInfo":{"type":"DYNAMIC"},"originalPartnerReferenceNo":"2020102900000000000001","originalReferenceNo":"2020102977770000000009","reason":"cancel reason"}"#;
        assert_eq!(body_hash(sorted.as_bytes(), Encoding::Hex), traps[0]);
        let stripped = r#"{"originalPartnerReferenceNo":"2020102900000000000001","originalReferenceNo":"2020102977770000000009","reason":"cancelreason","additionalInfo":{"type":"DYNAMIC"}}"#;
        assert_eq!(body_hash(stripped.as_bytes(), Encoding::Hex), traps[1]);
    }

    #[test]
    fn timestamps_are_converted_not_relabelled() {
        let at = DateTime::parse_from_rfc3339("2026-11-20T18:30:15.678Z").unwrap().to_utc();
        let form = |offset, fraction| timestamp(at, TimestampForm { offset, fraction });
        assert_eq!(form(Offset::Wib, Fraction::None), "2026-11-21T01:30:15+07:00");
        assert_eq!(form(Offset::Wib, Fraction::Milliseconds), "2026-11-21T01:30:15.678+07:00");
        assert_eq!(form(Offset::Utc, Fraction::None), "2026-11-20T18:30:15Z");
    }

    #[test]
    fn no_body_and_an_empty_object_hash_differently() {
        assert_eq!(body_hash(b"", Encoding::Hex), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(body_hash(b"{}", Encoding::Hex), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    }
}
