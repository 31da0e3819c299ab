//! One round: what is published in it, what is told of it, and whether the two fit. A few bytes a command.

use crate::support::judge::is_refused;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub const ACCOUNTS: [&str; 2] = ["ifortepay", "bnc"];
const OUTCOMES: [&str; 6] = ["canceled", "paid", "closed", "refused", "invalid", "unresolved"];
const REFUSED: u8 = 1 << 3;
/// So much of an event's cause is kept: whether it is this one.
const NOT_AUTHORIZED: &str = "not_authorized";
const INVALID: u8 = 1 << 4;
const UNRESOLVED: u8 = 1 << 5;

/// What a command is about.
#[derive(Clone, Copy)]
pub struct Case {
    pub account: &'static str,
    pub state: &'static str,
    pub faulty: bool,
    /// The customer pays in the middle of it, if the QR still waits.
    pub pays: bool,
    /// It is published twice, as by an order service whose confirm was lost.
    pub twice: bool,
}

/// What is known of a command.
#[derive(Clone, Copy, Default)]
struct Known {
    confirmed: bool,
    parked: bool,
    /// An event leaves it open whether a cancel took effect.
    open: bool,
    /// It is told as refused because the provider denies us, or for another cause.
    not_authorized: bool,
    refused_otherwise: bool,
    unresolved: u8,
    /// Every unresolved event says that a worker with other settings may have sent it.
    no_longer_valid: bool,
    /// A bit for each outcome that was told.
    told: u8,
    events: u8,
    /// Cancels in the event's record of calls; of a command that is published twice, in all of them.
    cancels: u8,
    /// The whole record is there, of every copy: it keeps the first and last ten calls.
    whole: bool,
}

pub struct Round {
    pub number: u64,
    pub cases: Vec<Case>,
    known: Vec<Known>,
    /// Of each command and outcome, the first event's id.
    ids: HashMap<(u32, u8), String>,
    pub told: usize,
    pub broken: Vec<String>,
}

#[derive(Deserialize)]
pub struct Told {
    id: String,
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default)]
    job_id: String,
    outcome: String,
    cause: String,
    calls_total: usize,
    may_have_taken_effect: Option<bool>,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    operation: String,
}

/// A transaction as the sandbox shows it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    original_reference_no: String,
    state: String,
    calls: Calls,
    history: Vec<Change>,
    last_calls: Vec<Answered>,
}

#[derive(Deserialize)]
struct Change {
    to: String,
    by: String,
}

/// A call with the code that it was answered with, if it was.
#[derive(Deserialize)]
struct Answered {
    operation: String,
    #[serde(default)]
    code: String,
}

impl Transaction {
    fn is_refused(&self, cause: &str) -> bool {
        let cancels = self.last_calls.iter().filter(|call| call.operation == "cancel");
        let canceled_by_us = self.history.iter().any(|change| change.to == "canceled" && change.by != "control");
        is_refused(cause, cancels.map(|call| call.code.as_str()), canceled_by_us)
    }
}

#[derive(Deserialize)]
struct Calls {
    cancel: u8,
    query: u8,
}

/// What a round adds to the books.
#[derive(Default)]
pub struct Sums {
    pub twice: u64,
    pub outcomes: BTreeMap<String, u64>,
    pub repeats: u64,
    /// Told as unresolved, and settled by another copy of the command.
    pub settled_later: u64,
    /// Cancels that no event tells of: a worker was killed between call and event.
    pub unrecorded: u64,
    pub broken: Vec<String>,
}

impl Round {
    pub fn new(seed: u64, number: u64, size: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
        let cases = (0..size).map(|_| Case {
            account: ACCOUNTS[usize::from(random.u8(..3) == 0)],
            state: match random.u8(..50) {
                0..5 => "paid",
                5..10 => "canceled",
                10 => "expired",
                11 | 12 => "refunded",
                _ => "pending",
            },
            faulty: random.u8(..50) == 0,
            pays: random.u8(..20) == 0,
            twice: random.u8(..50) == 0,
        });
        Self {
            number,
            cases: cases.collect(),
            known: vec![Known::default(); size],
            ids: HashMap::new(),
            told: 0,
            broken: Vec::new(),
        }
    }

    pub fn job(&self, at: usize) -> String {
        format!("soak-{}-{at}", self.number)
    }

    pub fn reference(&self, at: usize) -> String {
        format!("R-{}-{at}", self.number)
    }

    pub fn command(&self, at: usize) -> Value {
        let reference = self.reference(at);
        let mut command = json!({ "jobId": self.job(at), "originalReferenceNo": reference,
            "originalPartnerReferenceNo": format!("P-{reference}"), "reason": "customer left" });
        if self.cases[at].faulty {
            command["resaon"] = json!("a typo");
        }
        command
    }

    /// The transaction at the provider, as it is before anything happens.
    pub fn transaction(&self, at: usize) -> Value {
        let (case, reference) = (self.cases[at], self.reference(at));
        json!({ "account": case.account, "originalReferenceNo": reference,
            "originalPartnerReferenceNo": format!("P-{reference}"), "state": case.state })
    }

    fn at(&self, name: &str) -> Option<usize> {
        let (round, at) = name.rsplit_once('-')?;
        let (_, round) = round.rsplit_once('-')?;
        (round.parse() == Ok(self.number)).then_some(at.parse().ok()?).filter(|at| *at < self.known.len())
    }

    pub fn confirmed(&mut self, at: usize) {
        self.known[at].confirmed = true;
    }

