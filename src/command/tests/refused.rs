//! What is refused, and what is said of it.

use super::*;

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
