//! The ledger: what was published, what the provider saw, what was told, what is parked, what still waits. It accounts for
//! every command, and names the one that breaks a promise.

use super::{
    Broker, Client, Place, command, exchange_json,
    frames::Redeliveries,
    headers,
    judge::{Account, Book, Entry, Rest, judge},
    persistent,
    relay::Relay,
    text,
};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use lapin::{
    Consumer,
    message::Delivery,
    options::*,
    types::{AMQPValue, FieldTable},
};
use qris_cancel_worker::amqp::topology::Names;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// What is said of an event that only readers have.
pub const NOT_LOGGED: &str = "is not in the results log";
/// So long a replica of the results log may lag behind.
const LOG_WITHIN: Duration = Duration::from_secs(60);
/// So long nothing may move before the books are closed: a second copy of a command could still be under way.
const QUIET: Duration = Duration::from_millis(1_200);
/// An order service does not wait longer for a confirm: it goes on with another command.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// One command of so many is published twice. It is odd, so that every account of two has some.
const TWICE: usize = 25;
/// What the reader gives a broker to answer it.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub struct Ledger {
    book: Arc<Mutex<Book>>,
    url: String,
    broker: Broker,
    names: Names,
    prefix: String,
    accounts: Vec<String>,
    provider: String,
    has_log: bool,
    /// Of each relay between the broker and the workers.
    redeliveries: Mutex<Vec<Redeliveries>>,
    reader: JoinHandle<()>,
}

