mod health;
mod properties;

use super::*;
use crate::snap::profile::{BUILT_IN, Profile};
use proptest::prelude::*;
use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

/// The standard's response codes with the service 77 filled in, and what each means for a cancel.
const TABLE: &str = include_str!("../../tests/vectors/response_codes.csv");

const ASKED: Asked<'_> = Asked { reference: Some("R-1"), partner_reference: Some("P-1") };

struct Row {
    code: Code,
    verdict: String,
}

fn table() -> Vec<Row> {
    let mut lines = TABLE.lines();
    assert_eq!(lines.next(), Some("code,meaning,verdict,note"));
    lines
        .map(|line| match cells(line).as_slice() {
            [code, _, verdict, _] => Row { code: Code::parse(code).unwrap(), verdict: verdict.clone() },
            other => panic!("{other:?}"),
        })
        .collect()
}

/// The cells of a line of CSV, where a cell in quotes may hold commas.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().unwrap().push(c),
        }
    }
    cells
}

/// A built-in profile, read once.
fn profile(name: &str) -> &'static Profile {
    static PROFILES: LazyLock<Vec<Profile>> =
        LazyLock::new(|| BUILT_IN.map(|(name, text)| Profile::read(name, text).unwrap()).into());
    PROFILES.iter().find(|profile| profile.name == name).unwrap()
}

fn reply(http_status: u16, body: &[u8]) -> Reply {
    Reply { http_status, body: body.to_vec(), retry_after: None, date: None }
}

fn cancel_with(profile: &Profile, http_status: u16, body: &[u8]) -> Verdict {
    let reply = reply(http_status, body);
    of_cancel(Ok((&reply, Answer::read(&reply.body).as_ref())), ASKED, &profile.codes)
}

/// Judges a cancel's reply by the standard's table alone.
fn cancel(http_status: u16, body: impl AsRef<[u8]>) -> Verdict {
    cancel_with(profile("aspi"), http_status, body.as_ref())
}

fn query(http_status: u16, body: impl AsRef<[u8]>) -> Verdict {
    let reply = reply(http_status, body.as_ref());
    let call = profile("ifortepay").query.as_ref().unwrap();
    of_query(Ok((&reply, Answer::read(&reply.body).as_ref())), ASKED, call)
}

