//! `parked`: looks at the commands that are set aside for a person, replays them, or discards them.

mod counts;
mod queue;
mod replay;
mod table;

use super::{Failure, broker::Broker, plain_json, print, progress::Progress, tell};
use crate::{
    message::Message,
    outcome::Cause,
    parked::{Parked, Whole},
};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, builder::PossibleValuesParser};
use queue::{Copy, Holds, Queue};
use std::{
    io::{IsTerminal, Write},
    path::Path,
};
use table::Table;

#[derive(Args)]
#[command(after_help = "Examples:
  qris-cancel-worker parked list                              what there is, and what to do about it
  qris-cancel-worker parked show --job order-4711-cancel      one of them, with its calls
  qris-cancel-worker parked replay --account bnc --cause attempts_exhausted
  qris-cancel-worker parked discard --cause unknown_field >discarded.json")]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
    /// Names on the broker begin with this.
    #[arg(long, global = true)]
    prefix: Option<String>,
}

#[derive(Subcommand)]
enum Action {
    /// A line for each: since when, account, job, why, attempts, calls, and what to do.
    ///
    /// Everything stays where it is, in its order. While this reads, another reader of the queue sees only what is left. Of a long list, the
    /// widths of the columns are those of its first 500 rows.
    List {
        #[command(flatten)]
        which: Which,
        /// An object a line.
        #[arg(long)]
        json: bool,
    },
    /// All of them: the command as it was published, its properties, and the calls that were made, as JSON.
    ///
    /// Of more than 20 calls, the first and the last ten are kept; their numbers say which. What is wrong with an invalid command is in its
    /// event: `watch --since 1d --job JOB_ID --json`.
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Give them to the workers again: everything begins anew, with a query. Their history is kept.
    ///
    /// A command leaves the queue when the broker has confirmed its copy. Broken off, it goes on where it was when it is run again; a
    /// command that was on its way then may run twice, with events of the same id. By account alone, what wants a look first is left: what its
    /// publisher has to mend, `worker_crashed`, `no_query`, and what no worker has put there.
    Replay {
        #[command(flatten)]
        which: Chosen,
        /// No cancel is sent after this time, in place of the command's own limit: 2026-11-21T18:00:00+07:00.
        #[arg(long, value_parser = future, value_name = "TIME")]
        not_after: Option<DateTime<Utc>>,
        /// Only say which.
        #[arg(long)]
        dry_run: bool,
    },
    /// Throw them away, and print what they were.
    ///
    /// All are printed first, then it asks once. If it is killed, what is not thrown away yet is parked as before.
    Discard {
        #[command(flatten)]
        which: Chosen,
        /// Only say which.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// Which of the parked commands are meant: those to which all that is said applies.
#[derive(Args, Clone)]
struct Which {
    /// The command of this job.
    #[arg(long, value_name = "JOB_ID")]
    job: Option<String>,
    /// Those of this account.
    #[arg(long)]
    account: Option<String>,
    /// Those that ended so.
    #[arg(long, value_parser = parked_causes(), hide_possible_values = true)]
    cause: Option<String>,
    /// The one whose SHA-256 begins so: for those that have no readable job id.
    #[arg(long, value_name = "HEX", value_parser = digest)]
    digest: Option<String>,
}

/// The same, and it has to be said.
#[derive(Args, Clone)]
#[command(group = clap::ArgGroup::new("chosen").required(true).multiple(true).args(["job", "account", "cause", "digest", "all"]))]
struct Chosen {
    #[command(flatten)]
    which: Which,
    /// All there are.
    #[arg(long, conflicts_with_all = ["job", "account", "cause", "digest"])]
    all: bool,
}

impl Which {
    fn means(&self, parked: &Parked) -> bool {
        let is = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_ref().is_none_or(|wanted| is == Some(wanted.as_str()))
        };
        is(&self.job, parked.job_id.as_deref())
            && is(&self.account, Some(&parked.account))
            && is(&self.cause, parked.cause.map(Cause::name))
            && self.digest.as_ref().is_none_or(|wanted| parked.command_digest.starts_with(wanted))
    }

    /// Whether a replay leaves it: by account alone nobody means what wants a look first.
    fn spares(&self, parked: &Parked) -> bool {
        let by_account_alone =
            self.account.is_some() && self.job.is_none() && self.cause.is_none() && self.digest.is_none();
        by_account_alone && parked.wants_a_look()
    }
}

fn parked_causes() -> PossibleValuesParser {
    Cause::ALL.iter().filter(|cause| cause.outcome().is_parked()).map(|cause| cause.name()).collect::<Vec<_>>().into()
}

pub async fn run(config: Option<&Path>, arguments: Arguments) -> Result<(), Failure> {
    let broker = Broker::reach(config, arguments.prefix.as_deref(), "parked").await?;
    let queue = Queue::open(&broker).await?;
    if queue.others() > 0 {
        let (parked, others) = (broker.names.parked(), queue.others());
        tell(format_args!("note: consumers of others read {parked} now ({others}); what they hold is not shown"));
    }
    match arguments.action {
        Action::List { which, json } => {
            list(queue, &which, json, "parked").await?;
            tell_of_unreadable(&broker).await
        }
        Action::Show { which } => show(queue, &which).await,
        Action::Discard { which, dry_run: true, .. } => list(queue, &which.which, false, "would be discarded").await,
        Action::Replay { which, not_after, dry_run } => {
            replay::run(&broker, queue, &which.which, not_after, dry_run).await
        }
        Action::Discard { which, yes, .. } => discard(queue, &which.which, yes).await,
    }
}

async fn list(mut queue: Queue<'_>, which: &Which, json: bool, what_of_them: &str) -> Result<(), Failure> {
    let (mut table, mut progress, mut read) = (Table::default(), Progress::beside_output(), 0_u64);
    let mut is_read = true;
    while let Some(Copy { parked, .. }) = queue.next().await? {
        read += 1;
        progress.tell(|| format!("{read} read, {} to come", queue.left()));
        if !which.means(&parked) {
            continue;
        }
        let lines = match json {
            true => vec![plain_json(&serde_json::to_string(&parked).expect("texts and numbers are JSON"))],
            false => table.add(&parked),
        };
        is_read = print_all(&lines)?;
        if !is_read {
            queue.enough();
        }
    }
    let given_back = queue.give_back().await;
    if !json && is_read {
        print_all(&table.end(what_of_them))?;
    }
    given_back
}

/// Commands that no worker can read lie beside those that are parked.
async fn tell_of_unreadable(broker: &Broker) -> Result<(), Failure> {
    let queue = broker.names.unreadable();
    if let Some(count @ 1..) = broker.depth_if_any(&queue).await? {
        tell(format_args!(
            "{} in {queue} cannot be read by any worker: docs/RUNBOOK.md says what to do",
            commands(count.into())
        ));
    }
    Ok(())
}

async fn show(mut queue: Queue<'_>, which: &Which) -> Result<(), Failure> {
    let (mut found, mut progress) = (0, Progress::beside_output());
    while let Some(Copy { parked, message, .. }) = queue.next().await? {
        progress.tell(|| format!("{found} found, {} to come", queue.left()));
        if which.means(&parked) {
            found += 1;
            if !print(&whole(&parked, &message))? {
                queue.enough();
            }
        }
    }
    queue.give_back().await?;
    some_of(found)
}

async fn discard(mut queue: Queue<'_>, which: &Which, yes: bool) -> Result<(), Failure> {
    if !yes && !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("discarding asks first; without a terminal say --yes".into()));
    }
    let (mut found, mut progress) = (Holds::default(), Progress::beside_output());
    while let Some(Copy { parked, message, hold }) = queue.next().await? {
        progress.tell(|| format!("{} found, {} to come", found.count(), queue.left()));
        if which.means(&parked) {
            // The last that is seen of it.
            let printed = print(&whole(&parked, &message));
            if !matches!(printed, Ok(true)) {
                queue.enough();
                queue.give_back().await?;
                printed?;
                return Err(Failure::Unavailable("nobody has read what they were, so none is discarded".into()));
            }
            found.add(hold);
        }
    }
    let count = found.count();
    let sure = yes || count == 0 || ask(&format!("Discard {} for good? [y/N] ", commands(count)));
    let (mut discarded, mut progress) = (0, Progress::new());
    let ended = async {
        if sure && count > 0 {
            queue.still_held().await?;
        }
        for hold in found.each().filter(|_| sure) {
            queue.take_out(hold).await?;
            discarded += 1;
            progress.tell(|| format!("{discarded} of {count} discarded"));
        }
        Ok::<_, Failure>(())
    }
    .await;
    let given_back = queue.give_back().await;
    if count > 0 {
        tell(format_args!("{} discarded", commands(discarded)));
    }
    ended?;
    given_back?;
    some_of(count)
}

