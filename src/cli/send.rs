//! `send`: publishes cancel commands as an order service would, persistent and confirmed, and can wait for their results.

mod lines;
mod tally;

use super::{
    Failure,
    broker::{self, Broker, Events},
    print,
    progress::Progress,
    tell, unknown_account,
};
use crate::shutdown::Stop;
use clap::Args;
use lapin::{
    BasicProperties, Confirmation, PublisherConfirm,
    message::Delivery,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use lines::{Line, Lines, Outgoing, lines_of_stdin, one_line};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeSet, VecDeque},
    future::pending,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tally::{Tally, counted, rate};
use tokio::time::timeout_at;

/// Confirms that may be outstanding.
const WINDOW: usize = 500;

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
        tally: Tally::new(arguments.json),
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

fn from_flags(arguments: &Arguments) -> Result<Outgoing, Failure> {
    let account = arguments.account.clone().ok_or_else(|| Failure::Usage("name the account with --account".into()))?;
    let (job_id, body) = arguments.fields.command();
    Outgoing::new(account, job_id, body).map_err(Failure::Usage)
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
