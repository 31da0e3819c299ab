//! The ledger can fail: books that break a promise are told from good ones.

use super::support::judge::{Account, Book, Entry, REFUSED, Rest, judge};
use serde_json::{Value, json};

fn event(id: &str, outcome: &str) -> Value {
    json!({ "id": id, "data": { "jobId": "j", "outcome": outcome, "mayHaveTakenEffect": false,
        "calls": [{ "operation": "cancel", "externalId": "1", "at": "t" }] } })
}

fn transaction(states: &[(&str, &str)]) -> Value {
    let history: Vec<_> = states.iter().map(|(to, by)| json!({ "to": to, "by": by })).collect();
    json!({ "account": "bnc", "originalReferenceNo": "R", "state": states.last().unwrap().0, "history": history,
        "calls": { "cancel": 1, "query": 0 }, "lastCalls": [{ "operation": "cancel", "externalId": "1" }] })
}

/// How many are lost, contradicted and repeated.
fn judged(events: Vec<Value>, transaction: Value, parked: &[&str]) -> (usize, usize, usize) {
    let account = account_of(events, transaction, parked, None);
    (account.lost.len(), account.contradicted.len(), account.repeats)
}

fn account_of(events: Vec<Value>, transaction: Value, parked: &[&str], redelivered: Option<u64>) -> Account {
    with_copies(events, transaction, parked, redelivered, 0)
}

fn with_copies(
    events: Vec<Value>,
    transaction: Value,
    parked: &[&str],
    redelivered: Option<u64>,
    copies: u64,
) -> Account {
    let entry = Entry { account: "bnc".into(), reference: "R".into(), confirmed: true, faulty: false, copies };
    let book = Book { commands: [("j".to_owned(), entry)].into(), events, ..Book::default() };
    let parked = parked.iter().map(|&job| job.to_owned()).collect();
    let redelivered = redelivered.map(|times| [("j".to_owned(), times)].into());
    judge(&book, &Rest { transactions: vec![transaction], parked, redelivered })
}

#[test]
fn the_ledger_tells_broken_promises_from_kept_ones() {
    let canceled = || transaction(&[("pending", "first call"), ("canceled", "cancel")]);
    let pending = || transaction(&[("pending", "first call")]);
    // Kept.
    assert_eq!(judged(vec![event("1", "canceled")], canceled(), &[]), (0, 0, 0));
    assert_eq!(judged(vec![event("1", "canceled"), event("1", "canceled")], canceled(), &[]), (0, 0, 1));
    let both = || vec![event("1", "unresolved"), event("2", "canceled")];
    assert_eq!(judged(both(), canceled(), &["j"]), (0, 0, 0));
    assert_eq!(judged(vec![event("1", "unresolved")], pending(), &["j"]), (0, 0, 0));
    // Lost: not told, or left to a person who has no copy.
    assert_eq!(judged(vec![], canceled(), &[]), (1, 0, 0));
    assert_eq!(judged(both(), canceled(), &[]), (1, 0, 0));
    // Told otherwise than it is, or in two ways.
    assert_eq!(judged(vec![event("1", "canceled")], pending(), &[]), (0, 1, 0));
    assert_eq!(judged(vec![event("1", "paid"), event("2", "canceled")], canceled(), &[]), (0, 1, 0));
    assert_eq!(judged(vec![event("1", "refused")], pending(), &[]), (0, 1, 0));
    assert_eq!(judged(vec![event("1", "invalid")], pending(), &["j"]), (0, 1, 0));
    // It says that nothing happened, and something did.
    assert_eq!(judged(vec![event("1", "unresolved")], canceled(), &["j"]), (0, 1, 0));
    // A repeat that cannot be recognised.
    assert_eq!(judged(vec![event("1", "canceled"), event("2", "canceled")], canceled(), &[]), (0, 1, 0));
}

/// The calls that the provider has had, and how often the command came again: what is unrecorded, and what is contradicted.
fn called(calls: &[&str], redelivered: u64) -> (usize, usize) {
    let mut seen = transaction(&[("pending", "first call"), ("canceled", "cancel")]);
    let last =
        calls.iter().enumerate().map(|(at, operation)| json!({ "operation": operation, "externalId": at.to_string() }));
    seen["lastCalls"] = last.collect();
    for operation in ["cancel", "query"] {
        seen["calls"][operation] = calls.iter().filter(|call| **call == operation).count().into();
    }
    // The event has call number 1.
    let account = account_of(vec![event("1", "canceled")], seen, &[], Some(redelivered));
    (account.unrecorded, account.contradicted.len())
}

