//! The table: what is published, and how it has to end. `#` in a text stands for the row's number.

use crate::support::{forged_death, headers, persistent, raw, text};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::json;

/// A good command for iFortePay.
const GOOD: &str =
    r##"{"jobId":"job-#","originalReferenceNo":"R-#","originalPartnerReferenceNo":"P-#","reason":"salah input"}"##;
/// The same for Bank Neo Commerce, whose account has the merchantId.
const BNC: &str = r##"{"jobId":"job-#","originalReferenceNo":"R-#","reason":"salah input"}"##;
/// The same for the standard, which takes every field.
const ASPI: &str = r##"{"jobId":"job-#","originalReferenceNo":"R-#","merchantId":"M-#","reason":"salah input"}"##;
const WITHOUT_JOB: &str =
    r##"{"originalReferenceNo":"R-#","originalPartnerReferenceNo":"P-#","reason":"salah input"}"##;
const EVENT: &str = "application/cloudevents+json";

/// How a message ends.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// Nothing is sent; cause and field of each violation, the gravest first. The whole message is parked.
    Invalid(Vec<(String, String)>),
    /// It is a good command, whatever came with it.
    Canceled,
    /// It is read, and comes too late. Parked.
    TooLate,
}

pub struct Row {
    pub what: String,
    pub key: String,
    pub body: Vec<u8>,
    pub properties: BasicProperties,
    /// Property flags and bytes that no client library would write, instead of the properties.
    pub raw: Option<(u16, Vec<u8>)>,
    pub end: End,
}

impl Row {
    fn to(mut self, key: &str) -> Self {
        key.clone_into(&mut self.key);
        self
    }

    fn having(mut self, with: impl FnOnce(BasicProperties) -> BasicProperties) -> Self {
        self.properties = with(self.properties);
        self
    }

    fn headed(self, pairs: &[(&str, AMQPValue)]) -> Self {
        self.having(|properties| properties.with_headers(headers(pairs)))
    }

    fn typed(self, content_type: &str) -> Self {
        self.having(|properties| properties.with_content_type(content_type.into()))
    }
}

fn row(what: &str, body: impl AsRef<[u8]>, end: End) -> Row {
    let body = body.as_ref().to_vec();
    Row { what: what.into(), key: "ifortepay".into(), body, properties: persistent(), raw: None, end }
}

/// Faulty as a whole, or in several fields.
fn bad(what: &str, body: impl AsRef<[u8]>, faults: &[(&str, &str)]) -> Row {
    row(
        what,
        body,
        End::Invalid(faults.iter().map(|(cause, field)| ((*cause).to_owned(), (*field).to_owned())).collect()),
    )
}

fn good(what: &str, body: impl AsRef<[u8]>) -> Row {
    row(what, body, End::Canceled)
}

/// A text with more members at its end.
fn plus(text: &str, members: &str) -> String {
    format!("{},{members}}}", text.strip_suffix('}').unwrap())
}

/// A text with something in it replaced.
fn but(text: &str, what: &str, instead: &str) -> String {
    assert!(text.contains(what), "{what}");
    text.replacen(what, instead, 1)
}

