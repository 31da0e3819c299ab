//! Everything that reads what others wrote, fed with what nobody would write. Each target runs some thousand cases in a test
//! run, and for `FUZZ_SECONDS` where that is set (`make fuzz`); the seed that it prints brings a failure back as `FUZZ_SEED`.
#![allow(clippy::disallowed_methods, reason = "tests read their environment")]

#[path = "fuzz/mutate.rs"]
mod mutate;

use chrono::{DateTime, Utc};
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, DecimalValue, FieldArray, FieldTable},
};
use mutate::{mutated, mutated_text};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use qris_cancel_worker::{
    amqp::{
        headers::{copied, message, of_progress},
        topology::Names,
    },
    command::{CancelCommand, Hints, Rejection, Terms},
    event::{About, Event, Finish, Said, Subject},
    message::{Carried, Origin, Properties},
    outcome::{Cause, Outcome},
    retry::{CallRecord, Progress},
    settings::Settings,
    snap::{
        Operation, Reply,
        profile::{BUILT_IN, CodeClass, CommandField, Profile, Status},
        request::MerchantDefaults,
        response::{Answer, TokenAnswer, date, normalised_time, retry_after},
    },
    verdict::{Asked, Verdict, of_cancel, of_query},
};
use secrecy::ExposeSecret;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::LazyLock,
    time::{Duration, Instant},
};

const HERE: &str = env!("CARGO_MANIFEST_DIR");
/// Cases between two looks at the clock.
const BATCH: u32 = 500;

type Checked = Result<(), TestCaseError>;

/// Runs a target: so many cases, or for as long as the environment says.
fn fuzz<S: Strategy>(target: &str, cases: u32, strategy: S, check: impl Fn(S::Value) -> Checked) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (seconds, first) = (number("FUZZ_SECONDS"), number("FUZZ_SEED"));
    let first = first.unwrap_or_else(|| fastrand::u64(..));
    let (begun, mut run) = (Instant::now(), 0);
    for seed in (0..).map(|batch| first.wrapping_add(batch)) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config { cases: BATCH, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        if let Err(failure) = runner.run(&strategy, &check) {
            panic!("{target}, FUZZ_SEED={seed}: {failure}");
        }
        run += BATCH;
        let enough = match seconds {
            Some(seconds) => begun.elapsed() >= Duration::from_secs(seconds),
            None => run >= cases,
        };
        if enough {
            break;
        }
    }
    println!("{target}: {run} cases in {:.0?} from FUZZ_SEED={first}", begun.elapsed());
}

fn now() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-11-20T12:00:00Z").unwrap().to_utc()
}

fn profiles() -> &'static [Profile] {
    static PROFILES: LazyLock<Vec<Profile>> =
        LazyLock::new(|| BUILT_IN.map(|(name, text)| Profile::read(name, text).unwrap()).into());
    &PROFILES
}

// --- the command

const FULL: &str = r#"{"jobId":"job-1","originalReferenceNo":"R-1","originalPartnerReferenceNo":"P-1","originalExternalId":"E-1",
    "merchantId":"M-1","subMerchantId":"","externalStoreId":"S","reason":"salah \u00fc input","amount":{"value":"1.00","currency":"IDR"},
    "additionalInfo":{"a":[1,{"b":null}]},"notAfter":"2026-11-20T18:30:15.5+07:00","qrExpiresAt":"2026-11-20T11:30:15Z","metadata":{"n":1E5}}"#;
const PLAIN: &str = r#"{"jobId":"job-1","originalReferenceNo":"R-1","originalPartnerReferenceNo":"P-1","reason":"r"}"#;

const JSON_WORDS: &[&str] = &[
    "\"jobId\":",
    "\"reason\":",
    "\"data\":",
    "\"specversion\":\"1.0\",",
    "\"additionalInfo\":{\"type\":\"STATIC\"},",
    "null",
    "true",
    "{}",
    "[]",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "\"\"",
    "\\u0000",
    "\\ud800",
    "\\\"",
    "1e400",
    "-0",
    "99999999999999999999999",
    "\u{feff}",
    "😀",
    "\"",
    ",",
    ":",
    "}",
    "{",
    "2020-01-01T00:00:00Z",
];

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

