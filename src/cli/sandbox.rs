//! `sandbox`: plays the providers of all accounts of the settings.

use super::{Failure, print, tell};
use crate::{
    sandbox::{self, CanceledAgain, Faults, Options, Unknown},
    settings::{Log, LogFormat, Settings},
    shutdown::Stop,
    telemetry,
};
use clap::{Args, ValueEnum};
use std::{net::SocketAddr, path::Path, time::Duration};

#[derive(Args)]
#[command(after_help = "Examples:
  qris-cancel-worker sandbox --config worker.toml                plays the providers of these accounts
  qris-cancel-worker sandbox --config worker.toml --faults 0.2   a fifth of the calls goes wrong, in every way there is
  qris-cancel-worker sandbox --config worker.toml --faults hang=0.05,500=0.1 --latency-ms 80")]
pub struct Arguments {
    /// Where to listen. An account's base_url is then http://THIS/NAME.
    #[arg(long, default_value = "127.0.0.1:8077")]
    listen: SocketAddr,
    /// What goes wrong: a share of all calls (0.3), or faults by name (hang=0.05,reset_after=0.02).
    #[arg(long, default_value = "0")]
    faults: Faults,
    /// The same seed gives the same faults to the same order of calls.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What a reference is that nobody has created: a QR that waits to be paid, or nothing.
    #[arg(long, value_enum, default_value = "pending")]
    unknown: UnknownArgument,
    /// What the cancel of a QR that is cancelled already is answered: that its state is another (404, case 00), or that it is not permitted
    /// (403, case 15), a refusal.
    #[arg(long, value_enum, default_value = "invalid-status")]
    canceled_again: CanceledAgainArgument,
    /// How long each answer takes.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// How long a hang lasts.
    #[arg(long, default_value_t = 60_000)]
    hang_ms: u64,
    /// How long an access token lives.
    #[arg(long, default_value_t = 900)]
    token_lifetime_s: u64,
    /// What is logged: info tells each change of a transaction, debug each call.
    #[arg(long, default_value = "info")]
    log_level: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum UnknownArgument {
    Pending,
    NotFound,
}

#[derive(Clone, Copy, ValueEnum)]
enum CanceledAgainArgument {
    InvalidStatus,
    NotPermitted,
}

pub async fn run(config: Option<&Path>, arguments: Arguments) -> Result<(), Failure> {
    let config = config.ok_or_else(|| {
        Failure::Usage("name the settings file with --config: the sandbox plays its accounts' providers".into())
    })?;
    let accounts = Settings::load_accounts(config)?;
    telemetry::start(&Log { format: LogFormat::Human, level: arguments.log_level }).map_err(Failure::Usage)?;
    let unavailable = |e: std::io::Error| Failure::Unavailable(format!("{}: {e}", arguments.listen));
    let listener = tokio::net::TcpListener::bind(arguments.listen).await.map_err(unavailable)?;
    let stop = Stop::on_signals(Duration::ZERO).map_err(unavailable)?;
    for account in &accounts {
        let base_url = format!("http://{}/{}", arguments.listen, account.name);
        print(&format!("{} speaks as {} at {base_url}", account.name, account.partner.profile.title))?;
        if account.partner.base_url != base_url {
            tell(format_args!(
                "note: the settings send {} elsewhere; set its base_url to {base_url} to use the sandbox",
                account.name
            ));
        }
    }
    print(&format!("what reached it: http://{}/_sandbox and /_sandbox/transactions", arguments.listen))?;
    let options = Options {
        faults: arguments.faults,
        seed: arguments.seed,
        unknown: match arguments.unknown {
            UnknownArgument::Pending => Unknown::Pending,
            UnknownArgument::NotFound => Unknown::NotFound,
        },
        canceled_again: match arguments.canceled_again {
            CanceledAgainArgument::InvalidStatus => CanceledAgain::InvalidStatus,
            CanceledAgainArgument::NotPermitted => CanceledAgain::NotPermitted,
        },
        latency: Duration::from_millis(arguments.latency_ms),
        hang: Duration::from_millis(arguments.hang_ms),
        token_lifetime: Duration::from_secs(arguments.token_lifetime_s),
    };
    let partners = accounts.iter().map(|account| (account.name.clone(), account.partner.clone())).collect();
    sandbox::serve(listener, partners, options, async move { stop.soon.cancelled().await }).await.map_err(unavailable)
}
