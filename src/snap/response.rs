//! A provider's answer: from the bytes of a reply to what they say. Pure, and forgiving: success is judged by the response
//! code alone, names come in several spellings, and nothing that is missing or odd beyond the code makes an answer unreadable.

use super::{Code, sign};
use crate::command::Amount;
use chrono::{DateTime, Datelike, NaiveDateTime, TimeZone, Utc};
use secrecy::SecretString;
use serde_json::{Map, Value};
use std::time::Duration;

/// What a reply says. Every part is optional but the fact that it was a JSON object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// `None` unless it is seven digits.
    pub code: Option<Code>,
    pub message: Option<String>,
    pub original_reference_no: Option<String>,
    pub original_partner_reference_no: Option<String>,
    pub status: Option<String>,
    pub cancel_time: Option<String>,
    pub paid_time: Option<String>,
    pub amount: Option<Amount>,
}

/// The longest message that is passed on (Bank Neo Commerce allows 256 characters).
const MAX_TEXT: usize = 256;

impl Answer {
    /// `None` if the body is no JSON object.
    pub fn read(body: &[u8]) -> Option<Self> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
            return None;
        };
        let text = |name| field_text(&fields, name);
        Some(Self {
            code: text("responseCode").and_then(|code| Code::parse(&code)),
            message: text("responseMessage"),
            original_reference_no: text("originalReferenceNo"),
            original_partner_reference_no: text("originalPartnerReferenceNo"),
            status: text("latestTransactionStatus"),
            cancel_time: text("cancelTime"),
            paid_time: text("paidTime"),
            amount: fields.get("amount").and_then(|amount| {
                let part = |name| amount.get(name)?.as_str().map(cut);
                Some(Amount { value: part("value")?, currency: part("currency")? })
            }),
        })
    }

    /// Whether it names another transaction than the one that was asked about. An empty or absent reference names none.
    pub fn is_about_another(&self, reference: Option<&str>, partner_reference: Option<&str>) -> bool {
        let differs = |said: &Option<String>, asked: Option<&str>| matches!((said.as_deref(), asked), (Some(said), Some(asked)) if !said.is_empty() && !asked.is_empty() && said != asked);
        differs(&self.original_reference_no, reference)
            || differs(&self.original_partner_reference_no, partner_reference)
    }
}

/// A token call's answer. It has no `Debug`, as nothing that holds a token has.
pub struct TokenAnswer {
    pub code: Option<Code>,
    pub message: Option<String>,
    pub access_token: Option<SecretString>,
    pub expires_in: Option<Duration>,
}

impl TokenAnswer {
    /// Reads it with the names that the profile accepts; `None` if the body is no JSON object.
    pub fn read(body: &[u8], token_names: &[String], lifetime_names: &[String]) -> Option<Self> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
            return None;
        };
        let token = token_names.iter().find_map(|name| fields.get(name)?.as_str());
        let seconds = lifetime_names.iter().find_map(|name| match fields.get(name)? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse::<f64>().ok(),
            _ => None,
        });
        Some(Self {
            code: field_text(&fields, "responseCode").and_then(|code| Code::parse(&code)),
            message: field_text(&fields, "responseMessage"),
            access_token: token.filter(|token| !token.is_empty()).map(SecretString::from),
            // A week is longer than any provider says; it bounds what a nonsense number can do.
            expires_in: seconds.filter(|s| *s >= 0.0).map(|s| Duration::from_secs_f64(s.min(604_800.0))),
        })
    }
}

