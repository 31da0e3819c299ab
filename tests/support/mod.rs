//! What the tests that need a broker share: a private RabbitMQ, the real worker as a process, the sandbox, and a client that
//! publishes and reads as order services and reconcilers do.
#![allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "each test binary uses a part of it; tests read their environment"
)]

pub mod cost;
pub mod frames;
pub mod judge;
pub mod ledger;
pub mod raw;
pub mod relay;

use futures_util::{StreamExt, future::BoxFuture};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    message::BasicGetMessage,
    options::*,
    types::{AMQPValue, FieldTable},
};
use qris_cancel_worker::{
    amqp::topology::Names,
    message::{Carried, Message, Origin, Properties},
    sandbox,
    settings::Settings,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

pub const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/midtrans-public-sample-key.pem");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq");

/// A private broker.
#[derive(Clone, Default)]
pub struct Broker {
    dir: PathBuf,
    pub url: String,
}

impl Broker {
    /// One for all tests of this binary, who must not disturb it. It goes when the test process does.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| Self::start_new(&[]))
    }

    /// One for a test that does something to it.
    pub fn own() -> OwnBroker {
        OwnBroker(Self::start_new(&[]))
    }

    /// One with these plugins, separated by commas.
    pub fn own_with_plugins(plugins: &str) -> OwnBroker {
        OwnBroker(Self::start_new(&[("RABBITMQ_PLUGINS", plugins)]))
    }

    /// One that lives as long as the test process, as the shared one does.
    pub fn another() -> Self {
        Self::start_new(&[])
    }

    /// One more node for a broker's cluster.
    pub fn joining(other: &Self) -> Self {
        Self::start_new(&[("JOIN", other.dir.to_str().unwrap())])
    }

    /// Its name among the nodes of its cluster.
    pub fn node(&self) -> String {
        let known = read(self.dir.join("broker/node"));
        known.lines().find_map(|line| line.strip_prefix("NODE=")).unwrap().to_owned()
    }

    /// Brings it back from whatever a test has left it in.
    pub fn mend(&self) {
        match self.tell("status").trim() {
            "frozen" => self.thaw(),
            "stopped" => self.start_again(),
            _ => {}
        }
        // As scripts/rabbitmq starts it.
        self.ctl(&[
            "eval",
            "rabbit_disk_monitor:set_disk_free_limit(\"50MB\"), vm_memory_monitor:set_vm_memory_high_watermark(0.6),
             [application:set_env(rabbit, Name, Milliseconds)
              || {Name, Milliseconds} <- [{consumer_timeout, 1800000}, {channel_tick_interval, 60000}]],
             [rabbit_policy:delete(<<\"/\">>, proplists:get_value(name, Policy), <<\"tests\">>)
              || Policy <- rabbit_policy:list()].",
        ]);
    }

    /// How many messages are in somebody's hands, of the quorum queues whose names begin so. Their leaders are asked: what
    /// `list_queues` says is up to five seconds old.
    pub fn in_hand(&self, prefix: &str) -> u64 {
        let of_leaders = format!(
            "Held = fun(State) -> rabbit_fifo:query_messages_total(State) - rabbit_fifo:query_messages_ready(State) end,
             lists:sum([begin {{ok, {{_, Count}}, _}} = ra:leader_query(amqqueue:get_pid(Queue), Held, 30000), Count end
                        || Queue <- rabbit_amqqueue:list(), amqqueue:get_type(Queue) =:= rabbit_quorum_queue,
                           lists:prefix(\"{prefix}\", binary_to_list(element(4, amqqueue:get_name(Queue))))])."
        );
        self.ctl(&["eval", &of_leaders]).trim().parse().unwrap()
    }

    fn start_new(environment: &[(&str, &str)]) -> Self {
        script(&["ensure"], environment);
        let dir = std::env::temp_dir().join(format!("qris-test-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        let url = script(&["start", dir.to_str().unwrap()], environment);
        clean_up_after_us(&[SCRIPT, "clean", dir.to_str().unwrap()]);
        Self { dir, url: url.trim().to_owned() }
    }

    fn tell(&self, what: &str) -> String {
        script(&[what, self.dir.to_str().unwrap()], &[])
    }

    pub fn kill(&self) {
        self.tell("kill");
    }

    pub fn stop(&self) {
        self.tell("stop");
    }

    pub fn start_again(&self) {
        self.tell("start");
    }

    pub fn freeze(&self) {
        self.tell("freeze");
    }

    pub fn thaw(&self) {
        self.tell("thaw");
    }

    /// A port by its name in the node's file: PROMETHEUS_PORT, MANAGEMENT_PORT.
    pub fn port(&self, name: &str) -> u16 {
        let node = read(self.dir.join("broker/node"));
        let line = node.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name} in {node}")).parse().unwrap()
    }

    /// Where it lives, for who calls scripts/rabbitmq himself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut all = vec!["ctl", self.dir.to_str().unwrap()];
        all.extend(arguments);
        script(&all, &[])
    }
}

/// Runs this when the test process has ended. It can be killed: somebody else has to clean up then.
pub fn clean_up_after_us(command: &[&str]) {
    let wait_and_clean = "while kill -0 \"$1\" 2>/dev/null; do sleep 0.5; done; shift; exec \"$@\"";
    let started = Command::new("setsid")
        .args(["--fork", "bash", "-c", wait_and_clean, "cleaner", &std::process::id().to_string()])
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(started.expect("setsid starts").success());
}

/// A broker that is cleaned up when the test is done with it.
pub struct OwnBroker(Broker);

impl std::ops::Deref for OwnBroker {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        &self.0
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        self.0.tell("clean");
    }
}

fn script(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(SCRIPT);
    let output = command
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("scripts/rabbitmq runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/rabbitmq {arguments:?}: {}\n{said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// One test's corner: a prefix of its own on a broker, a settings file, a sandbox.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub url: String,
    pub names: Names,
    pub prefix: String,
    pub config: PathBuf,
    pub provider: String,
    /// What a worker is started by, as in `ip netns exec …`.
    pub inside: Vec<String>,
    pub broker: Broker,
    /// The workers' process ids and logs.
    pub workers: Mutex<Vec<(u32, PathBuf)>>,
}

/// The settings of a test: two accounts, short waits.
pub fn settings(prefix: &str, provider: &str, more: &str) -> String {
    format!(
        r#"
[amqp]
url = {{ env = "AMQP_URL" }}
prefix = "{prefix}"
confirm_timeout_ms = 30_000
reply_to_allow = ["replies.*"]

[log]
level = "debug"

[http]
listen = "127.0.0.1:0"

[worker]
grace_ms = 2_000

[retry]
initial_ms = 250
max_ms = 1_000
max_attempts = 20
pending_ms = 2_500
cut_off_initial_ms = 250

[accounts.ifortepay]
profile = "ifortepay"
base_url = "{provider}/ifortepay"
partner_id = "IFP2024067944"
private_key = {{ file = "{KEY}" }}
timeout_ms = 2_000
connect_timeout_ms = 1_000
breaker = {{ initial_ms = 250, max_ms = 1_000 }}

[accounts.bnc]
profile = "bnc"
base_url = "{provider}/bnc"
cancel_path = "/made-up/qr-mpm-cancel"
query_path = "/made-up/qr-mpm-query"
client_key = "client"
partner_id = "82150823919040624621823174737537"
private_key = {{ file = "{KEY}" }}
origin = "www.example.co.id"
merchant_id = "000123456789"
timeout_ms = 2_000
connect_timeout_ms = 1_000
breaker = {{ initial_ms = 250, max_ms = 1_000 }}

{more}
"#
    )
}

impl Place {
    /// With a sandbox that answers in this process.
    pub async fn new(broker: &Broker, options: sandbox::Options) -> Self {
        Self::with_more(broker, options, |_| String::new()).await
    }

    /// With more accounts, which are written once the sandbox's address is known.
    pub async fn with_more(broker: &Broker, options: sandbox::Options, more: impl Fn(&str) -> String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = format!("http://{}", listener.local_addr().unwrap());
        let place = Self::at(broker, &provider, &more(&provider));
        let partners =
            place.settings().accounts.iter().map(|account| (account.name.clone(), account.partner.clone())).collect();
        tokio::spawn(sandbox::serve(listener, partners, options, std::future::pending()));
        place
    }

    /// With a provider that the test brings.
    pub fn at(broker: &Broker, provider: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let prefix = format!("t{:08x}.cancel", fastrand::u32(..));
        let config = dir.path().join("worker.toml");
        std::fs::write(&config, settings(&prefix, provider, more)).unwrap();
        let (url, names, provider) = (broker.url.clone(), Names::new(&prefix), provider.to_owned());
        let (inside, broker, workers) = (Vec::new(), broker.clone(), Mutex::default());
        Self { dir, url, names, prefix, config, provider, inside, broker, workers }
    }

    pub fn settings(&self) -> Settings {
        let environment = BTreeMap::from([("AMQP_URL".to_owned(), self.url.clone())]);
        let text = std::fs::read_to_string(&self.config).unwrap();
        Settings::read("worker.toml", &text, &environment, self.dir.path()).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let program = [env!("CARGO_BIN_EXE_qris-cancel-worker").to_owned()];
        let mut line = self.inside.iter().chain(&program);
        let mut command = Command::new(line.next().unwrap());
        command
            .args(line)
            .args(arguments)
            .env("AMQP_URL", &self.url)
            .env("QRIS_CANCEL_CONFIG", &self.config)
            .stdin(Stdio::null());
        command
    }

    /// Starts the real worker, and waits until it consumes.
    pub async fn worker(&self) -> Worker {
        let worker = self.worker_unready();
        worker.wait_for_log("\"consuming\"", Duration::from_secs(180)).await;
        worker
    }

    pub fn worker_unready(&self) -> Worker {
        self.worker_at(&self.url)
    }

    /// One that has the broker at this address.
    pub fn worker_at(&self, url: &str) -> Worker {
        let log = self.dir.path().join(format!("worker-{:08x}.log", fastrand::u32(..)));
        let file = std::fs::File::create(&log).unwrap();
        let child = self.command(&["run"]).env("AMQP_URL", url).stdout(Stdio::null()).stderr(file).spawn().unwrap();
        self.begun(child, log)
    }

    /// A worker that was started otherwise.
    pub fn begun(&self, child: Child, log: PathBuf) -> Worker {
        self.workers.lock().unwrap().push((child.id(), log.clone()));
        Worker { child, log }
    }

    /// # Panics
    /// When a worker has panicked, or has died and nobody made it: who ends one waits for its end.
    pub fn workers_must_be_well(&self) {
        for (pid, log) in self.workers.lock().unwrap().iter() {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let died = status.lines().any(|line| line.starts_with("State:") && line.contains('Z'));
            let said = if log.is_file() { read(log) } else { String::new() };
            assert!(!died && !said.contains("panicked"), "worker {pid} died ({died}) or panicked:\n{said}");
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.url, self.names.clone()).await
    }

    /// What the sandbox knows of a transaction.
    pub async fn transaction(&self, account: &str, reference: &str) -> Value {
        let all = self.get(&format!("/_sandbox/transactions?account={account}")).await;
        let found = all.as_array().unwrap().iter().find(|t| t["originalReferenceNo"] == reference);
        found.unwrap_or_else(|| panic!("the sandbox has no {reference}: {all}")).clone()
    }

    pub async fn get(&self, path: &str) -> Value {
        exchange_json(&self.provider, path).await
    }

    pub async fn send(&self, method: &str, path: &str, body: &Value) {
        http(&self.provider, method, path, &body.to_string()).await;
    }
}

/// A page of the sandbox.
pub async fn exchange_json(provider: &str, path: &str) -> Value {
    serde_json::from_str(&http(provider, "GET", path, "").await).unwrap()
}

async fn http(provider: &str, method: &str, path: &str, body: &str) -> String {
    let answer = exchange(provider.strip_prefix("http://").unwrap(), method, path, body).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { dechunk(body) } else { body.to_owned() }
}

/// One request, and the whole answer to it.
pub async fn exchange(host: &str, method: &str, path: &str, body: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn dechunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        body.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
        if size == 0 {
            break;
        }
    }
    body
}

/// The real worker as a process. It does not outlive the test.
pub struct Worker {
    pub child: Child,
    pub log: PathBuf,
}

impl Worker {
    pub async fn wait_for_log(&self, text: &str, limit: Duration) {
        let begun = Instant::now();
        while !self.read_log().contains(text) {
            assert!(begun.elapsed() < limit, "no {text:?} in the worker's log:\n{}", self.read_log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn read_log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// One of the pages for operators: its HTTP status and text.
    pub async fn page(&self, path: &str) -> (u16, String) {
        let log = self.read_log();
        let line = log.lines().find(|line| line.contains("metrics and status are served")).expect("serves its pages");
        let line: Value = serde_json::from_str(line).unwrap();
        let answer = exchange(line["address"].as_str().unwrap(), "GET", path, "").await;
        (answer[9..12].parse().unwrap(), answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// A metric's value, or the sum over its labels' values; the name may hold labels.
    pub async fn metric(&self, name: &str) -> f64 {
        self.scrape().await.sum(name)
    }

    /// All metrics, at one moment.
    pub async fn scrape(&self) -> Scrape {
        Scrape(self.page("/metrics").await.1)
    }
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Asks it to stop, and waits until it has: its exit code and how long it took.
    pub async fn stop(&mut self, signal: &str) -> (i32, Duration) {
        self.signal(signal);
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code().unwrap_or(-1), begun.elapsed());
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "the worker does not stop:\n{}", self.read_log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What Prometheus gets.
pub struct Scrape(pub String);

impl Scrape {
    /// A metric's value, or the sum over its labels' values; the name may hold labels. One that is not there is misspelt: the worker
    /// shows zeros.
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_if_any(name).unwrap_or_else(|| panic!("there is no {name} in\n{}", self.0))
    }

    /// The same for what need not be there.
    pub fn sum_if_any(&self, name: &str) -> Option<f64> {
        let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
        let wanted: Vec<_> = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect();
        let lines = self.0.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && wanted.iter().all(|w| line.contains(w))
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).reduce(|sum, value| sum + value)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            self.kill();
        }
        if std::thread::panicking() {
            let log = self.read_log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("--- the worker's last lines\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// A publisher and reader.
pub struct Client {
    pub connection: Connection,
    pub channel: Channel,
    pub names: Names,
}

pub fn command(job: &str, reference: &str) -> Value {
    json!({ "jobId": job, "originalReferenceNo": reference, "originalPartnerReferenceNo": format!("P-{reference}"), "reason": "customer left" })
}

impl Client {
    pub async fn connect(url: &str, names: Names) -> Self {
        Self::try_connect(url, names).await.expect("the broker lets us in")
    }

    pub async fn try_connect(url: &str, names: Names) -> lapin::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel, names })
    }

    /// Publishes a command as an order service does; true if the broker confirmed it.
    pub async fn publish(&self, account: &str, command: &Value) -> bool {
        self.publish_raw(&self.names.commands(), account, command.to_string().as_bytes(), persistent()).await
    }

    pub async fn publish_raw(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) -> bool {
        let published =
            self.channel.basic_publish(exchange.into(), key.into(), BasicPublishOptions::default(), body, properties);
        published.await.unwrap().await.unwrap().is_ack()
    }

    /// A queue with every event, before the worker publishes the first.
    pub async fn collect(&self) -> Events {
        let queue = format!("collector.{:08x}", fastrand::u32(..));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        self.channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
        let (results, key) = (self.names.results().into(), "#".into());
        self.channel
            .queue_bind(queue.as_str().into(), results, key, QueueBindOptions::default(), FieldTable::default())
            .await
            .unwrap();
        Events { channel: self.channel.clone(), queue, all: Vec::new() }
    }

    /// Reads on after the broker was gone, with what has been read so far.
    pub async fn follow(&self, before: Events) -> Events {
        Events { channel: self.channel.clone(), ..before }
    }

    /// Takes everything out of a queue.
    pub async fn drain(&self, queue: &str) -> Vec<BasicGetMessage> {
        let mut messages = Vec::new();
        while let Some(message) = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap()
        {
            messages.push(message);
        }
        messages
    }

    pub async fn depth(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().message_count()
    }
}

/// A command as the pipeline has it, new from its publisher.
pub fn message(account: &str, body: &[u8]) -> Message {
    Message {
        body: body.to_vec(),
        routing_key: account.into(),
        origin: Origin::Published,
        redelivered: false,
        delivery_count: 0,
        properties: Properties::default(),
        carried: Carried::Nothing,
        parked: None,
        received_at: chrono::Utc::now(),
        trace: None,
    }
}

pub fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into())
}

pub fn headers(pairs: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert((*name).into(), value.clone());
    }
    table
}

/// A dead-lettering that a publisher claims, as whole as a broker writes one: brokers before 3.13 read what they are given.
pub fn forged_death(queue: &str, exchange: &str) -> AMQPValue {
    let keys = AMQPValue::FieldArray(vec![text("bnc")].into());
    let death = headers(&[
        ("count", AMQPValue::LongLongInt(1)),
        ("reason", text("expired")),
        ("queue", text(queue)),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("exchange", text(exchange)),
        ("routing-keys", keys),
    ]);
    AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into())
}

pub fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// The events that have come so far.
pub struct Events {
    channel: Channel,
    queue: String,
    pub all: Vec<(BasicProperties, Value)>,
}

impl Events {
    /// Reads what is there now.
    pub async fn read(&mut self) {
        while let Some(message) =
            self.channel.basic_get(self.queue.as_str().into(), BasicGetOptions { no_ack: true }).await.unwrap()
        {
            let event = serde_json::from_slice(&message.data).unwrap();
            self.all.push((message.properties.clone(), event));
        }
    }

    /// Waits until there are so many.
    pub async fn wait(&mut self, count: usize, limit: Duration) -> &[(BasicProperties, Value)] {
        let begun = Instant::now();
        loop {
            self.read().await;
            if self.all.len() >= count {
                return &self.all;
            }
            assert!(begun.elapsed() < limit, "{} of {count} events within {limit:?}: {:#?}", self.all.len(), self.all);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for the first event of a job.
    pub async fn of(&mut self, job: &str, limit: Duration) -> Value {
        let begun = Instant::now();
        loop {
            self.read().await;
            if let Some((_, event)) = self.all.iter().find(|(_, event)| event["data"]["jobId"] == job) {
                return event.clone();
            }
            assert!(begun.elapsed() < limit, "no event of {job} within {limit:?}; there are {:#?}", self.all);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits until something holds.
pub async fn until<'a>(what: &str, limit: Duration, mut holds: impl FnMut() -> BoxFuture<'a, bool>) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < limit, "{what} did not come true within {limit:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

pub async fn consume_one(channel: &Channel, queue: &str, limit: Duration) -> Option<lapin::message::Delivery> {
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
    tokio::time::timeout(limit, consumer.next()).await.ok().flatten().map(Result::unwrap)
}

/// What a run of the program ended with.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub said: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}{}", self.out, self.said))
    }
}

/// Runs the program to its end. Limits are long: these tests are about what is found, on however slow a machine.
pub async fn run(mut command: Command) -> Ran {
    for (name, value) in [
        ("AMQP__CONFIRM_TIMEOUT_MS", "60000"),
        ("AMQP__CONNECT_TIMEOUT_MS", "30000"),
        ("ACCOUNTS__IFORTEPAY__TIMEOUT_MS", "30000"),
        ("ACCOUNTS__IFORTEPAY__CONNECT_TIMEOUT_MS", "10000"),
        ("ACCOUNTS__BNC__TIMEOUT_MS", "30000"),
        ("ACCOUNTS__BNC__CONNECT_TIMEOUT_MS", "10000"),
    ] {
        command.env(format!("QRIS_CANCEL__{name}"), value);
    }
    // The sandbox answers on this thread.
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        said: String::from_utf8(output.stderr).unwrap(),
    }
}
