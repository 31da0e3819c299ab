//! The ledger can fail: books that break a promise are told from good ones.

use super::support::judge::{Account, Book, Entry, Rest, judge};
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
    let entry = Entry { account: "bnc".into(), reference: "R".into(), confirmed: true, faulty: false };
    let book = Book { commands: [("j".to_owned(), entry)].into(), events };
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
    assert_eq!(called(&["query", "cancel", "cancel"], 0), (1, 1));
    assert_eq!(called(&["query", "cancel", "cancel", "cancel"], 1), (2, 1));
    assert_eq!(called(&["query", "cancel", "query", "query"], 1), (0, 1));
    // A call that was turned away is made once more in the same visit.
    let mut seen = transaction(&[("pending", "first call"), ("canceled", "cancel")]);
    seen["lastCalls"] = json!([
        { "operation": "cancel", "externalId": "0", "code": "4017701" }, { "operation": "cancel", "externalId": "1" }
    ]);
    let account = account_of(vec![event("1", "canceled")], seen, &[], Some(0));
    assert_eq!(account.contradicted.len(), 0, "{account}");
}
