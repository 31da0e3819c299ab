//! `send`: publishes cancel commands as an order service would, persistent and confirmed, and can wait for their results.

use super::{
    Failure,
    broker::{self, Broker},
    plain_json, print, tell, unknown_account,
};
use crate::{
    command::json::{self, Members},
    outcome::Outcome,
};
use clap::Args;
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Confirmation, Consumer,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::{Map, Value, json, value::RawValue};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{BufRead, IsTerminal},
    path::Path,
    time::{Duration, Instant},
};

/// Confirms that may be outstanding.
const WINDOW: usize = 500;
/// The longest routing key or message id, in bytes.
const AMQP_TEXT: usize = 255;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(5);

#[derive(Args)]
#[command(after_help = "Examples:
  qris-cancel-worker send --account ifortepay --reference R-1 --partner-reference P-1 --wait
  qris-cancel-worker send --account bnc --field merchantId=0001 --reference R-1 --reason 'order withdrawn'
  qris-cancel-worker send --stdin --account bnc --wait --timeout-s 600 <commands.ndjson

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
    let commands =
        if arguments.stdin { from_lines(std::io::stdin().lock(), &arguments)? } else { vec![from_flags(&arguments)?] };
    let broker = Broker::reach(config, arguments.prefix.as_deref(), "send").await?;
    for account in commands.iter().map(|command| &command.account).collect::<BTreeSet<_>>() {
        if !broker.accounts.is_empty() && !broker.accounts.contains(account) {
            tell(format_args!("note: {}", unknown_account(account, broker.accounts.iter().map(String::as_str))));
        }
    }
    let results = match arguments.wait {
        true => {
            let keys: BTreeSet<_> =
                commands.iter().map(|command| format!("{}.*", crate::event::account_name(&command.account))).collect();
            Some(broker.results(&Vec::from_iter(keys)).await?)
        }
        false => None,
    };
    let mut waiting: BTreeMap<String, usize> = BTreeMap::new();
    for command in &commands {
        *waiting.entry(hex::encode(Sha256::digest(&command.body))).or_default() += 1;
    }
    let begun = Instant::now();
    publish(&broker, &commands).await?;
    tell(format_args!("{} confirmed by the broker{}", counted(commands.len(), "command"), rate(commands.len(), begun)));
    let Some(results) = results else { return Ok(()) };
    let mut tally = Tally { waiting, total: commands.len(), ..Tally::default() };
    let limit = Duration::from_secs(arguments.timeout_s);
    let ended = tokio::time::timeout(limit, tally.fill(results, arguments.json, begun)).await;
    let summary = tally.summary(begun);
    match arguments.json {
        true => tell(format_args!("{summary}")),
        false => drop(print(&summary)?),
    }
    match ended {
        Ok(filled) => filled.and_then(|()| tally.judge()),
        Err(_) => {
            let missing = counted(tally.waiting.values().sum::<usize>(), "command");
            Err(Failure::NotYet(format!("no result within {} s for {missing}", limit.as_secs())))
        }
    }
}

async fn publish(broker: &Broker, commands: &[Outgoing]) -> Result<(), Failure> {
    broker.within(broker.channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let mut unconfirmed = VecDeque::new();
    let check = |confirmation: Confirmation| match confirmation {
        Confirmation::Ack(_) => Ok(()),
        _ => Err(Failure::Unavailable("the broker refused a command".into())),
    };
    for command in commands {
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_message_id(command.job_id.as_str().into());
        let (exchange, key) = (broker.names.commands().into(), command.account.as_str().into());
        let options = BasicPublishOptions::default();
        let published = broker.channel.basic_publish(exchange, key, options, &command.body, properties);
        unconfirmed.push_back(broker.within(published).await?);
        if unconfirmed.len() > WINDOW
            && let Some(oldest) = unconfirmed.pop_front()
        {
            check(broker.within(oldest).await?)?;
        }
    }
    for confirm in unconfirmed {
        check(broker.within(confirm).await?)?;
    }
    Ok(())
}

/// What has become of the commands so far.
#[derive(Default)]
struct Tally {
    /// By the digest of a command, which the event of a faulty one has, too: results to come. One that was published twice has two.
    waiting: BTreeMap<String, usize>,
    total: usize,
    endings: BTreeMap<(String, String), usize>,
}

impl Tally {
    /// Shows results as they come, until all are there or nobody reads any more.
    async fn fill(&mut self, mut results: Consumer, json: bool, begun: Instant) -> Result<(), Failure> {
        let (mut seen, mut told) = (0, Instant::now());
        while !self.waiting.is_empty() {
            let Some(delivery) = results.next().await else {
                return Err(Failure::Unavailable("the broker ended the connection".into()));
            };
            let data = delivery?.data;
            let event: Value = serde_json::from_slice(&data).unwrap_or_default();
            let text = |field: &str| event["data"][field].as_str().unwrap_or("-").to_owned();
            let digest = text("commandDigest");
            let Some(left) = self.waiting.get_mut(&digest) else { continue };
            *left -= 1;
            if *left == 0 {
                self.waiting.remove(&digest);
            }
            seen += 1;
            *self.endings.entry((text("outcome"), text("cause"))).or_default() += 1;
            let goes_on = match json {
                true => print(&plain_json(&String::from_utf8_lossy(&data)))?,
                false => print(&format!("[{seen:>4}/{}] {}", self.total, broker::line(&event)))?,
            };
            if !goes_on && !self.waiting.is_empty() {
                let missing = counted(self.waiting.values().sum::<usize>(), "result");
                return Err(Failure::NotYet(format!("nobody reads the results any more; {missing} not seen")));
            }
            // Where the results themselves are on the screen, they are progress enough.
            if told.elapsed() > PROGRESS && !std::io::stdout().is_terminal() {
                tell(format_args!("{seen} of {} results{}", self.total, rate(seen, begun)));
                told = Instant::now();
            }
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
fn from_lines(lines: impl BufRead, arguments: &Arguments) -> Result<Vec<Outgoing>, Failure> {
    let mut commands = Vec::new();
    for (at, line) in lines.lines().enumerate() {
        let line = line.map_err(|e| Failure::Usage(format!("line {}: {e}", at + 1)))?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |what: &str| Failure::Usage(format!("line {}: {what}", at + 1));
        serde_json::from_str::<&RawValue>(&line).map_err(|e| wrong(&format!("not JSON: {e}")))?;
        let members = json::members(&line).ok_or_else(|| wrong("not a JSON object"))?;
        if members.iter().filter(|(key, _)| key == "account").count() > 1 {
            return Err(wrong("it names \"account\" twice"));
        }
        let text = |key: &str| json::get(&members, key).and_then(json::string);
        let (own, job_id) = (text("account"), text("jobId"));
        let job_id = job_id.ok_or_else(|| wrong("it has no jobId, by which its result is known"))?;
        let body = if own.is_some() { without_account(&members) } else { line.clone() };
        let account = own
            .or_else(|| arguments.account.clone())
            .ok_or_else(|| wrong("it names no \"account\", and there is no --account"))?;
        commands.push(Outgoing::new(account, job_id, body.into_bytes()).map_err(|e| wrong(&e))?);
    }
    Ok(commands)
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
