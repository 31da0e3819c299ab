//! `/_sandbox`: what reached the provider, as JSON, and the hand that moves transactions and faults.
//!
//! | | |
//! | --- | --- |
//! | `GET /_sandbox` | the whole picture: calls, codes, faults and states, by account |
//! | `GET /_sandbox/transactions?account=` | every transaction with its history and its calls |
//! | `POST /_sandbox/transactions` | creates a transaction or sets its state; an object or an array of them |
//! | `DELETE /_sandbox/transactions` | forgets transactions and counts; tokens and used ids stay |
//! | `PUT /_sandbox/faults` | `{"faults":"0.3"}`, for one account with `"account"`; there `null` ends its own |

use super::{
    Fault, Faults, Sandbox, World,
    answer::Answer,
    desk::{Counts, Desk},
    ledger::{References, State},
};
use axum::http::Method;
use chrono::Utc;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A transaction as it is to be.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wanted {
    account: String,
    original_reference_no: Option<String>,
    original_partner_reference_no: Option<String>,
    state: State,
    /// Only a transaction in this state is changed: a customer cannot pay a QR that is cancelled already.
    only_if: Option<State>,
    amount: Option<Value>,
    #[serde(default)]
    not_found_for: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Value>),
    One(Value),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedFaults {
    account: Option<String>,
    faults: Option<String>,
}

pub fn answer(sandbox: &Sandbox, method: &Method, path: &str, query: Option<&str>, body: &[u8]) -> Answer {
    let result = match (path, method.as_str()) {
        ("/_sandbox", "GET") => Ok(picture(sandbox)),
        ("/_sandbox/transactions", "GET") => transactions(sandbox, query),
        ("/_sandbox/transactions", "POST") => set_transactions(sandbox, body),
        ("/_sandbox/transactions", "DELETE") => {
            reset(&mut sandbox.world());
            Ok(Answer::json(200, &json!({ "transactions": 0 })))
        }
        ("/_sandbox/faults", "PUT") => set_faults(sandbox, body),
        ("/_sandbox" | "/_sandbox/transactions" | "/_sandbox/faults", _) => {
            return Answer::error(405, "this path has no such method");
        }
        _ => return Answer::error(404, "there are /_sandbox, /_sandbox/transactions and /_sandbox/faults"),
    };
    result.unwrap_or_else(|why: String| Answer::error(400, &why))
}

fn picture(sandbox: &Sandbox) -> Answer {
    let world = sandbox.world();
    let mut states: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for transaction in world.ledger.of(None) {
        *states.entry(&transaction.account).or_default().entry(transaction.state.name()).or_default() += 1;
    }
    let mut injected: BTreeMap<&str, u64> = BTreeMap::new();
    let mut accounts = Map::new();
    for (name, partner) in &sandbox.accounts {
        let desk = &world.desks[name];
        for (fault, times) in &desk.counts.injected {
            *injected.entry(fault).or_default() += times;
        }
        let account = json!({
            "provider": partner.profile.name,
            "faults": desk.faults.as_ref().unwrap_or(&world.faults).to_string(),
            "calls": desk.counts.calls,
            "injected": desk.counts.injected,
            "tookEffect": desk.counts.took_effect,
            "transactions": states.get(name.as_str()).cloned().unwrap_or_default(),
        });
        accounts.insert(name.clone(), account);
    }
    Answer::json(
        200,
        &json!({
            "seed": sandbox.options.seed,
            "faults": world.faults.to_string(),
            "knownFaults": Fault::ALL.map(Fault::name),
            "injected": injected,
            "accounts": accounts,
        }),
    )
}

fn transactions(sandbox: &Sandbox, query: Option<&str>) -> Result<Answer, String> {
    let account = query.unwrap_or_default().split('&').find_map(|part| part.strip_prefix("account="));
    if let Some(name) = account {
        known(sandbox, name)?;
    }
    let world = sandbox.world();
    Ok(Answer::json(200, &world.ledger.of(account).collect::<Vec<_>>()))
}

/// All of them or, where one is wrong, none.
fn set_transactions(sandbox: &Sandbox, body: &[u8]) -> Result<Answer, String> {
    let values = match serde_json::from_slice(body).map_err(|error| error.to_string())? {
        OneOrMany::Many(values) => values,
        OneOrMany::One(value) => vec![value],
    };
    let mut wanted = Vec::with_capacity(values.len());
    for value in values {
        let one: Wanted = serde_json::from_value(value).map_err(|error| error.to_string())?;
        known(sandbox, &one.account)?;
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        let references = References {
            reference: text(one.original_reference_no),
            partner_reference: text(one.original_partner_reference_no),
        };
        if references.reference.is_none() && references.partner_reference.is_none() {
            return Err("originalReferenceNo or originalPartnerReferenceNo is needed".into());
        }
        wanted.push((one.account, references, one.state, one.only_if, one.amount, one.not_found_for));
    }
    let (mut world, now) = (sandbox.world(), Utc::now());
    let set = wanted.len();
    for (account, references, state, only_if, amount, not_found_for) in wanted {
        let number = world.ledger.find(&account, &references);
        let number = number.unwrap_or_else(|| world.ledger.open(&account, &references, state, "control", now));
        if let Some(transaction) = world.ledger.get(number).filter(|t| only_if.is_none_or(|only| only == t.state)) {
            transaction.change(state, "control", now);
            transaction.amount = amount.or(transaction.amount.take());
            transaction.not_found_for = not_found_for;
        }
    }
    Ok(Answer::json(200, &json!({ "transactions": set })))
}

fn set_faults(sandbox: &Sandbox, body: &[u8]) -> Result<Answer, String> {
    let wanted: WantedFaults = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let faults: Option<Faults> =
        wanted.faults.map(|text| text.parse()).transpose().map_err(|error: super::FaultsError| error.to_string())?;
    let mut world = sandbox.world();
    let now = match (wanted.account, faults) {
        (None, None) => return Err("faults are missing, as in {\"faults\":\"0.3\"}".into()),
        (None, Some(faults)) => {
            world.faults = faults;
            world.faults.to_string()
        }
        (Some(name), faults) => {
            known(sandbox, &name)?;
            world.desk(&name).faults = faults;
            world.desks[&name].faults.as_ref().unwrap_or(&world.faults).to_string()
        }
    };
    Ok(Answer::json(200, &json!({ "faults": now })))
}

fn known(sandbox: &Sandbox, name: &str) -> Result<(), String> {
    let names = || sandbox.accounts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    if sandbox.accounts.contains_key(name) {
        Ok(())
    } else {
        Err(format!("no account is named {name:?}; there are {}", names()))
    }
}

fn reset(world: &mut World) {
    world.ledger.clear();
    world.desks.values_mut().for_each(|desk: &mut Desk| desk.counts = Counts::default());
}