/// A text field; a number is taken as its digits.
fn field_text(fields: &Map<String, Value>, name: &str) -> Option<String> {
    match fields.get(name)? {
        Value::String(text) => Some(cut(text)),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// Shorter than any signature in base64 or hex (an HMAC-SHA256 in hex has 64), longer than any word, id or reference.
const LEAST_SIGNATURE: usize = 64;

/// Blots out what may be a signature in a refusal: a bank may repeat the one that it expected, which is as good as ours. JSON may
/// have a character of it escaped. What stands in the body that was sent is no secret: a reference can be as long.
pub fn blot_out_signatures(body: &mut [u8], sent: &[u8]) {
    let mut at = 0;
    while at < body.len() {
        let (characters, len) = signature(&body[at..]);
        let found = &mut body[at..at + len];
        if characters >= LEAST_SIGNATURE && !sent.windows(len).any(|part| part == found) {
            found.fill(b'*');
        }
        at += len.max(1);
    }
}

/// How many characters of base64, its alphabet for addresses included, or of hex a text begins with, and how long they are there.
fn signature(text: &[u8]) -> (usize, usize) {
    let is_of_one = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
    let (mut characters, mut len) = (0, 0);
    loop {
        len += match &text[len..] {
            [b'\\', b'u', code @ ..] if code.len() >= 4 => {
                let code = std::str::from_utf8(&code[..4]).ok().and_then(|code| u8::from_str_radix(code, 16).ok());
                if !code.is_some_and(is_of_one) {
                    return (characters, len);
                }
                6
            }
            [b'\\', b'/', ..] => 2,
            [byte, ..] if is_of_one(*byte) => 1,
            _ => return (characters, len),
        };
        characters += 1;
    }
}

/// A provider's time with an offset. One that has none is taken as Western Indonesia Time, the zone of the standard.
pub fn normalised_time(text: &str) -> Option<String> {
    let zoned = DateTime::parse_from_rfc3339(text).ok();
    let bare = || {
        let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
            .iter()
            .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
        sign::wib().from_local_datetime(&naive?).single()
    };
    let written = zoned.or_else(bare).filter(|time| has_four_digits(time.year()));
    written.map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
}

/// A Retry-After header: seconds, or a date as HTTP writes it. Longer than `cap` becomes `cap`; a date in the past is zero.
pub fn retry_after(value: &str, now: DateTime<Utc>, cap: Duration) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number has are a long time, too.
        return Some(value.parse().map_or(cap, Duration::from_secs).min(cap));
    }
    Some((date(value)? - now).to_std().unwrap_or_default().min(cap))
}

/// A date as HTTP writes it.
pub fn date(value: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc2822(value).ok().map(|date| date.to_utc()).filter(|date| has_four_digits(date.year()))
}