/// A command in a CloudEvents event with these attributes more or other.
fn event(data: &str, members: &str) -> String {
    let members = if members.is_empty() { String::new() } else { format!(",{members}") };
    format!(r##"{{"specversion":"1.0","id":"event-#","source":"/shop","type":"cancel"{members},"data":{data}}}"##)
}

pub fn all() -> Vec<Row> {
    let parts = [
        bytes(),
        json_texts(),
        sizes_and_depths(),
        job_ids(),
        references_and_reasons(),
        names_of_fields(),
        amounts(),
        times(),
        additional_info(),
        metadata(),
        content_types(),
        events(),
        accounts(),
        properties(),
        header_tables(),
    ];
    let mut rows: Vec<_> = parts.into_iter().flatten().collect();
    for (at, row) in rows.iter_mut().enumerate() {
        if let Ok(text) = std::str::from_utf8(&row.body) {
            row.body = text.replace('#', &at.to_string()).into_bytes();
        }
    }
    rows
}

fn bytes() -> Vec<Row> {
    let utf16: Vec<u8> = GOOD.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let latin1: Vec<u8> = GOOD.replace("salah", "sal\u{e4}h").chars().map(|c| c as u8).collect();
    let not_json = [("not_json", "")];
    let wrong_encoding = [("wrong_encoding", "")];
    vec![
        bad("nothing", "", &not_json),
        bad("white space", " \t\r\n ", &not_json),
        bad("one NUL", "\0", &not_json),
        bad("a NUL after a good command", format!("{GOOD}\0"), &not_json),
        bad("a NUL inside a text", but(GOOD, "salah", "sa\0lah"), &not_json),
        bad("a newline inside a text", but(GOOD, "salah", "sa\nlah"), &not_json),
        bad("an escape character inside a text", but(GOOD, "salah", "sa\u{1b}lah"), &not_json),
        bad("a byte that is no UTF-8", [but(GOOD, "salah", "").as_bytes(), b"\xff"].concat(), &wrong_encoding),
        bad("Latin-1", latin1, &wrong_encoding),
        bad("UTF-16 with its mark", [b"\xff\xfe".as_slice(), &utf16].concat(), &wrong_encoding),
        bad("UTF-16 without its mark is ASCII with NULs", utf16, &not_json),
        bad("a byte order mark", format!("\u{feff}{GOOD}"), &wrong_encoding),
        bad("an overlong slash", b"{\"jobId\":\"\xc0\xaf\"}", &wrong_encoding),
        bad("a surrogate as UTF-8", b"{\"jobId\":\"\xed\xa0\x80\"}", &wrong_encoding),
        bad("a text that breaks off in a character", b"{\"jobId\":\"\xe6\xbc", &wrong_encoding),
        bad("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", &wrong_encoding),
        bad("XML", "<cancel><jobId>job-#</jobId></cancel>", &not_json),
    ]
}

fn json_texts() -> Vec<Row> {
    let not_json = [("not_json", "")];
    let number = |text: &str| plus(GOOD, &format!(r#""metadata":{{"n":{text}}}"#));
    vec![
        bad("null", "null", &not_json),
        bad("a list", format!("[{GOOD}]"), &not_json),
        bad("a text", "\"cancel #\"", &not_json),
        bad("a number", "77", &not_json),
        bad("two commands", format!("{GOOD}{GOOD}"), &not_json),
        bad("a command per line", format!("{GOOD}\n{GOOD}\n"), &not_json),
        bad("broken off", GOOD.strip_suffix("\"}").unwrap(), &not_json),
        bad("single quotes", GOOD.replace('"', "'"), &not_json),
        bad("a comma at the end", but(GOOD, "input\"}", "input\",}"), &not_json),
        bad("a comment", format!("{GOOD} // #"), &not_json),
        bad("a lone surrogate", but(GOOD, "salah", r"\ud800"), &not_json),
        bad("an unknown escape", but(GOOD, "salah", r"\x41"), &not_json),
        bad("a number beyond all computers", number("1e400"), &not_json),
        bad("a number of 400 digits", number(&"9".repeat(400)), &not_json),
        bad("not a number", number("NaN"), &not_json),
        bad("a number with a zero before it", number("007"), &not_json),
        bad("a number with a plus", number("+7"), &not_json),
        bad("a hexadecimal number", number("0x10"), &not_json),
        good("an exponent that fits", number("1e308")),
        good("a number smaller than any", number("1e-400")),
        good("more digits than a number keeps", number("12345678901234567890.12345678901234567890")),
        good("white space around all", format!("\r\n\t {} \n", GOOD.replace(':', " : ").replace(',', " ,\n"))),
    ]
}

fn sizes_and_depths() -> Vec<Row> {
    // The row's number takes the place of three `#`, so it has to be as long as it will be.
    let sized = |size: usize, seed: &str| {
        let text = GOOD.replace('#', seed);
        let padding = size - plus(&text, r#""metadata":{"p":""}"#).len();
        plus(&text, &format!(r#""metadata":{{"p":"{}"}}"#, "x".repeat(padding)))
    };
    // The object that holds it is one level, and the metadata another.
    let deep = |levels: usize| {
        let lists = levels - 2;
        plus(GOOD, &format!(r#""metadata":{{"n":{}{}}}"#, "[".repeat(lists), "]".repeat(lists)))
    };
    vec![
        good("64 KiB", sized(65_536, "size-1")),
        bad("64 KiB and a byte", sized(65_537, "size-2"), &[("too_large", "")]),
        bad("10 MB", vec![b'x'; 10_000_000], &[("too_large", "")]),
        bad("64 KiB and a byte, of them no command", vec![0xff; 65_537], &[("too_large", "")]),
        good("60 levels", deep(60)),
        bad("61 levels", deep(61), &[("not_json", "")]),
        bad("30,000 levels", "[".repeat(30_000), &[("not_json", "")]),
        bad("30,000 objects", r#"{"a":"#.repeat(10_000), &[("not_json", "")]),
    ]
}

fn job_ids() -> Vec<Row> {
    let job = |id: &str| but(GOOD, r##""job-#""##, id);
    let faulty = [("field_value", "jobId")];
    let long = |length: usize| format!("\"{:~<length$}\"", "job-#");
    vec![
        good("a jobId of one character", job(r#""!""#)),
        good("a jobId of 128", job(&long(126))),
        bad("a jobId of 129", job(&format!("\"{}\"", "j".repeat(129))), &faulty),
        bad("no jobId at all", WITHOUT_JOB, &[("missing_field", "jobId")]),
        bad("a jobId of null", job("null"), &faulty),
        bad("a jobId that is a number", job("4711"), &faulty),
        bad("an empty jobId", job(r#""""#), &faulty),
        bad("a jobId with a space", job(r##""job #""##), &faulty),
        bad("a jobId with an umlaut", job(r##""jöb-#""##), &faulty),
        bad("a jobId with a NUL", job(r##""job-#\u0000""##), &faulty),
        bad("a jobId with DEL", job(r##""job-#\u007f""##), &faulty),
        bad("a jobId with a newline at its end", job(r##""job-#\n""##), &faulty),
        good("a jobId that would like to be HTML", job(r##""<script>#</script>""##)),
        good("a jobId from the message_id", WITHOUT_JOB).having(|p| p.with_message_id("message-1".into())),
        bad("a message_id that is no jobId", WITHOUT_JOB, &[("field_value", "message_id")])
            .having(|p| p.with_message_id("two words".into())),
        bad("a message_id longer than a jobId", WITHOUT_JOB, &[("field_value", "message_id")])
            .having(|p| p.with_message_id("m".repeat(255).into())),
        good("a message_id that is not needed", GOOD).having(|p| p.with_message_id("two words".into())),
        bad("a faulty jobId is not mended by the message_id", job("null"), &faulty)
            .having(|p| p.with_message_id("message-2".into())),
    ]
}

fn references_and_reasons() -> Vec<Row> {
    let reference = |value: &str| but(GOOD, r##""R-#""##, value);
    let partner = |value: &str| but(GOOD, r##""P-#""##, value);
    let reason = |value: &str| but(GOOD, r#""salah input""#, value);
    let text = |character: &str, length: usize| format!("\"{}\"", character.repeat(length));
    let (faulty, faulty_reason) = ([("field_value", "originalReferenceNo")], [("field_value", "reason")]);
    let bnc = |row: Row| row.to("bnc");
    let aspi = |row: Row| row.to("standard");
    vec![
        good("a reference of 64 characters", reference(&text("漢", 64))),
        bad("a reference of 65", reference(&text("漢", 65)), &faulty),
        bad("a reference that is a number", reference("2020102977770000000009"), &faulty),
        bad("an empty reference", reference(r#""""#), &faulty),
        bad("a reference with a tab", reference(r##""R\t#""##), &faulty),
        bad("a reference that is an object", reference(r#"{"no":"R"}"#), &faulty),
        bad(
            "no reference",
            but(GOOD, r##""originalReferenceNo":"R-#","##, ""),
            &[("missing_field", "originalReferenceNo")],
        ),
        bad(
            "no partner reference",
            but(GOOD, r##""originalPartnerReferenceNo":"P-#","##, ""),
            &[("missing_field", "originalPartnerReferenceNo")],
        ),
        bad("a partner reference of null", partner("null"), &[("field_value", "originalPartnerReferenceNo")]),
        bad(
            "both references too long",
            but(&reference(&text("R", 65)), r##""P-#""##, &text("P", 65)),
            &[("field_value", "originalReferenceNo"), ("field_value", "originalPartnerReferenceNo")],
        ),
        good("a reason of 256 characters", reason(&text("😀", 256))),
        bad("a reason of 257", reason(&text("😀", 257)), &faulty_reason),
        bad("an empty reason", reason(r#""""#), &faulty_reason),
        bad("a reason of true", reason("true"), &faulty_reason),
        bad("a reason with an escaped NUL", reason(r#""salah\u0000""#), &faulty_reason),
        bad("a reason with an escaped newline", reason(r#""salah\ninput""#), &faulty_reason),
        bad("a reason with a C1 control character", reason(r#""salah\u0085""#), &faulty_reason),
        good("a reason with quotes, backslashes and an astral escape", reason(r#""\"a\" \\ \ud83d\ude00""#)),
        bad("no reason", but(GOOD, r#","reason":"salah input""#, ""), &[("missing_field", "reason")]),
        bnc(good("a reference as long as the other bank allows", but(BNC, "\"R-#\"", &text("b", 32)))),
        bnc(bad("a character more than the other bank allows", but(BNC, "\"R-#\"", &text("b", 33)), &faulty)),
        bnc(good("a merchantId as long as the other bank allows", plus(BNC, r#""merchantId":"123456789012""#))),
        bnc(bad(
            "a merchantId too long for the other bank",
            plus(BNC, r#""merchantId":"1234567890123""#),
            &[("field_value", "merchantId")],
        )),
        bnc(bad(
            "an empty merchantId instead of the account's",
            plus(BNC, r#""merchantId":"""#),
            &[("field_value", "merchantId")],
        )),
        bnc(good("an optional text may be empty", plus(BNC, r#""subMerchantId":"""#))),
        aspi(bad(
            "no merchantId, and none in the account",
            but(ASPI, r##""merchantId":"M-#","##, ""),
            &[("missing_field", "merchantId")],
        )),
        aspi(good("another reference will do", but(ASPI, "originalReferenceNo", "originalPartnerReferenceNo"))),
        aspi(bad(
            "an empty reference, and no other",
            but(ASPI, "\"R-#\"", "\"\""),
            &[("missing_field", "originalReferenceNo")],
        )),
        aspi(bad(
            "an external id of 33",
            plus(ASPI, &format!(r#""originalExternalId":{}"#, text("1", 33))),
            &[("field_value", "originalExternalId")],
        )),
    ]
}

fn names_of_fields() -> Vec<Row> {
    let unknown = |name: &str| bad(name, plus(GOOD, &format!(r#""{name}":"x""#)), &[("unknown_field", name)]);
    let mut rows = vec![
        bad(
            "a typo in a required name",
            but(GOOD, "reason", "resaon"),
            &[("unknown_field", "resaon"), ("missing_field", "reason")],
        ),
        bad("capitals", but(GOOD, "jobId", "JobID"), &[("unknown_field", "JobID"), ("missing_field", "jobId")]),
        unknown("reason "),
        unknown("original_reference_no"),
        unknown("notafter"),
        unknown("__proto__"),
        unknown("amountt"),
        bad("a name that looks the same", plus(GOOD, r#""rеason":"x""#), &[("unknown_field", "rеason")]),
        bad("a name of nothing", plus(GOOD, r#""":"x""#), &[("unknown_field", "")]),
        bad(
            "a field that another provider takes",
            plus(GOOD, r#""merchantId":"M""#),
            &[("unknown_field", "merchantId")],
        ),
        bad(
            "an amount where none is taken",
            plus(GOOD, r#""amount":{"value":"1.00","currency":"IDR"}"#),
            &[("unknown_field", "amount")],
        ),
        bad("a key twice", plus(GOOD, r#""reason":"salah input""#), &[("duplicate_key", "reason")]),
        bad("a key twice, once escaped", plus(GOOD, r##""job\u0049d":"job-#""##), &[("duplicate_key", "jobId")]),
        bad(
            "a key thrice",
            plus(GOOD, r#""reason":"a","reason":"b""#),
            &[("duplicate_key", "reason"), ("duplicate_key", "reason")],
        ),
        bad(
            "a key twice deep inside",
            plus(GOOD, r#""metadata":{"a":[{"b":1,"b":2}]}"#),
            &[("duplicate_key", "metadata.a[0].b")],
        ),
        bad(
            "a bit of everything",
            r#"{"jobId":"two words","reason":"","typo":1,"notAfter":"soon","metadata":[]}"#,
            &[
                ("unknown_field", "typo"),
                ("missing_field", "originalReferenceNo"),
                ("missing_field", "originalPartnerReferenceNo"),
                ("field_value", "jobId"),
                ("field_value", "reason"),
                ("field_value", "notAfter"),
                ("field_value", "metadata"),
            ],
        ),
        bad(
            "nothing but braces",
            "{}",
            &[
                ("missing_field", "jobId"),
                ("missing_field", "originalReferenceNo"),
                ("missing_field", "originalPartnerReferenceNo"),
                ("missing_field", "reason"),
            ],
        ),
    ];
    // More violations than a hundred are cut off.
    let names: Vec<_> = (100..250).map(|at| format!("x{at}")).collect();
    let members: Vec<_> = names.iter().map(|name| format!(r#""{name}":1"#)).collect();
    let told = names.into_iter().take(100).map(|name| ("unknown_field".into(), name)).collect();
    rows.push(row("150 unknown fields", plus(GOOD, &members.join(",")), End::Invalid(told)));
    let long = "n".repeat(10_000);
    let cut = vec![("unknown_field".into(), "n".repeat(128))];
    rows.push(row("a name of 10,000 characters", plus(GOOD, &format!(r#""{long}":1"#)), End::Invalid(cut)));
    rows
}

fn amounts() -> Vec<Row> {
    let of = |amount: &str| plus(ASPI, &format!(r#""amount":{amount}"#));
    let faulty = |what: &str, amount: &str| bad(what, of(amount), &[("field_value", "amount")]).to("standard");
    let value = |value: &str| format!(r#"{{"value":"{value}","currency":"IDR"}}"#);
    vec![
        good("an amount of 16 digits", of(&value("9999999999999999.99"))).to("standard"),
        good("an amount of nothing", of(&value("0.00"))).to("standard"),
        faulty("an amount of 17 digits", &value("12345678901234567.00")),
        faulty("an amount without cents", &value("10000")),
        faulty("an amount with one digit of cents", &value("10000.0")),
        faulty("an amount with three", &value("10000.000")),
        faulty("an amount with a comma", &value("10000,00")),
        faulty("a negative amount", &value("-1.00")),
        faulty("an amount with an exponent", &value("1e3.00")),
        faulty("an amount in other digits", &value("１.00")),
        faulty("an amount with a newline", &value(r"1.00\n")),
        faulty("an amount that is a number", "10000.00"),
        faulty("an amount with a number in it", r#"{"value":10000.00,"currency":"IDR"}"#),
        faulty("an amount in small letters", r#"{"value":"1.00","currency":"idr"}"#),
        faulty("an amount without a currency", r#"{"value":"1.00"}"#),
        faulty("an amount with more than that", r#"{"value":"1.00","currency":"IDR","x":1}"#),
        faulty("an amount of null", "null"),
    ]
}

fn times() -> Vec<Row> {
    let at = |name: &str, time: &str| plus(GOOD, &format!(r#""{name}":{time}"#));
    let faulty = |what: &str, time: &str| bad(what, at("notAfter", time), &[("field_value", "notAfter")]);
    vec![
        good("a time to come", at("notAfter", r#""2100-01-01T00:00:00.123456789+07:00""#)),
        good("a leap second", at("notAfter", r#""2100-12-31T23:59:60Z""#)),
        good("small letters, as RFC 3339 allows", at("notAfter", r#""2100-01-01t00:00:00z""#)),
        row("too late", at("notAfter", r#""2020-01-01T00:00:00Z""#), End::TooLate),
        row("too late since the beginning", at("notAfter", r#""0001-01-01T00:00:00Z""#), End::TooLate),
        faulty("a time without an offset", r#""2100-01-01T00:00:00""#),
        faulty("a day", r#""2100-01-01""#),
        faulty("30 February", r#""2100-02-30T00:00:00Z""#),
        faulty("hour 24", r#""2100-01-01T24:00:00Z""#),
        faulty("an offset of a day", r#""2100-01-01T00:00:00+24:00""#),
        faulty("a year of five digits", r#""10000-01-01T00:00:00Z""#),
        faulty("seconds since 1970", "4102444800"),
        faulty("an empty time", r#""""#),
        faulty("a time of null", "null"),
        faulty("a time with something after it", r#""2100-01-01T00:00:00Z ""#),
        faulty("a time with a zone's name", r#""2100-01-01T00:00:00 WIB""#),
        bad(
            "both times in words",
            at("qrExpiresAt", r#""tomorrow","notAfter":"today""#),
            &[("field_value", "qrExpiresAt"), ("field_value", "notAfter")],
        ),
        good("a QR that expired long ago is cancelled all the same", at("qrExpiresAt", r#""2020-01-01T00:00:00Z""#)),
    ]
}

fn additional_info() -> Vec<Row> {
    let with = |info: &str| plus(GOOD, &format!(r#""additionalInfo":{info}"#));
    let overridden = [("constant_overridden", "additionalInfo.type")];
    vec![
        good("the constant, said again", with(r#"{"type":"DYNAMIC"}"#)),
        good("the constant, in other letters", with(r#"{"t\u0079pe":"\u0044YNAMIC","more":[1.10]}"#)),
        bad("another constant", with(r#"{"type":"STATIC"}"#), &overridden),
        bad("the constant in small letters", with(r#"{"type":"dynamic"}"#), &overridden),
        bad("the constant in a list", with(r#"{"type":["DYNAMIC"]}"#), &overridden),
        bad("a constant of null", with(r#"{"type":null}"#), &overridden),
        bad(
            "the constant, and another",
            with(r#"{"type":"DYNAMIC","type":"STATIC"}"#),
            &[("duplicate_key", "additionalInfo.type")],
        ),
        bad("a text", with(r#""DYNAMIC""#), &[("field_value", "additionalInfo")]),
        bad("null", with("null"), &[("field_value", "additionalInfo")]),
    ]
}

fn metadata() -> Vec<Row> {
    let with = |metadata: &str| plus(GOOD, &format!(r#""metadata":{metadata}"#));
    let faulty = [("field_value", "metadata")];
    vec![
        good("anything in it", with(r#"{"": null, "\u0000": "\u0000", "x": [{}], "price": 1.10, "a b": -0.0}"#)),
        bad("metadata of null", with("null"), &faulty),
        bad("metadata that is a list", with("[1]"), &faulty),
        bad("metadata that is a text", with(r#""{}""#), &faulty),
    ]
}

fn content_types() -> Vec<Row> {
    let wrong = [("wrong_encoding", "")];
    let encoded = |row: Row, encoding: &str| row.having(|p| p.with_content_encoding(encoding.into()));
    vec![
        good("no content type", GOOD).having(|_| BasicProperties::default()),
        good("another content type", GOOD).typed("text/xml"),
        good("a content type that is none", GOOD).typed(";;;=\u{1f}"),
        good("a charset that is UTF-8", GOOD).typed("application/json; Charset=\"UTF-8\""),
        bad("a charset that is not", GOOD, &wrong).typed("application/json;charset=utf-16"),
        bad("a charset of nothing", GOOD, &wrong).typed("application/json; charset="),
        encoded(good("an encoding that is none", GOOD), "identity"),
        encoded(bad("gzip, it says", GOOD, &wrong), "gzip"),
        encoded(bad("two encodings", GOOD, &wrong), "identity, br"),
        encoded(bad("an encoding nobody knows", GOOD, &wrong), "\u{0}"),
    ]
}

fn events() -> Vec<Row> {
    let typed = |row: Row| row.typed(EVENT);
    let plain = event(GOOD, "");
    vec![
        typed(good("an event", plain.clone())),
        good("an event that does not say so", plain.clone()),
        typed(good("an event's id is the jobId", event(WITHOUT_JOB, ""))),
        typed(good("an event's extensions", event(GOOD, r#""traceparent":5,"mine":{"a":[]},"subject":"""#))),
        typed(good("an event of a content type with capitals and a charset", plain.clone()))
            .typed("Application/CloudEvents+JSON; charset=utf-8"),
        typed(good("data of JSON under another type's name", event(GOOD, r#""datacontenttype":"text/plain""#))),
        typed(bad(
            "a plain command that calls itself an event",
            GOOD,
            &[
                ("missing_field", "id"),
                ("missing_field", "source"),
                ("missing_field", "type"),
                ("missing_field", "data"),
                ("field_value", "specversion"),
            ],
        )),
        typed(bad("another version", but(&plain, "1.0", "0.3"), &[("field_value", "specversion")])),
        typed(bad("a version that is a number", but(&plain, "\"1.0\"", "1.0"), &[("field_value", "specversion")])),
        typed(bad("an empty id", but(&plain, "\"event-#\"", "\"\""), &[("field_value", "id")])),
        typed(bad("no source", but(&plain, r#""source":"/shop","#, ""), &[("missing_field", "source")])),
        typed(bad(
            "no data",
            r##"{"specversion":"1.0","id":"e#","source":"/","type":"t"}"##,
            &[("missing_field", "data")],
        )),
        typed(bad("data of null", event("null", ""), &[("field_value", "data")])),
        typed(bad("data that is a text of JSON", event(&json!(GOOD).to_string(), ""), &[("field_value", "data")])),
        typed(bad(
            "data in base64",
            event("0", "").replace(r#""data":0"#, r#""data_base64":"e30=""#),
            &[("field_value", "data_base64")],
        )),
        typed(bad(
            "data twice, once in base64",
            event(GOOD, r#""data_base64":"e30=""#),
            &[("field_value", "data_base64")],
        )),
        typed(bad("data twice", plus(&plain, r#""data":{}"#), &[("duplicate_key", "data")])),
        typed(bad(
            "an id that is no jobId, and no jobId",
            event(WITHOUT_JOB, "").replace("event-#", "e #"),
            &[("field_value", "id")],
        )),
        typed(bad(
            "a typo inside",
            event(&but(GOOD, "reason", "resaon"), ""),
            &[("unknown_field", "resaon"), ("missing_field", "reason")],
        )),
        typed(bad(
            "an event in an event",
            event(&event(GOOD, ""), ""),
            &[
                ("unknown_field", "specversion"),
                ("unknown_field", "id"),
                ("unknown_field", "source"),
                ("unknown_field", "type"),
                ("unknown_field", "data"),
                ("missing_field", "originalReferenceNo"),
                ("missing_field", "originalPartnerReferenceNo"),
                ("missing_field", "reason"),
            ],
        )),
        bad("a batch of events", format!("[{plain}]"), &[("not_json", "")]).typed("application/cloudevents-batch+json"),
    ]
}

fn accounts() -> Vec<Row> {
    let unknown = |key: &str| bad(&format!("account {key:.20}"), GOOD, &[("unknown_account", "")]).to(key);
    vec![
        unknown("ifortpay"),
        unknown(""),
        unknown("IFORTEPAY"),
        unknown("ifortepay "),
        unknown("bnc.ifortepay"),
        unknown("unknown"),
        unknown("*"),
        unknown("\u{0}\u{7}é"),
        unknown(&"a".repeat(255)),
        bad("a faulty command for nobody", "{", &[("unknown_account", "")]).to("nobody"),
    ]
}

fn properties() -> Vec<Row> {
    let reply_to = |to: &str| good(&format!("replies to {to:.40}"), GOOD).having(|p| p.with_reply_to(to.into()));
    vec![
        reply_to("amq.rabbitmq.reply-to.nonsense"),
        reply_to("qris.cancel.commands.ifortepay"),
        reply_to("replies.missing"),
        reply_to("amq.direct"),
        reply_to(""),
        reply_to("\u{0}\n"),
        reply_to(&"x".repeat(255)),
        bad("a hostile requester of nonsense", "{", &[("not_json", "")])
            .having(|p| p.with_reply_to("amq.rabbitmq.reply-to.nonsense".into())),
        good("a time at the end of all time", GOOD).having(|p| p.with_timestamp(u64::MAX)),
        good("the longest texts everywhere", GOOD).having(|p| {
            let longest = || "é".repeat(127).into();
            p.with_correlation_id(longest()).with_app_id(longest()).with_type(longest()).with_message_id(longest())
        }),
        good("what is not persistent", GOOD).having(|_| BasicProperties::default().with_delivery_mode(1)),
        good("a priority, and its publisher's name", GOOD)
            .having(|p| p.with_priority(255).with_user_id("guest".into()).with_cluster_id("x".into())),
    ]
}

fn header_tables() -> Vec<Row> {
    use AMQPValue::{Boolean, ByteArray, Double, FieldArray, LongLongInt, Void};
    let long = |length: usize| text(&"h".repeat(length));
    let table = |pairs: &[(&str, AMQPValue)]| AMQPValue::FieldTable(headers(pairs));
    let mut many = FieldTable::default();
    for at in 0..4_000 {
        many.insert(format!("x-qris-{at}").into(), LongLongInt(at));
    }
    let finish = r#"{"cause":"paid","at":"2026-01-01T00:00:00Z","ambiguous":false,"parked":true}"#;
    let forged = [
        ("x-qris-version", LongLongInt(1)),
        ("x-qris-attempts", LongLongInt(19)),
        ("x-qris-waited-ms", LongLongInt(3_599_000)),
        ("x-qris-ambiguous", Boolean(false)),
        ("x-qris-query-first", Boolean(false)),
        ("x-qris-first-seen", text("2020-01-01T00:00:00Z")),
        ("x-qris-replay", LongLongInt(3)),
        ("x-qris-history", text(r#"{"count":0,"calls":[]}"#)),
        ("x-qris-finish", text(finish)),
    ];
    let inner = [("a text", text("t")), ("a number", LongLongInt(i64::MAX))];
    let mut raw_one = good("nested headers", GOOD);
    raw_one.raw = Some(raw::nested_header(raw::HARMLESS_LEVELS));
    vec![
        good("a forged story of nineteen attempts and an end", GOOD).headed(&forged),
        bad("a forged story of a faulty command", "{\"#\"", &[("not_json", "")]).headed(&forged),
        good("a version of the future", GOOD).headed(&[("x-qris-version", LongLongInt(i64::MAX))]),
        good("a version that is a list", GOOD).headed(&[("x-qris-version", FieldArray(vec![].into()))]),
        good("a forged death", GOOD).headed(&[("x-death", forged_death("q", "due"))]),
        good("a forged count of deliveries", GOOD).headed(&[("x-delivery-count", LongLongInt(1_000_000))]),
        good("a count of deliveries below nothing", GOOD).headed(&[("x-delivery-count", LongLongInt(i64::MIN))]),
        good("a copy to the same account", GOOD).headed(&[("CC", FieldArray(vec![text("ifortepay")].into()))]),
        good("a hidden copy to nobody", GOOD).headed(&[("BCC", FieldArray(vec![text("nobody")].into()))]),
        good("a trace that is none", GOOD).headed(&[("traceparent", long(56)), ("tracestate", text("\u{7}"))]),
        good("a trace that is a number", GOOD).headed(&[("traceparent", Double(1e308))]),
        good("a header of 100 KB", GOOD).headed(&[("x", long(100_000))]),
        good("4,000 headers", GOOD).having(|p| p.with_headers(many)),
        good("a header's name of 255 bytes", GOOD).headed(&[("n".repeat(255).as_str(), Void)]),
        good("bytes, tables and lists", GOOD)
            .headed(&[("b", ByteArray(vec![0xff; 100].into())), ("t", table(&[("t", table(&inner))]))]),
        good("a header that is no text", GOOD).headed(&[("h", AMQPValue::LongString(vec![0xff, 0xfe].into()))]),
        raw_one,
    ]
}