#[test]
fn calls_without_a_record_are_no_more_than_redeliveries_explain() {
    assert_eq!(called(&["query", "cancel"], 1), (0, 0));
    assert_eq!(called(&["query", "cancel", "cancel"], 1), (1, 0));
    assert_eq!(called(&["query", "cancel", "query", "query", "cancel"], 2), (1, 0));
    // More cancels, or more queries, than the visits that were broken off can have made.
    assert_eq!(called(&["query", "cancel", "query", "cancel"], 0), (1, 1));
    assert_eq!(called(&["query", "cancel", "query", "cancel", "query", "cancel"], 1), (2, 1));
    assert_eq!(called(&["query", "cancel", "query", "query"], 1), (0, 1));
    // A call that was turned away is made once more in the same visit.
    let account = answered(&[("cancel", "4017701"), ("cancel", "2007700")], 0);
    assert_eq!(account.contradicted.len(), 0, "{account}");
}

#[test]
fn calls_too_many_to_keep_are_counted() {
    let with_total = |cancels: u64, queries: u64, redelivered| {
        let mut seen = transaction(&[("pending", "first call"), ("canceled", "cancel")]);
        seen["calls"] = json!({ "cancel": cancels, "query": queries });
        let mut told = event("1", "canceled");
        told["data"]["callsTotal"] = 30.into();
        account_of(vec![told.clone(), told], seen, &[], Some(redelivered)).contradicted.len()
    };
    assert_eq!(with_total(15, 15, 0), 0);
    assert_eq!(with_total(15, 16, 0), 1);
    assert_eq!(with_total(16, 17, 1), 0);
    assert_eq!(with_total(17, 17, 1), 1);
}

/// The calls that the provider has had, with its answers.
fn answered(calls: &[(&str, &str)], redelivered: u64) -> Account {
    let mut seen = transaction(&[("pending", "first call"), ("canceled", "cancel")]);
    let last = calls
        .iter()
        .enumerate()
        .map(|(at, (operation, code))| json!({ "operation": operation, "code": code, "externalId": at.to_string() }));
    seen["lastCalls"] = last.collect();
    for operation in ["cancel", "query"] {
        seen["calls"][operation] = calls.iter().filter(|call| call.0 == operation).count().into();
    }
    account_of(vec![event("1", "canceled")], seen, &[], Some(redelivered))
}

#[test]
fn who_cancels_again_has_asked() {
    let unasked = |calls: &[(&str, &str)], redelivered| {
        let account = answered(calls, redelivered);
        let named = account.contradicted.iter().filter(|one| one.starts_with("cancelled again without")).count();
        (named, account.cancelled_beside.len())
    };
    let (first, asked, gone) = (("cancel", "2007700"), ("query", "2005100"), ("cancel", "4047700"));
    let (turned_away, unknown) = (("cancel", "4297700"), ("cancel", "5047700"));
    assert_eq!(unasked(&[first, asked], 1), (0, 0));
    assert_eq!(unasked(&[turned_away, first], 0), (0, 0));
    assert_eq!(unasked(&[unknown, asked, first], 0), (0, 0));
    // The worker died after the first; who came after it asked too late.
    assert_eq!(unasked(&[first, gone, asked], 1), (1, 0));
    assert_eq!(unasked(&[turned_away, unknown, first], 1), (1, 0));
    assert_eq!(unasked(&[unknown, unknown, unknown, first, asked], 3), (1, 0));
    // The worker died with the retry's copy published and the original not acknowledged: both live on.
    assert_eq!(unasked(&[turned_away, asked, first, gone, asked], 1), (0, 1));
    assert_eq!(unasked(&[turned_away, asked, first, gone, asked], 0), (1, 0));
    assert_eq!(unasked(&[turned_away, asked, first, gone, gone, asked], 1), (1, 0));
}

#[test]
fn what_does_not_belong_together_is_named() {
    let canceled = || transaction(&[("pending", "first call"), ("canceled", "cancel")]);
    // One id for two outcomes.
    let both = vec![event("1", "unresolved"), event("1", "canceled")];
    let account = account_of(both, canceled(), &["j"], Some(0));
    assert!(account.contradicted.iter().any(|one| one.starts_with("one id for two outcomes")), "{account}");
    // Told, and never published.
    let mut stranger = event("1", "canceled");
    stranger["data"]["jobId"] = "somebody's".into();
    let account = account_of(vec![stranger, event("2", "canceled")], canceled(), &[], Some(0));
    let named = r#""somebody's" is told and was never published"#;
    assert_eq!(account.contradicted, [named], "{account}");
    // Parked, and no event says so, which only a death in between explains.
    let parked = |redelivered| account_of(vec![event("1", "canceled")], canceled(), &["j"], Some(redelivered));
    assert!(parked(0).contradicted[0].starts_with("parked, and no event says so"));
    assert_eq!(parked(1).contradicted.len(), 0);
}

