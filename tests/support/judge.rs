//! The promises, command by command: what the books must say, and what breaks a promise.

use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// One command as it was published.
#[derive(Debug, Clone)]
pub struct Entry {
    pub account: String,
    pub reference: String,
    /// The broker has confirmed it: from then on it may not be lost.
    pub confirmed: bool,
    /// It is to be told as `invalid`.
    pub faulty: bool,
}

#[derive(Debug, Default)]
pub struct Book {
    pub commands: BTreeMap<String, Entry>,
    pub events: Vec<Value>,
}

/// What the provider and the parking queue say at the end.
#[derive(Debug, Default)]
pub struct Rest {
    /// The sandbox's transactions.
    pub transactions: Vec<Value>,
    /// Job ids of parked copies.
    pub parked: Vec<String>,
    /// How often each command came to a worker again, if that is known.
    pub redelivered: Option<BTreeMap<String, u64>>,
}

/// What the books say.
#[derive(Debug, Default, Clone)]
pub struct Account {
    pub commands: usize,
    pub lost: Vec<String>,
    pub contradicted: Vec<String>,
    /// Events with an id that was told before.
    pub repeats: usize,
    /// Cancels that reached the provider and stand in no event: a worker died, or lost the broker, between call and event.
    pub unrecorded: usize,
    pub outcomes: BTreeMap<String, usize>,
}

/// The promises, command by command.
pub fn judge(book: &Book, rest: &Rest) -> Account {
    let mut of_job: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for event in &book.events {
        of_job.entry(event["data"]["jobId"].as_str().unwrap_or("")).or_default().push(event);
    }
    let transactions: BTreeMap<_, _> = rest
        .transactions
        .iter()
        .map(|t| ((t["account"].as_str().unwrap(), t["originalReferenceNo"].as_str().unwrap_or("")), t))
        .collect();
    let parked: BTreeSet<_> = rest.parked.iter().map(String::as_str).collect();
    let mut account =
        Account { commands: book.commands.values().filter(|e| e.confirmed).count(), ..Account::default() };

    let mut by_id: BTreeMap<&str, (&Value, &Value)> = BTreeMap::new();
    for event in &book.events {
        let says = (&event["data"]["jobId"], &event["data"]["outcome"]);
        match by_id.insert(event["id"].as_str().unwrap(), says) {
            Some(before) if before != says => account.contradicted.push(format!("one id for two outcomes: {event}")),
            Some(_) => account.repeats += 1,
            None => {}
        }
    }
    for job in of_job.keys().filter(|job| !book.commands.contains_key(**job)) {
        account.contradicted.push(format!("{job:?} is told and was never published"));
    }
    for (job, entry) in &book.commands {
        let told = of_job.get(job.as_str()).map_or(&[][..], Vec::as_slice);
        let outcomes: BTreeSet<_> = told.iter().map(|event| event["data"]["outcome"].as_str().unwrap()).collect();
        let ids: BTreeSet<_> = told.iter().map(|event| event["id"].as_str().unwrap()).collect();
        let for_a_person = |outcome: &&str| matches!(*outcome, "invalid" | "unresolved");
        let settled: Vec<_> = outcomes.iter().copied().filter(|outcome| !for_a_person(outcome)).collect();
        let none = json!({ "state": "pending", "history": [], "calls": { "cancel": 0, "query": 0 }, "lastCalls": [] });
        let seen = transactions.get(&(entry.account.as_str(), entry.reference.as_str())).copied().unwrap_or(&none);
        let evidence = || format!("{job} {entry:?}\n  told {told:?}\n  provider {seen}");

        // 1. None is lost.
        let is_kept = !outcomes.iter().any(for_a_person) || parked.contains(job.as_str());
        if entry.confirmed && (told.is_empty() || !is_kept) {
            account.lost.push(evidence());
        }
        // 2. Settled outcomes differ only where the provider's state did. 3. They are what the provider did.
        let states: BTreeSet<_> =
            seen["history"].as_array().unwrap().iter().map(|change| change["to"].as_str().unwrap()).collect();
        let was = |outcome: &str| match outcome {
            "canceled" | "paid" => states.contains(outcome),
            "closed" => states.contains("expired") || states.contains("refunded"),
            _ => false,
        };
        let is_as_it_is = settled.is_empty() || settled.iter().any(|outcome| was(outcome) && is_state(outcome, seen));
        // A cancel of ours took effect, and the only thing that is told says that none can have.
        let by_us = seen["history"].as_array().unwrap().iter().any(|c| c["to"] == "canceled" && c["by"] != "control");
        let denied =
            settled.is_empty() && by_us && told.iter().all(|event| event["data"]["mayHaveTakenEffect"] == false);
        let reached = seen["calls"]["cancel"] != 0 || seen["calls"]["query"] != 0;
        let wrongly_invalid =
            outcomes.contains("invalid") != entry.faulty && !told.is_empty() || entry.faulty && reached;
        // 4. A repeat has the id of what it repeats.
        let ids_differ = ids.len() != outcomes.len();
        let wrong = !settled.iter().all(|outcome| was(outcome)) || !is_as_it_is;
        if wrong || !told.is_empty() && denied || wrongly_invalid || ids_differ {
            account.contradicted.push(evidence());
        }

        // What the provider had of us, and no event records. The next visit must have begun with a question.
        let beyond = |operation| unrecorded(told, seen, operation);
        let unrecorded = beyond("cancel");
        let has_asked = seen["calls"]["query"] != 0 || !told.iter().any(|e| e["data"]["outcome"] == "canceled");
        if unrecorded > 0 && seen["calls"]["cancel"].as_u64() > Some(1) && !has_asked {
            account.contradicted.push(format!("cancelled again without a question: {}", evidence()));
        }
        // Only a visit that was broken off leaves calls without a record, and its command comes again. A visit is one cancel,
        // with a query before and one after it.
        if let Some(redelivered) = rest.redelivered.as_ref().filter(|_| !told.is_empty()) {
            let again = redelivered.get(job).map_or(0, |count| *count as usize);
            if unrecorded > again || beyond("query") > 2 * again {
                account
                    .contradicted
                    .push(format!("called more often than {again} redeliveries explain: {}", evidence()));
            }
        }
        account.unrecorded += unrecorded;
        if !told.is_empty() {
            let outcome = settled.first().copied().unwrap_or_else(|| outcomes.first().unwrap());
            *account.outcomes.entry(outcome.to_owned()).or_default() += 1;
        }
    }
    account
}

