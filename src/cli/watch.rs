//! `watch`: follows the result events, or replays the log of them.

use super::{
    Failure,
    broker::{self, Broker},
    plain_json, print, tell,
};
use crate::outcome::Outcome;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use serde_json::Value;
use std::{path::Path, time::Duration};

/// A worker's clock may be ahead of ours.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::seconds(30);

#[derive(Args)]
#[command(after_help = "Examples:
  qris-cancel-worker watch                                   results as they come
  qris-cancel-worker watch --since 2h --outcome unresolved   those of the last two hours, and on
  qris-cancel-worker watch --since 1d --job order-4711-cancel --idle-s 2
                                                             what has become of one
  qris-cancel-worker watch --since 1d --idle-s 2 --json      a day's events as they are, for a script

Without --since, the broker keeps up to 100,000 events while nothing is read here, and then drops the oldest. A note says so.")]
pub struct Arguments {
    /// Only this account's events.
    #[arg(long)]
    account: Option<String>,
    /// Only events with this outcome.
    #[arg(long, value_parser = Outcome::ALL.map(Outcome::name))]
    outcome: Option<String>,
    /// Only the events of this job.
    #[arg(long, value_name = "JOB_ID")]
    job: Option<String>,
    /// Begin with the log's events of this age: 90s, 15m, 2h, 3d.
    #[arg(long, value_parser = age, value_name = "AGE")]
    since: Option<TimeDelta>,
    /// The events as they are, one a line.
    #[arg(long)]
    json: bool,
    /// End after this many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End when no event has come for this many seconds; with --since, also when the log has been read up to now.
    #[arg(long, value_name = "SECONDS")]
    idle_s: Option<u64>,
    /// Names on the broker begin with this.
    #[arg(long)]
    prefix: Option<String>,
}

pub async fn run(config: Option<&Path>, arguments: Arguments) -> Result<(), Failure> {
    let broker = Broker::reach(config, arguments.prefix.as_deref(), "watch").await?;
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "*".into());
    let begun = Utc::now();
    let since = arguments.since.map(|age| begun - age);
    let is_of_later = |event: &Value| time_of(event).is_some_and(|time| time > begun + CLOCKS_DIFFER);
    let mut events = match since {
        Some(since) => broker.log(since).await?,
        None => {
            let events = broker.results().await?;
            events.bind(&format!("{}.{}", part(&arguments.account), part(&arguments.outcome))).await?;
            events
        }
    };
    let (mut left, mut told, mut others) = (arguments.count.unwrap_or(u64::MAX), 0_u64, 0_u64);
    let ended = |told, others| match &arguments.job {
        Some(job) if told == 0 && others > 0 => Err(Failure::No(format!(
            "{job:?} has events, and none is of this account, outcome and age: leave --account and --outcome out, or go further \
             back with --since"
        ))),
        Some(job) if told == 0 => Err(Failure::No(format!(
            "no event of {job:?} was told in this time: it may still wait in a queue or between two attempts, or was never \
             published"
        ))),
        _ => Ok(()),
    };
    while left > 0 {
        let limit = Duration::from_secs(arguments.idle_s.unwrap_or(u64::MAX));
        let Ok(delivery) = tokio::time::timeout(limit, events.next()).await else {
            return ended(told, others);
        };
        let delivery = delivery?;
        events.take(&delivery).await?;
        let Ok(event) = serde_json::from_slice::<Value>(&delivery.data) else {
            tell(format_args!("a message of {} bytes that is no event", delivery.data.len()));
            continue;
        };
        if since.is_some() && arguments.idle_s.is_some() && is_of_later(&event) {
            return ended(told, others);
        }
        if !wanted(&event, &arguments, since) {
            others += u64::from(arguments.job.as_deref().is_some_and(|job| event["data"]["jobId"] == job));
            continue;
        }
        (left, told) = (left - 1, told + 1);
        let line =
            if arguments.json { plain_json(&String::from_utf8_lossy(&delivery.data)) } else { broker::line(&event) };
        if !print(&line)? {
            return Ok(());
        }
    }
    Ok(())
}

fn wanted(event: &Value, arguments: &Arguments, since: Option<DateTime<Utc>>) -> bool {
    let is = |wanted: &Option<String>, field: &str| {
        wanted.as_ref().is_none_or(|wanted| event["data"][field] == wanted.as_str())
    };
    let young = since.is_none_or(|since| time_of(event).is_none_or(|time| time >= since));
    young && is(&arguments.job, "jobId") && is(&arguments.account, "account") && is(&arguments.outcome, "outcome")
}

fn time_of(event: &Value) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(event["time"].as_str()?).ok()?.to_utc())
}

fn age(text: &str) -> Result<TimeDelta, String> {
    let wrong = || format!("{text:?} is no age: write 90s, 15m, 2h or 3d");
    let (at, unit) = text.char_indices().next_back().ok_or_else(wrong)?;
    let number: i64 = text[..at].parse().map_err(|_| wrong())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let age = number.checked_mul(seconds).and_then(TimeDelta::try_seconds).ok_or_else(wrong)?;
    Utc::now().checked_sub_signed(age).map(|_| age).ok_or_else(wrong)
}
