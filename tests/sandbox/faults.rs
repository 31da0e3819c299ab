//! Every fault, on the wire and in the ledger.

use super::rig::{Rig, client, code_of, fresh_id, json_of};
use chrono::Utc;
use qris_cancel_worker::{
    sandbox::{CanceledAgain, Fault, Options, Unknown},
    snap::{Operation, SendError},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What a cancel meets: HTTP status and response code, or an error's name; and whether it took effect.
const FAULTS: [(&str, &str, bool); 14] = [
    ("500", "5007700", false),
    ("503_html", "503", false),
    ("429", "4297700", false),
    ("504_after", "5047700", true),
    ("hang", "timeout", false),
    ("hang_after", "timeout", true),
    ("reset_before", "broken", false),
    ("reset_after", "broken", true),
    ("html", "200", false),
    ("truncated", "broken", true),
    ("202", "2027700", false),
    ("expired_token", "4017701", false),
    ("drip", "timeout", true),
    ("not_found_for_a_while", "4047701", false),
];

#[tokio::test]
async fn every_fault_shows_on_the_wire_and_in_the_ledger() {
    let mut rig = Rig::start(Options::default()).await;
    rig.client = client(Duration::from_millis(1500));
    assert_eq!(FAULTS.map(|(name, ..)| name), Fault::ALL.map(Fault::name));
    for (fault, wire, took_effect) in FAULTS {
        let request = rig.request("bnc", Operation::Cancel, fault).await;
        rig.faults("bnc", &format!("{fault}=1")).await;
        let result = rig.client.send(request).await;
        rig.faults("bnc", "none").await;
        let shown = match &result {
            Ok(reply) if reply.body.starts_with(b"<!DOCTYPE html>") => reply.http_status.to_string(),
            Ok(reply) => code_of(reply),
            Err(error) => error.name().to_owned(),
        };
        assert_eq!(shown, wire, "{fault}: {result:?}");
        let reset = matches!(&result, Err(SendError::Broken(why)) if why.contains("reset by peer"));
        assert_eq!(reset, fault.starts_with("reset"), "{fault}: {result:?}");
        let wait = result.as_ref().ok().and_then(|reply| reply.retry_after);
        assert_eq!(wait, (fault == "429").then_some(Duration::from_secs(1)), "{fault}");
        let seen = rig.transaction("bnc", fault).await;
        let call = &seen["lastCalls"][0];
        assert_eq!(seen["state"], if took_effect { "canceled" } else { "pending" }, "{fault}");
        assert_eq!((&call["fault"], &call["tookEffect"]), (&json!(fault), &json!(took_effect)));
        let told = call["code"].as_str();
        assert_eq!(
            told.is_some(),
            !["hang", "reset", "html", "503", "trunc"].iter().any(|f| fault.starts_with(f)),
            "{fault}"
        );
    }
    let injected = rig.control("GET", "", Value::Null).await["accounts"]["bnc"]["injected"].clone();
    assert_eq!(injected.as_object().unwrap().len(), FAULTS.len(), "{injected}");
    let not_found = json_of(&rig.call("bnc", Operation::Query, "not_found_for_a_while").await.unwrap());
    assert_eq!(not_found["latestTransactionStatus"], "07");
    let found = json_of(&rig.call("bnc", Operation::Query, "not_found_for_a_while").await.unwrap());
    assert_eq!(found["latestTransactionStatus"], "01");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let accepted = rig.transaction("bnc", "202").await;
    assert_eq!((&accepted["state"], &accepted["history"][1]["by"]), (&json!("canceled"), &json!("accepted cancel")));
}

#[tokio::test]
async fn faults_of_queries_cancel_nothing_and_tokens_really_end() {
    let mut rig = Rig::start(Options::default()).await;
    let usual = std::mem::replace(&mut rig.client, client(Duration::from_millis(300)));
    for (fault, ..) in FAULTS {
        let request = rig.request("ifortepay-symmetric", Operation::Query, fault).await;
        rig.faults("ifortepay-symmetric", &format!("{fault}=1")).await;
        drop(rig.client.send(request).await);
        rig.faults("ifortepay-symmetric", "none").await;
    }
    rig.client = usual;
    let partner = rig.partner("ifortepay-symmetric");
    let token = rig.token("ifortepay-symmetric").await;
    let request = || {
        let body = rig.body("ifortepay-symmetric", Operation::Query, "R1");
        partner.transaction(Operation::Query, body, &fresh_id(partner), token.as_ref(), Utc::now())
    };
    rig.faults("ifortepay-symmetric", "expired_token=1").await;
    assert_eq!(rig.code(request()).await, "4015101");
    rig.faults("ifortepay-symmetric", "none").await;
    assert_eq!(rig.code(request()).await, "4015101", "the token is gone for good");
    // Where calls carry no token, none can be declared invalid.
    rig.faults("ifortepay", "expired_token=1").await;
    assert_eq!(code_of(&rig.call("ifortepay", Operation::Query, "R1").await.unwrap()), "2005100");
    // A token call meets those faults that it can.
    rig.faults("bnc", "500=1").await;
    assert_eq!(rig.code(rig.partner("bnc").token_request(Utc::now()).unwrap()).await, "5007300");
    rig.faults("bnc", "504_after=1").await;
    assert_eq!(rig.code(rig.partner("bnc").token_request(Utc::now()).unwrap()).await, "2007300");
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let picture = rig.control("GET", "", Value::Null).await;
    assert_eq!(picture["accounts"]["ifortepay-symmetric"]["transactions"], json!({ "pending": FAULTS.len() + 1 }));
    assert_eq!(picture["accounts"]["ifortepay"]["injected"], json!({}));
}

#[tokio::test]
async fn a_bank_can_refuse_the_cancel_of_what_is_cancelled_already() {
    for (canceled_again, code) in [(CanceledAgain::InvalidStatus, "4047700"), (CanceledAgain::NotPermitted, "4037715")]
    {
        let rig = Rig::start(Options { canceled_again, ..Options::default() }).await;
        for expected in ["2007700", code] {
            let reply = rig.call("bnc", Operation::Cancel, "R1").await.unwrap();
            assert_eq!(code_of(&reply), expected);
        }
        assert_eq!(json_of(&rig.call("bnc", Operation::Query, "R1").await.unwrap())["latestTransactionStatus"], "05");
        let seen = rig.transaction("bnc", "R1").await;
        assert_eq!((&seen["state"], &seen["history"].as_array().unwrap().len()), (&json!("canceled"), &2));
    }
}

#[tokio::test]
async fn a_dripping_answer_is_right_and_slow() {
    let rig = Rig::start(Options { unknown: Unknown::NotFound, ..Options::default() }).await;
    rig.faults("ifortepay", "drip=1").await;
    let begun = Instant::now();
    let reply = rig.call("ifortepay", Operation::Query, "R1").await.unwrap();
    assert_eq!(code_of(&reply), "4045101");
    let least = Duration::from_millis(50) * reply.body.len() as u32;
    assert!(begun.elapsed() >= least, "{:?} for {} bytes", begun.elapsed(), reply.body.len());
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    async fn faults_met(seed: u64) -> Vec<Value> {
        let faults = "500=0.1,429=0.1,504_after=0.1,reset_before=0.1,html=0.1,202=0.1".parse().unwrap();
        let rig = Rig::start(Options { seed, faults, ..Options::default() }).await;
        for at in 0..40 {
            drop(rig.call("ifortepay", Operation::Cancel, &format!("R{at}")).await);
        }
        let all = rig.control("GET", "/transactions", Value::Null).await;
        let fault = |one: &Value| one["lastCalls"][0]["fault"].clone();
        all.as_array().unwrap().iter().map(fault).collect()
    }
    let (first, again, other) = (faults_met(7).await, faults_met(7).await, faults_met(8).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
    let met = first.iter().filter(|fault| !fault.is_null()).count();
    assert!((12..=36).contains(&met), "{met} of 40 at a rate of 60 %");
}
