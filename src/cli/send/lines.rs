//! The commands that are to be sent: one from the flags, or a line each of standard input.

use crate::{
    cli::Failure,
    command::json::{self, Members},
};
use serde_json::value::RawValue;
use std::io::{BufRead, Read};
use tokio::sync::mpsc;

/// The longest routing key or message id, in bytes.
const AMQP_TEXT: usize = 255;
/// Lines that are read and not sent yet.
const READ_AHEAD: usize = 16;
/// A command has 64 KiB at most. Longer ones can be sent, to see what becomes of them; a file without line breaks is a slip.
const LONGEST_LINE: usize = 1 << 20;

/// A command that can be published.
pub struct Outgoing {
    pub account: String,
    pub job_id: String,
    pub body: Vec<u8>,
}

impl Outgoing {
    pub fn new(account: String, job_id: String, body: Vec<u8>) -> Result<Self, String> {
        for (what, text) in [("account", &account), ("jobId", &job_id)] {
            if text.len() > AMQP_TEXT {
                return Err(format!("{what} has {} bytes, and AMQP takes {AMQP_TEXT}", text.len()));
            }
        }
        Ok(Self { account, job_id, body })
    }
}

/// A line of standard input, with its number.
pub struct Line {
    pub number: u64,
    pub command: Outgoing,
}

pub type Lines = mpsc::Receiver<Result<Line, Failure>>;

pub fn one_line(command: Outgoing) -> Lines {
    let (lines, read) = mpsc::channel(1);
    lines.try_send(Ok(Line { number: 1, command })).expect("there is room for one");
    read
}

/// Lines of standard input, read as they are wanted. A thread reads them, as nothing else waits for one that does not come.
pub fn lines_of_stdin(account: Option<String>) -> Lines {
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
