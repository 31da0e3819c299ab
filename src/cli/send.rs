//! `send`: publishes cancel commands as an order service would, persistent and confirmed, and can wait for their results.

use super::{
    Failure,
    broker::{self, Broker, Events},
    plain_json, print,
    progress::Progress,
    tell, unknown_account,
};
use crate::{
    command::json::{self, Members},
    outcome::Outcome,
    shutdown::Stop,
};
use clap::Args;
use lapin::{
    BasicProperties, Confirmation, PublisherConfirm,
    message::Delivery,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::{Map, Value, json, value::RawValue};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    future::pending,
    io::{BufRead, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, time::timeout_at};

/// Confirms that may be outstanding.
const WINDOW: usize = 500;
/// The longest routing key or message id, in bytes.
const AMQP_TEXT: usize = 255;
/// Lines that are read and not sent yet.
const READ_AHEAD: usize = 16;
/// A command has 64 KiB at most. Longer ones can be sent, to see what becomes of them; a file without line breaks is a slip.
const LONGEST_LINE: usize = 1 << 20;

#[derive(Args)]
#[command(after_help = "Examples:
  qris-cancel-worker send --account ifortepay --reference R-1 --partner-reference P-1 --wait
  qris-cancel-worker send --account bnc --field merchantId=0001 --reference R-1 --reason 'order withdrawn'
  qris-cancel-worker send --stdin --account bnc --wait --timeout-s 600 <commands.ndjson

With --stdin, lines are sent as they come. If it ends early (a faulty line, the broker, Ctrl-C), it says up to which line all are
confirmed, and from which to send again. A command that is published twice before its event has come is safe.

With --wait it ends with 0 if every command ended as canceled, paid or closed, with 1 if one ended otherwise, and with 75 if a
result has not come in time. It may still come: `watch --since` shows it.")]
pub struct Arguments {
    /// The account, which is the routing key. On standard input a line can name its own as "account".
    #[arg(long)]
    account: Option<String>,
    /// Read commands from standard input, one JSON object a line.
    #[arg(long, conflicts_with_all = ["job_id", "reference", "partner_reference", "reason", "others"])]
    stdin: bool,
    #[command(flatten)]
    fields: Fields,
    /// Show the results as they come, and end when all are there.
    #[arg(long)]
    wait: bool,
    /// With --wait: the events as they are, one a line, and the summary on standard error.
    #[arg(long, requires = "wait")]
    json: bool,
    /// How long to wait for results, in seconds.
    #[arg(long, default_value_t = 60)]
    timeout_s: u64,
    /// Names on the broker begin with this.
    #[arg(long)]
    prefix: Option<String>,
}

/// A command's fields, one by one.
#[derive(Args)]
pub struct Fields {
    /// jobId; a random one unless given.
    #[arg(long)]
    job_id: Option<String>,
    /// originalReferenceNo
    #[arg(long)]
    reference: Option<String>,
    /// originalPartnerReferenceNo
    #[arg(long)]
    partner_reference: Option<String>,
    /// reason; "cancelled by hand" unless given.
    #[arg(long)]
    reason: Option<String>,
    /// Any further field: --field merchantId=0001, or JSON: --field 'additionalInfo={"contractId":"7"}'.
    #[arg(long = "field", value_name = "NAME=VALUE", value_parser = field)]
    others: Vec<(String, Value)>,
}

impl Fields {
    /// Whether no transaction is named.
    pub fn name_nothing(&self) -> bool {
        self.reference.is_none() && self.partner_reference.is_none() && self.others.is_empty()
    }

    /// The command, and its job id.
    pub fn command(&self) -> (String, Vec<u8>) {
        let job_id = self.job_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let mut command = Map::from_iter([("jobId".to_owned(), json!(job_id))]);
        let reason = Some(self.reason.clone().unwrap_or_else(|| "cancelled by hand".into()));
        for (name, value) in [
            ("originalReferenceNo", &self.reference),
            ("originalPartnerReferenceNo", &self.partner_reference),
            ("reason", &reason),
        ] {
            if let Some(value) = value {
                command.insert(name.into(), json!(value));
            }
        }
        command.extend(self.others.iter().cloned());
        (job_id, Value::Object(command).to_string().into_bytes())
    }
}

struct Outgoing {
    account: String,
    job_id: String,
    body: Vec<u8>,
}

impl Outgoing {
    fn new(account: String, job_id: String, body: Vec<u8>) -> Result<Self, String> {
        for (what, text) in [("account", &account), ("jobId", &job_id)] {
            if text.len() > AMQP_TEXT {
                return Err(format!("{what} has {} bytes, and AMQP takes {AMQP_TEXT}", text.len()));
            }
        }
        Ok(Self { account, job_id, body })
    }
}

pub async fn run(config: Option<&Path>, arguments: Arguments) -> Result<(), Failure> {
    let first = if arguments.stdin { None } else { Some(from_flags(&arguments)?) };
    let broker = Broker::reach(config, arguments.prefix.as_deref(), "send").await?;
    broker.within(broker.channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let results = if arguments.wait { Some(broker.results().await?) } else { None };
    let lines = match first {
        Some(command) => one_line(command),
        None => lines_of_stdin(arguments.account.clone()),
    };
    let mut sending = Sending {
        broker: &broker,
        results,
        tally: Tally { json: arguments.json, ..Tally::default() },
        accounts: BTreeSet::new(),
        unconfirmed: VecDeque::new(),
        confirmed: Arc::default(),
        progress: Progress::beside_output(),
        begun: Instant::now(),
    };
    if arguments.stdin {
        sending.confirmed.tell_when_broken_off()?;
    }
    if let Err(failure) = sending.all(lines).await {
        return Err(if arguments.stdin { failure.with(&sending.confirmed.so_far()) } else { failure });
    }
    let (begun, sent) = (sending.begun, sending.tally.total);
    tell(format_args!("{} confirmed by the broker{}", counted(sent, "command"), rate(sent, begun)));
    let limit = Duration::from_secs(arguments.timeout_s);
    if sending.results.is_none() {
        return Ok(());
    }
    let ended = tokio::time::timeout(limit, sending.rest()).await;
    let tally = sending.tally;
    let summary = tally.summary(begun);
    match arguments.json {
        true => tell(format_args!("{summary}")),
        false => drop(print(&summary)?),
    }
    match ended {
        Ok(filled) => filled.and_then(|()| tally.judge()),
        Err(_) => {
            Err(Failure::NotYet(format!("no result within {} s for {}", limit.as_secs(), tally.missing("command"))))
        }
    }
}

/// A line of standard input, with its number.
struct Line {
    number: u64,
    command: Outgoing,
}

type Lines = mpsc::Receiver<Result<Line, Failure>>;

/// How far the broker has confirmed what was sent.
#[derive(Default)]
struct Confirmed {
    commands: AtomicU64,
    /// The line up to which there is none that is not.
    line: AtomicU64,
}

impl Confirmed {
    fn so_far(&self) -> String {
        let (commands, line) = (self.commands.load(Ordering::Relaxed), self.line.load(Ordering::Relaxed));
        format!(
            "{} confirmed, all up to line {line}: send again from line {} on",
            counted(commands as usize, "command"),
            line + 1
        )
    }

    /// Whoever breaks it off learns where to go on. A task sees to it, as nobody else may have the time: a line may not come, and what is
    /// printed may not be read.
    fn tell_when_broken_off(self: &Arc<Self>) -> Result<(), Failure> {
        let stop = Stop::on_signals(Duration::ZERO)
            .map_err(|error| Failure::Unavailable(format!("signals cannot be listened to: {error}")))?;
        let confirmed = self.clone();
        tokio::spawn(async move {
            stop.soon.cancelled().await;
            let failure = Failure::NotYet("broken off".into()).with(&confirmed.so_far());
            tell(format_args!("{failure}"));
            std::process::exit(failure.exit_code().into());
        });
        Ok(())
    }
}

struct Unconfirmed {
    line: u64,
    confirm: PublisherConfirm,
    until: tokio::time::Instant,
}

/// Commands on their way, and their results. In memory are a window of commands, and the digests of those whose results are waited for.
struct Sending<'a> {
    broker: &'a Broker,
    results: Option<Events<'a>>,
    tally: Tally,
    /// Those that were sent to.
    accounts: BTreeSet<String>,
    unconfirmed: VecDeque<Unconfirmed>,
    confirmed: Arc<Confirmed>,
    progress: Progress,
    begun: Instant,
}

impl Sending<'_> {
    /// Publishes all lines, and returns when they are confirmed. What has a result meanwhile is shown.
    async fn all(&mut self, mut lines: Lines) -> Result<(), Failure> {
        let (mut has_ended, mut wrong) = (false, None);
        while !has_ended || !self.unconfirmed.is_empty() {
            let (has_room, is_waited_for) = (self.unconfirmed.len() < WINDOW, !self.unconfirmed.is_empty());
            tokio::select! {
                line = lines.recv(), if !has_ended && has_room => match line {
                    Some(Ok(line)) => self.publish(line).await?,
                    Some(Err(failure)) => (has_ended, wrong) = (true, Some(failure)),
                    None => has_ended = true,
                },
                confirmed = oldest(&mut self.unconfirmed, self.broker.limit()), if is_waited_for => {
                    self.confirmed.line.store(confirmed?, Ordering::Relaxed);
                    self.confirmed.commands.fetch_add(1, Ordering::Relaxed);
                }
                event = next(&mut self.results), if self.tally.is_waiting() => self.show(event?).await?,
            }
            let (total, results) = (self.tally.total, self.tally.seen);
            self.progress.tell(|| format!("{} sent, {}", counted(total, "command"), counted(results, "result")));
        }
        wrong.map_or(Ok(()), Err)
    }

    async fn publish(&mut self, Line { number, command }: Line) -> Result<(), Failure> {
        let broker = self.broker;
        if self.accounts.insert(command.account.clone()) {
            if !broker.accounts.is_empty() && !broker.accounts.contains(&command.account) {
                let known = broker.accounts.iter().map(String::as_str);
                tell(format_args!("note: {}", unknown_account(&command.account, known)));
            }
            if let Some(results) = &self.results {
                results.bind(&format!("{}.*", crate::event::account_name(&command.account))).await?;
            }
        }
        self.tally.await_result_of(&command, self.results.is_some());
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_message_id(command.job_id.as_str().into());
        let (exchange, key) = (broker.names.commands().into(), command.account.as_str().into());
        let options = BasicPublishOptions::default();
        let published = broker.channel.basic_publish(exchange, key, options, &command.body, properties);
        let confirm = broker.within(published).await?;
        let until = tokio::time::Instant::now() + broker.limit();
        self.unconfirmed.push_back(Unconfirmed { line: number, confirm, until });
        Ok(())
    }

    async fn show(&mut self, event: Delivery) -> Result<(), Failure> {
        if let Some(results) = &mut self.results {
            results.take(&event).await?;
        }
        self.tally.show(&event.data)
    }

    /// Shows results as they come, until all are there or nobody reads any more.
    async fn rest(&mut self) -> Result<(), Failure> {
        while self.tally.is_waiting() {
            let event = next(&mut self.results).await?;
            self.show(event).await?;
            let (seen, total, begun) = (self.tally.seen, self.tally.total, self.begun);
            self.progress.tell(|| format!("{seen} of {total} results{}", rate(seen, begun)));
        }
        Ok(())
    }
}