#[test]
fn any_bytes_are_a_command_or_an_event_that_says_why_not() {
    let in_event = |data: &str| format!(r#"{{"specversion":"1.0","id":"e-1","source":"/s","type":"t","data":{data}}}"#);
    let bytes = prop_oneof![
        1 => any_bytes(),
        9 => mutated([FULL.to_owned(), PLAIN.to_owned(), in_event(FULL), in_event(PLAIN)], JSON_WORDS),
    ];
    let hint =
        |text: &'static str| prop::option::weighted(0.3, mutated_text([text.to_owned()], &["charset=", "utf-16"]));
    let hints = (hint("application/cloudevents+json; charset=utf-8"), hint("identity"), hint("message-1"));
    fuzz("command", 4_000, (bytes, hints), |(bytes, (content_type, content_encoding, message_id))| {
        let hints = Hints {
            content_type: content_type.as_deref(),
            content_encoding: content_encoding.as_deref(),
            message_id: message_id.as_deref(),
        };
        Rejection::peek(&bytes, hints);
        for profile in profiles() {
            let command = CancelCommand::read(&bytes, hints, Terms { profile, defaults: &MerchantDefaults::default() });
            let (subject, cause) = match &command {
                Ok(command) => {
                    good_command(profile, command, &bytes)?;
                    (Subject::Command(command), Cause::Canceled)
                }
                Err(rejection) => {
                    prop_assert!((1..=101).contains(&rejection.violations.len()));
                    prop_assert!(
                        rejection.violations.iter().all(|v| !v.rule.is_empty() && v.field.chars().count() <= 128)
                    );
                    prop_assert_eq!(rejection.cause().outcome(), Outcome::Invalid);
                    (Subject::Rejected(rejection), rejection.cause())
                }
            };
            readable_event(subject, cause, &bytes)?;
        }
        Ok(())
    });
}

/// What passes is within every rule, by another reader's eyes.
fn good_command(profile: &Profile, command: &CancelCommand, bytes: &[u8]) -> Checked {
    let json: Value =
        serde_json::from_slice(bytes).map_err(|e| TestCaseError::fail(format!("taken, and no JSON: {e}")))?;
    let body = if json.get("specversion").is_some() { &json["data"] } else { &json };
    prop_assert!((1..=128).contains(&command.job_id.len()) && command.job_id.bytes().all(|b| b.is_ascii_graphic()));
    prop_assert!(body.get("jobId").is_none_or(|id| id == &command.job_id));
    let extra = ["jobId", "notAfter", "qrExpiresAt", "metadata"];
    for name in body.as_object().unwrap().keys() {
        let field = CommandField::ALL.into_iter().find(|field| field.name() == name);
        let taken = field.is_some_and(|field| profile.cancel_field(field).is_some());
        prop_assert!(taken || extra.contains(&name.as_str()), "{name} was let through");
    }
    for field in
        CommandField::ALL.into_iter().filter(|f| !matches!(f, CommandField::Amount | CommandField::AdditionalInfo))
    {
        let Some(taken) = profile.cancel_field(field) else { continue };
        let text = command.text(field);
        prop_assert_eq!(text, body.get(field.name()).map(|value| value.as_str().unwrap()));
        prop_assert!(!taken.required || text.is_some_and(|text| !text.is_empty()), "{} is missing", field.name());
        prop_assert!(text.is_none_or(|text| text.chars().count() <= taken.max && !text.chars().any(char::is_control)));
    }
    prop_assert_eq!(command.not_after.is_some(), body.get("notAfter").is_some());
    prop_assert_eq!(command.metadata.is_some(), body.get("metadata").is_some());
    Ok(())
}

fn readable_event(subject: Subject<'_>, cause: Cause, bytes: &[u8]) -> Checked {
    let about = About { account: "a", provider: Some("p"), subject, bytes, traceparent: None, tracestate: None };
    let finish = Finish { cause, at: now(), ambiguous: false, parked: false, tellings: 0, said: Said::default() };
    let event = Event::new(about, &Progress::new(now()), &finish);
    let read: Result<Value, _> = serde_json::from_slice(&event.body);
    let read = read.map_err(|e| TestCaseError::fail(format!("an event nobody can read: {e}")))?;
    prop_assert_eq!(&read["data"]["cause"], cause.name());
    // Escapes in what comes back can make it longer, but not without end.
    prop_assert!(event.body.len() < 40_000 + 6 * bytes.len(), "an event of {} bytes", event.body.len());
    Ok(())
}

// --- headers

const OURS: [&str; 14] = [
    "version",
    "attempts",
    "waited-ms",
    "ambiguous",
    "query-first",
    "first-seen",
    "replay",
    "history",
    "doubts",
    "doubted-at",
    "cut-off-ms",
    "conflict",
    "finish",
    "new",
];

fn any_value() -> impl Strategy<Value = AMQPValue> {
    use AMQPValue::*;
    let text = prop_oneof![
        ".{0,20}",
        mutated_text([serde_json::to_string(&full_progress().history).unwrap()], JSON_WORDS),
        mutated_text([serde_json::to_string(full_progress().finish.as_ref().unwrap()).unwrap()], JSON_WORDS),
        mutated_text(["2026-11-20T12:00:00.000Z".to_owned()], &["-", "9999999"]),
    ];
    let leaf = prop_oneof![
        any::<bool>().prop_map(Boolean),
        any::<i8>().prop_map(ShortShortInt),
        any::<u8>().prop_map(ShortShortUInt),
        any::<i16>().prop_map(ShortInt),
        any::<u16>().prop_map(ShortUInt),
        any::<i32>().prop_map(LongInt),
        any::<u32>().prop_map(LongUInt),
        any::<i64>().prop_map(LongLongInt),
        (0..4i64).prop_map(LongLongInt),
        any::<f32>().prop_map(Float),
        any::<f64>().prop_map(Double),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| DecimalValue(self::DecimalValue { scale, value })),
        ".{0,20}".prop_map(|text| ShortString(text.into())),
        text.prop_map(|text| LongString(text.into())),
        any_bytes().prop_map(|bytes| LongString(bytes.into())),
        any::<u64>().prop_map(Timestamp),
        any_bytes().prop_map(|bytes| ByteArray(bytes.into())),
        Just(Void),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|values| FieldArray(self::FieldArray::from(values))),
            prop::collection::vec((any_name(), inner), 0..4).prop_map(|pairs| FieldTable(table(pairs))),
        ]
    })
}