fn is_state(outcome: &str, transaction: &Value) -> bool {
    match transaction["state"].as_str().unwrap() {
        "expired" | "refunded" => outcome == "closed",
        state => outcome == state,
    }
}

/// Calls that the provider counts beyond those that the events have. Both keep no more than twenty calls one by one.
fn unrecorded(told: &[&Value], seen: &Value, operation: &str) -> usize {
    if told.iter().any(|event| event["data"]["callsTotal"].as_u64() > Some(20)) {
        return 0;
    }
    let calls = told.iter().flat_map(|event| event["data"]["calls"].as_array().into_iter().flatten());
    // The events of a command tell the same calls again.
    let recorded: BTreeSet<_> = calls
        .filter(|call| call["operation"] == operation)
        .map(|call| (call["externalId"].as_str(), call["at"].as_str()))
        .collect();
    let mut balance: BTreeMap<Option<&str>, i64> = BTreeMap::new();
    for (id, _) in recorded {
        *balance.entry(id).or_default() -= 1;
    }
    // A call that was turned away at the door is made again at once, in the same visit.
    let turned_away = |call: &Value| call["code"].as_str().is_some_and(|code| code.starts_with("401"));
    let all = seen["lastCalls"].as_array().unwrap().iter();
    for call in all.filter(|call| call["operation"] == operation && !turned_away(call)) {
        *balance.entry(call["externalId"].as_str()).or_default() += 1;
    }
    balance.values().map(|count| usize::try_from(*count).unwrap_or(0)).sum()
}

impl Account {
    /// # Panics
    /// When a promise is broken.
    pub fn must_hold(&self) {
        assert!(self.lost.is_empty() && self.contradicted.is_empty(), "{self}");
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} commands, {} lost, {} contradicted, {} repeats, {} calls unrecorded, outcomes {:?}",
            self.commands,
            self.lost.len(),
            self.contradicted.len(),
            self.repeats,
            self.unrecorded,
            self.outcomes
        )?;
        let named = |what, all: &[String]| all.iter().take(5).map(|one| format!("\n{what}: {one}")).collect::<String>();
        write!(f, "{}{}", named("LOST", &self.lost), named("CONTRADICTED", &self.contradicted))
    }
}