/// The line of the oldest command that was not confirmed, once it is.
async fn oldest(unconfirmed: &mut VecDeque<Unconfirmed>, limit: Duration) -> Result<u64, Failure> {
    let Some(Unconfirmed { line, confirm, until }) = unconfirmed.front_mut() else { return pending().await };
    let (line, answer) = (*line, timeout_at(*until, confirm).await);
    match answer.map_err(|_| broker::no_answer(limit))?? {
        Confirmation::Ack(_) => {
            unconfirmed.pop_front();
            Ok(line)
        }
        _ => Err(Failure::Unavailable(format!("the broker refused the command of line {line}"))),
    }
}

async fn next(results: &mut Option<Events<'_>>) -> Result<Delivery, Failure> {
    match results {
        Some(results) => results.next().await,
        None => pending().await,
    }
}

fn one_line(command: Outgoing) -> Lines {
    let (lines, read) = mpsc::channel(1);
    lines.try_send(Ok(Line { number: 1, command })).expect("there is room for one");
    read
}

/// Lines of standard input, read as they are wanted. A thread reads them, as nothing else waits for one that does not come.
fn lines_of_stdin(account: Option<String>) -> Lines {
    let (lines, read) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        for number in 1.. {
            let line = match line(&mut input) {
                Ok(Some(line)) if line.trim().is_empty() => continue,
                Ok(Some(line)) => from_line(&line, account.as_deref()).map(|command| Line { number, command }),
                Ok(None) => return,
                Err(why) => Err(why),
            };
            let line = line.map_err(|why| Failure::Usage(format!("line {number}: {why}")));
            let is_last = line.is_err();
            if lines.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    read
}

/// The next line; none at the end.
fn line(input: &mut impl BufRead) -> Result<Option<String>, String> {
    let mut line = Vec::new();
    let limit = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX) + 1;
    input.take(limit).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
    if line.len() > LONGEST_LINE {
        return Err(format!("it has more than {LONGEST_LINE} bytes, and a command has 64 KiB at most"));
    }
    if line.is_empty() {
        return Ok(None);
    }
    let line = String::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()))
}

