//! What became of each transaction: its state, every change of it, and the calls that reached it.

use crate::snap::Operation;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// How many calls of a transaction are kept one by one; all are counted.
const LAST_CALLS: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Pending,
    Paid,
    Canceled,
    Expired,
    Refunded,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Paid => "paid",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
            Self::Refunded => "refunded",
        }
    }
}

/// What a call names a transaction by; never empty texts.
#[derive(Debug, Clone, Default)]
pub struct References {
    pub reference: Option<String>,
    pub partner_reference: Option<String>,
}

/// One transaction, as it is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    pub account: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_reference_no: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_partner_reference_no: Option<String>,
    pub state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<Value>,
    /// How many more calls are told that it does not exist.
    pub not_found_for: u32,
    history: Vec<Change>,
    calls: Calls,
    last_calls: VecDeque<CallSeen>,
}

#[derive(Debug, Serialize)]
struct Change {
    at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<State>,
    to: State,
    by: &'static str,
}

#[derive(Debug, Default, Serialize)]
struct Calls {
    cancel: u64,
    query: u64,
}

/// One call as it reached a transaction.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallSeen {
    pub at: DateTime<Utc>,
    pub operation: Operation,
    /// What was answered, unless nothing was, or nothing of SNAP's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// Whether this call changed the state.
    pub took_effect: bool,
}

impl Transaction {
    /// When it came to the state it is in.
    pub fn since(&self) -> DateTime<Utc> {
        self.history.last().map_or(DateTime::UNIX_EPOCH, |change| change.at)
    }

    pub fn record(&mut self, call: CallSeen) {
        match call.operation {
            Operation::Cancel => self.calls.cancel += 1,
            Operation::Query => self.calls.query += 1,
            Operation::Token => {}
        }
        if self.last_calls.len() == LAST_CALLS {
            self.last_calls.pop_front();
        }
        self.last_calls.push_back(call);
    }

    /// Changes the state, and says so.
    pub fn change(&mut self, to: State, by: &'static str, at: DateTime<Utc>) {
        let from = self.state;
        if from != to {
            self.state = to;
            self.note(Some(from), by, at);
        }
    }

    fn note(&mut self, from: Option<State>, by: &'static str, at: DateTime<Utc>) {
        let to = self.state;
        self.history.push(Change { at, from, to, by });
        tracing::info!(
            account = self.account,
            reference = self.original_reference_no,
            partner_reference = self.original_partner_reference_no,
            from = from.map(State::name),
            to = to.name(),
            by,
            "transaction"
        );
    }
}

/// A transaction's number in the ledger; never given twice.
pub type Number = u64;

/// All transactions, in the order in which they appeared.
#[derive(Default)]
pub struct Ledger {
    next: Number,
    transactions: BTreeMap<Number, Transaction>,
    by_reference: HashMap<(String, String), Number>,
    by_partner_reference: HashMap<(String, String), Number>,
}

impl Ledger {
    /// The transaction that these references name: the provider's own reference counts before ours. One that was known by
    /// ours alone is from then on known by both.
    pub fn find(&mut self, account: &str, references: &References) -> Option<Number> {
        let key = |reference: &String| (account.to_owned(), reference.clone());
        let own = references.reference.as_ref().map(key);
        if let Some(number) = own.as_ref().and_then(|key| self.by_reference.get(key)) {
            return Some(*number);
        }
        let number = *self.by_partner_reference.get(&references.partner_reference.as_ref().map(key)?)?;
        let Some(own) = own else { return Some(number) };
        // One that is known by another reference of the provider is another transaction.
        let transaction = self.transactions.get_mut(&number).filter(|t| t.original_reference_no.is_none())?;
        transaction.original_reference_no = Some(own.1.clone());
        self.by_reference.insert(own, number);
        Some(number)
    }

    /// A new transaction.
    pub fn open(
        &mut self,
        account: &str,
        references: &References,
        state: State,
        by: &'static str,
        at: DateTime<Utc>,
    ) -> Number {
        let number = self.next;
        self.next += 1;
        let key = |reference: &String| (account.to_owned(), reference.clone());
        if let Some(reference) = &references.reference {
            self.by_reference.insert(key(reference), number);
        }
        if let Some(reference) = &references.partner_reference {
            self.by_partner_reference.insert(key(reference), number);
        }
        let mut transaction = Transaction {
            account: account.to_owned(),
            original_reference_no: references.reference.clone(),
            original_partner_reference_no: references.partner_reference.clone(),
            state,
            amount: None,
            not_found_for: 0,
            history: Vec::with_capacity(2),
            calls: Calls::default(),
            last_calls: VecDeque::with_capacity(2),
        };
        transaction.note(None, by, at);
        self.transactions.insert(number, transaction);
        number
    }

    pub fn get(&mut self, number: Number) -> Option<&mut Transaction> {
        self.transactions.get_mut(&number)
    }

    pub fn of<'a>(&'a self, account: Option<&'a str>) -> impl Iterator<Item = &'a Transaction> {
        self.transactions.values().filter(move |transaction| account.is_none_or(|name| name == transaction.account))
    }

    /// Forgets all transactions; what is still on its way to one of them finds it gone.
    pub fn clear(&mut self) {
        *self = Self { next: self.next, ..Self::default() };
    }
}
