//! The sandbox over real sockets, driven by the project's own client: every dialect is spoken, every mistake is refused (most of
//! it in one table for all profiles), every fault shows what it should on the wire and in the ledger.

#[path = "sandbox/faults.rs"]
mod faults;
#[path = "sandbox/rig.rs"]
mod rig;
#[path = "sandbox/table.rs"]
mod table;

use chrono::Utc;
use qris_cancel_worker::{
    sandbox::{self, Options, Unknown},
    snap::{
        Operation,
        profile::{SigningMode, Status},
        request::Partner,
    },
};
use rig::{Rig, accounts, code_of, fresh_id, header, json_of, partner};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

#[tokio::test]
async fn every_dialect_cancels_and_queries() {
    let rig = Rig::start(Options::default()).await;
    for (account, ..) in accounts() {
        let account = account.as_str();
        let statuses = &rig.partner(account).profile.query.as_ref().unwrap().status;
        // As each writes it; one that knows paid transactions only does not find it.
        let written = |status| statuses.iter().find(|(_, known)| **known == status).map_or("07", |(text, _)| text);
        let query = rig.call(account, Operation::Query, "R1").await.unwrap();
        assert_eq!(json_of(&query)["latestTransactionStatus"], written(Status::Open), "{account}");
        let canceled = rig.call(account, Operation::Cancel, "R1").await.unwrap();
        assert_eq!(code_of(&canceled), "2007700", "{account}: {}", json_of(&canceled));
        assert_eq!(json_of(&canceled)["originalReferenceNo"], "R1", "{account}");
        assert!(json_of(&canceled)["cancelTime"].as_str().unwrap().ends_with("+07:00"));
        let query = json_of(&rig.call(account, Operation::Query, "R1").await.unwrap());
        assert_eq!(query["responseCode"], "2005100");
        assert_eq!(query["latestTransactionStatus"], written(Status::Canceled), "{account}");
        let seen = rig.transaction(account, "R1").await;
        assert_eq!((&seen["state"], &seen["calls"]), (&json!("canceled"), &json!({ "cancel": 1, "query": 2 })));
        assert_eq!((&seen["history"][1]["from"], &seen["history"][1]["by"]), (&json!("pending"), &json!("cancel")));
        let effects: Vec<_> = (0..3).map(|at| seen["lastCalls"][at]["tookEffect"].as_bool().unwrap()).collect();
        assert_eq!(effects, [false, true, false]);
    }
    let picture = rig.control("GET", "", Value::Null).await;
    assert_eq!(picture["accounts"]["bnc"]["calls"]["cancel"], json!({ "total": 1, "codes": { "2007700": 1 } }));
    assert_eq!(picture["accounts"]["bnc"]["calls"]["token"]["total"], 3);
    assert_eq!(picture["accounts"]["bnc"]["transactions"], json!({ "canceled": 1 }));
    assert_eq!(picture["accounts"]["bnc"]["tookEffect"], 1);
}

#[tokio::test]
async fn a_time_in_another_form_is_refused() {
    let rig = Rig::start(Options::default()).await;
    let mut form = rig.request("aspi", Operation::Cancel, "R1").await;
    *header(&mut form, "X-TIMESTAMP") = Utc::now().to_rfc3339().into();
    assert_eq!(rig.code(form).await, "4007701");
}

