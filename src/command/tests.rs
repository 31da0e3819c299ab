mod properties;
mod refused;

use super::*;
use crate::snap::profile::BUILT_IN;
use proptest::prelude::*;
use std::sync::LazyLock;

/// A built-in profile, read once.
fn profile(name: &str) -> &'static Profile {
    static PROFILES: LazyLock<Vec<Profile>> =
        LazyLock::new(|| BUILT_IN.map(|(name, text)| Profile::read(name, text).unwrap()).into());
    PROFILES.iter().find(|profile| profile.name == name).unwrap()
}

fn read_as(
    name: &str,
    defaults: &MerchantDefaults,
    bytes: &[u8],
    hints: Hints<'_>,
) -> Result<CancelCommand, Rejection> {
    CancelCommand::read(bytes, hints, Terms { profile: profile(name), defaults })
}

fn read(name: &str, text: impl AsRef<[u8]>) -> Result<CancelCommand, Rejection> {
    read_as(name, &MerchantDefaults::default(), text.as_ref(), Hints::default())
}

fn good(name: &str, text: impl AsRef<[u8]>) -> CancelCommand {
    let text = text.as_ref();
    read(name, text).unwrap_or_else(|e| panic!("{}: {:?}", String::from_utf8_lossy(text), e.violations))
}

/// The faults of a message: cause and field of each.
fn faults(rejection: &Rejection) -> Vec<(&'static str, &str)> {
    rejection.violations.iter().map(|v| (v.cause.name(), v.field.as_str())).collect()
}

/// A good command for iFortePay, with more members at its end.
fn ifortepay(more: &str) -> String {
    format!(
        r#"{{"jobId":"job-1","originalReferenceNo":"R-1","originalPartnerReferenceNo":"P-1","reason":"salah input"{more}}}"#
    )
}

/// A good command for the standard's provider, which takes every field.
fn aspi(more: &str) -> String {
    format!(r#"{{"jobId":"job-1","originalReferenceNo":"R-1","merchantId":"M-1","reason":"salah input"{more}}}"#)
}

fn event(members: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"event-1","source":"/shop","type":"cancel"{members}}}"#)
}

const REASON: CommandField = CommandField::Reason;
const REFERENCE: CommandField = CommandField::OriginalReferenceNo;
const PARTNER_REFERENCE: CommandField = CommandField::OriginalPartnerReferenceNo;

#[test]
fn a_plain_command_is_read() {
    let command = good("ifortepay", ifortepay(""));
    assert_eq!(command.job_id, "job-1");
    assert_eq!(command.text(REFERENCE), Some("R-1"));
    assert_eq!(command.text(PARTNER_REFERENCE), Some("P-1"));
    assert_eq!(command.text(REASON), Some("salah input"));
    assert_eq!(command.text(CommandField::MerchantId), None);
    assert_eq!((command.amount, command.not_after, command.qr_expires_at), (None, None, None));
    assert!(command.metadata.is_none());
    assert!(!command.own_merchant_fields);
}

