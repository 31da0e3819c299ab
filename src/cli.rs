//! The command line: a file for each sub-command. Exit codes are those of sysexits: 64 usage, 69 unavailable, 75 not yet,
//! 78 settings; and 1 where the answer is no.

mod broker;
mod check;
mod completions;
mod parked;
mod progress;
mod run;
mod sandbox;
mod schema;
mod send;
mod sign;
mod topology;
mod watch;

use crate::{
    amqp::AmqpError,
    settings::{Account, Settings, SettingsError, names::nearest},
};
use clap::{Parser, Subcommand, error::ErrorKind};
use std::{path::PathBuf, process::ExitCode, sync::Arc};

/// Cancels unpaid QRIS payments: commands from RabbitMQ, signed SNAP requests to payment providers, result events back.
#[derive(Parser)]
#[command(name = "qris-cancel-worker", version, arg_required_else_help = true)]
struct Cli {
    /// The settings file.
    #[arg(long, short, global = true, env = crate::settings::CONFIG_VARIABLE, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Work: consume commands, cancel at the providers, publish result events.
    Run,
    /// Read the settings and tell what the worker will do with them; with --connect, try every connection that it will need.
    Check(check::Arguments),
    /// The worker's exchanges, queues and bindings on the broker.
    Topology(topology::Arguments),
    /// Play the providers, to try things with: checks signatures, tokens and fields as they do, and fails on request.
    Sandbox(sandbox::Arguments),
    /// Publish cancel commands, as an order service would.
    Send(Box<send::Arguments>),
    /// Print what a shell needs to complete this program's commands, as in `source <(qris-cancel-worker completions bash)`.
    Completions(completions::Arguments),
    /// Look at the commands that are set aside for a person; replay or discard them.
    Parked(parked::Arguments),
    /// Show what a call is signed over, and why a provider makes another signature of it. Sends nothing.
    ///
    /// It shows URL, body, its SHA-256, string to sign, signature, headers, and the fingerprint of the public key. String and
    /// signature are printed on purpose, and with --token the token within them: keep the output to yourself and the bank.
    /// Private keys and secrets are never printed. It needs no broker.
    Sign(Box<sign::Arguments>),
    /// Print the JSON Schema of commands or events, or the AsyncAPI document. Needs no broker.
    Schema(schema::Arguments),
    /// Follow the result events, or replay the log of them.
    Watch(watch::Arguments),
}

/// Why a sub-command ended badly.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments do not fit together.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Something that is needed is not there.
    #[error("{0}")]
    Unavailable(String),
    /// It was begun, and has not ended in time.
    #[error("{0}")]
    NotYet(String),
    /// It was done, and the answer is no.
    #[error("{0}")]
    No(String),
}

impl From<AmqpError> for Failure {
    fn from(error: AmqpError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<lapin::Error> for Failure {
    fn from(error: lapin::Error) -> Self {
        let mut text = error.to_string();
        if text.contains("NOT_FOUND") {
            text += "; has a worker run on this broker, with this prefix? `topology declare` makes what is missing";
        }
        Self::Unavailable(text)
    }
}

impl Failure {
    /// The same, and more to say.
    fn with(self, more: &str) -> Self {
        match self {
            Self::Usage(text) => Self::Usage(format!("{text}; {more}")),
            Self::Unavailable(text) => Self::Unavailable(format!("{text}; {more}")),
            Self::NotYet(text) => Self::NotYet(format!("{text}; {more}")),
            Self::No(text) => Self::No(format!("{text}; {more}")),
            settings @ Self::Settings(_) => settings,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::No(_) => 1,
            Self::Usage(_) => 64,
            Self::Unavailable(_) => 69,
            Self::NotYet(_) => 75,
            Self::Settings(_) => 78,
        }
    }
}

/// Runs the command line of this process.
pub async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(asked) => {
            let good = matches!(asked.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return match asked.print() {
                Ok(()) if good => ExitCode::SUCCESS,
                _ => ExitCode::from(64),
            };
        }
    };
    let config = cli.config.as_deref();
    let settings = || match config {
        Some(path) => Ok(Settings::load(path)?),
        None => Err(no_settings()),
    };
    let done = match cli.command {
        Command::Run => match config {
            Some(path) => run::run(path).await,
            None => Err(no_settings()),
        },
        Command::Check(arguments) => match settings() {
            Ok(settings) => check::run(&settings, arguments).await,
            Err(failure) => Err(failure),
        },
        Command::Topology(arguments) => match config {
            Some(path) => topology::run(path, arguments).await,
            None => Err(no_settings()),
        },
        Command::Sandbox(arguments) => sandbox::run(config, arguments).await,
        Command::Send(arguments) => send::run(config, *arguments).await,
        Command::Completions(arguments) => completions::run::<Cli>(&arguments),
        Command::Parked(arguments) => parked::run(config, arguments).await,
        Command::Sign(arguments) => sign::run(config, *arguments),
        Command::Schema(arguments) => schema::run(config, arguments),
        Command::Watch(arguments) => watch::run(config, arguments).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(format_args!("{failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}

fn no_settings() -> Failure {
    Failure::Usage(format!("name the settings file with --config or {}", crate::settings::CONFIG_VARIABLE))
}

/// The account of that name; else what it may have been meant to be.
fn account_named<'a>(accounts: &'a [Arc<Account>], name: &str) -> Result<&'a Account, Failure> {
    let names = || accounts.iter().map(|account| account.name.as_str());
    let found = accounts.iter().find(|account| account.name == name);
    found.map(|account| &**account).ok_or_else(|| Failure::Usage(unknown_account(name, names())))
}

/// That there is no such account, and which may be meant.
fn unknown_account<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let meant = nearest(name, known.clone()).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    format!("no account is named {name:?}{meant} (there are {})", Vec::from_iter(known).join(", "))
}

/// A publisher's or provider's words for a terminal, which they must not steer.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// A line beside the output. Where nobody reads it, the work goes on all the same.
fn tell(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// JSON for a terminal, which it must not steer: it leaves the control characters beyond ASCII as they are.
fn plain_json(json: &str) -> String {
    let escaped = |c: char| if c.is_control() { format!("\\u{:04x}", u32::from(c)) } else { c.into() };
    // Those of ASCII are white space between its members.
    json.chars().map(|c| if c < '\u{7f}' { c.into() } else { escaped(c) }).collect()
}

/// A line of output, coloured only where a person reads it. False when nobody reads any more, as behind `| head`.
///
/// # Errors
/// When it cannot be written: a file that lacks its end would look whole.
fn print(line: &str) -> Result<bool, Failure> {
    use std::io::{ErrorKind, Write};
    match writeln!(anstream::stdout(), "{line}") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Unavailable(format!("the output cannot be written: {error}"))),
    }
}