impl Ledger {
    /// Opens the books: makes the topology, and binds a queue for every event. `url` is the broker's own, whatever lies
    /// between it and the worker.
    pub async fn open(place: &Place, url: &str, accounts: &[&str]) -> Self {
        let mut declare = place.command(&["topology", "declare"]);
        // On a broker that has just begun, the first to come waits.
        declare.env("AMQP_URL", url).env("QRIS_CANCEL__AMQP__CONNECT_TIMEOUT_MS", "30000");
        let declared = declare.output().unwrap();
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
            broker: place.broker.clone(),
            names: place.names.clone(),
            prefix: place.prefix.clone(),
            has_log: place.settings().results_log.is_some(),
            accounts: accounts.iter().map(|&name| name.to_owned()).collect(),
            provider: place.provider.clone(),
            redeliveries: Mutex::default(),
            reader,
        }
    }

    /// Counts what comes again over this relay. Where workers have the broker through relays only, calls that no event records
    /// must not be more than that explains.
    pub fn follow(&self, relay: &Relay) {
        self.redeliveries.lock().unwrap().push(relay.redeliveries.clone());
    }

    /// How often each command came again, if that was followed.
    fn redelivered(&self) -> Option<BTreeMap<String, u64>> {
        let followed = self.redeliveries.lock().unwrap();
        let mut sums = BTreeMap::new();
        for relay in followed.iter() {
            for (job, count) in relay.lock().unwrap().iter() {
                *sums.entry(job.clone()).or_default() += count;
            }
        }
        (!followed.is_empty()).then_some(sums)
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
                let account = &accounts[at % accounts.len()];
                publisher.publish(account, &one).await;
                if at % TWICE == TWICE / 2 {
                    publisher.publish_again(account, &one).await;
                }
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

    /// How long after the fault the first outcome came that was decided after it, so that it needed what the fault had taken
    /// away.
    pub async fn recovery(&self, since: DateTime<Utc>, account: Option<&str>, limit: Duration) -> Duration {
        let begun = Instant::now();
        loop {
            let came = {
                let book = self.book();
                let decided = |event: &Value| DateTime::parse_from_rfc3339(event["time"].as_str().unwrap()).unwrap();
                let events = book.events.iter().zip(&book.came);
                let of_account =
                    events.filter(|(event, _)| account.is_none_or(|name| event["data"]["account"] == name));
                of_account.filter(|(event, _)| decided(event) > since).map(|(_, came)| *came).min()
            };
            if let Some(came) = came {
                return (came - since).to_std().unwrap();
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
        let (mut waiting, mut in_hand) = (Vec::new(), 0);
        let mut is_at_rest = false;
        while begun.elapsed() < limit && !is_at_rest {
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
                        let (broker, prefix) = (self.broker.clone(), self.prefix.clone());
                        in_hand = tokio::task::spawn_blocking(move || broker.in_hand(&prefix)).await.unwrap();
                        is_at_rest = in_hand == 0 && self.book().events.len() == events;
                        quiet_since = None;
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
            redelivered: self.redelivered(),
        };
        let mut account = judge(&self.book(), &rest);
        if self.has_log {
            account.contradicted.extend(self.differs_from_the_log(&client).await);
        }
        if !is_at_rest {
            account.lost.insert(
                0,
                format!("after {limit:?} there is still something under way: {waiting:?}, {in_hand} in hand"),
            );
        }
        account
    }

    /// Events that only the results log has, or only its readers.
    async fn differs_from_the_log(&self, client: &Client) -> Vec<String> {
        let begun = Instant::now();
        loop {
            // A node that has just come back may not yet have its replica of the log, or one that lags behind.
            let is_late = begun.elapsed() > LOG_WITHIN;
            let logged = match self.logged(client).await {
                Ok(logged) => logged,
                Err(error) if is_late => panic!("the results log cannot be read: {error}"),
                Err(_) => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let heard: BTreeSet<_> =
                self.book().events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
            let unlogged = heard.difference(&logged).map(|id| format!("event {id} {NOT_LOGGED}"));
            let unheard = logged.difference(&heard).map(|id| format!("event {id} is in the results log alone"));
            let differ: Vec<_> = unlogged.chain(unheard).collect();
            if differ.is_empty() || is_late {
                return differ;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// The ids of the events that the results log has.
    async fn logged(&self, client: &Client) -> lapin::Result<BTreeSet<String>> {
        let channel = client.connection.create_channel().await.unwrap();
        channel.basic_qos(500, BasicQosOptions::default()).await.unwrap();
        let from_the_first = headers(&[("x-stream-offset", text("first"))]);
        let (log, options) = (self.names.results_log(), BasicConsumeOptions::default());
        let mut log = channel.basic_consume(log.as_str().into(), "".into(), options, from_the_first).await?;
        let mut ids = BTreeSet::new();
        while let Ok(Some(delivery)) = tokio::time::timeout(QUIET, log.next()).await {
            let delivery = delivery.unwrap();
            let event: Value = serde_json::from_slice(&delivery.data).unwrap();
            ids.insert(event["id"].as_str().unwrap().to_owned());
            delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
        }
        Ok(ids)
    }

    /// What is in the queues that a command passes through.
    async fn waiting(&self, client: &Client) -> Vec<(String, u32)> {
        let buckets = (0..15).map(|k| self.names.bucket_for(Duration::from_millis(250 << k)).0);
        let queues = self.accounts.iter().map(|account| self.names.commands_of(account));
        let mut waiting = Vec::new();
        for queue in
            queues.chain(buckets).chain([self.names.strays(), self.names.strays_ours(), self.names.strays_expired()])
        {
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
        // A broker that comes or goes may leave a question without an answer.
        let consuming = tokio::time::timeout(ANSWER_WITHIN, consume(&url, &names, &queue)).await;
        if let Ok(Ok((client, mut consumer))) = consuming {
            while client.connection.status().connected() {
                let Ok(next) = tokio::time::timeout(ANSWER_WITHIN, consumer.next()).await else { continue };
                let Some(Ok(delivery)) = next else { break };
                note(&mut book.lock().unwrap(), &delivery);
                if delivery.acker.ack(BasicAckOptions::default()).await.is_err() {
                    break;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn consume(url: &str, names: &Names, queue: &str) -> lapin::Result<(Client, Consumer)> {
    let client = Client::try_connect(url, names.clone()).await?;
    client.channel.basic_qos(500, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let consumer = client.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    Ok((client, consumer))
}

fn note(book: &mut Book, delivery: &Delivery) {
    let event: Value = serde_json::from_slice(&delivery.data).unwrap();
    // What this reader had, and could not acknowledge before its connection broke, is no repeat of the worker's.
    let read_before = || book.events.iter().any(|known| known["id"] == event["id"]);
    if !(delivery.redelivered && read_before()) {
        book.events.push(event);
        book.came.push(Utc::now());
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

    /// The same bytes once more, as an order service does whose confirm was lost; README promises that this is safe before the event.
    pub async fn publish_again(&mut self, account: &str, command: &Value) {
        let job = command["jobId"].as_str().unwrap();
        self.book.lock().unwrap().commands.get_mut(job).expect("it was published").copies += 1;
        let confirmed = self.confirmed(account, command).await;
        self.book.lock().unwrap().commands.get_mut(job).unwrap().confirmed |= confirmed;
    }

    async fn publish_as(&mut self, account: &str, command: &Value, faulty: bool) -> bool {
        let job = command["jobId"].as_str().unwrap().to_owned();
        let reference = command["originalReferenceNo"].as_str().unwrap().to_owned();
        let entry = Entry { account: account.to_owned(), reference, confirmed: false, faulty, copies: 0 };
        assert!(self.book.lock().unwrap().commands.insert(job.clone(), entry).is_none(), "{job} is another command");
        let confirmed = self.confirmed(account, command).await;
        self.book.lock().unwrap().commands.get_mut(&job).unwrap().confirmed = confirmed;
        confirmed
    }

    async fn confirmed(&mut self, account: &str, command: &Value) -> bool {
        let sending = self.send(account, command);
        let confirmed = matches!(tokio::time::timeout(CONFIRM_WITHIN, sending).await, Ok(Ok(true)));
        if !confirmed {
            self.client = None;
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