#[test]
fn what_is_faulty_never_reaches_the_provider() {
    let judged = |faulty: bool, cancels: u64, event: Value, redelivered: u64| {
        let entry = Entry { account: "bnc".into(), reference: "R".into(), confirmed: true, faulty, copies: 0 };
        let book = Book { commands: [("j".to_owned(), entry)].into(), events: vec![event], ..Book::default() };
        let mut seen = transaction(&[("pending", "first call")]);
        seen["calls"] = json!({ "cancel": cancels, "query": 0 });
        let redelivered = Some([("j".to_owned(), redelivered)].into());
        judge(&book, &Rest { transactions: vec![seen], parked: vec!["j".into()], redelivered }).contradicted.len()
    };
    let told = |faulty, cancels| judged(faulty, cancels, event("1", "invalid"), 0);
    assert_eq!((told(true, 0), told(true, 1), told(false, 0)), (0, 1, 1));
    // Only what was delivered again may have been sent by a worker with other settings.
    let mut no_longer_valid = event("1", "unresolved");
    no_longer_valid["data"]["cause"] = "no_longer_valid".into();
    let told = |redelivered| judged(true, 0, no_longer_valid.clone(), redelivered);
    assert_eq!((told(0), told(1)), (1, 0));
    assert_eq!(judged(true, 0, event("1", "unresolved"), 1), 1);
}

/// Cancels with these answers, of which the first took effect if it is a success.
fn answered_to_cancels(codes: &[&str], states: &[(&str, &str)]) -> Value {
    let calls = codes.iter().enumerate();
    let calls: Vec<_> = calls
        .map(|(at, code)| json!({ "operation": "cancel", "externalId": (at + 1).to_string(), "code": code }))
        .collect();
    let mut seen = transaction(states);
    (seen["calls"]["cancel"], seen["lastCalls"]) = (calls.len().into(), calls.into());
    seen
}

#[test]
fn a_command_that_is_published_twice_has_one_settled_outcome() {
    let told_after = |second: &str, outcomes: &[&str], copies| {
        let event = |(at, outcome): (usize, &&str)| {
            let mut event = event(outcome, outcome);
            event["data"]["cause"] = "response_code".into();
            event["data"]["calls"][0]["externalId"] = (at + 1).to_string().into();
            event
        };
        let states = [("pending", "first call"), ("canceled", "cancel")];
        let seen = answered_to_cancels(&["2007700", second], &states);
        let account = with_copies(outcomes.iter().enumerate().map(event).collect(), seen, &[], Some(0), copies);
        (account.contradicted.len(), account.repeats, account.copies)
    };
    let told = |outcomes: &[&str], copies| told_after(REFUSED, outcomes, copies);
    assert_eq!(told(&["canceled", "canceled"], 1), (0, 0, 1));
    assert_eq!(told(&["canceled", "canceled", "canceled"], 1), (0, 1, 1));
    // Cancelled again without a question, and no copy explains it.
    let gone = "4047700";
    assert_eq!(told_after(gone, &["canceled", "canceled"], 1), (0, 0, 1));
    assert_eq!(told_after(gone, &["canceled", "canceled"], 0), (1, 1, 0));
    // The refusal is the echo of our own success.
    assert_eq!(told(&["canceled", "refused"], 1), (1, 0, 1));
    assert_eq!(told(&["refused"], 1).0, 2, "and the other copy's cancel is in no event");
}

#[test]
fn refused_is_what_the_provider_has_said_and_nothing_else() {
    let told = |cause: &str, codes: &[&str], by: &str| {
        let mut event = event("1", "refused");
        event["data"]["cause"] = cause.into();
        let seen = answered_to_cancels(codes, &[("pending", "first call"), ("canceled", by)]);
        account_of(vec![event], seen, &[], None).contradicted.len()
    };
    assert_eq!(told("response_code", &[REFUSED], "control"), 0);
    assert_eq!(told("response_code", &["4047700"], "control"), 1);
    assert_eq!(told("response_code", &[REFUSED], "accepted cancel"), 1);
    let denied = "4017701";
    assert_eq!(told("not_authorized", &[denied; 5], "control"), 0);
    assert_eq!(told("not_authorized", &[denied; 4], "control"), 1);
    // In a row, and the last words.
    assert_eq!(told("not_authorized", &[denied, denied, denied, "5007700", denied, denied], "control"), 1);
    assert_eq!(told("not_authorized", &[denied, denied, denied, denied, denied, ""], "control"), 1);
}