fn any_name() -> impl Strategy<Value = String> {
    let others = ["x-death", "x-delivery-count", "x-first-death-exchange", "CC", "reason", "traceparent", "tracestate"];
    prop_oneof![
        5 => prop::sample::select(OURS.to_vec()).prop_map(|name| format!("x-qris-{name}")),
        2 => prop::sample::select(others.to_vec()).prop_map(str::to_owned),
        1 => ".{0,10}",
    ]
}

fn table(pairs: Vec<(String, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(name.into(), value);
    }
    table
}

fn full_progress() -> Progress {
    let call = CallRecord {
        number: 1,
        operation: Operation::Cancel,
        at: now(),
        external_id: Some("1".repeat(32)),
        body_sha256: "a".repeat(64),
        http_status: Some(504),
        response_code: Some("5047700".into()),
        error: None,
        duration_ms: 20,
    };
    let said =
        Said { response_code: Some("2005100".into()), amount: Some(("1.00".into(), "IDR".into())), ..Said::default() };
    let finish = Finish { cause: Cause::Paid, at: now(), ambiguous: true, parked: false, tellings: 1, said };
    let mut progress =
        Progress { attempts: 3, ambiguous: true, doubts: 1, finish: Some(finish), ..Progress::new(now()) };
    progress.history.push(call);
    progress
}

