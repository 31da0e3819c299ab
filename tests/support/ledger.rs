//! The ledger: what was published, what the provider saw, what was told, what is parked, what still waits. It accounts for
//! every command, and names the one that breaks a promise.

use super::{Client, Place, command, exchange_json, headers, persistent, text};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use lapin::{
    message::Delivery,
    options::*,
    types::{AMQPValue, FieldTable},
};
use qris_cancel_worker::amqp::topology::Names;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// So long nothing may move before the books are closed: a second copy of a command could still be under way.
const QUIET: Duration = Duration::from_millis(1_200);
/// An order service does not wait longer for a confirm: it goes on with another command.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);

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

pub struct Ledger {
    book: Arc<Mutex<Book>>,
    url: String,
    names: Names,
    accounts: Vec<String>,
    provider: String,
    reader: JoinHandle<()>,
}

impl Ledger {
    /// Opens the books: makes the topology, and binds a queue for every event. `url` is the broker's own, whatever lies
    /// between it and the worker.
    pub async fn open(place: &Place, url: &str, accounts: &[&str]) -> Self {
        let declared = place.command(&["topology", "declare"]).env("AMQP_URL", url).output().unwrap();
        assert!(declared.status.success(), "{}", String::from_utf8_lossy(&declared.stderr));
        let client = Client::connect(url, place.names.clone()).await;
        let queue = format!("ledger.{}", place.prefix);
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        // As replicated as the worker's own.
        let quorum = headers(&[("x-queue-type", text("quorum")), ("x-delivery-limit", AMQPValue::LongInt(1_000_000))]);
        client.channel.queue_declare(queue.as_str().into(), options, quorum).await.unwrap();
        let (results, everything) = (place.names.results(), QueueBindOptions::default());
        let bound = client.channel.queue_bind(
            queue.as_str().into(),
            results.into(),
            "#".into(),
            everything,
            FieldTable::default(),
        );
        bound.await.unwrap();
        let book = Arc::<Mutex<Book>>::default();
        let reader = tokio::spawn(follow(book.clone(), url.to_owned(), place.names.clone(), queue));
        Self {
            book,
            url: url.to_owned(),
            names: place.names.clone(),
            accounts: accounts.iter().map(|&name| name.to_owned()).collect(),
            provider: place.provider.clone(),
            reader,
        }
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub fn publisher(&self) -> Publisher {
        Publisher { book: self.book.clone(), url: self.url.clone(), names: self.names.clone(), client: None }
    }

    /// Publishes a command every so often, to the accounts in turn, until it is told to stop.
    pub fn trickle(&self, name: &str, every: Duration) -> Trickle {
        let (mut publisher, accounts, name) = (self.publisher(), self.accounts.clone(), name.to_owned());
        let stop = tokio_util::sync::CancellationToken::new();
        let told = stop.clone();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for at in 0.. {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = told.cancelled() => return,
                }
                let one = command(&format!("{name}-{at}"), &format!("R-{name}-{at}"));
                publisher.publish(&accounts[at % accounts.len()], &one).await;
            }
        });
        Trickle { stop, task }
    }

    /// How many commands have been told of.
    pub fn told(&self) -> usize {
        let book = self.book();
        let jobs: BTreeSet<_> = book.events.iter().map(|event| event["data"]["jobId"].as_str()).collect();
        jobs.len()
    }

    pub async fn until_told(&self, count: usize, limit: Duration) {
        let begun = Instant::now();
        while self.told() < count {
            assert!(begun.elapsed() < limit, "{} of {count} commands are told within {limit:?}", self.told());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until everything that was published so far is told of.
    pub async fn until_all_told(&self, limit: Duration) {
        let count = self.book().commands.len();
        self.until_told(count, limit).await;
    }

    /// How long after the fault the first outcome was decided that needed what the fault had taken away.
    pub async fn recovery(&self, since: DateTime<Utc>, account: Option<&str>, limit: Duration) -> Duration {
        let begun = Instant::now();
        loop {
            let decided = self
                .book()
                .events
                .iter()
                .filter(|event| account.is_none_or(|account| event["data"]["account"] == account))
                .map(|event| DateTime::parse_from_rfc3339(event["time"].as_str().unwrap()).unwrap().to_utc())
                .filter(|at| *at > since)
                .min();
            if let Some(decided) = decided {
                return (decided - since).to_std().unwrap();
            }
            assert!(begun.elapsed() < limit, "nothing is told within {limit:?} after the fault");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every command is accounted for and nothing waits any more, or for as long as it may take; then says how
    /// the books stand.
    pub async fn close(&self, limit: Duration) -> Account {
        let begun = Instant::now();
        let client = self.connect(limit).await;
        let mut quiet_since: Option<(usize, Instant)> = None;
        let mut waiting = Vec::new();
        while begun.elapsed() < limit {
            let (untold, events) = {
                let book = self.book();
                let told: BTreeSet<_> = book.events.iter().map(|e| e["data"]["jobId"].as_str().unwrap_or("")).collect();
                let confirmed = book.commands.iter().filter(|(_, entry)| entry.confirmed);
                (confirmed.filter(|(job, _)| !told.contains(job.as_str())).count(), book.events.len())
            };
            waiting = self.waiting(&client).await;
            match quiet_since {
                _ if untold > 0 || !waiting.is_empty() => quiet_since = None,
                Some((before, since)) if before == events => {
                    if since.elapsed() > QUIET {
                        break;
                    }
                }
                _ => quiet_since = Some((events, Instant::now())),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let transactions = exchange_json(&self.provider, "/_sandbox/transactions").await;
        let parked = client.drain(&self.names.parked()).await;
        let job = |data: &[u8]| serde_json::from_slice::<Value>(data).ok()?["jobId"].as_str().map(str::to_owned);
        let rest = Rest {
            transactions: transactions.as_array().unwrap().clone(),
            parked: parked.iter().filter_map(|message| job(&message.data)).collect(),
        };
        let mut account = judge(&self.book(), &rest);
        if !waiting.is_empty() {
            account.lost.push(format!("after {limit:?} there still wait {waiting:?}"));
        }
        account
    }

    /// What is in the queues that a command passes through.
    async fn waiting(&self, client: &Client) -> Vec<(String, u32)> {
        let buckets = (0..15).map(|k| self.names.bucket_for(Duration::from_millis(250 << k)).0);
        let queues = self.accounts.iter().map(|account| self.names.commands_of(account));
        let mut waiting = Vec::new();
        for queue in queues.chain(buckets).chain([self.names.strays()]) {
            let depth = client.depth(&queue).await;
            if depth > 0 {
                waiting.push((queue, depth));
            }
        }
        waiting
    }

    async fn connect(&self, limit: Duration) -> Client {
        let begun = Instant::now();
        loop {
            match Client::try_connect(&self.url, self.names.clone()).await {
                Ok(client) => return client,
                Err(error) => assert!(begun.elapsed() < limit, "no broker within {limit:?}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads every event, over any number of connections.
async fn follow(book: Arc<Mutex<Book>>, url: String, names: Names, queue: String) {
    loop {
        if let Ok(client) = Client::try_connect(&url, names.clone()).await {
            let (options, consume) = (BasicQosOptions::default(), BasicConsumeOptions::default());
            let ready = client.channel.basic_qos(500, options).await;
            let consumer =
                client.channel.basic_consume(queue.as_str().into(), "".into(), consume, FieldTable::default()).await;
            if let (Ok(()), Ok(mut consumer)) = (ready, consumer) {
                while let Some(Ok(delivery)) = consumer.next().await {
                    note(&mut book.lock().unwrap(), &delivery);
                    if delivery.acker.ack(BasicAckOptions::default()).await.is_err() {
                        break;
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn note(book: &mut Book, delivery: &Delivery) {
    let event: Value = serde_json::from_slice(&delivery.data).unwrap();
    // What this reader had, and could not acknowledge before its connection broke, is no repeat of the worker's.
    let read_before = || book.events.iter().any(|known| known["id"] == event["id"]);
    if !(delivery.redelivered && read_before()) {
        book.events.push(event);
    }
}

/// Publishes as an order service does, over any number of connections.
pub struct Publisher {
    book: Arc<Mutex<Book>>,
    url: String,
    names: Names,
    client: Option<Client>,
}

impl Publisher {
    /// True if the broker has confirmed it. If it has not, nobody knows whether it is there, and its name is not used again.
    pub async fn publish(&mut self, account: &str, command: &Value) -> bool {
        self.publish_as(account, command, false).await
    }

    pub async fn publish_faulty(&mut self, account: &str, command: &Value) -> bool {
        self.publish_as(account, command, true).await
    }

    pub async fn publish_many(&mut self, accounts: &[&str], name: &str, count: usize) {
        for at in 0..count {
            let one = command(&format!("{name}-{at}"), &format!("R-{name}-{at}"));
            assert!(self.publish(accounts[at % accounts.len()], &one).await, "the broker takes {name}-{at}");
        }
    }

    async fn publish_as(&mut self, account: &str, command: &Value, faulty: bool) -> bool {
        let job = command["jobId"].as_str().unwrap().to_owned();
        let reference = command["originalReferenceNo"].as_str().unwrap().to_owned();
        let entry = Entry { account: account.to_owned(), reference, confirmed: false, faulty };
        assert!(self.book.lock().unwrap().commands.insert(job.clone(), entry).is_none(), "{job} is published twice");
        let sending = self.send(account, command);
        let confirmed = matches!(tokio::time::timeout(CONFIRM_WITHIN, sending).await, Ok(Ok(true)));
        match confirmed {
            true => self.book.lock().unwrap().commands.get_mut(&job).unwrap().confirmed = true,
            false => self.client = None,
        }
        confirmed
    }

    async fn send(&mut self, account: &str, command: &Value) -> lapin::Result<bool> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::try_connect(&self.url, self.names.clone()).await?,
        };
        let client = self.client.insert(client);
        let (exchange, options) = (client.names.commands().into(), BasicPublishOptions::default());
        let body = command.to_string();
        let sent =
            client.channel.basic_publish(exchange, account.into(), options, body.as_bytes(), persistent()).await?;
        Ok(sent.await?.is_ack())
    }
}

pub struct Trickle {
    stop: tokio_util::sync::CancellationToken,
    task: JoinHandle<()>,
}

impl Trickle {
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
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
        let unrecorded = unrecorded(told, seen);
        let has_asked = seen["calls"]["query"] != 0 || !told.iter().any(|e| e["data"]["outcome"] == "canceled");
        if unrecorded > 0 && seen["calls"]["cancel"].as_u64() > Some(1) && !has_asked {
            account.contradicted.push(format!("cancelled again without a question: {}", evidence()));
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

/// Cancels that the provider counts beyond those that the events have. Both keep no more than twenty calls one by one.
fn unrecorded(told: &[&Value], seen: &Value) -> usize {
    if told.iter().any(|event| event["data"]["callsTotal"].as_u64() > Some(20)) {
        return 0;
    }
    let calls = told.iter().flat_map(|event| event["data"]["calls"].as_array().into_iter().flatten());
    // The events of a command tell the same calls again.
    let recorded: BTreeSet<_> = calls
        .filter(|call| call["operation"] == "cancel")
        .map(|call| (call["externalId"].as_str(), call["at"].as_str()))
        .collect();
    let mut balance: BTreeMap<Option<&str>, i64> = BTreeMap::new();
    for (id, _) in recorded {
        *balance.entry(id).or_default() -= 1;
    }
    for call in seen["lastCalls"].as_array().unwrap().iter().filter(|call| call["operation"] == "cancel") {
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
