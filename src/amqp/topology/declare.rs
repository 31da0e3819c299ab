//! Makes the objects on a broker, or only looks whether they are there, and says what is wrong with each.

use super::{Argument, Object};
use crate::{amqp::AmqpError, settings::Amqp};
use lapin::{
    Channel, Connection,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use std::time::Duration;
use tokio::time::timeout;

/// In a problem that says that something could not be looked at.
pub const UNSEEN: &str = "the user lacks the configure permission";
/// In a problem that says that something is not there.
pub const MISSING: &str = "is missing; make it with `topology declare`";

/// Declares everything that is missing, or only checks that it is there, as the settings say.
///
/// # Errors
/// Names every object that is missing or differs, and how.
pub async fn prepare(connection: &Connection, settings: &Amqp, objects: &[Object]) -> Result<(), AmqpError> {
    let limit = settings.confirm_timeout;
    let problems = match settings.declare {
        true => declare(connection, objects, limit).await?,
        false => {
            let differing = verify(connection, objects, limit).await?;
            let (unseen, differing): (Vec<_>, Vec<_>) =
                differing.into_iter().partition(|problem| problem.contains(UNSEEN));
            if !unseen.is_empty() {
                tracing::warn!(objects = unseen.len(), "arguments cannot be compared without the configure permission");
            }
            differing
        }
    };
    if problems.is_empty() { Ok(()) } else { Err(AmqpError::Topology(problems.join("\n"))) }
}

/// Declares everything; what already exists with other arguments is told, not changed.
///
/// # Errors
/// When the connection fails, or the broker does not answer for one of them within the limit.
pub async fn declare(connection: &Connection, objects: &[Object], limit: Duration) -> Result<Vec<String>, AmqpError> {
    each(connection, objects, limit, |channel, object| async move { declare_one(&channel, &object).await }).await
}

/// Compares everything with what the broker has: what is missing, and where the *configure* permission allows it, what
/// differs. Nothing is created, except that a missing binding cannot be told from one that is there.
///
/// # Errors
/// When the connection fails, or the broker does not answer for one of them within the limit.
pub async fn verify(connection: &Connection, objects: &[Object], limit: Duration) -> Result<Vec<String>, AmqpError> {
    let absent = missing(connection, objects, limit).await?;
    if !absent.is_empty() {
        return Ok(absent);
    }
    let comparable: Vec<_> =
        objects.iter().filter(|object| !matches!(object, Object::Binding { .. })).cloned().collect();
    declare(connection, &comparable, limit).await
}

/// What is not there.
async fn missing(connection: &Connection, objects: &[Object], limit: Duration) -> Result<Vec<String>, AmqpError> {
    each(connection, objects, limit, |channel, object| async move { passive_one(&channel, &object).await }).await
}

/// Does something with each object on a channel that is thrown away when the broker closes it over a difference.
async fn each<F, R>(
    connection: &Connection,
    objects: &[Object],
    limit: Duration,
    act: F,
) -> Result<Vec<String>, AmqpError>
where
    F: Fn(Channel, Object) -> R,
    R: Future<Output = lapin::Result<()>>,
{
    let mut problems = Vec::new();
    let mut channel = connection.create_channel().await?;
    for object in objects {
        // A node of a cluster that has lost its majority never answers for a quorum queue. That may pass, and so is no problem of
        // the topology.
        let Ok(acted) = timeout(limit, act(channel.clone(), object.clone())).await else {
            return Err(AmqpError::NoAnswer { asked: format!("the broker, asked for {},", name_of(object)), limit });
        };
        if let Err(error) = acted {
            if !error.is_amqp_soft_error() {
                return Err(error.into());
            }
            problems.push(explain(object, &error));
            channel = connection.create_channel().await?;
        }
    }
    if let Err(error) = channel.close(200, "done".into()).await {
        tracing::debug!(%error, "the channel for declarations was closed already");
    }
    Ok(problems)
}

async fn declare_one(channel: &Channel, object: &Object) -> lapin::Result<()> {
    match object {
        Object::Exchange { name, kind, internal, arguments } => {
            let options = ExchangeDeclareOptions { durable: true, internal: *internal, ..Default::default() };
            channel.exchange_declare(name.as_str().into(), kind.clone(), options, table(arguments)).await
        }
        Object::Queue { name, arguments } => {
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare(name.as_str().into(), options, table(arguments)).await.map(drop)
        }
        Object::Binding { from, to, to_exchange: true, routing_key } => {
            let (to, from, key) = (to.as_str().into(), from.as_str().into(), routing_key.as_str().into());
            channel.exchange_bind(to, from, key, ExchangeBindOptions::default(), FieldTable::default()).await
        }
        Object::Binding { from, to, to_exchange: false, routing_key } => {
            let (to, from, key) = (to.as_str().into(), from.as_str().into(), routing_key.as_str().into());
            channel.queue_bind(to, from, key, QueueBindOptions::default(), FieldTable::default()).await
        }
    }
}

async fn passive_one(channel: &Channel, object: &Object) -> lapin::Result<()> {
    match object {
        Object::Exchange { name, kind, .. } => {
            let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
            channel.exchange_declare(name.as_str().into(), kind.clone(), options, FieldTable::default()).await
        }
        Object::Queue { name, .. } => {
            let options = QueueDeclareOptions { passive: true, ..Default::default() };
            channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.map(drop)
        }
        // AMQP has no way to ask for a binding.
        Object::Binding { .. } => Ok(()),
    }
}

fn table(arguments: &[(&'static str, Argument)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.into());
    }
    table
}

fn name_of(object: &Object) -> String {
    match object {
        Object::Exchange { name, .. } => format!("exchange {name}"),
        Object::Queue { name, .. } => format!("queue {name}"),
        Object::Binding { from, to, routing_key, .. } => format!("binding {from} -> {to} with the key {routing_key:?}"),
    }
}

/// What a refusal means and how to mend it. RabbitMQ names the first argument that differs.
fn explain(object: &Object, error: &lapin::Error) -> String {
    let (said, what) = (error.to_string(), name_of(object));
    if said.contains("NOT_FOUND") {
        return match object {
            Object::Binding { .. } => {
                format!("{what} cannot be made: one of the two is not there, for a reason told above")
            }
            _ => format!("{what} {MISSING}"),
        };
    }
    if said.contains("ACCESS_REFUSED") {
        return format!("{what} cannot be declared or compared: {UNSEEN} for it ({said})");
    }
    let differs = said
        .split_once("inequivalent arg '")
        .and_then(|(_, rest)| rest.split_once('\''))
        .map(|(name, _)| name.to_owned());
    match differs {
        Some(argument) => format!(
            "{what} exists with another {argument}; delete it when it is empty, or settle on one value ({said})"
        ),
        None => format!("{what}: {said}"),
    }
}