#[test]
fn headers_never_panic_and_only_our_own_are_believed() {
    let names = Names::new("qris.cancel");
    let exchanges = [names.due(), names.commands(), names.strays(), names.parked(), names.results(), String::new()];
    let headers = (any::<bool>(), prop::collection::vec((any_name(), any_value()), 0..12));
    let delivery = (prop::sample::select(exchanges.to_vec()), any::<bool>(), headers);
    fuzz("headers", 2_000, delivery, |(exchange, redelivered, (from_ours, pairs))| {
        let ours = if from_ours { of_progress(&full_progress()) } else { Vec::new() };
        let mut headers = copied(&Properties::default(), ours).headers().clone().unwrap();
        for (name, value) in pairs {
            headers.insert(name.into(), value);
        }
        let mut delivery = Delivery::mock(1, exchange.as_str().into(), "a".into(), redelivered, b"{}".to_vec());
        delivery.properties = BasicProperties::default().with_headers(headers.clone());
        let message = message(&mut delivery, &names, now());
        let believed = exchange == names.due() || names.is_for_keeping(&exchange);
        prop_assert_eq!(believed, matches!(message.origin, Origin::Due | Origin::PastItsQueue));
        match &message.carried {
            Carried::Nothing => prop_assert!(!believed),
            carried => prop_assert!(believed, "a publisher's headers are believed: {:?}", carried),
        }
        // What is read is what is written again, and nothing of a publisher's travels on.
        let ours = match &message.carried {
            Carried::Progress(progress) => of_progress(progress),
            _ => Vec::new(),
        };
        let written = copied(&message.properties, ours.clone()).headers().clone().unwrap();
        let allowed =
            |name: &str| ["traceparent", "tracestate"].contains(&name) || ours.iter().any(|(own, _)| own == name);
        prop_assert!(written.inner().keys().all(|name| allowed(name.as_str())), "{:?}", written);
        if let Carried::Progress(progress) = &message.carried {
            let mut again = Delivery::mock(2, names.due().as_str().into(), "a".into(), false, Vec::new());
            again.properties = BasicProperties::default().with_headers(written);
            match self::message(&mut again, &names, now()).carried {
                Carried::Progress(back) => prop_assert_eq!(&back, progress),
                other => prop_assert!(false, "{:?} became {:?}", progress, other),
            }
        }
        Ok(())
    });
}

// --- the provider's answer

const ANSWER: &str = r#"{"responseCode":"2007700","responseMessage":"Successful","originalPartnerReferenceNo":"P-1",
    "originalReferenceNo":"R-1","cancelTime":"2020-10-20T17:56:57+07:00","additionalInfo":{}}"#;
const STATUS: &str = r#"{"responseCode":"2005100","responseMessage":"Successful","originalReferenceNo":"R-1","serviceCode":"47",
    "latestTransactionStatus":"05","paidTime":"2020-10-20T17:56:57","amount":{"value":"1.00","currency":"IDR"}}"#;
const ANSWER_WORDS: &[&str] = &[
    "2007700",
    "2005100",
    "4037705",
    "4047714",
    "4017701",
    "4007700",
    "4045101",
    "5007701",
    "2027700",
    "77",
    "51",
    "R-2",
    "P-1",
    "\"responseCode\":",
    "\"originalReferenceNo\":\"\",",
    "\"05\"",
    "null",
    "{",
    "}",
    "[",
    "\"",
    ",",
    "<html>",
    "\\u0037",
    "٧",
];

fn any_answer() -> impl Strategy<Value = Vec<u8>> {
    let code = "[24][0-9]{2}(77|51|73)[0-9]{2}".prop_map(|code| ANSWER.replace("2007700", &code).into_bytes());
    prop_oneof![
        1 => any_bytes(),
        7 => mutated([ANSWER.to_owned(), STATUS.to_owned(), ANSWER.replace("\"2007700\"", "2007700")], ANSWER_WORDS),
        2 => code,
    ]
}

/// The response code by another reader's eyes, where everything about the answer holds.
fn whole_code(body: &[u8], http_status: u16, service: &str) -> Option<String> {
    let json: Value = serde_json::from_slice(body).ok()?;
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let code = text(json.as_object()?.get("responseCode")?);
    let digits = code.len() == 7 && code.bytes().all(|b| b.is_ascii_digit());
    let same = |name: &str, asked: &str| match json.get(name) {
        Some(Value::String(said)) => said.is_empty() || said == asked,
        Some(Value::Number(said)) => said.to_string() == asked,
        _ => true,
    };
    let whole = digits && code[..3] == http_status.to_string() && &code[3..5] == service;
    (whole && same("originalReferenceNo", "R-1") && same("originalPartnerReferenceNo", "P-1")).then_some(code)
}