#[test]
fn every_field_of_a_command_is_read() {
    let command = good(
        "aspi",
        aspi(
            r#","originalPartnerReferenceNo":"P-1","originalExternalId":"E-1","subMerchantId":"S-1","externalStoreId":"T-1",
            "amount":{"value":"10000.00","currency":"IDR"},"additionalInfo":{"k":"v"},"notAfter":"2026-11-20T18:30:15.5+07:00",
            "qrExpiresAt":"2026-11-20T11:30:15Z","metadata":{"a":1}"#,
        ),
    );
    for (field, text) in [
        (PARTNER_REFERENCE, "P-1"),
        (CommandField::OriginalExternalId, "E-1"),
        (CommandField::MerchantId, "M-1"),
        (CommandField::SubMerchantId, "S-1"),
        (CommandField::ExternalStoreId, "T-1"),
    ] {
        assert_eq!(command.text(field), Some(text));
    }
    assert_eq!(command.amount, Some(Amount { value: "10000.00".into(), currency: "IDR".into() }));
    assert_eq!(command.additional_info.unwrap().get("k"), Some("\"v\""));
    assert_eq!(command.not_after.unwrap().to_rfc3339(), "2026-11-20T11:30:15.500+00:00");
    assert_eq!(command.qr_expires_at.unwrap().to_rfc3339(), "2026-11-20T11:30:15+00:00");
    assert_eq!(command.metadata.unwrap().get(), r#"{"a":1}"#);
    assert!(command.own_merchant_fields);
}

#[test]
fn the_job_id_comes_from_the_body_else_the_events_id_else_the_message_id() {
    let job_id = |text: &str, content_type, message_id| {
        let hints = Hints { content_type, message_id, ..Hints::default() };
        read_as("ifortepay", &MerchantDefaults::default(), text.as_bytes(), hints).map(|command| command.job_id)
    };
    let bare = ifortepay("").replace(r#""jobId":"job-1","#, "");
    let wrapped = |data: &str| event(&format!(r#","data":{data}"#));
    let cloud = Some("application/cloudevents+json; charset=UTF-8");
    for (text, content_type, message_id, expected) in [
        (ifortepay(""), None, Some("message-1"), "job-1"),
        (wrapped(&ifortepay("")), cloud, Some("message-1"), "job-1"),
        (wrapped(&bare), cloud, Some("message-1"), "event-1"),
        // An event is one even where nobody says so.
        (wrapped(&bare), None, Some("message-1"), "event-1"),
        (wrapped(&bare), Some("application/json"), None, "event-1"),
        (bare.clone(), None, Some("message-1"), "message-1"),
        (bare.clone(), Some("application/json"), Some("message-1"), "message-1"),
    ] {
        assert_eq!(job_id(&text, content_type, message_id).unwrap(), expected, "{text} {content_type:?}");
    }
    let rejection = job_id(&bare, None, None).unwrap_err();
    assert_eq!(faults(&rejection), [("missing_field", "jobId")]);
    assert_eq!(faults(&job_id(&bare, None, Some("two words")).unwrap_err()), [("field_value", "message_id")]);
    let long = wrapped(&bare).replace("event-1", &"e".repeat(129));
    assert_eq!(faults(&job_id(&long, cloud, Some("message-1")).unwrap_err()), [("field_value", "id")]);
}

#[test]
fn an_events_extensions_are_nobodys_business() {
    let text = event(&format!(
        r#","time":"2026-11-20T11:30:15Z","subject":"x","datacontenttype":"application/json","traceparent":"00-1-2-01","mine":5,"data":{}"#,
        ifortepay("")
    ));
    assert_eq!(good("ifortepay", text).job_id, "job-1");
}

#[test]
fn an_optional_text_may_be_empty_and_an_absent_one_stays_absent() {
    let text = r#"{"jobId":"j","originalReferenceNo":"R-1","merchantId":"M","reason":"r","originalPartnerReferenceNo":"","subMerchantId":""}"#;
    let command = good("bnc", text);
    assert_eq!(command.text(PARTNER_REFERENCE), Some(""));
    assert_eq!(command.text(CommandField::SubMerchantId), Some(""));
    assert_eq!(command.text(CommandField::ExternalStoreId), None);
}

#[test]
fn an_account_stands_in_for_absent_merchant_fields_only() {
    let defaults = MerchantDefaults {
        merchant_id: Some("D-1".into()),
        sub_merchant_id: Some("D-2".into()),
        external_store_id: None,
    };
    let read = |more: &str| {
        let text = format!(r#"{{"jobId":"j","originalReferenceNo":"R-1","reason":"r"{more}}}"#);
        read_as("bnc", &defaults, text.as_bytes(), Hints::default()).unwrap()
    };
    let command = read("");
    assert_eq!(command.text(CommandField::MerchantId), Some("D-1"));
    assert_eq!(command.text(CommandField::SubMerchantId), Some("D-2"));
    assert_eq!(command.text(CommandField::ExternalStoreId), None);
    assert!(!command.own_merchant_fields);
    let command = read(r#","subMerchantId":"","merchantId":"M-1""#);
    assert_eq!(command.text(CommandField::MerchantId), Some("M-1"));
    assert_eq!(command.text(CommandField::SubMerchantId), Some(""));
    assert!(command.own_merchant_fields);
}

#[test]
fn lengths_count_characters_up_to_the_limit() {
    for (name, base, limit) in [
        ("reason", "", 256),
        ("originalReferenceNo", "", 64),
        ("originalPartnerReferenceNo", "", 64),
        ("originalExternalId", "", 32),
        ("merchantId", "", 64),
        ("subMerchantId", "", 32),
        ("externalStoreId", "", 64),
    ] {
        for letter in ["x", "ü", "漢", "😀", "\\u00fc", "\\\""] {
            let with = |count: usize| {
                let fields = [("reason", "r"), ("originalReferenceNo", "R"), ("merchantId", "M")];
                let others: String = fields
                    .iter()
                    .filter(|(other, _)| *other != name)
                    .map(|(other, text)| format!(r#""{other}":"{text}","#))
                    .collect();
                format!(r#"{{{base}{others}"jobId":"j","{name}":"{}"}}"#, letter.repeat(count))
            };
            assert_eq!(good("aspi", with(limit)).job_id, "j");
            let rejection = read("aspi", with(limit + 1)).unwrap_err();
            assert_eq!(faults(&rejection), [("field_value", name)]);
            assert!(rejection.violations[0].rule.contains(&limit.to_string()));
        }
    }
    let job = |id: &str| ifortepay("").replace("job-1", id);
    assert_eq!(good("ifortepay", job(&"~".repeat(128))).job_id.len(), 128);
    assert_eq!(good("ifortepay", job("!")).job_id, "!");
}

#[test]
fn a_command_may_have_64_kib_and_not_a_byte_more() {
    let padded = |size: usize| {
        let padding = size - ifortepay(r#","metadata":{"p":""}"#).len();
        ifortepay(&format!(r#","metadata":{{"p":"{}"}}"#, "x".repeat(padding)))
    };
    let text = padded(65_536);
    assert_eq!(text.len(), 65_536);
    assert_eq!(good("ifortepay", text).job_id, "job-1");
    let rejection = read("ifortepay", padded(65_537)).unwrap_err();
    assert_eq!(faults(&rejection), [("too_large", "")]);
    assert_eq!(rejection.violations[0].rule, "a command has at most 65536 bytes, and this message has 65537");
}

#[test]
fn amounts_are_a_number_with_two_digits_after_the_point_and_a_currency() {
    for value in ["0.00", "1.00", "10000.00", "9999999999999999.99"] {
        let text = aspi(&format!(r#","amount":{{"value":"{value}","currency":"IDR"}}"#));
        assert_eq!(good("aspi", text).amount.unwrap().value, value);
    }
}

#[test]
fn the_profiles_constants_are_filled_in_first_and_may_be_repeated() {
    for more in ["", r#","additionalInfo":{}"#, r#","additionalInfo":{"type":"DYNAMIC"}"#] {
        let info = good("ifortepay", ifortepay(more)).additional_info.unwrap();
        assert_eq!(serde_json::to_string(&info).unwrap(), r#"{"type":"DYNAMIC"}"#, "{more}");
    }
    let info = good("ifortepay", ifortepay(r#","additionalInfo":{"b" : [ 1.10 ],"type":"DYNAMIC","a":"x  y"}"#));
    let text = serde_json::to_string(&info.additional_info.unwrap()).unwrap();
    assert_eq!(text, r#"{"type":"DYNAMIC","b":[1.10],"a":"x  y"}"#);
    assert!(good("aspi", aspi("")).additional_info.is_none());
}

#[test]
fn metadata_comes_through_byte_for_byte() {
    for metadata in [
        "{}",
        "{ }",
        r#"{"price":1.10,"big":12345678901234567890123,"small":-0.0,"e":1E5}"#,
        r#"{ "z" : [ 1 , 2 ],
    "a" : { "ü" : "\u00fc\n" } }"#,
        r#"{"empty":null,"yes":true,"text":"</script>"}"#,
    ] {
        let command = good("ifortepay", ifortepay(&format!(r#","metadata":  {metadata}  "#)));
        assert_eq!(command.metadata.unwrap().get(), metadata);
        let wrapped = event(&format!(r#","data":{}"#, ifortepay(&format!(r#","metadata":{metadata}"#))));
        assert_eq!(good("ifortepay", wrapped).metadata.unwrap().get(), metadata);
        // A faulty command's metadata comes back as well.
        let rejection = read("ifortepay", ifortepay(&format!(r#","metadata":{metadata},"typo":1"#))).unwrap_err();
        assert_eq!(rejection.metadata.unwrap().get(), metadata);
    }
}

#[test]
fn a_content_type_and_an_encoding_that_say_utf_8_are_fine() {
    for content_type in [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=\"UTF-8\"",
        "application/json; charset=utf-8; profile=cancel",
        "text/plain; charset=us-ascii",
        "application/octet-stream",
        "",
    ] {
        for content_encoding in [None, Some(""), Some("identity"), Some("utf-8"), Some("UTF-8")] {
            let hints = Hints { content_type: Some(content_type), content_encoding, message_id: None };
            let read = read_as("ifortepay", &MerchantDefaults::default(), ifortepay("").as_bytes(), hints);
            assert!(read.is_ok(), "{content_type} {content_encoding:?}");
        }
    }
}