/// What has become of the commands so far.
#[derive(Default)]
struct Tally {
    /// By the digest of a command, which the event of a faulty one has, too: results to come. One that was published twice has two.
    waiting: HashMap<[u8; 32], u32>,
    json: bool,
    /// How many were sent.
    total: usize,
    /// How many results have come.
    seen: usize,
    endings: BTreeMap<(String, String), usize>,
}

impl Tally {
    fn await_result_of(&mut self, command: &Outgoing, has_results: bool) {
        self.total += 1;
        if has_results {
            *self.waiting.entry(Sha256::digest(&command.body).into()).or_default() += 1;
        }
    }

    fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn missing(&self, what: &str) -> String {
        counted(self.waiting.values().sum::<u32>() as usize, what)
    }

    /// Shows an event, if it is of one of the commands.
    fn show(&mut self, data: &[u8]) -> Result<(), Failure> {
        let event: Value = serde_json::from_slice(data).unwrap_or_default();
        let text = |field: &str| event["data"][field].as_str().unwrap_or("-").to_owned();
        let mut digest = [0; 32];
        if hex::decode_to_slice(text("commandDigest"), &mut digest).is_err() {
            return Ok(());
        }
        let Some(left) = self.waiting.get_mut(&digest) else { return Ok(()) };
        *left -= 1;
        if *left == 0 {
            self.waiting.remove(&digest);
        }
        self.seen += 1;
        *self.endings.entry((text("outcome"), text("cause"))).or_default() += 1;
        let goes_on = match self.json {
            true => print(&plain_json(&String::from_utf8_lossy(data)))?,
            false => print(&format!("[{:>4}/{}] {}", self.seen, self.total, broker::line(&event)))?,
        };
        if !goes_on && self.is_waiting() {
            let missing = self.missing("result");
            return Err(Failure::NotYet(format!("nobody reads the results any more; {missing} not seen")));
        }
        Ok(())
    }

