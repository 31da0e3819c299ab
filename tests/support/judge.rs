//! The promises, command by command: what the books must say, and what breaks a promise.

use chrono::{DateTime, Utc};
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
    /// How often the same bytes were published again, before an event of it had come.
    pub copies: u64,
}

#[derive(Debug, Default)]
pub struct Book {
    pub commands: BTreeMap<String, Entry>,
    pub events: Vec<Value>,
    /// When each of the events came.
    pub came: Vec<DateTime<Utc>>,
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
    /// Copies of commands that were published twice.
    pub copies: u64,
    pub lost: Vec<String>,
    pub contradicted: Vec<String>,
    /// Events with an id that was told before, more than one for each copy that was published.
    pub repeats: usize,
    /// Cancels that reached the provider and stand in no event: a worker died, or lost the broker, between call and event.
    pub unrecorded: usize,
    /// How often commands came to a worker again.
    pub redelivered: u64,
    /// Jobs that were cancelled again without a question between, by a copy that waited for its retry while the original,
    /// delivered again, asked and cancelled. The provider says of the second that there is nothing left to cancel.
    pub cancelled_beside: Vec<String>,
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
            _ => {}
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

        let again = rest.redelivered.as_ref().map(|redelivered| redelivered.get(job).copied().unwrap_or_default());
        account.redelivered += again.unwrap_or_default();
        account.copies += entry.copies;
        account.repeats += (told.len() - ids.len()).saturating_sub(entry.copies as usize);

        // 1. None is lost.
        let (is_told, is_parked) = (outcomes.iter().any(for_a_person), parked.contains(job.as_str()));
        if entry.confirmed && (told.is_empty() || is_told && !is_parked) {
            account.lost.push(evidence());
        }
        // Whoever parked it without saying so has died in between, and a later delivery found another outcome.
        if is_parked && !is_told && again == Some(0) {
            account.contradicted.push(format!("parked, and no event says so: {}", evidence()));
        }
        // 2. Settled outcomes differ only where the provider's state did. 3. They are what the provider did.
        let states: BTreeSet<_> =
            seen["history"].as_array().unwrap().iter().map(|change| change["to"].as_str().unwrap()).collect();
        let was = |outcome: &str| match outcome {
            "canceled" | "paid" => states.contains(outcome),
            "closed" => states.contains("expired") || states.contains("refunded"),
            "refused" => told.iter().filter(|event| event["data"]["outcome"] == "refused").all(|event| {
                let cause = event["data"]["cause"].as_str().unwrap_or_default();
                is_refused(cause, cancels_answered(seen), canceled_by_us(seen))
            }),
            _ => false,
        };
        let is_as_it_is = settled.is_empty() || settled.iter().any(|outcome| was(outcome) && is_state(outcome, seen));
        // A cancel of ours took effect, and the only thing that is told says that none can have.
        let denied = settled.is_empty()
            && canceled_by_us(seen)
            && told.iter().all(|event| event["data"]["mayHaveTakenEffect"] == false);
        let reached = seen["calls"]["cancel"] != 0 || seen["calls"]["query"] != 0;
        // Delivered again, a faulty command may have been sent by a worker with other settings, for all that a worker knows.
        let is_told_as_faulty = |event: &&Value| {
            event["data"]["outcome"] == "invalid" || event["data"]["cause"] == "no_longer_valid" && again != Some(0)
        };
        let wrongly_invalid = match entry.faulty {
            true => reached || !told.iter().all(is_told_as_faulty),
            false => outcomes.contains("invalid"),
        };
        // 4. A repeat has the id of what it repeats.
        let ids_differ = ids.len() != outcomes.len();
        let wrong = !settled.iter().all(|outcome| was(outcome)) || !is_as_it_is;
        if wrong || !told.is_empty() && denied || wrongly_invalid || ids_differ {
            account.contradicted.push(evidence());
        }