#[test]
fn only_a_whole_answer_about_the_transaction_is_a_yes_or_a_no() {
    let statuses =
        prop_oneof![4 => prop::sample::select(vec![200u16, 202, 400, 401, 403, 404, 429, 500]), 1 => 100..600u16];
    fuzz("answer", 6_000, (statuses, any_answer()), |(http_status, body)| {
        let reply = Reply { http_status, body, retry_after: None, date: None };
        let answer = Answer::read(&reply.body);
        let asked = Asked { reference: Some("R-1"), partner_reference: Some("P-1") };
        for profile in profiles() {
            let of_profile = |code: &str, class| {
                profile.codes.iter().any(|(own, over)| own.as_str() == code && over.verdict == class)
            };
            let code = whole_code(&reply.body, http_status, "77").unwrap_or_default();
            let verdict = of_cancel(Ok((&reply, answer.as_ref())), asked, &profile.codes);
            match verdict {
                Verdict::Canceled => prop_assert!(code == "2007700" || of_profile(&code, CodeClass::Canceled)),
                Verdict::Refused { .. } => {
                    prop_assert!(
                        code.starts_with("40") || of_profile(&code, CodeClass::Refused),
                        "{verdict:?} of {code:?}"
                    );
                }
                Verdict::Verify | Verdict::Pending => prop_assert!(!code.is_empty()),
                _ => {}
            }
            let query = profile.query.as_ref().unwrap();
            let code = whole_code(&reply.body, http_status, "51").unwrap_or_default();
            match of_query(Ok((&reply, answer.as_ref())), asked, query) {
                Verdict::Status(Status::NotFound) if code == "4045101" => {}
                Verdict::Status(status) => {
                    let json: Value = serde_json::from_slice(&reply.body).unwrap();
                    let said = match &json["latestTransactionStatus"] {
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    };
                    prop_assert_eq!(code, "2005100");
                    prop_assert_eq!(query.status.get(&said), Some(&status));
                }
                Verdict::Token | Verdict::Unauthorized | Verdict::Misconfigured { .. } | Verdict::QueryFailed => {}
                other => prop_assert!(false, "a query's verdict is {:?}", other),
            }
        }
        Ok(())
    });
}

#[test]
fn a_token_is_a_text_that_can_be_sent_or_none() {
    let good = r#"{"responseCode":"2007300","responseMessage":"Successful","accessToken":"t-1","tokenType":"Bearer","expiresIn":"900"}"#;
    let words = &["null", "1e309", "\"-1\"", "\"inf\"", "\"NaN\"", "1e300", "\\n", "\"accessToken\":", "{", "\""];
    let names = |name: &str| vec![name.to_owned()];
    let bodies = prop_oneof![1 => any_bytes(), 9 => mutated([good.to_owned()], words)];
    fuzz("token answer", 4_000, bodies, |body| {
        if let Some(answer) = TokenAnswer::read(&body, &names("accessToken"), &names("expiresIn")) {
            prop_assert!(answer.access_token.is_none_or(|token| !token.expose_secret().is_empty()));
            prop_assert!(answer.expires_in.is_none_or(|lifetime| lifetime <= Duration::from_secs(604_800)));
        }
        Ok(())
    });
}

// --- what stands in headers of an answer

const DATE_WORDS: &[&str] =
    &["Feb", "29", "24:00:00", "23:59:60", "9999", "262144", "+9999", "-0000", "EST", "(", ")", "\\", " ", "0"];

fn any_date() -> impl Strategy<Value = String> {
    let dates = ["Fri, 20 Nov 2026 00:01:00 GMT", "20 Nov 26 00:01 +0700", "120", "0"].map(str::to_owned);
    prop_oneof![2 => ".{0,40}", 1 => "[0-9]{1,40}", 7 => mutated_text(dates, DATE_WORDS)]
}

#[test]
fn a_retry_after_is_a_time_within_its_cap_or_none() {
    let cap = Duration::from_secs(3600);
    fuzz("Retry-After", 6_000, any_date(), |text| {
        let Some(wait) = retry_after(&text, now(), cap) else { return Ok(()) };
        prop_assert!(wait <= cap);
        let number = text.trim().parse::<u64>().ok();
        prop_assert!(number.is_none_or(|seconds| wait == Duration::from_secs(seconds).min(cap)));
        Ok(())
    });
}

#[test]
fn a_date_is_one_that_can_be_calculated_with_or_none() {
    fuzz("Date", 6_000, any_date(), |text| {
        if let Some(date) = date(&text) {
            // The clock's skew is told in seconds.
            prop_assert!((date - now()).num_seconds().abs() < i64::MAX);
            prop_assert_eq!(DateTime::parse_from_rfc3339(&date.to_rfc3339()).ok().map(|d| d.to_utc()), Some(date));
        }
        if let Some(time) = normalised_time(&text) {
            prop_assert!(DateTime::parse_from_rfc3339(&time).is_ok(), "{}", time);
        }
        Ok(())
    });
}