    fn summary(&self, begun: Instant) -> String {
        let mut lines = vec![format!("\n{:12} {:28} {:>6}", "outcome", "cause", "count")];
        for ((outcome, cause), count) in &self.endings {
            lines.push(format!("{outcome:12} {cause:28} {count:>6}"));
        }
        let ended = self.endings.values().sum();
        lines.push(format!(
            "{} in, {} out{}",
            counted(self.total, "command"),
            counted(ended, "outcome"),
            rate(ended, begun)
        ));
        lines.join("\n")
    }

    /// Whether every command ended well.
    fn judge(&self) -> Result<(), Failure> {
        let well = [Outcome::Canceled, Outcome::Paid, Outcome::Closed].map(Outcome::name);
        let bad = self.endings.iter().filter(|((outcome, _), _)| !well.contains(&outcome.as_str()));
        let bad: usize = bad.map(|(_, count)| count).sum();
        match bad {
            0 => Ok(()),
            _ => Err(Failure::No(format!("{} ended as neither canceled, paid nor closed", counted(bad, "command")))),
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// How long it took, and how many a second that is, where there are enough to say so.
fn rate(count: usize, begun: Instant) -> String {
    let seconds = begun.elapsed().as_secs_f64();
    if count < 100 { String::new() } else { format!(" in {seconds:.1} s ({:.0}/s)", count as f64 / seconds) }
}

fn from_flags(arguments: &Arguments) -> Result<Outgoing, Failure> {
    let account = arguments.account.clone().ok_or_else(|| Failure::Usage("name the account with --account".into()))?;
    let (job_id, body) = arguments.fields.command();
    Outgoing::new(account, job_id, body).map_err(Failure::Usage)
}

/// A line is published as it stands, unless it names its account: that key is no part of a command.
fn from_line(line: &str, account: Option<&str>) -> Result<Outgoing, String> {
    serde_json::from_str::<&RawValue>(line).map_err(|e| format!("not JSON: {e}"))?;
    let members = json::members(line).ok_or("not a JSON object")?;
    if members.iter().filter(|(key, _)| key == "account").count() > 1 {
        return Err("it names \"account\" twice".into());
    }
    let text = |key: &str| json::get(&members, key).and_then(json::string);
    let (own, job_id) = (text("account"), text("jobId"));
    let job_id = job_id.ok_or("it has no jobId, by which its result is known")?;
    let body = if own.is_some() { without_account(&members) } else { line.to_owned() };
    let account =
        own.or_else(|| account.map(str::to_owned)).ok_or("it names no \"account\", and there is no --account")?;
    Outgoing::new(account, job_id, body.into_bytes())
}

/// All else as it came, keys that stand twice and long numbers too: what is wrong with a command is the worker's to say.
fn without_account(members: &json::Borrowed<'_>) -> String {
    let mut rest = Members::default();
    for (key, value) in members.iter().filter(|(key, _)| key != "account") {
        rest.push(key.clone(), RawValue::from_string((*value).to_owned()).expect("it was read as JSON"));
    }
    serde_json::to_string(&rest).expect("what was read can be written")
}

fn field(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    if name == "jobId" {
        return Err("the jobId is given by --job-id".into());
    }
    let value = match value.starts_with(['{', '[']) {
        true => serde_json::from_str(value).map_err(|e| format!("{name}: {e}"))?,
        false => json!(value),
    };
    Ok((name.to_owned(), value))
}