        // A cancel that may have done something is followed by a question before the next one.
        let unasked = Unasked::of(seen);
        // A command that is published twice is cancelled twice, and neither copy knows of the other.
        let explained = again.is_none_or(|again| unasked.blind + unasked.after_a_question <= again + entry.copies);
        if unasked.blind > entry.copies || !explained {
            account.contradicted.push(format!("cancelled again without a question: {}", evidence()));
        } else if unasked.after_a_question > 0 {
            account.cancelled_beside.push(job.clone());
        }
        // Only a visit that was broken off leaves calls without a record, and its command comes again. A visit is one cancel,
        // with a query before and one after it.
        let beyond = |operation| unrecorded(told, seen, operation);
        let unrecorded = beyond("cancel");
        if let Some(again) = again.filter(|_| !told.is_empty()) {
            let count = |name: &str| seen["calls"][name].as_u64().unwrap();
            let is_too_many = match calls_told(told) {
                Some(of_many) => count("cancel") + count("query") > of_many + 3 * again,
                None => unrecorded as u64 > again || beyond("query") as u64 > 2 * again,
            };
            if is_too_many {
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

/// The code by which the sandbox refuses the cancel of what is cancelled already, if it does.
pub const REFUSED: &str = "4037715";
/// So many denials in a row, and no other answer after them, say that the provider denies us this command.
const DENIALS_IN_A_ROW: usize = 5;

/// Whether a cancel was refused for good, by what the provider answered to the cancels of the transaction: it has said so, and no cancel
/// of ours took effect, of which the refusal would be the echo.
pub fn is_refused<'a>(cause: &str, codes: impl DoubleEndedIterator<Item = &'a str>, canceled_by_us: bool) -> bool {
    let said = match cause {
        "not_authorized" => codes.rev().take_while(|code| code.starts_with("401")).count() >= DENIALS_IN_A_ROW,
        _ => codes.into_iter().any(|code| code == REFUSED),
    };
    said && !canceled_by_us
}

/// The codes of the answers to cancels, in order; an empty one where there was no answer, or none of SNAP's.
fn cancels_answered(seen: &Value) -> impl DoubleEndedIterator<Item = &str> {
    let calls = seen["lastCalls"].as_array().unwrap().iter();
    calls.filter(|call| call["operation"] == "cancel").map(|call| call["code"].as_str().unwrap_or_default())
}

fn canceled_by_us(seen: &Value) -> bool {
    seen["history"].as_array().unwrap().iter().any(|change| change["to"] == "canceled" && change["by"] != "control")
}

fn is_state(outcome: &str, transaction: &Value) -> bool {
    if outcome == "refused" {
        // A refusal says nothing of the state.
        return true;
    }
    match transaction["state"].as_str().unwrap() {
        "expired" | "refunded" => outcome == "closed",
        state => outcome == state,
    }
}

/// Cancels that followed one which may have done something, with no question between the two.
#[derive(Default)]
struct Unasked {
    /// Nobody had asked before the first of them either.
    blind: u64,
    /// Somebody had: two of a command were under way at once, of which a redelivered one always asks.
    after_a_question: u64,
}

impl Unasked {
    fn of(seen: &Value) -> Self {
        let total = |name: &str| seen["calls"][name].as_u64().unwrap_or_default();
        let calls = seen["lastCalls"].as_array().unwrap();
        // What came before the calls that are kept one by one is not known.
        let mut has_asked = total("cancel") + total("query") > calls.len() as u64;
        let (mut unasked, mut cancels) = (Self::default(), 0);
        for call in calls {
            match call["operation"].as_str() {
                Some("cancel") if did_nothing(call) => {}
                Some("cancel") => {
                    cancels += 1;
                    let count = if has_asked { &mut unasked.after_a_question } else { &mut unasked.blind };
                    *count += u64::from(cancels > 1);
                }
                _ => (has_asked, cancels) = (true, 0),
            }
        }
        unasked
    }
}

/// The provider has turned it away, and said so.
fn did_nothing(call: &Value) -> bool {
    let code = call["code"].as_str().unwrap_or_default();
    ["400", "401", "403", "409", "429"].iter().any(|status| code.starts_with(status))
}

/// As many as these, an event no longer keeps one by one.
const CALLS_KEPT: u64 = 20;

/// How many calls the lives of a command record that has more than are kept one by one: each life ends with an event, and a
/// repeat tells the same again.
fn calls_told(told: &[&Value]) -> Option<u64> {
    let total = |event: &&Value| event["data"]["callsTotal"].as_u64().unwrap_or_default();
    let lives: BTreeMap<_, _> = told.iter().map(|event| (event["data"]["calls"].to_string(), total(event))).collect();
    told.iter().any(|event| total(event) > CALLS_KEPT).then(|| lives.values().sum())
}

/// Calls that the provider counts beyond those that the events have.
fn unrecorded(told: &[&Value], seen: &Value, operation: &str) -> usize {
    if calls_told(told).is_some() {
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
            "{} commands ({} published twice), {} lost, {} contradicted, {} repeats, {} calls unrecorded, {} redelivered, {} cancelled beside, \
             outcomes {:?}",
            self.commands,
            self.copies,
            self.lost.len(),
            self.contradicted.len(),
            self.repeats,
            self.unrecorded,
            self.redelivered,
            self.cancelled_beside.len(),
            self.outcomes
        )?;
        let named = |what, all: &[String]| all.iter().take(5).map(|one| format!("\n{what}: {one}")).collect::<String>();
        let beside = named("cancelled beside a redelivery", &self.cancelled_beside);
        write!(f, "{}{}{beside}", named("LOST", &self.lost), named("CONTRADICTED", &self.contradicted))
    }
}