/// Lines of output. False when nobody reads any more.
fn print_all(lines: &[String]) -> Result<bool, Failure> {
    for line in lines {
        if !print(line)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn ask(question: &str) -> bool {
    let mut answer = String::new();
    let asked = std::io::stderr().write_all(question.as_bytes());
    asked.is_ok()
        && std::io::stdin().read_line(&mut answer).is_ok()
        && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

fn whole(parked: &Parked, message: &Message) -> String {
    plain_json(&serde_json::to_string_pretty(&Whole::new(parked, message)).expect("texts and numbers are JSON"))
}

fn commands(count: u64) -> String {
    if count == 1 { "1 command".into() } else { format!("{count} commands") }
}

fn some_of(found: u64) -> Result<(), Failure> {
    match found {
        0 => Err(Failure::No("none of the parked commands is meant by that; `parked list` shows them".into())),
        _ => Ok(()),
    }
}

fn digest(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix('#').unwrap_or(text).to_ascii_lowercase();
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hex && (8..=64).contains(&digits.len()) {
        Ok(digits)
    } else {
        Err("write 8 to 64 of its hexadecimal digits".into())
    }
}

fn future(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text)
        .map_err(|_| "write a time with its offset, like 2026-11-21T18:00:00+07:00".to_owned())?
        .to_utc();
    if time > Utc::now() { Ok(time) } else { Err("this time has passed".into()) }
}
