//! A million commands, random faults, workers that die: `make soak JOBS=1000000 SEED=1`.
//!
//! It goes by rounds. A round makes its transactions at a sandbox of its own, publishes its commands, lets customers pay and
//! one of two workers die meanwhile, waits until all are told of and nothing moves any more, and closes its books. So memory is
//! bounded by a round, and a run that is broken off goes on with the round that was not finished. The other worker lives from
//! the start to the end: it is the one whose memory is told.
#![allow(clippy::disallowed_methods, reason = "it is told by its environment what to do")]

#[path = "soak/books.rs"]
mod books;
#[path = "soak/round.rs"]
mod round;
#[path = "../tests/support/mod.rs"]
mod support;

use books::{Books, Order, Sample, folder};
use futures_util::{StreamExt, stream};
use lapin::{message::Delivery, options::*, types::FieldTable};
use qris_cancel_worker::{
    sandbox::{self, CanceledAgain},
    settings::Settings,
    snap::request::Partner,
};
use round::{ACCOUNTS, Round, Told, Transaction};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use support::*;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
};

/// The logs of the worker that lives on, and of the one that dies now and then.
const STEADY: &str = "steady.log";
const MORTAL: &str = "mortal.log";
/// So long nothing may move before a round's books are closed.
const QUIET: Duration = Duration::from_millis(1_200);
/// A round that takes longer is stuck.
const LIMIT: Duration = Duration::from_secs(900);
const PROGRESS: Duration = Duration::from_secs(10);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.replace('_', "").parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// The provider of one round, on a port that all share.
struct Provider {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Provider {
    async fn start(port: u16, partners: Vec<(String, Arc<Partner>)>, options: sandbox::Options) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            stopped.await.ok();
        };
        Self { stop, serving: tokio::spawn(sandbox::serve(listener, partners, options, stopped)) }
    }

    async fn end(self) {
        self.stop.send(()).ok();
        self.serving.await.unwrap().unwrap();
    }
}

/// A worker, which does not outlive the run.
struct Hand(Child);

impl Hand {
    fn start(place: &Place, log: &str) -> Self {
        let program = std::env::var_os("WORKER").map_or(env!("CARGO_BIN_EXE_qris-cancel-worker").into(), PathBuf::from);
        let file = std::fs::File::options().create(true).append(true).open(place.dir.path().join(log)).unwrap();
        let mut command = Command::new(program);
        command.arg("run").env("AMQP_URL", &place.url).env("QRIS_CANCEL_CONFIG", &place.config);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().unwrap())
    }

    fn memory_mib(&self) -> f64 {
        let status = read(format!("/proc/{}/status", self.0.id()));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1024.0
    }

    fn end(&mut self, signal: &str) {
        Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        if self.0.try_wait().ok().flatten().is_none() {
            self.end("-KILL");
        }
    }
}

struct Soak {
    place: Place,
    port: u16,
    partners: Vec<(String, Arc<Partner>)>,
    client: Client,
    round: Arc<Mutex<Round>>,
    /// Events that have come.
    heard: Arc<AtomicU64>,
    steady: Hand,
    mortal: Hand,
}