#[test]
fn a_time_of_an_answer_gets_an_offset_or_is_left_out() {
    let times = ["2020-10-20T17:56:57+07:00", "2020-10-20T17:56:57", "2020-10-20 17:56:57.123"].map(str::to_owned);
    fuzz("time of an answer", 4_000, mutated_text(times, DATE_WORDS), |text| {
        if let Some(time) = normalised_time(&text) {
            prop_assert!(DateTime::parse_from_rfc3339(&time).is_ok(), "{text:?} became {time:?}");
        }
        Ok(())
    });
}

// --- files of the operator

const TOML_WORDS: &[&str] = &[
    "\"",
    "'",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    "#",
    "\n",
    ".",
    ",",
    "true",
    "-1",
    "0",
    "1e9",
    "99999999999999999999",
    "nan",
    "inf",
    "\"\"",
    "{token}",
    "{signature}",
    "{",
    "[]",
    "{}",
    "value = \"x\"",
    "required = true",
    "max = 0",
    "\u{0}",
    "é",
    "[token]",
    "[query]",
    "\"reverse\"",
    "path = \"/x\"",
    "retry",
    "accounts",
    "4037701",
    "initial_ms",
    "1979-05-27",
];

#[test]
fn a_profile_is_good_or_refused_with_a_reason() {
    let texts = BUILT_IN.map(|(_, text)| text.to_owned());
    fuzz("profile", 1_500, mutated_text(texts, TOML_WORDS), |text| {
        match Profile::read("fuzzed", &text) {
            Ok(profile) => {
                // What is taken is used: it reads a command, or says what it misses.
                let terms = Terms { profile: &profile, defaults: &MerchantDefaults::default() };
                if let Err(rejection) = CancelCommand::read(FULL.as_bytes(), Hints::default(), terms) {
                    prop_assert!(!rejection.violations.is_empty());
                }
                let reply = Reply { http_status: 200, body: STATUS.into(), retry_after: None, date: None };
                let answer = Answer::read(&reply.body);
                of_cancel(Ok((&reply, answer.as_ref())), Asked::default(), &profile.codes);
            }
            Err(error) => {
                prop_assert!(!error.reason.is_empty());
                prop_assert!(error.line.is_none_or(|line| (1..=text.matches('\n').count() + 1).contains(&line)));
            }
        }
        Ok(())
    });
}

#[test]
fn settings_are_good_or_refused_with_reasons_that_show_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let key = Path::new(HERE).join("tests/vectors/midtrans-public-sample-key.pem");
    std::fs::create_dir(dir.path().join("keys")).unwrap();
    for name in ["ifortepay", "bnc"] {
        std::fs::copy(&key, dir.path().join(format!("keys/{name}.pem"))).unwrap();
    }
    let example = std::fs::read_to_string(Path::new(HERE).join("config.example.toml")).unwrap();
    // Every key, and only those of the first and last sections, which are quicker to read.
    let all = example.replace("#: ", "");
    let short: String = example.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let secret = "a-secret-that-is-shown-nowhere";
    let environment =
        [("AMQP_URL", format!("amqp://worker:{secret}@localhost/%2f")), ("BNC_CLIENT_KEY", secret.into())];
    let environment: BTreeMap<_, _> = environment.map(|(name, value)| (name.to_owned(), value)).into();
    fuzz("settings", 1_000, mutated_text([example, all, short], TOML_WORDS), |text| {
        if let Err(error) = Settings::read("fuzzed.toml", &text, &environment, dir.path()) {
            let lines = text.matches('\n').count() + 1;
            prop_assert!(!error.problems.is_empty());
            for problem in &error.problems {
                prop_assert!(!problem.reason.is_empty());
                prop_assert!(
                    problem.line.is_none_or(|line| (1..=lines).contains(&line)),
                    "{problem:?} of {lines} lines"
                );
            }
            let shown = format!("{error} {error:?}");
            prop_assert!(!shown.contains(secret), "{}", shown);
        }
        Ok(())
    });
}
