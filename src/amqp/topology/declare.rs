//! Makes the objects on a broker, or only looks whether they are there, and says what is wrong with each.

use super::{Argument, Object};
use crate::{amqp::AmqpError, settings::Amqp};
use lapin::{
    Channel, Connection, Queue,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::Value;
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
    Ok(explained(&declared(connection, objects, limit).await?))
}

/// What an object was refused for.
pub(super) type Refused = (Object, lapin::Error);

pub(super) async fn declared(
    connection: &Connection,
    objects: &[Object],
    limit: Duration,
) -> Result<Vec<Refused>, AmqpError> {
    let act = |channel, object| async move { declare_one(&channel, &object).await };
    let (named, others): (Vec<_>, Vec<_>) = objects.iter().cloned().partition(has_a_name);
    let (surplus, bindings): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|object| matches!(object, Object::NoBinding { .. }));
    let mut refused = each(connection, &named, limit, act).await?;
    // An upgrade may be emptying a queue that differs.
    let is_refused = |queue: &String| refused.iter().any(|(object, _)| object.name() == queue);
    let bindings: Vec<_> =
        bindings.into_iter().filter(|b| !matches!(b, Object::Binding { to, .. } if is_refused(to))).collect();
    refused.extend(each(connection, &bindings, limit, act).await?);
    // Only where the messages have their own queue: else they would have none.
    if refused.is_empty() {
        refused = each(connection, &surplus, limit, act).await?;
    }
    Ok(refused)
}

pub(super) fn explained(refused: &[Refused]) -> Vec<String> {
    refused.iter().map(|(object, error)| explain(object, error)).collect()
}

/// Compares everything with what the broker has: what is missing, and where the *configure* permission allows it, what
/// differs. Nothing is created, except that a missing binding cannot be told from one that is there.
///
/// # Errors
/// When the connection fails, or the broker does not answer for one of them within the limit.
pub async fn verify(connection: &Connection, objects: &[Object], limit: Duration) -> Result<Vec<String>, AmqpError> {
    let absent = missing(connection, objects, limit).await?;
    if !absent.is_empty() {
        return Ok(explained(&absent));
    }
    let comparable: Vec<_> = objects.iter().filter(|object| has_a_name(object)).cloned().collect();
    declare(connection, &comparable, limit).await
}

/// Exchanges and queues can be looked at. AMQP has no way to ask for a binding.
fn has_a_name(object: &Object) -> bool {
    matches!(object, Object::Exchange { .. } | Object::Queue { .. })
}

/// What is not there.
pub(super) async fn missing(
    connection: &Connection,
    objects: &[Object],
    limit: Duration,
) -> Result<Vec<Refused>, AmqpError> {
    each(connection, objects, limit, |channel, object| async move { passive_one(&channel, &object).await }).await
}

/// Does something with each object on a channel that is thrown away when the broker closes it over a difference.
async fn each<F, R>(
    connection: &Connection,
    objects: &[Object],
    limit: Duration,
    act: F,
) -> Result<Vec<Refused>, AmqpError>
where
    F: Fn(Channel, Object) -> R,
    R: Future<Output = lapin::Result<()>>,
{
    let mut refused = Vec::new();
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
            refused.push((object.clone(), error));
            channel = connection.create_channel().await?;
        }
    }
    if let Err(error) = channel.close(200, "done".into()).await {
        tracing::debug!(%error, "the channel for declarations was closed already");
    }
    Ok(refused)
}

async fn declare_one(channel: &Channel, object: &Object) -> lapin::Result<()> {
    match object {
        Object::Exchange { name, kind, internal, arguments } => {
            let options = ExchangeDeclareOptions { durable: true, internal: *internal, ..Default::default() };
            channel.exchange_declare(name.as_str().into(), kind.clone(), options, table(arguments)).await
        }
        Object::Queue { name, arguments, .. } => {
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
        Object::NoBinding { from, to } => unbind(channel, from, to, "").await,
    }
}

/// A binding that is not there is as good as one that was taken away.
pub(super) async fn unbind(channel: &Channel, from: &str, to: &str, routing_key: &str) -> lapin::Result<()> {
    channel.queue_unbind(to.into(), from.into(), routing_key.into(), FieldTable::default()).await
}

/// How a queue stands: its messages that nobody has in hand, and its consumers.
pub(super) async fn look_at(channel: &Channel, queue: &str) -> lapin::Result<Queue> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await
}

async fn passive_one(channel: &Channel, object: &Object) -> lapin::Result<()> {
    match object {
        Object::Exchange { name, kind, .. } => {
            let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
            channel.exchange_declare(name.as_str().into(), kind.clone(), options, FieldTable::default()).await
        }
        Object::Queue { name, .. } => look_at(channel, name).await.map(drop),
        Object::Binding { .. } | Object::NoBinding { .. } => Ok(()),
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
        Object::NoBinding { from, to } => format!("binding {from} -> {to}, which an upgrade has left,"),
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
    let Some((argument, is, wanted)) = difference_of(object, error) else { return format!("{what}: {said}") };
    let how = match object {
        Object::Queue { moves: true, .. } => {
            "stop the workers and type `qris-cancel-worker topology upgrade`: it moves the messages to a queue as this version wants it"
        }
        _ => "settle on one value, or delete it when it is empty and type `qris-cancel-worker topology declare`",
    };
    format!("{what} has {argument} {is}, and {wanted} is wanted; {how}")
}

pub(super) fn difference_of(object: &Object, error: &lapin::Error) -> Option<(String, String, String)> {
    difference(object, &error.to_string())
}

/// The argument that RabbitMQ names, its value on the broker, and the one that is wanted.
fn difference(object: &Object, said: &str) -> Option<(String, String, String)> {
    let argument = said.split_once("inequivalent arg '")?.1.split_once('\'')?.0;
    let ours = match object {
        Object::Exchange { arguments, .. } | Object::Queue { arguments, .. } => arguments,
        _ => return None,
    };
    let wanted = ours.iter().find(|(name, _)| *name == argument).map(|(_, value)| Value::from(value).to_string());
    // "current is the value '100' of type 'signedint'", "current is none", or "current is 'direct'".
    let current = said.split_once("current is ")?.1;
    let is = match current.split('\'').nth(1) {
        Some(value) if !current.starts_with("none") => value,
        _ => "none",
    };
    Some((argument.to_owned(), is.to_owned(), wanted.unwrap_or_else(|| "none".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_both_values() {
        let said = |current: &str| {
            format!(
                "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': received {current}"
            )
        };
        let queue = Object::Queue {
            name: "q".into(),
            arguments: vec![("x-delivery-limit", Argument::Integer(100))],
            moves: true,
        };
        for (text, is) in [
            ("the value '100' of type 'signedint' but current is the value '20' of type 'signedint'", "20"),
            ("the value '100' of type 'signedint' but current is none", "none"),
        ] {
            let expected = ("x-delivery-limit".to_owned(), is.to_owned(), "100".to_owned());
            assert_eq!(difference(&queue, &said(text)), Some(expected));
        }
    }
}
