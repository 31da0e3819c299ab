//! `schema`: the JSON Schemas of command and event, and the AsyncAPI document.

use super::{Failure, account_named, no_settings, print};
use crate::{
    amqp::topology::Names,
    schema::{self, Reader},
    settings::Settings,
    snap::profile::{BUILT_IN, Profile},
};
use clap::{Args, Subcommand};
use std::path::Path;

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    of: Of,
}

#[derive(Subcommand)]
enum Of {
    /// JSON Schema of the commands: what holds for all built-in profiles, or what one account or profile takes.
    Command {
        /// As this account of the settings takes them.
        #[arg(long, conflicts_with = "profile")]
        account: Option<String>,
        /// As this profile says: a built-in one's name, or a file's path.
        #[arg(long)]
        profile: Option<String>,
    },
    /// JSON Schema of the result events.
    Event,
    /// AsyncAPI 3.0: exchanges, queues and messages.
    Asyncapi {
        /// Names on the broker begin with this.
        #[arg(long, default_value = "qris.cancel")]
        prefix: String,
    },
}

pub fn run(config: Option<&Path>, arguments: Arguments) -> Result<(), Failure> {
    let built_in = BUILT_IN.map(|(name, text)| Profile::read(name, text).expect("tests read it"));
    let all = built_in.each_ref().map(Reader::of_any_account);
    let document = match arguments.of {
        Of::Command { account: Some(name), .. } => {
            let accounts = Settings::load_accounts(config.ok_or_else(no_settings)?)?;
            let partner = &account_named(&accounts, &name)?.partner;
            schema::command(&[Reader { profile: &partner.profile, defaults: Some(&partner.merchant) }])
        }
        Of::Command { profile: Some(name), .. } => {
            let profile = Profile::find(&name, Path::new("")).map_err(|e| Failure::Usage(e.to_string()))?;
            schema::command(&[Reader::of_any_account(&profile)])
        }
        Of::Command { .. } => schema::command(&all),
        Of::Event => schema::event(),
        Of::Asyncapi { prefix } => schema::asyncapi(&Names::new(&prefix), &all),
    };
    print(&format!("{document:#}"))?;
    Ok(())
}