/// Neither HTTP nor RFC 3339 has other years, and nobody could read back what we make of them.
fn has_four_digits(year: i32) -> bool {
    (1..=9999).contains(&year)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn an_answer_is_read_whatever_its_spelling() {
        let answer = Answer::read(
            br#"{"responseCode":2007700,"responseMessage":"Successful","originalPartnerReferenceNo":"","cancelTime":"2020-10-20T17:56:57","additionInfo":{}}"#,
        )
        .unwrap();
        assert_eq!(answer.code, Code::parse("2007700"));
        assert_eq!(answer.cancel_time.as_deref(), Some("2020-10-20T17:56:57"));
        assert_eq!(answer.amount, None);
        for (code, expected) in [
            ("\"2007700\"", true),
            ("\"200770\"", false),
            ("\"20077000\"", false),
            ("\"200770x\"", false),
            ("null", false),
            ("[]", false),
        ] {
            let answer = Answer::read(format!(r#"{{"responseCode":{code}}}"#).as_bytes()).unwrap();
            assert_eq!(answer.code.is_some(), expected, "{code}");
        }
        for body in [&b""[..], b"[]", b"null", b"<html>", b"{\"responseCode\":\"2007700\"", b"\xff"] {
            assert_eq!(Answer::read(body), None, "{body:?}");
        }
    }

    #[test]
    fn only_a_named_and_different_reference_is_another_transaction() {
        let answer = |reference: &str, partner: &str| Answer {
            original_reference_no: Some(reference.into()),
            original_partner_reference_no: Some(partner.into()),
            ..Answer::default()
        };
        assert!(!answer("R", "P").is_about_another(Some("R"), Some("P")));
        assert!(!answer("R", "").is_about_another(Some("R"), Some("P")));
        assert!(!answer("R", "P").is_about_another(Some("R"), None));
        assert!(!answer("R", "P").is_about_another(Some("R"), Some("")));
        assert!(!Answer::default().is_about_another(Some("R"), Some("P")));
        assert!(answer("X", "P").is_about_another(Some("R"), Some("P")));
        assert!(answer("R", "X").is_about_another(Some("R"), Some("P")));
    }

    #[test]
    fn a_token_answer_may_name_its_lifetime_as_a_number_or_a_text() {
        let names = |name: &str| vec![name.to_owned(), "other".to_owned()];
        let read = |body: &str| TokenAnswer::read(body.as_bytes(), &names("accessToken"), &names("expiresIn")).unwrap();
        for (lifetime, expected) in [
            ("900", Some(900)),
            ("\"900\"", Some(900)),
            ("\" 60 \"", Some(60)),
            ("-1", None),
            ("\"soon\"", None),
            ("1e300", Some(604_800)),
        ] {
            let answer = read(&format!(r#"{{"accessToken":"t","expiresIn":{lifetime}}}"#));
            assert_eq!(answer.expires_in, expected.map(Duration::from_secs), "{lifetime}");
        }
        let token = |body: &str| read(body).access_token.map(|token| token.expose_secret().to_owned());
        assert_eq!(token(r#"{"other":"t"}"#).as_deref(), Some("t"));
        assert_eq!(token(r#"{"accessToken":""}"#), None);
        assert!(TokenAnswer::read(b"<html>", &[], &[]).is_none());
    }

    #[test]
    fn what_may_be_a_signature_is_blotted_out() {
        const REFERENCE: &str = "R123456789012345678901234567890123456789012345678901234567890123";
        let blotted = |text: &str| {
            let mut body = text.as_bytes().to_vec();
            blot_out_signatures(&mut body, format!(r#"{{"originalReferenceNo":"{REFERENCE}"}}"#).as_bytes());
            String::from_utf8(body).unwrap()
        };
        let stars = |count: usize| "*".repeat(count);
        let (hex, base64) = ("0a".repeat(32), format!("{}==", "aB+/9-_z".repeat(11)));
        for signature in [&hex, &base64] {
            let said = blotted(&format!(r#"{{"responseMessage":"expected {signature}, not that"}}"#));
            assert_eq!(said, format!(r#"{{"responseMessage":"expected {}, not that"}}"#, stars(signature.len())));
        }
        let escaped = format!(r"{}\/\u002b\u003D", "a".repeat(61));
        assert_eq!(blotted(&escaped), stars(escaped.len()));
        // One less; words and references; a text that is none of base64.
        for good in [
            REFERENCE,
            &"a".repeat(63),
            "Unauthorized. Signature 4017700",
            &format!("{}é", "a".repeat(63)),
            r"\u0",
            "\\",
        ] {
            assert_eq!(blotted(good), good);
        }
    }

    #[test]
    fn times_get_an_offset() {
        assert_eq!(normalised_time("2020-10-20T17:56:57").as_deref(), Some("2020-10-20T17:56:57+07:00"));
        assert_eq!(normalised_time("2020-10-20 17:56:57").as_deref(), Some("2020-10-20T17:56:57+07:00"));
        assert_eq!(normalised_time("2020-10-20T17:56:57Z").as_deref(), Some("2020-10-20T17:56:57Z"));
        assert_eq!(normalised_time("yesterday"), None);
        assert_eq!(normalised_time("+12020-10-20T17:56:57"), None);
    }

    #[test]
    fn retry_after_is_read_and_capped() {
        let now = DateTime::parse_from_rfc3339("2026-11-20T00:00:00Z").unwrap().to_utc();
        let read = |value| retry_after(value, now, Duration::from_secs(3600)).map(|d| d.as_secs());
        assert_eq!(read("120"), Some(120));
        assert_eq!(read(" 0 "), Some(0));
        assert_eq!(read("99999999999999999999999999"), Some(3600));
        assert_eq!(read("Fri, 20 Nov 2026 00:01:00 GMT"), Some(60));
        assert_eq!(read("Thu, 19 Nov 2026 00:01:00 GMT"), Some(0));
        assert_eq!(read("Sat, 20 Nov 2027 00:01:00 GMT"), Some(3600));
        for nonsense in ["", "-1", "1.5", "soon", "2026-11-20", "Fri, 20 Nov 12026 00:01:00 GMT"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }
}