    pub fn tell(&mut self, event: Told) {
        let Some(at) = self.at(&event.data.job_id) else {
            self.broken.push(format!("{}: an event of it comes after its round", event.data.job_id));
            return;
        };
        let outcome = OUTCOMES.iter().position(|name| *name == event.data.outcome).unwrap_or_default() as u8;
        let known = &mut self.known[at];
        self.told += usize::from(known.told == 0);
        known.told |= 1 << outcome;
        known.events = known.events.saturating_add(1);
        known.open |= event.data.may_have_taken_effect != Some(false);
        let whole = event.data.calls.len() == event.data.calls_total;
        known.whole = whole && (known.whole || known.events == 1);
        let cancels = event.data.calls.iter().filter(|call| call.operation == "cancel").count() as u8;
        known.cancels = match self.cases[at].twice {
            true => known.cancels.saturating_add(cancels),
            false => known.cancels.max(cancels),
        };
        if event.data.outcome == "refused" {
            let denied = event.data.cause == NOT_AUTHORIZED;
            known.not_authorized |= denied;
            known.refused_otherwise |= !denied;
        }
        if event.data.outcome == "unresolved" {
            let is_first = known.unresolved == 0;
            known.unresolved = known.unresolved.saturating_add(1);
            known.no_longer_valid = event.data.cause == "no_longer_valid" && (is_first || known.no_longer_valid);
        }
        let first = self.ids.entry((at as u32, outcome)).or_insert_with(|| event.id.clone());
        if *first != event.id {
            self.broken.push(format!("{}: a repeat has another id", event.data.job_id));
        }
    }

    pub fn park(&mut self, body: &[u8]) {
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let job = json["jobId"].as_str().unwrap_or_default();
        match self.at(job) {
            Some(at) => self.known[at].parked = true,
            None => self.broken.push(format!("{job}: parked after its round")),
        }
    }

    pub fn missing(&self) -> Vec<String> {
        let open = self.known.iter().enumerate().filter(|(_, known)| known.confirmed && known.told == 0);
        open.take(20).map(|(at, _)| self.job(at)).collect()
    }

    /// Closes the books of this round. `calm`: no worker was killed or stopped in it.
    /// `again`: the jobs that the broker has delivered again, so that what was done for them before is recorded elsewhere or nowhere.
    pub fn close(mut self, transactions: &[Transaction], calm: bool, again: &BTreeSet<String>) -> Sums {
        let mut sums = Sums { broken: std::mem::take(&mut self.broken), ..Sums::default() };
        let mut seen = vec![None; self.known.len()];
        for transaction in transactions {
            if let Some(at) = self.at(&transaction.original_reference_no) {
                seen[at] = Some(transaction);
            }
        }
        for (at, known) in self.known.iter().enumerate() {
            let (job, case) = (self.job(at), self.cases[at]);
            let mut broken = |what: &str| sums.broken.push(format!("{job}: {what} ({:?})", told(known.told)));
            let Some(transaction) = seen[at] else {
                broken("the provider has forgotten it");
                continue;
            };
            let settled = known.told & !UNRESOLVED;
            let state = transaction.state.as_str();
            match (settled.count_ones(), told(settled).first().copied()) {
                (0, _) if known.told == 0 => broken("it is lost"),
                (0, _) => {}
                (1, Some("refused"))
                    if (!known.not_authorized || transaction.is_refused(NOT_AUTHORIZED))
                        && (!known.refused_otherwise || transaction.is_refused("response_code")) => {}
                (1, Some("refused")) => broken("it is refused, and the provider has not said so"),
                (1, Some("canceled")) if state == "canceled" => {}
                (1, Some("paid")) if state == "paid" => {}
                (1, Some("closed")) if matches!(state, "refunded" | "expired") => {}
                (1, Some("invalid")) if case.faulty && transaction.calls.cancel + transaction.calls.query == 0 => {}
                (1, _) => broken(&format!("it contradicts the provider, where it is {state}")),
                _ => broken("two settled outcomes"),
            }
            let is_denied = known.told != 0 && !known.open && settled & !REFUSED == 0;
            if is_denied && state == "canceled" && case.state != "canceled" {
                broken("a cancel took effect, and it is told that none can have");
            }
            // Delivered again, it may have been sent by a worker with other settings, for all that a worker knows. Some come as redelivered
            // in calm rounds, too (two of 50,000 on RabbitMQ 3.10.8), where no worker has ended and no connection.
            let is_no_longer_valid = case.faulty
                && settled == 0
                && known.no_longer_valid
                && transaction.calls.cancel + transaction.calls.query == 0;
            if case.faulty != (settled == INVALID) && !is_no_longer_valid {
                broken("faulty and not invalid, or the other way round");
            }
            let for_a_person = known.told & (INVALID | UNRESOLVED) != 0;
            // Whoever parked it without saying so has died in between, and a later delivery found another outcome.
            let may_be_silent = !calm || again.contains(&job);
            if for_a_person && !known.parked || known.parked && !for_a_person && !may_be_silent {
                broken("its parked copy does not fit");
            }
            let unrecorded = transaction.calls.cancel.saturating_sub(known.cancels);
            if calm && known.whole && unrecorded > 0 && !again.contains(&job) {
                broken("the provider got more cancels than are told of, and no worker died or saw it delivered again");
            }
            if known.whole {
                sums.unrecorded += u64::from(unrecorded);
            }
            let explained = u64::from(known.told.count_ones()) + u64::from(case.twice);
            sums.repeats += u64::from(known.events).saturating_sub(explained);
            sums.twice += u64::from(case.twice);
            sums.settled_later += u64::from(settled != 0 && known.told & UNRESOLVED != 0);
            let outcome = told(settled).first().copied().unwrap_or("unresolved");
            *sums.outcomes.entry(outcome.to_owned()).or_default() += 1;
        }
        sums
    }
}

fn told(bits: u8) -> Vec<&'static str> {
    OUTCOMES.into_iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0).map(|(_, name)| name).collect()
}
