//! `topology`: shows, declares or checks the broker's objects.

use super::{Failure, print};
use crate::{
    amqp::{
        connect,
        topology::{self, Argument, Names, Object, kind_name},
    },
    settings::Settings,
};
use clap::{Args, Subcommand, ValueEnum};
use std::path::Path;

#[derive(Args)]
#[command(after_help = "Examples:
  qris-cancel-worker topology declare                         make what is missing
  qris-cancel-worker topology verify                          say what is missing or differs
  qris-cancel-worker topology show --format definitions >definitions.json    for rabbitmqctl import_definitions")]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make what is missing. What exists with other arguments is told, never changed.
    Declare,
    /// Print what there should be. Needs no broker.
    Show {
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        /// The virtual host, for `definitions`.
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// Say what is missing on the broker, or differs.
    Verify,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    /// For `rabbitmqctl import_definitions`.
    Definitions,
}

pub async fn run(config: &Path, arguments: Arguments) -> Result<(), Failure> {
    let (amqp, accounts, results_log) = Settings::load_topology(config)?;
    let objects = topology::objects(&Names::new(&amqp.prefix), &accounts, results_log);
    let problems = match arguments.action {
        Action::Show { format: Format::Text, .. } => {
            for object in &objects {
                if !print(&line(object))? {
                    break;
                }
            }
            return Ok(());
        }
        Action::Show { format: Format::Definitions, vhost } => {
            return print(&format!("{:#}", topology::definitions(&objects, &vhost))).map(drop);
        }
        Action::Declare => {
            topology::declare(&connect(&amqp, "topology").await?, &objects, amqp.confirm_timeout).await?
        }
        Action::Verify => topology::verify(&connect(&amqp, "topology").await?, &objects, amqp.confirm_timeout).await?,
    };
    if problems.is_empty() {
        print(&format!("{} objects are as they should be", objects.len())).map(drop)
    } else {
        Err(Failure::No(problems.join("\n")))
    }
}

fn line(object: &Object) -> String {
    let list = |arguments: &[(&'static str, Argument)]| {
        arguments.iter().map(|(name, value)| format!(" {name}={}", serde_json::Value::from(value))).collect::<String>()
    };
    match object {
        Object::Exchange { name, kind, internal, arguments } => {
            format!(
                "exchange {name} {}{}{}",
                kind_name(kind),
                if *internal { " internal" } else { "" },
                list(arguments)
            )
        }
        Object::Queue { name, arguments } => format!("queue    {name}{}", list(arguments)),
        Object::Binding { from, to, routing_key, .. } => format!("binding  {from} -> {to} {routing_key:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ResultsLog;
    use std::time::Duration;

    /// Each argument has its reason in `topology`: one that is lost must be lost on purpose.
    #[test]
    fn the_objects_are_these() {
        let log = ResultsLog { max_age: Duration::from_secs(7 * 86_400), max_bytes: 1_000_000_000 };
        let objects = topology::objects(&Names::new("qris.cancel"), &["bnc".into()], Some(log));
        insta::assert_snapshot!(objects.iter().map(line).collect::<Vec<_>>().join("\n"));
    }
}