impl Soak {
    async fn start(broker: &Broker, first: Round) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let more = "[results_log]\nmax_bytes = 200_000_000\n";
        let place = Place::at(broker, &format!("http://127.0.0.1:{port}"), more);
        // The shortest delays there are; log lines would fill the disk.
        let text = read(&place.config)
            .replace("timeout_ms = 2_000", "max_in_flight = 128\ntimeout_ms = 1_500")
            .replace("max_ms = 1_000\nmax_attempts = 20", "max_ms = 500\nmax_attempts = 12")
            .replace("level = \"debug\"", "level = \"error,qris_cancel_worker::amqp::consumer=warn\"");
        std::fs::write(&place.config, &text).unwrap();
        let environment = BTreeMap::from([("AMQP_URL".to_owned(), place.url.clone())]);
        let settings = Settings::read("worker.toml", &text, &environment, place.dir.path());
        let settings = settings.unwrap_or_else(|e| panic!("{e}"));
        let partners =
            settings.accounts.iter().map(|account| (account.name.clone(), account.partner.clone())).collect();
        assert!(place.command(&["topology", "declare"]).status().unwrap().success());
        let client = place.client().await;
        let (round, heard) = (Arc::new(Mutex::new(first)), Arc::<AtomicU64>::default());
        listen(&client, round.clone(), heard.clone()).await;
        let (steady, mortal) = (Hand::start(&place, STEADY), Hand::start(&place, MORTAL));
        Self { place, port, partners, client, round, heard, steady, mortal }
    }

    fn round(&self) -> std::sync::MutexGuard<'_, Round> {
        self.round.lock().unwrap()
    }

    async fn publish(&self, size: usize) {
        let publishing = stream::iter(0..size).map(|at| async move {
            let (case, command) = {
                let round = self.round();
                (round.cases[at], round.command(at))
            };
            for _ in 0..=u8::from(case.twice) {
                assert!(self.client.publish(case.account, &command).await, "the broker refuses a command");
            }
            self.round().confirmed(at);
        });
        publishing.buffer_unordered(256).collect::<Vec<_>>().await;
    }

    async fn prepare(&self, size: usize) {
        for from in (0..size).step_by(1_000) {
            let known: Vec<_> = {
                let round = self.round();
                (from..size.min(from + 1_000)).map(|at| round.transaction(at)).collect()
            };
            self.place.send("POST", "/_sandbox/transactions", &json!(known)).await;
        }
    }

    /// Customers pay some of the QRs that still wait.
    async fn pay(&self, size: usize) {
        for from in (0..size).step_by(1_000) {
            let paid: Vec<_> = {
                let round = self.round();
                let paying = (from..size.min(from + 1_000)).filter(|at| round.cases[*at].pays);
                let pay = |at: usize| {
                    json!({ "account": round.cases[at].account, "originalReferenceNo": round.reference(at),
                    "state": "paid", "onlyIf": "pending" })
                };
                paying.map(pay).collect()
            };
            self.place.send("POST", "/_sandbox/transactions", &json!(paid)).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Commands that wait somewhere.
    async fn waiting(&self) -> u64 {
        let names = &self.place.names;
        let mut queues: Vec<_> = (0..15).map(|k| names.bucket_for(Duration::from_millis(250 << k)).0).collect();
        queues.dedup();
        queues.extend(ACCOUNTS.map(|account| names.commands_of(account)));
        queues.extend([names.strays(), names.strays_expired()]);
        let mut waiting = 0;
        for queue in queues {
            waiting += u64::from(self.client.depth(&queue).await);
        }
        waiting
    }

    /// Commands in somebody's hands.
    async fn in_hand(&self) -> u64 {
        let (broker, prefix) = (self.place.broker.clone(), self.place.prefix.clone());
        tokio::task::spawn_blocking(move || broker.in_hand(&prefix)).await.unwrap()
    }

    /// Nobody makes the one that lives on die, and no worker panics.
    fn workers_must_be_well(&mut self) {
        let ended = self.steady.0.try_wait().unwrap();
        let logs = [STEADY, MORTAL].map(|log| read(self.place.dir.path().join(log)));
        let panicked = logs.iter().flat_map(|log| log.lines()).find(|line| line.contains("panicked"));
        assert!(ended.is_none() && panicked.is_none(), "the worker that lives on: {ended:?}; a log: {panicked:?}");
    }

    /// The jobs that by the workers' logs the broker has delivered again: nobody confirmed what became of them in time, or
    /// the connection was gone when they were to be acknowledged.
    fn delivered_again(&self) -> BTreeSet<String> {
        let logs = [STEADY, MORTAL].map(|log| read(self.place.dir.path().join(log)));
        let lines = logs
            .iter()
            .flat_map(|log| log.lines())
            .filter(|line| line.contains("deliver it again") || line.contains("will deliver again"));
        let job = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["span"]["job_id"].as_str()?.to_owned());
        lines.filter_map(job).collect()
    }

    /// Waits until every command is told of, and nothing moves any more.
    async fn settle(&self, size: usize) -> Instant {
        let begun = Instant::now();
        let mut all_told = None;
        let (mut since, mut before) = (Instant::now(), u64::MAX);
        loop {
            if all_told.is_some() && since.elapsed() >= QUIET {
                if self.in_hand().await == 0 {
                    break;
                }
                since = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let (told, heard) = (self.round().told, self.heard.load(Ordering::Relaxed));
            if told >= size && all_told.is_none() {
                all_told = Some(Instant::now());
            }
            let is_quiet = all_told.is_some() && heard == before && self.waiting().await == 0;
            if !is_quiet {
                since = Instant::now();
            }
            before = heard;
            assert!(begun.elapsed() < LIMIT, "{told} of {size} are told of; without are {:?}", self.round().missing());
        }
        all_told.unwrap_or(begun)
    }
}

/// Notes every event, in a task of its own.
async fn listen(client: &Client, round: Arc<Mutex<Round>>, heard: Arc<AtomicU64>) {
    let channel = client.connection.create_channel().await.unwrap();
    let queue = "soak.events";
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), durable, FieldTable::default()).await.unwrap();
    let (results, binding) = (client.names.results(), QueueBindOptions::default());
    channel.queue_bind(queue.into(), results.into(), "#".into(), binding, FieldTable::default()).await.unwrap();
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut events = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
    tokio::spawn(async move {
        // The channel ends with its last holder.
        let _channel = channel;
        while let Some(Ok(Delivery { data, .. })) = events.next().await {
            let event: Told = serde_json::from_slice(&data).unwrap();
            round.lock().unwrap().tell(event);
            heard.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Kills or stops a worker every few seconds, whatever it has in hand, until so many commands are told of, or the round is stuck
/// because they are lost. Returns the last one, and how many were killed and stopped.
async fn die_now_and_then(soak: &Soak, mut mortal: Hand, until: usize, mut random: fastrand::Rng) -> (Hand, u64, u64) {
    let (mut kills, mut stops, begun) = (0, 0, Instant::now());
    while soak.round().told < until && begun.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_secs_f64(1.0 + random.f64() * 20.0)).await;
        let kill = random.u8(..3) > 0;
        assert_eq!(mortal.0.try_wait().unwrap(), None, "it dies when it is made to, and not before");
        // A stop takes as long as what has begun; the other worker goes on.
        let ended = tokio::task::spawn_blocking(move || mortal.end(if kill { "-KILL" } else { "-TERM" }));
        ended.await.unwrap();
        mortal = Hand::start(&soak.place, MORTAL);
        (kills, stops) = (kills + u64::from(kill), stops + u64::from(!kill));
    }
    (mortal, kills, stops)
}

fn sum(of: &Value) -> u64 {
    of.as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
}

#[tokio::main]
async fn main() {
    let Some(jobs) = number("JOBS") else {
        println!("soak: JOBS says how many commands, as in `make soak JOBS=1000000 SEED=1`");
        return;
    };
    let mut terminated = signal(SignalKind::terminate()).unwrap();
    // Broker and workers must not outlive it.
    tokio::select! {
        () = run(jobs) => return,
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    println!("broken off; the same order goes on with the round that was not finished");
    std::process::exit(130);
}

async fn run(jobs: u64) {
    let order = Order { jobs, seed: number("SEED").unwrap_or(1), round: number("ROUND").unwrap_or(50_000).min(jobs) };
    let mut books = Books::open(order.clone());
    if books.rounds > 0 {
        println!("{} of {jobs} commands are done already; going on in round {}", books.done, books.rounds);
    }
    let (seed, size) = (order.seed, |done: u64| order.round.min(jobs - done) as usize);
    let broker = Broker::own();
    let first = Round::new(seed, books.rounds, size(books.done));
    let mut soak = Soak::start(&broker, first).await;
    let (begun, before, mut of_this_run) = (Instant::now(), books.seconds, 0);

    while books.done < jobs {
        let size = size(books.done);
        let mut random = fastrand::Rng::with_seed(seed ^ (books.rounds << 32));
        *soak.round() = Round::new(seed, books.rounds, size);
        let faults = format!("{:.3}", 0.05 + random.f64() * 0.2);
        let (seed_of_faults, refuses) = (random.u64(..), random.bool());
        let options = sandbox::Options {
            faults: faults.parse().unwrap(),
            seed: seed_of_faults,
            canceled_again: if refuses { CanceledAgain::NotPermitted } else { CanceledAgain::InvalidStatus },
            hang: Duration::from_secs(3),
            ..sandbox::Options::default()
        };
        let provider = Provider::start(soak.port, soak.partners.clone(), options).await;
        soak.prepare(size).await;

        let started = Instant::now();
        // Some rounds are calm, so that what nobody's death explains is seen.
        let calm = random.u8(..4) == 0;
        let mortal = std::mem::replace(&mut soak.mortal, Hand(Command::new("true").spawn().unwrap()));
        let dying = die_now_and_then(&soak, mortal, if calm { 0 } else { size * 9 / 10 }, random.fork());
        let showing = async {
            let (mut last, mut ticks) = (0, tokio::time::interval(PROGRESS));
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let told = soak.round().told;
                let picture = soak.place.get("/_sandbox").await;
                println!(
                    "{:>9} of {jobs}, {:>5.0}/s, worker {:.0} MiB, faults {} (this round: {faults} of calls)",
                    books.done + told as u64,
                    (told - last) as f64 / PROGRESS.as_secs_f64(),
                    soak.steady.memory_mib(),
                    books.faults.values().sum::<u64>() + sum(&picture["injected"]),
                );
                last = told;
            }
        };
        let working = async { tokio::join!(soak.publish(size), soak.pay(size), dying) };
        let finished = async {
            let (.., mortal) = working.await;
            (mortal, soak.settle(size).await)
        };
        let ((mortal, kills, stops), told_at) = tokio::select! {
            finished = finished => finished,
            () = showing => unreachable!("it shows for ever"),
        };

        let picture = soak.place.get("/_sandbox").await;
        let mut transactions: Vec<Transaction> = Vec::with_capacity(size);
        for account in ACCOUNTS {
            let page = soak.place.get(&format!("/_sandbox/transactions?account={account}")).await;
            transactions.extend(serde_json::from_value::<Vec<Transaction>>(page).unwrap());
        }
        for message in soak.client.drain(&soak.place.names.parked()).await {
            soak.round().park(&message.data);
        }
        let memory_mib = soak.steady.memory_mib();
        provider.end().await;
        soak.mortal = mortal;
        soak.workers_must_be_well();
        let closed = std::mem::replace(&mut *soak.round(), Round::new(seed, u64::MAX, 0));
        books.add(closed.close(&transactions, calm, &soak.delivered_again()));
        for (fault, times) in picture["injected"].as_object().unwrap() {
            *books.faults.entry(fault.clone()).or_default() += times.as_u64().unwrap();
        }
        let tallies = picture["accounts"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|account| account["calls"].as_object().unwrap().values());
        books.calls += tallies.filter_map(|tally| tally["total"].as_u64()).sum::<u64>();
        (books.kills, books.stops) = (books.kills + kills, books.stops + stops);
        books.rounds += 1;
        books.refusing_rounds += u64::from(refuses);
        books.done += size as u64;
        of_this_run += size as u64;
        books.seconds = before + begun.elapsed().as_secs_f64();
        let rate = size as f64 / (told_at - started).as_secs_f64();
        books.samples.push(Sample { done: books.done, rate, memory_mib, of_this_run });
        books.save();
        println!(
            "{:>9} of {jobs}: round {} at {rate:.0}/s, {} promises broken so far",
            books.done,
            books.rounds,
            books.broken.len()
        );
        if !books.broken.is_empty() {
            for log in [STEADY, MORTAL] {
                std::fs::copy(soak.place.dir.path().join(log), folder().join(log)).unwrap();
            }
            panic!("{:#?}; the workers' logs are in target/soak", books.broken.iter().take(20).collect::<Vec<_>>());
        }
    }
    let report = books.report();
    std::fs::create_dir_all(folder()).unwrap();
    std::fs::write(folder().join("report.md"), &report).unwrap();
    println!("\n{report}\nThe report is in target/soak/report.md, the checkpoint beside it.");
}