#[tokio::test]
async fn what_is_wrong_with_the_body_is_refused() {
    let rig = Rig::start(Options::default()).await;
    let good = json!({ "originalPartnerReferenceNo": "P", "originalReferenceNo": "R", "reason": "r", "additionalInfo": { "type": "DYNAMIC" } });
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body.to_string()
    };
    for (body, expected) in [
        (with("reason", Value::Null), "4007702"),
        (with("reason", json!("")), "4007702"),
        (with("reason", json!("ä".repeat(257))), "4007701"),
        (with("reason", json!(7)), "4007701"),
        (with("originalReferenceNo", json!("R".repeat(65))), "4007701"),
        (with("additionalInfo", Value::Null), "4007702"),
        (with("additionalInfo", json!({})), "4007702"),
        (with("additionalInfo", json!({ "type": "STATIC" })), "4007701"),
        (with("additionalInfo", json!("DYNAMIC")), "4007701"),
        ("[]".into(), "4007700"),
        ("not JSON".into(), "4007700"),
        (with("reason", json!("ä".repeat(256))), "2007700"),
    ] {
        let request = rig.with_body("ifortepay", Operation::Cancel, body.clone().into_bytes()).await;
        assert_eq!(rig.code(request).await, expected, "{body}");
    }
    let of_aspi = [
        (r#"{"merchantId":"m","reason":"r"}"#, "4007702"),
        (r#"{"refNo":"R","merchantId":"m","reason":"r"}"#, "4007702"),
        (
            r#"{"originalReferenceNo":"R","merchantId":"m","reason":"r","amount":{"value":"1","currency":"IDR"}}"#,
            "4007701",
        ),
        (
            r#"{"originalReferenceNo":"R","merchantId":"m","reason":"r","amount":{"value":"1.00","currency":"IDR"}}"#,
            "2007700",
        ),
    ];
    for (body, expected) in of_aspi {
        let request = rig.with_body("aspi", Operation::Cancel, body.into()).await;
        assert_eq!(rig.code(request).await, expected, "{body}");
    }
    let amount = json_of(&rig.call("aspi", Operation::Query, "R").await.unwrap())["amount"].clone();
    assert_eq!(amount, json!({ "value": "1.00", "currency": "IDR" }));
}

#[tokio::test]
async fn an_external_id_is_good_once_a_day_or_for_the_same_call() {
    let rig = Rig::start(Options::default()).await;
    for (account, again) in [("bnc", "4097700"), ("own", "2007700")] {
        let (partner, token) = (rig.partner(account), rig.token(account).await);
        let id = fresh_id(partner);
        let send = |reference: &str| {
            let body = rig.body(account, Operation::Cancel, reference);
            rig.client.send(partner.transaction(Operation::Cancel, body, &id, token.as_ref(), Utc::now()))
        };
        let first = send("R1").await.unwrap();
        assert_eq!(code_of(&first), "2007700");
        // Longer than a second, so that a new answer would bear another time.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let second = send("R1").await.unwrap();
        assert_eq!(code_of(&second), again, "{account}");
        assert_eq!(first.body == second.body, account == "own");
        assert_eq!(code_of(&send("R2").await.unwrap()), "4097700", "{account}: another body");
        let seen = rig.transaction(account, "R1").await;
        assert_eq!((&seen["calls"]["cancel"], &seen["lastCalls"][1]["tookEffect"]), (&json!(2), &json!(false)));
        assert_eq!(seen["lastCalls"][1]["externalId"], id);
    }
}

#[tokio::test]
async fn the_state_decides() {
    let rig = Rig::start(Options { unknown: Unknown::NotFound, ..Options::default() }).await;
    for account in ["aspi", "own"] {
        let expired = if account == "own" { "08" } else { "07" };
        for (state, cancel, status) in [
            ("paid", "4047714", "00"),
            ("refunded", "4047700", "04"),
            ("expired", "4037700", expired),
            ("pending", "2007700", if account == "own" { "25" } else { "05" }),
        ] {
            let wanted = json!({ "account": account, "originalReferenceNo": state, "state": state, "notFoundFor": 1 });
            assert_eq!(rig.control("POST", "/transactions", wanted).await, json!({ "transactions": 1 }));
            for expected in ["4047701", cancel] {
                assert_eq!(code_of(&rig.call(account, Operation::Cancel, state).await.unwrap()), expected, "{state}");
            }
            let answer = json_of(&rig.call(account, Operation::Query, state).await.unwrap());
            assert_eq!(answer["latestTransactionStatus"], status, "{account}: {state}");
            assert_eq!(answer["paidTime"].is_string(), state == "paid");
        }
        assert_eq!(code_of(&rig.call(account, Operation::Cancel, "nobody").await.unwrap()), "4047701");
        assert_eq!(code_of(&rig.call(account, Operation::Query, "nobody").await.unwrap()), "4045101");
    }
    let by_partner_reference = json!([{ "account": "bnc", "originalPartnerReferenceNo": "PR9", "state": "pending" }]);
    rig.control("POST", "/transactions", by_partner_reference).await;
    assert_eq!(code_of(&rig.call("bnc", Operation::Cancel, "R9").await.unwrap()), "2007700");
    let query = json_of(&rig.call("bnc", Operation::Query, "R9").await.unwrap());
    assert_eq!(query["latestTransactionStatus"], "05", "known by both references from then on");
    let wrong = json!([{ "account": "bnc", "originalReferenceNo": "A", "state": "pending" }, { "account": "bnk", "originalReferenceNo": "B", "state": "pending" }]);
    let error = rig.control("POST", "/transactions", wrong).await["error"].as_str().unwrap().to_owned();
    assert!(error.contains("\"bnk\"") && error.contains("ifortepay-symmetric"), "{error}");
    let all = rig.control("GET", "/transactions", Value::Null).await;
    assert_eq!(all.as_array().unwrap().len(), 9, "all or none");
    rig.control("DELETE", "/transactions", Value::Null).await;
    assert_eq!(rig.control("GET", "/transactions", Value::Null).await, json!([]));
}

#[tokio::test]
async fn it_stops_within_a_second_whatever_hangs() {
    let rig = Rig::start(Options::default()).await;
    rig.faults("ifortepay", "hang=1").await;
    let request = rig.request("ifortepay", Operation::Cancel, "R1").await;
    let Rig { client, stop, served, .. } = rig;
    let hanging = tokio::spawn(async move { client.send(request).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    stop.send(()).unwrap();
    served.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    assert_eq!(hanging.await.unwrap().unwrap_err().name(), "broken");
}

#[tokio::test]
async fn an_account_that_cannot_be_checked_is_refused_at_start() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let without_key = Partner { private_key: None, ..partner("bnc", "bnc", SigningMode::Asymmetric, "") };
    let partners = vec![("bnc".to_owned(), Arc::new(without_key))];
    let error = sandbox::serve(listener, partners, Options::default(), std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("bnc: private_key"), "{error}");
}

#[tokio::test]
async fn ten_thousand_transactions_are_kept_and_shown() {
    let rig = Rig::start(Options { latency: Duration::from_millis(30), ..Options::default() }).await;
    let one = |at: u32| json!({ "account": "aspi", "originalReferenceNo": format!("R{at}"), "state": "pending" });
    let begun = Instant::now();
    let set = rig.control("POST", "/transactions", (0..10_000).map(one).collect()).await;
    assert_eq!(set, json!({ "transactions": 10_000 }));
    for _ in 0..25 {
        assert_eq!(code_of(&rig.call("aspi", Operation::Query, "R5000").await.unwrap()), "2005100");
    }
    assert!(begun.elapsed() >= Duration::from_millis(30 * 50), "each answer waits");
    let all = rig.control("GET", "/transactions", Value::Null).await;
    assert_eq!(all.as_array().unwrap().len(), 10_000);
    let seen = rig.transaction("aspi", "R5000").await;
    assert_eq!((&seen["calls"]["query"], seen["lastCalls"].as_array().unwrap().len()), (&json!(25), 20));
}
