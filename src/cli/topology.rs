//! `topology`: shows, declares or checks the broker's objects.

use super::{Failure, print};
use crate::{
    amqp::{
        AmqpError, connect,
        topology::{self, Argument, Names, Object, Upgraded, kind_name},
    },
    settings::{Amqp, Settings},
};
use clap::{Args, Subcommand, ValueEnum};
use std::path::Path;

#[derive(Args)]
#[command(after_help = "Examples:
  qris-cancel-worker topology declare                         make what is missing
  qris-cancel-worker topology verify                          say what is missing or differs
  qris-cancel-worker topology upgrade                         while no worker runs: move messages out of queues that differ
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
    /// Give queues of an earlier version the arguments of this one. Stop all workers first; publishers may go on.
    ///
    /// RabbitMQ cannot change the arguments of a queue, so the messages of each queue that differs move, and the queue is made again.
    /// Killed at any point and typed again, it goes on. It stops before it deletes command queues and says how to look whether they
    /// are empty: AMQP does not show all that a queue holds. No worker may start before it says that it is done.
    Upgrade {
        /// `rabbitmqctl list_queues` has shown 0 messages for each queue that the upgrade has named.
        #[arg(long)]
        seen_empty: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    /// For `rabbitmqctl import_definitions`.
    Definitions,
}

pub async fn run(config: &Path, arguments: Arguments) -> Result<(), Failure> {
    let (amqp, accounts, results_log) = Settings::load_topology(config)?;
    let names = Names::new(&amqp.prefix);
    let objects = topology::objects(&names, &accounts, results_log);
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
            let connection = connect(&amqp, "topology").await?;
            let is_all_there = topology::verify(&connection, &objects, amqp.confirm_timeout).await?.is_empty();
            let problems = topology::declare(&connection, &objects, amqp.confirm_timeout).await?;
            if !is_all_there {
                tokio::time::sleep(topology::OLD_ENOUGH).await;
            }
            problems
        }
        Action::Upgrade { seen_empty } => upgraded(&amqp, &names, &objects, seen_empty).await?,
        Action::Verify => topology::verify(&connect(&amqp, "topology").await?, &objects, amqp.confirm_timeout).await?,
    };
    if problems.is_empty() {
        print(&format!("{} objects are as they should be", objects.len())).map(drop)
    } else {
        Err(Failure::No(problems.join("\n")))
    }
}

/// So many messages are in hand at a time. Confirms of so many come together; more would only come twice if this is killed.
const AT_ONCE: u16 = 64;

async fn upgraded(amqp: &Amqp, names: &Names, objects: &[Object], seen_empty: bool) -> Result<Vec<String>, Failure> {
    let upgrade = async |at_once| {
        let connection = connect(amqp, "topology upgrade").await?;
        topology::upgrade(&connection, names, objects, amqp.confirm_timeout, seen_empty, at_once).await
    };
    let ended = match upgrade(AT_ONCE).await {
        // One by one, what comes before that message is moved, too.
        Err(AmqpError::UnreadableInUpgrade(_)) => upgrade(1).await?,
        ended => ended?,
    };
    match ended {
        Upgraded::Done { moved, problems } => {
            print(&format!("{moved} messages moved"))?;
            Ok(problems)
        }
        Upgraded::Consumed(queues) => {
            let queues = queues.join(", ");
            Err(Failure::No(format!(
                "no message was moved, as these queues have consumers: {queues}; stop all workers"
            )))
        }
        Upgraded::Drained { moved, queues } => Err(Failure::NotYet(format!(
            "{moved} messages moved; these queues are unbound and empty, as far as AMQP shows:\n  {}\n\
             Wait ten seconds, and type on the broker\n  rabbitmqctl list_queues name messages\n\
             Where it shows 0 for each of them, type `qris-cancel-worker topology upgrade --seen-empty`. A queue with messages \
             still holds what has expired in it: RabbitMQ moves that to the strays within three minutes. Start no worker before.",
            queues.join("\n  ")
        ))),
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
        Object::Queue { name, arguments, .. } => format!("queue    {name}{}", list(arguments)),
        Object::Binding { from, to, routing_key, .. } => format!("binding  {from} -> {to} {routing_key:?}"),
        Object::NoBinding { from, to } => format!("none     {from} -> {to}"),
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
