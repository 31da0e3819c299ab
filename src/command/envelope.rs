//! What a command comes in: bytes that must be a text, and perhaps a structured CloudEvents 1.0 event around it. Pure.

use super::{Hints, MAX_BYTES, Rejection, Violation, json, violation};
use crate::outcome::Cause;

pub fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// The bytes as text, if they are UTF-8 and of a size that a command can have.
pub fn text<'a>(bytes: &'a [u8], hints: Hints<'_>) -> Result<&'a str, Rejection> {
    if bytes.len() > MAX_BYTES {
        let rule = format!("a command has at most {MAX_BYTES} bytes, and this message has {}", bytes.len());
        return Err(Rejection::whole(Cause::TooLarge, rule));
    }
    let wrong = |rule: &str| Err(Rejection::whole(Cause::WrongEncoding, rule));
    let plain = ["", "identity", "utf-8", "utf8"];
    if hints.content_encoding.is_some_and(|e| !plain.contains(&e.to_ascii_lowercase().as_str())) {
        return wrong("content_encoding must be absent: a command is plain JSON in UTF-8, not compressed");
    }
    let charset =
        hints.content_type.and_then(|t| t.to_ascii_lowercase().split_once("charset=").map(|(_, c)| c.to_owned()));
    if charset.is_some_and(|c| !["utf-8", "utf8", "us-ascii"].contains(&media_type(&c).trim_matches(['"', ' ']))) {
        return wrong("the content_type's charset must be UTF-8");
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if text.starts_with('\u{feff}') => wrong("the text begins with a byte order mark; JSON has none"),
        Ok(text) => Ok(text),
        Err(e) => wrong(&format!("not UTF-8 at byte {}", e.valid_up_to())),
    }
}

/// The command inside a structured CloudEvents event; `None` where there is none to look at.
pub fn cloud_event_data<'a>(event: &json::Borrowed<'a>, violations: &mut Vec<Violation>) -> Option<json::Borrowed<'a>> {
    let attribute = |name| json::get(event, name);
    if attribute("specversion").and_then(json::string).as_deref() != Some("1.0") {
        violations.push(violation("specversion", Cause::FieldValue, "must be \"1.0\", the version of CloudEvents"));
    }
    for name in ["id", "source", "type"] {
        match attribute(name).map(json::string) {
            None => violations.push(violation(name, Cause::MissingField, "required in a CloudEvents event")),
            Some(text) if text.as_deref().is_none_or(str::is_empty) => {
                violations.push(violation(name, Cause::FieldValue, "must be a text that is not empty"));
            }
            Some(_) => {}
        }
    }
    let (data, encoded) = (attribute("data"), attribute("data_base64"));
    // Beside data it would be a second command, and nobody knows which is meant.
    if encoded.is_some() {
        violations.push(violation("data_base64", Cause::FieldValue, "give the command as JSON in data"));
    }
    let members = data.and_then(json::members);
    if members.is_none() && (data.is_some() || encoded.is_none()) {
        violations.push(violation(
            "data",
            if data.is_some() { Cause::FieldValue } else { Cause::MissingField },
            "must be the command, a JSON object",
        ));
    }
    members
}
