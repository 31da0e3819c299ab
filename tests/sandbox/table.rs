//! One table for every built-in profile in each of its modes, and for one of our own: what a call is answered. A profile that is
//! added to the built-in ones is held to it without a line here.

use crate::rig::{Rig, accounts, fresh_id, header, header_of, json_of};
use chrono::{TimeDelta, Utc};
use qris_cancel_worker::{
    command::{CancelCommand, Hints, Terms},
    outcome::Cause,
    sandbox::{Options, Unknown},
    snap::{
        Operation,
        profile::{CommandField, Escapes, Field, Placeholder, Repeat, Source, Status},
        request::SignedRequest,
        response::Answer,
        sign,
    },
    verdict::{self, Asked, Verdict},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::time::Duration;

/// What is done; "of a QR that waits" goes without saying.
enum Call {
    /// A cancel of a transaction in this state.
    In(&'static str),
    OfNothing,
    /// With the signature of another call, or with another body than was signed, or written with white space.
    OtherSignature,
    OtherBody,
    WhiteSpace,
    /// With a time so many seconds off.
    Off(i64),
    /// Without the header that holds this, or with another value in it.
    Without(Placeholder),
    Other(Placeholder),
    /// The X-EXTERNAL-ID of an earlier call, for another transaction or for the same bytes.
    UsedId,
    Again,
    /// A token call with a time that is stale, or without a grant.
    StaleToken,
    NoGrant,
}

const TABLE: &[(&str, Call, &str)] = &[
    ("a QR that waits", Call::In("pending"), "2007700"),
    ("one that is cancelled already", Call::In("canceled"), "4047700"),
    ("one that is paid", Call::In("paid"), "4047714"),
    ("one that has expired", Call::In("expired"), "4037700"),
    ("one that was refunded", Call::In("refunded"), "4047700"),
    ("one that there is not", Call::OfNothing, "4047701"),
    ("the signature of another call", Call::OtherSignature, "4017700"),
    ("a body that was not signed", Call::OtherBody, "4017700"),
    ("white space, which is not signed", Call::WhiteSpace, "2007700"),
    ("a time 290 s ago", Call::Off(-290), "2007700"),
    ("a time 290 s ahead", Call::Off(290), "2007700"),
    ("a time 310 s ago", Call::Off(-310), "4017700"),
    ("a time 310 s ahead", Call::Off(310), "4017700"),
    ("another partner", Call::Other(Placeholder::PartnerId), "4017700"),
    ("no partner", Call::Without(Placeholder::PartnerId), "4007702"),
    ("another channel", Call::Other(Placeholder::ChannelId), "4007701"),
    ("no channel", Call::Without(Placeholder::ChannelId), "4007702"),
    ("no signature", Call::Without(Placeholder::Signature), "4007702"),
    ("no time", Call::Without(Placeholder::Timestamp), "4007702"),
    ("no token", Call::Without(Placeholder::Token), "4007702"),
    ("an id that was used for another transaction", Call::UsedId, "4097700"),
    ("the same call again", Call::Again, "4097700, or the first answer where a repeat keeps its id"),
    ("a stale token call", Call::StaleToken, "4017300"),
    ("a token call without a grant", Call::NoGrant, "4007302"),
];

/// The code that a row is answered with; `None` where the profile has nothing to try it with.
async fn played(rig: &Rig, account: &str, call: &Call, reference: &str) -> Option<String> {
    let partner = rig.partner(account);
    let state = if let Call::In(state) = call { state } else { "pending" };
    if !matches!(call, Call::OfNothing) {
        let transaction = json!({ "account": account, "originalReferenceNo": reference, "state": state });
        assert_eq!(rig.control("POST", "/transactions", transaction).await["transactions"], 1);
    }
    let mut request = rig.request(account, Operation::Cancel, reference).await;
    let shown = |held| header_of(partner, held).filter(|name| request.headers.iter().any(|(sent, _)| sent == name));
    match call {
        Call::In(_) | Call::OfNothing => {}
        Call::OtherSignature => {
            let name = shown(Placeholder::Signature)?;
            let mut other = rig.request(account, Operation::Cancel, "another").await;
            *header(&mut request, name) = header(&mut other, name).clone();
        }
        Call::OtherBody => request.body = rig.body(account, Operation::Cancel, "another"),
        Call::WhiteSpace => request.body = spread(&request.body),
        Call::Off(seconds) => {
            let (token, at) = (rig.token(account).await, Utc::now() + TimeDelta::seconds(*seconds));
            let body = rig.body(account, Operation::Cancel, reference);
            request = partner.transaction(Operation::Cancel, body, &fresh_id(partner), token.as_ref(), at);
        }
        Call::Without(held) => {
            let name = shown(*held)?;
            request.headers.retain(|(sent, _)| sent != name);
        }
        Call::Other(held) => {
            let name = shown(*held)?;
            *header(&mut request, name) = SecretString::from("00000");
        }
        Call::UsedId | Call::Again => {
            let (token, id) = (rig.token(account).await, fresh_id(partner));
            let of = |reference: &str| {
                let body = rig.body(account, Operation::Cancel, reference);
                partner.transaction(Operation::Cancel, body, &id, token.as_ref(), Utc::now())
            };
            assert_eq!(rig.code(of(reference)).await, "2007700", "{account}");
            request = of(if matches!(call, Call::Again) { reference } else { "another" });
        }
        Call::StaleToken => request = partner.token_request(Utc::now() - TimeDelta::seconds(310))?,
        Call::NoGrant => {
            request = partner.token_request(Utc::now())?;
            request.body = b"{}".to_vec();
        }
    }
    Some(rig.code(request).await)
}

/// The same JSON, pretty-printed.
fn spread(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in body {
        match byte {
            b'{' => out.extend(b"{\n  "),
            b'}' => out.extend(b"\n}"),
            byte => out.push(*byte),
        }
    }
    out
}

#[tokio::test]
async fn every_profile_is_answered_as_the_table_says() {
    let rig = Rig::start(Options { unknown: Unknown::NotFound, ..Options::default() }).await;
    let mut wrong = Vec::new();
    for (account, ..) in accounts() {
        let partner = rig.partner(&account);
        let mut not_tried = Vec::new();
        for (at, (what, call, expected)) in TABLE.iter().enumerate() {
            let expected = match (call, partner.profile.external_id.repeat) {
                (Call::Again, Repeat::Same) => "2007700",
                (_, _) => &expected[..7],
            };
            match played(&rig, &account, call, &format!("{account}-{at}")).await {
                Some(code) if code == expected => {}
                Some(code) => wrong.push(format!("{account}: {what}: {code} instead of {expected}")),
                None => not_tried.push(*what),
            }
        }
        // What cannot be tried is what the profile does not have.
        let mut allowed = Vec::new();
        if header_of(partner, Placeholder::ChannelId).is_none() {
            allowed.extend(["another channel", "no channel"]);
        }
        if !partner.needs_token() {
            allowed.push("no token");
        }
        if partner.profile.token.is_none() {
            allowed.extend(["a stale token call", "a token call without a grant"]);
        }
        assert_eq!(not_tried, allowed, "{account}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn where_php_hashes_what_is_not_escaped_as_it_does_has_another_signature() {
    let rig = Rig::start(Options::default()).await;
    let body = |reason: &str| {
        let (text, marks) = (rig.body("ayolinx", Operation::Cancel, "R1"), "changed my mind");
        String::from_utf8(text).unwrap().replace(marks, reason).into_bytes()
    };
    for (reason, expected) in [("1/2", "4017700"), ("é", "4017700"), (r"1\/2 \u00e9", "2007700")] {
        let request = rig.with_body("ayolinx", Operation::Cancel, body(reason)).await;
        assert_eq!(rig.code(request).await, expected, "{reason}");
    }
}

#[tokio::test]
async fn every_profile_reads_the_state_of_a_transaction_out_of_a_query() {
    let rig = Rig::start(Options::default()).await;
    for (account, ..) in accounts() {
        let query = rig.partner(&account).profile.query.clone().unwrap();
        let has = |status| query.status.values().any(|known| *known == status);
        for (state, status) in [
            ("pending", Status::Open),
            ("paid", Status::Paid),
            ("canceled", Status::Canceled),
            ("expired", Status::Expired),
            ("refunded", Status::Refunded),
        ] {
            let transaction = json!({ "account": account, "originalReferenceNo": state, "state": state });
            rig.control("POST", "/transactions", transaction).await;
            let reply = rig.call(&account, Operation::Query, state).await.unwrap();
            let answer = Answer::read(&reply.body);
            let verdict = verdict::of_query(Ok((&reply, answer.as_ref())), Asked::default(), &query);
            let expected = match status {
                status if has(status) => Verdict::Status(status),
                // That it was refunded, it says in no way that can be read; the rest it does not find.
                Status::Refunded => Verdict::QueryFailed,
                _ => Verdict::Status(Status::NotFound),
            };
            assert_eq!(verdict, expected, "{account}: {state}: {}", json_of(&reply));
        }
    }
}

#[tokio::test]
async fn a_token_that_ended_or_was_never_given_lets_nobody_in() {
    let rig = Rig::start(Options { token_lifetime: Duration::from_secs(2), ..Options::default() }).await;
    let mut ended = Vec::new();
    let with = |account: &str, token: &SecretString| {
        let (partner, body) = (rig.partner(account), rig.body(account, Operation::Cancel, "R1"));
        partner.transaction(Operation::Cancel, body, &fresh_id(partner), Some(token), Utc::now())
    };
    for (account, ..) in accounts() {
        let Some(token) = rig.token(&account).await else { continue };
        assert_eq!(rig.code(with(&account, &token)).await, "2007700", "{account}");
        assert_eq!(rig.code(with(&account, &"made-up".into())).await, "4017701", "{account}: never given");
        ended.push((account, token));
    }
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert!(ended.len() >= 6);
    for (account, token) in ended {
        assert_eq!(rig.code(with(&account, &token)).await, "4017701", "{account}: ended");
    }
}

/// A cancel of a transaction that nobody has seen, with this where a field belongs.
async fn with_field(rig: &Rig, account: &str, field: &Field, value: Value) -> SignedRequest {
    let partner = rig.partner(account);
    let mut body: Value = serde_json::from_slice(&rig.body(account, Operation::Cancel, &fresh_id(partner))).unwrap();
    match field.place() {
        (Some(object), name) => body[object][name] = value,
        (None, name) => body[name] = value,
    }
    let text = match partner.profile.signing.escapes {
        Escapes::None => body.to_string(),
        Escapes::Php => sign::php_escaped(&body.to_string()),
    };
    rig.with_body(account, Operation::Cancel, text.into_bytes()).await
}

/// Whether an account takes a command with this text in a field, and its faults if it does not.
fn read(rig: &Rig, account: &str, field: CommandField, text: &str) -> Result<(), Vec<(Cause, String)>> {
    let partner = rig.partner(account);
    let mut command =
        json!({ "jobId": "j", "originalReferenceNo": "R1", "originalPartnerReferenceNo": "P1", "reason": "r" });
    command[field.name()] = text.into();
    let terms = Terms { profile: &partner.profile, defaults: &partner.merchant };
    match CancelCommand::read(command.to_string().as_bytes(), Hints::default(), terms) {
        Ok(command) => {
            assert_eq!(command.text(field), Some(text));
            Ok(())
        }
        Err(rejection) => Err(rejection.violations.into_iter().map(|v| (v.cause, v.field)).collect()),
    }
}

#[tokio::test]
async fn every_field_of_every_profile_has_its_limits_on_both_sides() {
    let rig = Rig::start(Options::default()).await;
    let mut tried = 0;
    for (account, ..) in accounts() {
        for field in &rig.partner(&account).profile.cancel.fields {
            let what = format!("{account}: {}", field.name);
            let sent = |value| with_field(&rig, &account, field, value);
            let missing = if field.required { "4007702" } else { "2007700" };
            let Source::Command(of) = field.source else {
                assert_eq!(rig.code(sent(Value::Null).await).await, "4007702", "{what}: constant, absent");
                continue;
            };
            if matches!(of, CommandField::Amount | CommandField::AdditionalInfo) {
                assert_eq!(rig.code(sent(json!("a text")).await).await, "4007701", "{what}: no object");
                continue;
            }
            let (longest, longer) = ("ü".repeat(field.max), "ü".repeat(field.max + 1));
            assert_eq!(rig.code(sent(longest.clone().into()).await).await, "2007700", "{what}: longest");
            assert_eq!(rig.code(sent(longer.clone().into()).await).await, "4007701", "{what}: longer");
            assert_eq!(rig.code(sent(json!(7)).await).await, "4007701", "{what}: a number");
            assert_eq!(rig.code(sent(Value::Null).await).await, missing, "{what}: absent");
            assert_eq!(read(&rig, &account, of, &longest), Ok(()), "{what}");
            let fault = (Cause::FieldValue, of.name().to_owned());
            assert_eq!(read(&rig, &account, of, &longer), Err(vec![fault.clone()]), "{what}");
            let empty = read(&rig, &account, of, "");
            assert_eq!(empty, if field.required { Err(vec![fault]) } else { Ok(()) }, "{what}: empty");
            tried += 1;
        }
    }
    assert!(tried > 40, "{tried}");
}
