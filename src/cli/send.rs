//! `send`: publishes cancel commands as an order service would, persistent and confirmed, and can wait for their results.

use super::{
    Failure,
    broker::{self, Broker},
    watch::print,
};
use clap::Args;
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Confirmation, Consumer,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::BufRead,
    path::Path,
    time::Duration,
};

/// Confirms that may be outstanding.
const WINDOW: usize = 500;

#[derive(Args)]
pub struct Arguments {
    /// The account, which is the routing key. On standard input a line can name its own as "account".
    #[arg(long)]
    account: Option<String>,
    /// Read commands from standard input, one JSON object a line.
    #[arg(long, conflicts_with_all = ["job_id", "reference", "partner_reference", "reason"])]
    stdin: bool,
    #[command(flatten)]
    fields: Fields,
    /// Show the results as they come, and end when all are there.
    #[arg(long)]
    wait: bool,
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

pub async fn run(config: Option<&Path>, arguments: Arguments) -> Result<(), Failure> {
    let commands =
        if arguments.stdin { from_lines(std::io::stdin().lock(), &arguments)? } else { vec![from_flags(&arguments)?] };
    let broker = Broker::reach(config, arguments.prefix.as_deref(), "send").await?;
    for account in commands.iter().map(|command| &command.account).collect::<BTreeSet<_>>() {
        if !broker.accounts.is_empty() && !broker.accounts.contains(account) {
            eprintln!("note: the settings have no account {account:?}; there are {}", broker.accounts.join(", "));
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
    let mut waiting: BTreeMap<String, u32> = BTreeMap::new();
    for command in &commands {
        *waiting.entry(command.job_id.clone()).or_default() += 1;
    }
    publish(&broker, &commands).await?;
    eprintln!(
        "{} confirmed by the broker",
        if commands.len() == 1 { "1 command".into() } else { format!("{} commands", commands.len()) }
    );
    match results {
        Some(results) => wait(results, waiting, Duration::from_secs(arguments.timeout_s)).await,
        None => Ok(()),
    }
}

async fn publish(broker: &Broker, commands: &[Outgoing]) -> Result<(), Failure> {
    broker.channel.confirm_select(ConfirmSelectOptions::default()).await?;
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
        let published = broker
            .channel
            .basic_publish(exchange, key, BasicPublishOptions::default(), &command.body, properties)
            .await?;
        unconfirmed.push_back(published);
        if unconfirmed.len() > WINDOW
            && let Some(oldest) = unconfirmed.pop_front()
        {
            check(oldest.await?)?;
        }
    }
    for confirm in unconfirmed {
        check(confirm.await?)?;
    }
    Ok(())
}

/// Shows results as they come, then a table of them. A command that was published twice has two results to come.
async fn wait(mut results: Consumer, mut waiting: BTreeMap<String, u32>, limit: Duration) -> Result<(), Failure> {
    let total: u32 = waiting.values().sum();
    let mut endings: BTreeMap<(String, String), u32> = BTreeMap::new();
    let all_there = async {
        let mut seen = 0;
        while !waiting.is_empty() {
            let Some(delivery) = results.next().await else {
                return Err(Failure::Unavailable("the broker ended the connection".into()));
            };
            let event: Value = serde_json::from_slice(&delivery?.data).unwrap_or_default();
            let text = |field: &str| event["data"][field].as_str().unwrap_or("-").to_owned();
            let Some(left) = waiting.get_mut(&text("jobId")) else { continue };
            *left -= 1;
            if *left == 0 {
                waiting.remove(&text("jobId"));
            }
            seen += 1;
            *endings.entry((text("outcome"), text("cause"))).or_default() += 1;
            if !print(&format!("[{seen:>4}/{total}] {}", broker::line(&event))) {
                return Ok(());
            }
        }
        Ok(())
    };
    let ended = tokio::time::timeout(limit, all_there).await;
    println!("\n{:12} {:28} {:>6}", "outcome", "cause", "count");
    for ((outcome, cause), count) in &endings {
        println!("{outcome:12} {cause:28} {count:>6}");
    }
    println!("{total} commands in, {} outcomes out", endings.values().sum::<u32>());
    match ended {
        Ok(ended) => ended,
        Err(_) => {
            let missing = waiting.values().sum::<u32>();
            Err(Failure::No(format!("no result within {} s for {missing} of the commands", limit.as_secs())))
        }
    }
}

fn from_flags(arguments: &Arguments) -> Result<Outgoing, Failure> {
    let account = arguments.account.clone().ok_or_else(|| Failure::Usage("name the account with --account".into()))?;
    let (job_id, body) = arguments.fields.command();
    Ok(Outgoing { account, job_id, body })
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
        let mut fields: Map<String, Value> =
            serde_json::from_str(&line).map_err(|e| wrong(&format!("not a JSON object: {e}")))?;
        let own = fields.remove("account").and_then(|account| account.as_str().map(str::to_owned));
        let job_id = fields
            .get("jobId")
            .and_then(Value::as_str)
            .ok_or_else(|| wrong("it has no jobId, by which its result is known"))?
            .to_owned();
        let body = if own.is_some() { Value::Object(fields).to_string() } else { line };
        let account = own
            .or_else(|| arguments.account.clone())
            .ok_or_else(|| wrong("it names no \"account\", and there is no --account"))?;
        commands.push(Outgoing { account, job_id, body: body.into_bytes() });
    }
    Ok(commands)
}

fn field(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let value = match value.starts_with(['{', '[']) {
        true => serde_json::from_str(value).map_err(|e| format!("{name}: {e}"))?,
        false => json!(value),
    };
    Ok((name.to_owned(), value))
}
