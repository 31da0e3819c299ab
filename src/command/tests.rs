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

#[test]
fn bytes_that_are_no_command_are_refused_as_a_whole() {
    let deep = format!(r#","metadata":{{"a":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    for (cause, bytes) in [
        ("not_json", b"".to_vec()),
        ("not_json", b" ".to_vec()),
        ("not_json", b"cancel job-1".to_vec()),
        ("not_json", b"{".to_vec()),
        ("not_json", b"{'jobId':1}".to_vec()),
        ("not_json", ifortepay(",").into_bytes()),
        ("not_json", format!("{}{}", ifortepay(""), ifortepay("")).into_bytes()),
        ("not_json", format!("{} //", ifortepay("")).into_bytes()),
        ("not_json", b"null".to_vec()),
        ("not_json", b"\"text\"".to_vec()),
        ("not_json", format!("[{}]", ifortepay("")).into_bytes()),
        ("not_json", ifortepay(r#","metadata":{"n":1e400}"#).into_bytes()),
        ("not_json", ifortepay(r#","metadata":{"n":NaN}"#).into_bytes()),
        ("not_json", ifortepay(r#","metadata":{"n":01}"#).into_bytes()),
        ("not_json", ifortepay(r#","metadata":{"n":"\ud800"}"#).into_bytes()),
        ("not_json", ifortepay(&deep).into_bytes()),
        ("not_json", ifortepay("").replace("salah input", "salah\u{0}input").into_bytes()),
        ("too_large", vec![b' '; 65_537]),
        ("too_large", vec![0xff; 1_000_000]),
        ("wrong_encoding", format!("\u{feff}{}", ifortepay("")).into_bytes()),
        ("wrong_encoding", [ifortepay("").as_bytes(), &[0xff]].concat()),
        ("wrong_encoding", ifortepay("").replace("salah", "\u{fe}").chars().map(|c| c as u8).collect()),
        ("wrong_encoding", ifortepay("").encode_utf16().flat_map(u16::to_le_bytes).chain([0xff, 0xfe]).collect()),
        ("wrong_encoding", vec![0x1f, 0x8b, 0x08, 0x00]),
    ] {
        let rejection = read("ifortepay", &bytes).unwrap_err();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
        assert_eq!(faults(&rejection), [(cause, "")], "{shown}");
        assert_eq!(rejection.cause().name(), cause, "{shown}");
        assert_eq!((rejection.job_id, rejection.metadata.map(|m| m.to_string())), (None, None), "{shown}");
    }
}

#[test]
fn a_compressed_or_otherwise_encoded_message_is_refused() {
    let refused = |content_type, content_encoding| {
        let hints = Hints { content_type, content_encoding, message_id: Some("message-1") };
        let rejection =
            read_as("ifortepay", &MerchantDefaults::default(), ifortepay("").as_bytes(), hints).unwrap_err();
        assert_eq!(faults(&rejection), [("wrong_encoding", "")], "{content_type:?} {content_encoding:?}");
    };
    for encoding in ["gzip", "GZIP", "deflate", "br", "utf-16", "identity, gzip"] {
        refused(None, Some(encoding));
    }
    for content_type in
        ["application/json; charset=utf-16", "application/json;charset=ISO-8859-1", "text/plain; Charset=\"UTF-32\""]
    {
        refused(Some(content_type), None);
    }
}

/// A change to a good command for iFortePay (a text in it, and what stands there instead), and the one fault it makes.
const ONE_FAULT: &[(&str, &str, &str, &str)] = &[
    // Unknown fields.
    (r#""jobId""#, r#""refrence":"x","jobId""#, "unknown_field", "refrence"),
    (r#""jobId""#, r#""":"x","jobId""#, "unknown_field", ""),
    (r#""jobId""#, r#""Reason":"x","jobId""#, "unknown_field", "Reason"),
    (r#""jobId""#, r#""amount":{"value":"1.00","currency":"IDR"},"jobId""#, "unknown_field", "amount"),
    (r#""jobId""#, r#""merchantId":"M","jobId""#, "unknown_field", "merchantId"),
    (r#""jobId""#, r#""originalExternalId":"E","jobId""#, "unknown_field", "originalExternalId"),
    // Missing.
    (r#""jobId":"job-1","#, "", "missing_field", "jobId"),
    (r#","reason":"salah input""#, "", "missing_field", "reason"),
    (r#","originalPartnerReferenceNo":"P-1""#, "", "missing_field", "originalPartnerReferenceNo"),
    (r#""originalReferenceNo":"R-1","#, "", "missing_field", "originalReferenceNo"),
    // The job id.
    (r#""job-1""#, "null", "field_value", "jobId"),
    (r#""job-1""#, "5", "field_value", "jobId"),
    (r#""job-1""#, r#""""#, "field_value", "jobId"),
    (r#""job-1""#, r#""job 1""#, "field_value", "jobId"),
    (r#""job-1""#, r#""jöb""#, "field_value", "jobId"),
    (r#""job-1""#, r#""job\u0000""#, "field_value", "jobId"),
    (r#""job-1""#, r#""job\u007f""#, "field_value", "jobId"),
    // Texts.
    (r#""salah input""#, "null", "field_value", "reason"),
    (r#""salah input""#, "1", "field_value", "reason"),
    (r#""salah input""#, r#"["salah"]"#, "field_value", "reason"),
    (r#""salah input""#, r#""""#, "field_value", "reason"),
    (r#""salah input""#, r#""a\nb""#, "field_value", "reason"),
    (r#""salah input""#, r#""a\u0000b""#, "field_value", "reason"),
    (r#""salah input""#, r#""a\u0085b""#, "field_value", "reason"),
    (r#""R-1""#, "2020102977770000000009", "field_value", "originalReferenceNo"),
    (r#""R-1""#, r#""""#, "field_value", "originalReferenceNo"),
    (r#""P-1""#, "null", "field_value", "originalPartnerReferenceNo"),
    // Duplicates.
    (r#""jobId":"job-1""#, r#""jobId":"job-1","jobId":"job-1""#, "duplicate_key", "jobId"),
    (r#""jobId":"job-1""#, r#""jobId":"job-1","job\u0049d":"job-2""#, "duplicate_key", "jobId"),
    (r#""jobId""#, r#""metadata":{"a":[{"b":1,"b":2}]},"jobId""#, "duplicate_key", "metadata.a[0].b"),
    (r#""jobId""#, r#""metadata":{},"metadata":{},"jobId""#, "duplicate_key", "metadata"),
    (r#""jobId""#, r#""additionalInfo":{"a":1,"a":2},"jobId""#, "duplicate_key", "additionalInfo.a"),
    // The profile's constant.
    (r#""jobId""#, r#""additionalInfo":{"type":"STATIC"},"jobId""#, "constant_overridden", "additionalInfo.type"),
    (r#""jobId""#, r#""additionalInfo":{"type":null},"jobId""#, "constant_overridden", "additionalInfo.type"),
    (r#""jobId""#, r#""additionalInfo":{"type":["DYNAMIC"]},"jobId""#, "constant_overridden", "additionalInfo.type"),
    (r#""jobId""#, r#""additionalInfo":"DYNAMIC","jobId""#, "field_value", "additionalInfo"),
    (r#""jobId""#, r#""additionalInfo":null,"jobId""#, "field_value", "additionalInfo"),
    // Times.
    (r#""jobId""#, r#""notAfter":null,"jobId""#, "field_value", "notAfter"),
    (r#""jobId""#, r#""notAfter":1763638215,"jobId""#, "field_value", "notAfter"),
    (r#""jobId""#, r#""notAfter":"","jobId""#, "field_value", "notAfter"),
    (r#""jobId""#, r#""notAfter":"2026-11-20","jobId""#, "field_value", "notAfter"),
    (r#""jobId""#, r#""notAfter":"2026-11-20T18:30:15","jobId""#, "field_value", "notAfter"),
    (r#""jobId""#, r#""notAfter":"2026-02-30T18:30:15Z","jobId""#, "field_value", "notAfter"),
    (r#""jobId""#, r#""notAfter":"2026-11-20T18:30:15 WIB","jobId""#, "field_value", "notAfter"),
    (r#""jobId""#, r#""qrExpiresAt":"tomorrow","jobId""#, "field_value", "qrExpiresAt"),
    (r#""jobId""#, r#""qrExpiresAt":"20-11-2026 18:30","jobId""#, "field_value", "qrExpiresAt"),
    // Metadata.
    (r#""jobId""#, r#""metadata":null,"jobId""#, "field_value", "metadata"),
    (r#""jobId""#, r#""metadata":[],"jobId""#, "field_value", "metadata"),
    (r#""jobId""#, r#""metadata":"text","jobId""#, "field_value", "metadata"),
];

#[test]
fn one_mistake_is_one_violation_that_names_its_field() {
    for (good, bad, cause, field) in ONE_FAULT {
        assert!(ifortepay("").contains(good), "{good}");
        let text = ifortepay("").replacen(good, bad, 1);
        let rejection = read("ifortepay", &text).err().unwrap_or_else(|| panic!("{text} passes"));
        assert_eq!(faults(&rejection), [(*cause, *field)], "{text}");
        assert_eq!(rejection.cause().name(), *cause);
        assert!(rejection.violations[0].rule.len() > 7, "{text}: {:?}", rejection.violations);
        // The same inside of an event.
        let rejection = read("ifortepay", event(&format!(r#","data":{text}"#))).err();
        match (*cause, *field) {
            // The event's own id stands in.
            ("missing_field", "jobId") => assert!(rejection.is_none()),
            ("duplicate_key", field) => {
                assert_eq!(faults(&rejection.unwrap()), [("duplicate_key", format!("data.{field}").as_str())]);
            }
            fault => assert_eq!(faults(&rejection.unwrap()), [fault], "{text}"),
        }
    }
}

#[test]
fn an_amount_in_any_other_form_is_refused() {
    for amount in [
        "null",
        "10000",
        r#""10000.00""#,
        "[]",
        "{}",
        r#"{"value":"10000.00"}"#,
        r#"{"currency":"IDR"}"#,
        r#"{"value":10000.00,"currency":"IDR"}"#,
        r#"{"value":"10000","currency":"IDR"}"#,
        r#"{"value":"10000.0","currency":"IDR"}"#,
        r#"{"value":"10000.000","currency":"IDR"}"#,
        r#"{"value":"10000,00","currency":"IDR"}"#,
        r#"{"value":"10.000.00","currency":"IDR"}"#,
        r#"{"value":".00","currency":"IDR"}"#,
        r#"{"value":"-1.00","currency":"IDR"}"#,
        r#"{"value":"+1.00","currency":"IDR"}"#,
        r#"{"value":" 1.00","currency":"IDR"}"#,
        r#"{"value":"1e3.00","currency":"IDR"}"#,
        r#"{"value":"１.00","currency":"IDR"}"#,
        r#"{"value":"12345678901234567.00","currency":"IDR"}"#,
        r#"{"value":"1.00","currency":"idr"}"#,
        r#"{"value":"1.00","currency":"RP"}"#,
        r#"{"value":"1.00","currency":"IDRX"}"#,
        r#"{"value":"1.00","currency":""}"#,
        r#"{"value":"1.00","currency":null}"#,
        r#"{"value":"1.00","currency":"IDR","note":""}"#,
    ] {
        let rejection = read("aspi", aspi(&format!(r#","amount":{amount}"#))).unwrap_err();
        assert_eq!(faults(&rejection), [("field_value", "amount")], "{amount}");
    }
}

#[test]
fn a_command_that_names_no_transaction_is_refused() {
    let text = |more: &str| format!(r#"{{"jobId":"j","merchantId":"M","reason":"r"{more}}}"#);
    for more in ["", r#","originalReferenceNo":"""#, r#","originalReferenceNo":"","originalExternalId":"""#] {
        assert_eq!(
            faults(&read("aspi", text(more)).unwrap_err()),
            [("missing_field", "originalReferenceNo")],
            "{more}"
        );
    }
    for more in [r#","originalPartnerReferenceNo":"P""#, r#","originalReferenceNo":"","originalExternalId":"E""#] {
        assert!(read("aspi", text(more)).is_ok(), "{more}");
    }
    // It is named beside other mistakes, and a faulty reference is not also a missing one.
    let rejection = read("aspi", text(r#","typo":1"#)).unwrap_err();
    assert_eq!(faults(&rejection), [("missing_field", "originalReferenceNo"), ("unknown_field", "typo")]);
    let rejection = read("aspi", text(r#","originalReferenceNo":5"#)).unwrap_err();
    assert_eq!(faults(&rejection), [("field_value", "originalReferenceNo")]);
}

#[test]
fn a_faulty_event_around_a_command_is_refused() {
    let data = format!(r#","data":{}"#, ifortepay(""));
    for (text, cause, field) in [
        (event(&data).replace("\"1.0\"", "\"0.3\""), "field_value", "specversion"),
        (event(&data).replace("\"1.0\"", "1.0"), "field_value", "specversion"),
        (event(&data).replace("\"/shop\"", "\"\""), "field_value", "source"),
        (event(&data).replace(r#","type":"cancel""#, ""), "missing_field", "type"),
        (event(&data).replace(r#""id":"event-1","#, ""), "missing_field", "id"),
        (event(""), "missing_field", "data"),
        (event(r#","data":null"#), "field_value", "data"),
        (event(r#","data":"{}""#), "field_value", "data"),
        (event(r#","data":[]"#), "field_value", "data"),
        (event(r#","data_base64":"e30=""#), "field_value", "data_base64"),
        (event(&format!(r#"{data},"data_base64":"e30=""#)), "field_value", "data_base64"),
    ] {
        assert_eq!(faults(&read("ifortepay", &text).unwrap_err()), [(cause, field)], "{text}");
    }
    // What calls itself an event has to be one.
    let hints = Hints { content_type: Some("Application/CloudEvents+JSON"), ..Hints::default() };
    let rejection = read_as("ifortepay", &MerchantDefaults::default(), ifortepay("").as_bytes(), hints).unwrap_err();
    assert_eq!(
        faults(&rejection),
        [
            ("field_value", "specversion"),
            ("missing_field", "id"),
            ("missing_field", "source"),
            ("missing_field", "type"),
            ("missing_field", "data")
        ]
    );
}

#[test]
fn several_mistakes_are_all_named_and_the_gravest_is_the_cause() {
    let rejection = read(
        "ifortepay",
        r#"{"jobId":"two words","originalReferenceNo":"R-1","originalReferenceNo":"R-1","reason":"","additionalInfo":{"type":"STATIC","type":"STATIC"},
            "notAfter":"soon","qrExpiresAt":5,"metadata":[],"amount":{},"typo":{"a":1},"typo2":1}"#,
    )
    .unwrap_err();
    assert_eq!(
        faults(&rejection),
        [
            ("duplicate_key", "originalReferenceNo"),
            ("duplicate_key", "additionalInfo.type"),
            ("field_value", "jobId"),
            ("missing_field", "originalPartnerReferenceNo"),
            ("field_value", "reason"),
            ("unknown_field", "amount"),
            ("constant_overridden", "additionalInfo.type"),
            ("field_value", "notAfter"),
            ("field_value", "qrExpiresAt"),
            ("field_value", "metadata"),
            ("unknown_field", "typo"),
            ("unknown_field", "typo2"),
        ]
    );
    assert_eq!(rejection.cause(), Cause::DuplicateKey);
    let empty = read("aspi", "{}").unwrap_err();
    let missing = ["jobId", "reason", "merchantId", "originalReferenceNo"].map(|name| ("missing_field", name));
    assert_eq!(faults(&empty), missing);
}

#[test]
fn a_faulty_command_is_known_by_all_that_can_be_read_of_it() {
    for (more, job_id) in [(r#","typo":1"#, Some("job-1")), (r#","jobId":5"#, None)] {
        let text = match job_id {
            Some(_) => ifortepay(&format!(r#","metadata":{{"m":1}}{more}"#)),
            None => ifortepay(&format!(r#","metadata":{{"m":1}}{more}"#)).replacen(r#""jobId":"job-1","#, "", 1),
        };
        let rejection = read("ifortepay", &text).unwrap_err();
        assert_eq!(rejection.job_id.as_deref(), job_id, "{text}");
        assert_eq!(rejection.original_reference_no.as_deref(), Some("R-1"), "{text}");
        assert_eq!(rejection.original_partner_reference_no.as_deref(), Some("P-1"), "{text}");
        assert_eq!(rejection.metadata.unwrap().get(), r#"{"m":1}"#, "{text}");
    }
    // A reference that is too long to be one is not passed on.
    let rejection = read("ifortepay", ifortepay("").replace("R-1", &"R".repeat(65))).unwrap_err();
    assert_eq!((rejection.job_id.as_deref(), rejection.original_reference_no), (Some("job-1"), None));
}

#[test]
fn a_message_for_an_unknown_account_is_rejected_with_what_can_be_read() {
    let text = ifortepay(r#","metadata":{"m":1},"typo":1"#);
    let rejection = Rejection::unknown_account(text.as_bytes(), Hints::default(), "no-such\u{7}");
    assert_eq!(faults(&rejection), [("unknown_account", "")]);
    assert!(rejection.violations[0].rule.starts_with(r#"no account is named "no-such\u{7}":"#));
    assert_eq!(rejection.job_id.as_deref(), Some("job-1"));
    assert_eq!(rejection.original_reference_no.as_deref(), Some("R-1"));
    assert_eq!(rejection.metadata.unwrap().get(), r#"{"m":1}"#);

    let rejection = Rejection::unknown_account(b"<xml/>", Hints::default(), &"x".repeat(1000));
    assert_eq!(rejection.cause(), Cause::UnknownAccount);
    assert!(rejection.job_id.is_none() && rejection.violations[0].rule.len() < 400);
}

#[test]
fn a_flood_of_mistakes_is_cut_off() {
    let unknown: String = (0..5000).map(|at| format!(r#","x{at}":1"#)).collect();
    let twice = r#","":0"#.repeat(10_000);
    let long = format!(r#","{}":1"#, "n".repeat(10_000));
    for more in [unknown, twice, long] {
        let rejection = read("ifortepay", ifortepay(&more)).unwrap_err();
        assert!((1..=100).contains(&rejection.violations.len()), "{}", rejection.violations.len());
        assert!(rejection.violations.iter().all(|violation| violation.field.chars().count() <= 128));
    }
}

/// Members that a command may have, good and bad.
fn any_member() -> impl Strategy<Value = String> {
    let names = [
        "jobId",
        "reason",
        "originalReferenceNo",
        "amount",
        "additionalInfo",
        "notAfter",
        "metadata",
        "specversion",
        "data",
        "id",
    ];
    let name = prop_oneof![prop::sample::select(names.to_vec()).prop_map(str::to_owned), "[a-z\\\\\"]{0,3}"];
    let value = prop_oneof![
        Just("\"x\"".to_owned()),
        Just("\"1.0\"".to_owned()),
        Just("null".to_owned()),
        Just("{\"type\":\"DYNAMIC\"}".to_owned()),
        Just("\"2026-11-20T18:30:15Z\"".to_owned()),
        "[0-9e.{}\\[\\]\",:-]{0,6}",
    ];
    (name, value).prop_map(|(name, value)| format!("\"{name}\":{value}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn reading_never_panics_and_a_rejection_always_says_why(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            prop::collection::vec(any_member(), 0..8).prop_map(|members| format!("{{{}}}", members.join(",")).into_bytes()),
            any::<prop::sample::Index>().prop_map(|at| ifortepay("").as_bytes()[..at.index(ifortepay("").len())].to_vec()),
        ],
        content_type in prop::option::of(prop_oneof![Just("application/cloudevents+json".to_owned()), ".{0,12}", "charset=.{0,8}"]),
        content_encoding in prop::option::of(".{0,4}"),
        message_id in prop::option::of(".{0,4}"),
    ) {
        let hints = Hints {
            content_type: content_type.as_deref(),
            content_encoding: content_encoding.as_deref(),
            message_id: message_id.as_deref(),
        };
        for (name, _) in BUILT_IN {
            match read_as(name, &MerchantDefaults::default(), &bytes, hints) {
                Ok(command) => {
                    prop_assert!((1..=128).contains(&command.job_id.len()));
                    prop_assert!((1..=256).contains(&command.text(REASON).unwrap().chars().count()));
                }
                Err(rejection) => {
                    prop_assert!(!rejection.violations.is_empty());
                    prop_assert_eq!(rejection.cause().outcome(), crate::outcome::Outcome::Invalid);
                    prop_assert!(rejection.violations.iter().all(|violation| !violation.rule.is_empty()));
                }
            }
        }
        Rejection::peek(&bytes, hints);
        let rejection = Rejection::unknown_account(&bytes, hints, "x");
        prop_assert_eq!(rejection.violations.len(), 1);
    }

    #[test]
    fn a_good_command_is_read_back_as_it_was_written(
        job_id in "[!-~]{1,128}", reason in "[^\\p{Cc}]{1,256}", reference in "[^\\p{Cc}]{1,64}", partner in "[^\\p{Cc}]{0,64}",
    ) {
        let text = serde_json::json!({
            "jobId": job_id, "reason": reason, "originalReferenceNo": reference, "originalPartnerReferenceNo": partner, "merchantId": "M",
        });
        let command = read("aspi", text.to_string()).unwrap();
        prop_assert_eq!(command.job_id, job_id);
        for (field, expected) in [(REASON, reason), (REFERENCE, reference), (PARTNER_REFERENCE, partner)] {
            prop_assert_eq!(command.texts.get(&field), Some(&expected));
        }
    }
}