fn coded(code: impl std::fmt::Display) -> String {
    format!(r#"{{"responseCode":"{code}","responseMessage":"text"}}"#)
}

fn status(status: &str) -> String {
    format!(r#"{{"responseCode":"2005100","latestTransactionStatus":{status}}}"#)
}

const REFUSED: Verdict = Verdict::Refused { cause: Cause::ResponseCode, malformed: false };
const MALFORMED: Verdict = Verdict::Refused { cause: Cause::ResponseCode, malformed: true };

#[test]
fn every_code_of_the_standards_table_is_judged_as_its_row_says() {
    let table = table();
    assert_eq!(table.len(), 63);
    let count = |verdict| table.iter().filter(|row| row.verdict == verdict).count();
    let counts = ["canceled", "pending", "verify", "unknown", "retry", "token", "misconfigured", "refused"].map(count);
    assert_eq!(counts, [1, 1, 11, 4, 3, 2, 5, 36]);
    for row in table {
        let expected = match (row.verdict.as_str(), row.code.as_str()) {
            ("canceled", _) => Verdict::Canceled,
            ("pending", _) => Verdict::Pending,
            ("verify", _) => Verdict::Verify,
            ("unknown", _) => Verdict::Unknown,
            ("retry", "4037706") => Verdict::CutOff,
            ("retry", _) => Verdict::Retry,
            ("token", _) => Verdict::Token,
            ("misconfigured", "4017700") => Verdict::Unauthorized,
            ("misconfigured", code) => Verdict::Misconfigured { merchant: ["4037719", "4047708"].contains(&code) },
            ("refused", "4007700" | "4007701" | "4007702") => MALFORMED,
            ("refused", _) => REFUSED,
            other => panic!("{other:?}"),
        };
        assert_eq!(cancel(row.code.http_status(), coded(row.code)), expected, "{}", row.code);
    }
}

#[test]
fn the_known_codes_of_an_operation_are_those_of_the_table() {
    for operation in Operation::ALL {
        let of_table: BTreeSet<_> = table().iter().map(|row| row.code.of(operation)).collect();
        assert_eq!(known_codes(operation).count(), of_table.len(), "a code stands there twice");
        assert_eq!(known_codes(operation).collect::<BTreeSet<_>>(), of_table);
    }
}

#[test]
fn the_same_codes_of_a_query_tell_of_keys_and_of_not_found_and_of_nothing_else() {
    for row in table() {
        let code = row.code.of(Operation::Query);
        let expected = match (row.verdict.as_str(), code.as_str()) {
            (_, "4045101") => Verdict::Status(Status::NotFound),
            (_, "4015100") => Verdict::Unauthorized,
            ("token", _) => Verdict::Token,
            ("misconfigured", code) => Verdict::Misconfigured { merchant: ["4035119", "4045108"].contains(&code) },
            _ => Verdict::QueryFailed,
        };
        assert_eq!(query(code.http_status(), coded(code)), expected, "{code}");
    }
}

#[test]
fn a_code_is_believed_only_with_its_own_http_status() {
    for row in table() {
        for http_status in [200, 202, 301, 400, 403, 404, 409, 500, 503] {
            if http_status == row.code.http_status() {
                continue;
            }
            assert_eq!(cancel(http_status, coded(row.code)), Verdict::Unknown, "HTTP {http_status} with {}", row.code);
            let code = row.code.of(Operation::Query);
            assert_eq!(query(http_status, coded(code)), Verdict::QueryFailed, "HTTP {http_status} with {code}");
        }
    }
}

#[test]
fn only_an_error_after_the_request_was_written_leaves_a_cancel_unknown() {
    let text = || "text".to_owned();
    let call = profile("ifortepay").query.as_ref().unwrap();
    let keys = Verdict::Misconfigured { merchant: false };
    for (error, of_a_cancel, of_a_query) in [
        (SendError::NotSent(text()), Verdict::Retry, Verdict::QueryFailed),
        (SendError::NoToken(text()), Verdict::Retry, Verdict::QueryFailed),
        (SendError::Stopping, Verdict::Retry, Verdict::QueryFailed),
        (SendError::TokenRefused(text()), keys, keys),
        (SendError::TimedOut(Duration::from_secs(1)), Verdict::Unknown, Verdict::QueryFailed),
        (SendError::Broken(text()), Verdict::Unknown, Verdict::QueryFailed),
        (SendError::Interrupted, Verdict::Unknown, Verdict::QueryFailed),
    ] {
        assert_eq!(of_cancel(Err(&error), ASKED, &BTreeMap::new()), of_a_cancel, "{error}");
        assert_eq!(of_query(Err(&error), ASKED, call), of_a_query, "{error}");
        assert_eq!(error.is_ambiguous(), of_a_cancel == Verdict::Unknown, "{error}");
    }
}

#[test]
fn an_answer_that_cannot_be_believed_leaves_a_cancel_unknown() {
    for (http_status, body) in [
        (200, ""),
        (204, ""),
        (200, "null"),
        (200, "[]"),
        (200, r#"[{"responseCode":"2007700"}]"#),
        (200, r#""2007700""#),
        (200, "<html><body>It works!</body></html>"),
        (502, "<html><body>Bad Gateway</body></html>"),
        (200, "{}"),
        (200, r#"{"responseCode":null}"#),
        (200, r#"{"responseCode":{"code":"2007700"}}"#),
        (200, r#"{"responsecode":"2007700"}"#),
        // Cut off in the middle.
        (200, r#"{"responseCode":"2007700","responseMessage":"Succ"#),
        (200, r#"{"responseCode":"2007700""#),
        // Something after the end.
        (200, r#"{"responseCode":"2007700"}{"responseCode":"2007700"}"#),
    ] {
        assert_eq!(cancel(http_status, body), Verdict::Unknown, "HTTP {http_status} {body}");
    }
    for (http_status, code) in [
        (200, "200770"),
        (200, "20077000"),
        (200, "200770x"),
        (200, " 2007700"),
        (200, "２00770０"),
        // Other services: a query, a token, a refund, a QR's generation.
        (200, "2005100"),
        (200, "2007300"),
        (200, "2007800"),
        (200, "2004700"),
        (404, "4045101"),
        // Not in the table.
        (200, "2007701"),
        (400, "4007703"),
        (400, "4007799"),
        (403, "4037724"),
        (404, "4047720"),
        (409, "4097702"),
        (418, "4187700"),
        (503, "5037700"),
        // No cancel ends with a redirect.
        (301, "3017700"),
        (302, "3027700"),
        (307, "2007700"),
    ] {
        assert_eq!(cancel(http_status, coded(code)), Verdict::Unknown, "HTTP {http_status} {code}");
    }
    assert_eq!(cancel(302, ""), Verdict::Unknown);
}

#[test]
fn an_answer_that_cannot_be_believed_tells_nothing_of_a_transaction() {
    let paid = status(r#""00""#);
    for (http_status, body) in [
        (200, ""),
        (200, "<html>"),
        (200, "[]"),
        (200, "{}"),
        (200, r#"{"latestTransactionStatus":"00"}"#),
        (200, r#"{"responseCode":"2007700","latestTransactionStatus":"00"}"#),
        (200, r#"{"responseCode":"2004700","latestTransactionStatus":"00"}"#),
        (200, r#"{"responseCode":"200510","latestTransactionStatus":"00"}"#),
        (200, &paid[..paid.len() - 1]),
        (202, r#"{"responseCode":"2025100","latestTransactionStatus":"00"}"#),
        (404, r#"{"responseCode":"4047701"}"#),
        (201, &paid),
        (302, &paid),
        (429, &paid),
        (500, &paid),
    ] {
        assert_eq!(query(http_status, body), Verdict::QueryFailed, "HTTP {http_status} {body}");
    }
}

#[test]
fn an_answer_about_another_transaction_is_none() {
    let body = |code: &str, reference: &str, partner: &str| {
        format!(
            r#"{{"responseCode":"{code}","latestTransactionStatus":"05","originalReferenceNo":"{reference}","originalPartnerReferenceNo":"{partner}"}}"#
        )
    };
    for (reference, partner) in [("R-2", "P-1"), ("R-1", "P-2"), ("R-2", ""), ("r-1", "P-1")] {
        for code in ["2007700", "2027700", "4047700", "4037715", "4007701"] {
            let http_status = code[..3].parse().unwrap();
            assert_eq!(cancel(http_status, body(code, reference, partner)), Verdict::Unknown, "{code} {reference}");
        }
        assert_eq!(query(200, body("2005100", reference, partner)), Verdict::QueryFailed, "{reference} {partner}");
        assert_eq!(query(404, body("4045101", reference, partner)), Verdict::QueryFailed, "{reference} {partner}");
    }
    for (reference, partner) in [("R-1", "P-1"), ("", ""), ("R-1", "")] {
        assert_eq!(cancel(200, body("2007700", reference, partner)), Verdict::Canceled);
        assert_eq!(query(200, body("2005100", reference, partner)), Verdict::Status(Status::Canceled));
    }
}

#[test]
fn http_429_is_too_many_requests_whatever_the_body() {
    let bodies =
        [String::new(), "<html>".into(), coded("2007700"), coded("4007700"), coded("4297700"), coded("4295100")];
    for body in bodies {
        assert_eq!(cancel(429, &body), Verdict::Retry, "{body}");
        assert_eq!(query(429, &body), Verdict::QueryFailed, "{body}");
    }
}

#[test]
fn http_401_says_that_the_request_was_not_let_in_even_without_a_code() {
    for body in
        [String::new(), "<html>".into(), "{}".into(), "[]".into(), coded("4017300"), coded("4019900"), coded("401")]
    {
        assert_eq!(cancel(401, &body), Verdict::Unauthorized, "{body}");
        assert_eq!(query(401, &body), Verdict::Unauthorized, "{body}");
    }
    // A code of another status contradicts it: then nobody knows.
    for body in [coded("2007700"), coded("5047700"), coded("2005100")] {
        assert_eq!(cancel(401, &body), Verdict::Unknown, "{body}");
        assert_eq!(query(401, &body), Verdict::QueryFailed, "{body}");
    }
    assert_eq!(cancel(401, coded("4017799")), Verdict::Unauthorized);
    assert_eq!(query(401, coded("4015199")), Verdict::Unauthorized);
    assert_eq!(cancel(401, coded("4017701")), Verdict::Token);
    assert_eq!(query(401, coded("4015103")), Verdict::Token);
}

#[test]
fn every_status_of_a_query_says_what_the_profile_says() {
    use Status::{Canceled, Failed, NotFound, Open, Paid, Paying, Refunded};
    for (said, expected) in [
        ("00", Paid),
        ("01", Open),
        ("02", Paying),
        ("03", Open),
        ("04", Refunded),
        ("05", Canceled),
        ("06", Failed),
        ("07", NotFound),
    ] {
        assert_eq!(query(200, status(&format!("{said:?}"))), Verdict::Status(expected), "{said}");
    }
    for odd in [r#""08""#, r#""5""#, r#""""#, r#""005""#, r#"" 05""#, r#""SUCCESS""#, "5", "0", "null", "[]", "{}"] {
        assert_eq!(query(200, status(odd)), Verdict::QueryFailed, "{odd}");
    }
    assert_eq!(query(200, coded("2005100")), Verdict::QueryFailed);
}

#[test]
fn ifortepay_says_with_4037701_that_it_cannot_cancel_this_kind_of_qr() {
    let refused = Verdict::Refused { cause: Cause::NotCancelableByProvider, malformed: false };
    let body = coded("4037701");
    assert_eq!(cancel_with(profile("ifortepay"), 403, body.as_bytes()), refused);
    for (other, _) in BUILT_IN.iter().filter(|(name, _)| *name != "ifortepay") {
        let verdict = cancel_with(profile(other), 403, body.as_bytes());
        assert_eq!(verdict, Verdict::Misconfigured { merchant: false }, "{other}");
    }
    // Only with its own HTTP status, and only of a cancel.
    assert_eq!(cancel_with(profile("ifortepay"), 200, body.as_bytes()), Verdict::Unknown);
    assert_eq!(query(403, coded("4035101")), Verdict::Misconfigured { merchant: false });
}

#[test]
fn midtrans_may_say_with_4037715_that_it_is_paid() {
    let body = coded("4037715");
    for (name, _) in BUILT_IN {
        let expected = match name {
            "midtrans" => Verdict::Verify,
            _ => Verdict::Refused { cause: Cause::ResponseCode, malformed: false },
        };
        assert_eq!(cancel_with(profile(name), 403, body.as_bytes()), expected, "{name}");
    }
}

#[test]
fn verdicts_have_names_of_their_own() {
    let statuses = [
        Status::Open,
        Status::Paying,
        Status::Paid,
        Status::Canceled,
        Status::Expired,
        Status::Failed,
        Status::Refunded,
        Status::NotFound,
    ];
    let verdicts = [
        Verdict::Canceled,
        Verdict::Pending,
        Verdict::Verify,
        Verdict::Unknown,
        Verdict::Retry,
        Verdict::CutOff,
        Verdict::Token,
        Verdict::Unauthorized,
        Verdict::Misconfigured { merchant: false },
        REFUSED,
        Verdict::QueryFailed,
    ];
    let all = verdicts.into_iter().chain(statuses.map(Verdict::Status));
    let names: std::collections::BTreeSet<_> = all.map(Verdict::name).collect();
    assert_eq!(names.len(), verdicts.len() + statuses.len());
}
