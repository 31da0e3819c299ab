//! The ledger can fail: books that break a promise are told from good ones.

use super::support::ledger::{Book, Entry, Rest, judge};
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
    let entry = Entry { account: "bnc".into(), reference: "R".into(), confirmed: true, faulty: false };
    let book = Book { commands: [("j".to_owned(), entry)].into(), events };
    let parked = parked.iter().map(|&job| job.to_owned()).collect();
    let account = judge(&book, &Rest { transactions: vec![transaction], parked });
    (account.lost.len(), account.contradicted.len(), account.repeats)
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
