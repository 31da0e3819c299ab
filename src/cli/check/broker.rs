//! Does the broker let the worker do its work?
//!
//! AMQP has no way to ask for a permission. RabbitMQ looks at it first, though, and at the rest of a request later: a
//! request that cannot succeed tells whether it would have been allowed. So nothing is published and nothing consumed.

use super::{Finding, Grade};
use crate::{
    amqp::{
        AmqpError, connect, is_before_3_13,
        topology::{self, MISSING, Names, Object, UNSEEN},
        version,
    },
    settings::Settings,
};
use lapin::{
    BasicProperties, Connection,
    options::{
        BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};

/// The broker, as findings call it.
const BROKER: &str = "broker";

/// What an operation that cannot succeed was answered.
#[derive(Debug, PartialEq, Eq)]
enum Permission {
    Granted,
    Refused,
    /// There is nothing that it could be asked of.
    NotThere,
    Unclear(String),
}

pub async fn findings(settings: &Settings) -> Vec<Finding> {
    let connection = match connect(&settings.amqp, "check").await {
        Ok(connection) => connection,
        Err(error) => {
            let refused = matches!(&error, AmqpError::Connect { error, .. } if is_refusal(error));
            let grade = if refused { Grade::Wrong } else { Grade::Unreached };
            return vec![Finding::new(grade, BROKER, error.to_string())];
        }
    };
    let mut findings = vec![Finding::new(
        Grade::Good,
        BROKER,
        match connection.configuration().heartbeat() {
            0 => "connected, without heartbeat".to_owned(),
            seconds => format!("connected, with a heartbeat of {seconds} s"),
        },
    )];
    findings.push(of_version(version(&settings.amqp).await));
    let limit = settings.amqp.confirm_timeout;
    match tokio::time::timeout(limit, looked_at(&connection, settings)).await {
        Ok(Ok(more)) => findings.extend(more),
        Ok(Err(error)) => findings.push(Finding::new(Grade::Unreached, BROKER, error.to_string())),
        Err(_) => findings.push(Finding::new(Grade::Unreached, BROKER, format!("it did not answer within {limit:?}"))),
    }
    // A broker that does not answer does not say goodbye either.
    if let Ok(Err(error)) = tokio::time::timeout(limit, connection.close(200, "done".into())).await {
        tracing::debug!(%error, "the connection was closed already");
    }
    findings
}

fn of_version(said: std::io::Result<Option<String>>) -> Finding {
    match said {
        Ok(Some(version)) if is_before_3_13(&version) => {
            let text = format!(
                "RabbitMQ {version}: whoever may publish commands can stop every retry of a node; where publishers are not trusted use 3.13 or later"
            );
            Finding::new(Grade::Unknown, BROKER, text)
        }
        Ok(Some(version)) => Finding::new(Grade::Good, BROKER, format!("RabbitMQ {version}")),
        Ok(None) => Finding::new(Grade::Unknown, BROKER, "it does not say that it is RabbitMQ, or which version"),
        Err(error) => Finding::new(Grade::Unknown, BROKER, format!("its version cannot be read: {error}")),
    }
}

fn is_refusal(error: &lapin::Error) -> bool {
    let said = error.to_string();
    ["ACCESS_REFUSED", "NOT_ALLOWED", "access to vhost"].iter().any(|refusal| said.contains(refusal))
}

async fn looked_at(connection: &Connection, settings: &Settings) -> Result<Vec<Finding>, AmqpError> {
    let amqp = &settings.amqp;
    let names = Names::new(&amqp.prefix);
    let objects = topology::objects(&names, &settings.account_names(), settings.results_log);
    let problems = topology::verify(connection, &objects, settings.amqp.confirm_timeout).await?;
    let mut findings = of_topology(&problems, objects.len(), amqp.declare);
    if amqp.declare && problems.iter().any(|problem| problem.contains(MISSING)) {
        findings.push(of_declaring(may_declare(connection, &amqp.prefix).await?, &amqp.prefix));
    }

    let exchanges = objects.iter().filter_map(|object| match object {
        Object::Exchange { name, .. } if *name == names.events() || names.is_for_keeping(name) => Some(name.clone()),
        _ => None,
    });
    let default_exchange = (!amqp.reply_to_allow.is_empty()).then(String::new);
    let mut writes = Vec::new();
    for exchange in exchanges.chain(default_exchange) {
        writes.push((may_publish(connection, &exchange).await?, exchange));
    }
    findings.extend(of_permissions(&writes, "write", "publish to"));

    let mut reads = Vec::new();
    let of_accounts = settings.account_names().into_iter().map(|account| names.commands_of(&account));
    for queue in of_accounts.chain([names.strays(), names.strays_expired()]) {
        reads.push((may_consume(connection, &queue).await?, queue));
    }
    findings.extend(of_permissions(&reads, "read", "consume"));
    Ok(findings)
}

fn of_topology(problems: &[String], objects: usize, declares: bool) -> Vec<Finding> {
    if problems.is_empty() {
        let text = format!("its {objects} objects are as they should be; whether bindings are there, AMQP cannot tell");
        return vec![Finding::new(Grade::Good, BROKER, text)];
    }
    let (missing, others): (Vec<_>, Vec<_>) = problems.iter().partition(|problem| problem.contains(MISSING));
    let (unseen, differing): (Vec<_>, Vec<_>) = others.into_iter().partition(|problem| problem.contains(UNSEEN));
    let mut findings = Vec::new();
    match (missing.len(), declares) {
        (0, _) => {}
        (count, true) => findings.push(Finding::new(
            Grade::Good,
            BROKER,
            format!("{count} objects are not there yet: the worker makes them when it starts"),
        )),
        (count, false) => {
            let first = missing[0].replace(MISSING, "");
            let text = format!("{count} objects are missing ({}, …); make them with `topology declare`", first.trim());
            findings.push(Finding::new(Grade::Wrong, BROKER, text));
        }
    }
    match (unseen.len(), declares) {
        (0, _) => {}
        (count, true) => findings.push(Finding::new(
            Grade::Wrong,
            BROKER,
            format!("{count} objects cannot be declared: {UNSEEN}; grant it, or set amqp.declare = false"),
        )),
        (count, false) => findings.push(Finding::new(
            Grade::Unknown,
            BROKER,
            format!("{count} objects are there; whether their arguments are right cannot be told, as {UNSEEN}"),
        )),
    }
    findings.extend(differing.iter().map(|problem| Finding::new(Grade::Wrong, BROKER, problem.as_str())));
    findings
}

fn of_declaring(answer: Permission, prefix: &str) -> Finding {
    match answer {
        Permission::Granted => Finding::new(Grade::Good, BROKER, format!("may declare what begins with {prefix}")),
        Permission::Refused => {
            let text = format!("may not declare what begins with {prefix}: {UNSEEN}; grant it, or declare otherwise");
            Finding::new(Grade::Wrong, BROKER, text)
        }
        other => Finding::new(Grade::Unknown, BROKER, format!("whether it may declare cannot be told: {other:?}")),
    }
}

/// One finding for all objects with the same answer.
fn of_permissions(asked: &[(Permission, String)], permission: &str, what: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let with = |answer| asked.iter().filter(move |(given, _)| *given == answer).map(|(_, name)| name.as_str());
    let granted = with(Permission::Granted).count();
    if granted > 0 {
        let kind = if permission == "write" { "exchanges" } else { "queues" };
        let text = format!("may {what} {granted} of the {} {kind} that a worker needs", asked.len());
        findings.push(Finding::new(Grade::Good, BROKER, text));
    }
    let refused: Vec<_> = with(Permission::Refused).collect();
    if !refused.is_empty() {
        let text = format!("may not {what} {}: the user lacks the {permission} permission", listed(&refused));
        findings.push(Finding::new(Grade::Wrong, BROKER, text));
    }
    let not_there: Vec<_> = with(Permission::NotThere).collect();
    if !not_there.is_empty() {
        let text = format!("whether it may {what} {} is seen when they are there", listed(&not_there));
        findings.push(Finding::new(Grade::Unknown, BROKER, text));
    }
    findings.extend(asked.iter().filter_map(|(answer, name)| match answer {
        Permission::Unclear(why) => {
            let text = format!("whether it may {what} {} cannot be told: {why}", listed(&[name]));
            Some(Finding::new(Grade::Unknown, BROKER, text))
        }
        _ => None,
    }));
    findings
}

/// The first of the names, and how many more there are.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 3;
    let name = |name: &&str| if name.is_empty() { "amq.default (for reply_to)".into() } else { (*name).to_owned() };
    let shown: Vec<String> = names.iter().take(SHOWN).map(name).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// By a queue that is ours alone, and goes.
async fn may_declare(connection: &Connection, prefix: &str) -> Result<Permission, AmqpError> {
    let name = format!("{prefix}.check.{:016x}", fastrand::u64(..));
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    if let Err(error) = channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await {
        return judge(error);
    }
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await?;
    Ok(Permission::Granted)
}

/// By a message whose expiration is no number and whose user is another: it is refused for either.
async fn may_publish(connection: &Connection, exchange: &str) -> Result<Permission, AmqpError> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let properties = BasicProperties::default()
        .with_expiration("never".into())
        .with_user_id("nobody: a check of permissions".into());
    let options = BasicPublishOptions::default();
    let publishing = async {
        channel.basic_publish(exchange.into(), "check".into(), options, b"", properties).await?.await.map(drop)
    };
    match publishing.await {
        Ok(()) => Ok(Permission::Unclear("the broker took a message that it had to refuse".into())),
        Err(error) => judge(error),
    }
}

/// By a consumer whose priority is no number.
async fn may_consume(connection: &Connection, queue: &str) -> Result<Permission, AmqpError> {
    let channel = connection.create_channel().await?;
    // Should it become one all the same, it takes a single message, which goes back.
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongString("none: a check of permissions".into()));
    match channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), arguments).await {
        Ok(_) => {
            channel.close(200, "done".into()).await?;
            Ok(Permission::Granted)
        }
        Err(error) => judge(error),
    }
}

fn judge(error: lapin::Error) -> Result<Permission, AmqpError> {
    if !error.is_amqp_soft_error() {
        return Err(error.into());
    }
    let said = error.to_string();
    Ok(match said {
        said if said.contains("PRECONDITION_FAILED") => Permission::Granted,
        said if said.contains("ACCESS_REFUSED") => Permission::Refused,
        said if said.contains("NOT_FOUND") => Permission::NotThere,
        said => Permission::Unclear(said),
    })
}
