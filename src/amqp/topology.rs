//! Every exchange, queue and binding, with the reason for each option. What is listed here is what `topology show` prints,
//! `declare` makes and `verify` checks.
//!
//! An alternate exchange or a dead-letter target is an exchange, so in front of each queue that is one stands a fan-out
//! exchange of the same name, declared first: RabbitMQ confirms and then drops what goes to one that does not exist.
//!
//! Queues are quorum queues: replicated, and the only kind that dead-letters at least once.

mod declare;
mod upgrade;

pub use declare::{MISSING, UNSEEN, declare, prepare, verify};
pub use upgrade::{OLD_ENOUGH, Upgraded, upgrade};

use crate::settings::ResultsLog;
use lapin::{ExchangeKind, types::AMQPValue};
use serde_json::{Value, json};
use std::time::Duration;

/// The shortest bucket's delay; bucket k holds delays in [L, 2L) with L = 250 ms × 2^k.
const SHORTEST_BUCKET_MS: u64 = 250;
/// 250 ms to over an hour.
const BUCKETS: u32 = 15;
/// Practically none, where nothing comes after the queue: RabbitMQ 4's default of 20 drops what was only looked at, and −1 loses
/// messages on 3.10.
const DELIVERY_LIMIT: i32 = 1_000_000;
/// Of a command queue. A worker gives a command up at fifty deliveries by the count alone, so only a message that no worker can
/// read gets to a hundred. It goes on to the strays, and its account's queue is free again without a person.
const COMMANDS_DELIVERY_LIMIT: i32 = 100;
/// Of the strays and the expired strays. Their handling calls no provider, and what leaves by this limit is handled again by the
/// next queue, so few deliveries are enough: what nobody can read holds each of the two up for a short time only. RabbitMQ 4.3.6 does
/// not begin to count anew in the next queue, as 3.10.8 and 4.0.5 do: what comes from a command queue by its limit goes on there as
/// soon as it comes back once.
const STRAYS_DELIVERY_LIMIT: i32 = 20;

/// The names, which all start with the prefix.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
}

impl Names {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Where order services publish.
    pub fn commands(&self) -> String {
        format!("{}.commands", self.prefix)
    }

    pub fn commands_of(&self, account: &str) -> String {
        format!("{}.commands.{account}", self.prefix)
    }

    /// The account of a command queue; none for another queue.
    pub fn account_of<'a>(&self, queue: &'a str) -> Option<&'a str> {
        queue.strip_prefix(&self.commands())?.strip_prefix('.')
    }

    /// Where the buckets release to; clients cannot publish to it.
    pub fn due(&self) -> String {
        format!("{}.due", self.prefix)
    }

    pub fn strays(&self) -> String {
        format!("{}.strays", self.prefix)
    }

    /// Where strays go on to that no worker took before their publisher's expiration, or that no worker could read.
    pub fn strays_expired(&self) -> String {
        format!("{}.strays.expired", self.prefix)
    }

    /// Where a message ends up that no worker can read.
    pub fn unreadable(&self) -> String {
        format!("{}.unreadable", self.prefix)
    }

    /// Where those of our own messages become strays that miss their queue.
    pub fn strays_ours(&self) -> String {
        format!("{}.strays.ours", self.prefix)
    }

    /// The exchange through which they come to the strays, without their expiration.
    pub fn strays_ours_arrived(&self) -> String {
        format!("{}.strays.ours.arrived", self.prefix)
    }

    pub fn parked(&self) -> String {
        format!("{}.parked", self.prefix)
    }

    /// Where the worker publishes events.
    pub fn events(&self) -> String {
        format!("{}.events", self.prefix)
    }

    /// The reply exchange, to which consumers bind.
    pub fn results(&self) -> String {
        format!("{}.results", self.prefix)
    }

    pub fn unrouted(&self) -> String {
        format!("{}.results.unrouted", self.prefix)
    }

    pub fn results_log(&self) -> String {
        format!("{}.results.log", self.prefix)
    }

    /// Whether an exchange is one that retries or parked copies are published to.
    pub fn is_for_keeping(&self, exchange: &str) -> bool {
        exchange == self.parked() || exchange.starts_with(&format!("{}.retry.", self.prefix))
    }

    fn bucket(&self, lower_ms: u64) -> String {
        format!("{}.retry.{lower_ms}", self.prefix)
    }

    /// The bucket for a delay: a message leaves it after at least the delay and before twice the delay, because it waits
    /// behind others that all have less than twice its delay. Shorter delays than the shortest bucket's become that.
    pub fn bucket_for(&self, delay: Duration) -> (String, u64) {
        let longest = (SHORTEST_BUCKET_MS << BUCKETS) - 1;
        let ms = u64::try_from(delay.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).clamp(SHORTEST_BUCKET_MS, longest);
        let lower = SHORTEST_BUCKET_MS << (ms / SHORTEST_BUCKET_MS).ilog2();
        (self.bucket(lower), ms)
    }

    /// Whether a queue or exchange is one of ours.
    pub fn is_ours(&self, name: &str) -> bool {
        name.starts_with(&self.prefix)
    }
}

/// Those of the objects that a queue needs to be consumed: itself, and what is bound to it.
pub fn of_queue(objects: &[Object], queue: &str) -> Vec<Object> {
    let is_needed = |object: &&Object| match object {
        Object::Queue { name, .. } => name == queue,
        Object::Binding { to, to_exchange, .. } => !to_exchange && to == queue,
        Object::Exchange { .. } | Object::NoBinding { .. } => false,
    };
    objects.iter().filter(is_needed).cloned().collect()
}

/// One object on the broker.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Exchange {
        name: String,
        kind: ExchangeKind,
        internal: bool,
        arguments: Vec<(&'static str, Argument)>,
    },
    Queue {
        name: String,
        arguments: Vec<(&'static str, Argument)>,
        /// Whether [`upgrade()`] can give it other arguments.
        moves: bool,
    },
    /// From an exchange to a queue, or to another exchange.
    Binding {
        from: String,
        to: String,
        to_exchange: bool,
        routing_key: String,
    },
    /// A binding that only an upgrade makes, and that one leaves behind which was interrupted: what came through it would come twice.
    NoBinding {
        from: String,
        to: String,
    },
}

impl Object {
    /// Of an exchange or a queue; a binding has none.
    fn name(&self) -> &str {
        match self {
            Self::Exchange { name, .. } | Self::Queue { name, .. } => name,
            Self::Binding { .. } | Self::NoBinding { .. } => "",
        }
    }
}

/// An argument's value. RabbitMQ compares types, so an integer must not be written as a text.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    Text(String),
    Integer(i32),
    Long(i64),
}

impl From<&Argument> for AMQPValue {
    fn from(argument: &Argument) -> Self {
        match argument {
            Argument::Text(text) => Self::LongString(text.as_str().into()),
            Argument::Integer(number) => Self::LongInt(*number),
            Argument::Long(number) => Self::LongLongInt(*number),
        }
    }
}

impl From<&Argument> for Value {
    fn from(argument: &Argument) -> Self {
        match argument {
            Argument::Text(text) => json!(text),
            Argument::Integer(number) => json!(number),
            Argument::Long(number) => json!(number),
        }
    }
}

fn text(value: impl Into<String>) -> Argument {
    Argument::Text(value.into())
}

/// All objects, in an order in which they can be declared.
pub fn objects(names: &Names, accounts: &[String], log: Option<ResultsLog>) -> Vec<Object> {
    let mut objects = Vec::new();
    let quorum = |delivery_limit| {
        vec![("x-queue-type", text("quorum")), ("x-delivery-limit", Argument::Integer(delivery_limit))]
    };
    // No queue limits its length: it would refuse what it is there to keep. These two dead-letter nowhere: nothing comes after them.
    for name in [names.unreadable(), names.unrouted()] {
        objects.push(exchange(&name, ExchangeKind::Fanout, vec![]));
        objects.push(queue(&name, quorum(DELIVERY_LIMIT)));
        objects.push(bind(&name, &name, ""));
    }
    // Account queue -> strays -> expired strays -> unreadable. A stray keeps its publisher's expiration, with which it would vanish here
    // while no worker runs: so it goes on to the expired strays, which a worker tells of. It has no expiration any more then, as the
    // broker takes it off with the first dead-lettering. Not to `parked`: there a publisher's headers would be believed.
    for (name, next) in [(names.strays_expired(), names.unreadable()), (names.strays(), names.strays_expired())] {
        let mut arguments = quorum(STRAYS_DELIVERY_LIMIT);
        arguments.extend(dead_lettering_to(next));
        objects.push(exchange(&name, ExchangeKind::Fanout, vec![]));
        objects.push(Object::Queue { moves: name == names.strays(), name: name.clone(), arguments });
        objects.push(bind(&name, &name, ""));
    }
    // A retry has an expiration, with which it would expire where strays wait for a worker, and what it carries would be lost. So ours come by way of a queue that lets
    // everything expire at once: what is dead-lettered has none any more. No publisher's message may come here: the broker adds to
    // a forged `x-death` instead of writing its own, and what it says would be believed.
    let (ours, arrived) = (names.strays_ours(), names.strays_ours_arrived());
    objects.push(exchange(&arrived, ExchangeKind::Fanout, vec![]));
    objects.push(bind(&arrived, &names.strays(), ""));
    for from in [names.strays(), arrived.clone()] {
        objects.push(Object::NoBinding { from, to: names.strays_expired() });
    }
    let mut arguments = vec![("x-queue-type", text("quorum"))];
    arguments.extend(dead_lettering_to(arrived));
    arguments.push(("x-message-ttl", Argument::Long(0)));
    objects.push(exchange(&ours, ExchangeKind::Fanout, vec![]));
    objects.push(queue(&ours, arguments));
    objects.push(bind(&ours, &ours, ""));
    let missed = || ("alternate-exchange", text(names.strays_ours()));
    // A parked copy whose queue somebody has deleted becomes a stray instead of nothing.
    objects.push(exchange(&names.parked(), ExchangeKind::Fanout, vec![missed()]));
    objects.push(queue(&names.parked(), quorum(DELIVERY_LIMIT)));
    objects.push(bind(&names.parked(), &names.parked(), ""));
    // A command for an account that nobody has becomes a stray instead of nothing.
    objects.push(exchange(&names.commands(), ExchangeKind::Direct, vec![("alternate-exchange", text(names.strays()))]));
    // Internal: only the broker can publish to it, so the headers of what comes through it are ours. A retry whose account
    // was removed meanwhile becomes a stray.
    objects.push(Object::Exchange {
        name: names.due(),
        kind: ExchangeKind::Direct,
        internal: true,
        arguments: vec![missed()],
    });
    for account in accounts {
        let name = names.commands_of(account);
        // No limit of length: a queue that refuses would stall a bucket, and with it the retries of every account. What a
        // publisher's expiration takes out goes to the strays. It goes there by the broker's dead-letter worker, which no queue can do
        // without: a quorum queue that dead-letters at most once, or not at all, loses what expires when its target is away.
        let mut arguments = quorum(COMMANDS_DELIVERY_LIMIT);
        arguments.extend(dead_lettering_to(names.strays()));
        objects.push(Object::Queue { name: name.clone(), arguments, moves: true });
        objects.push(bind(&names.commands(), &name, account));
        objects.push(bind(&names.due(), &name, account));
    }
    for k in 0..BUCKETS {
        let lower_ms = SHORTEST_BUCKET_MS << k;
        let name = names.bucket(lower_ms);
        // A fan-out in front keeps the routing key, the account. Nobody consumes a bucket, so it needs no delivery limit. The
        // time to live is for a message that lost its own: it would stay for ever and hold up all behind it.
        let mut arguments = vec![("x-queue-type", text("quorum"))];
        arguments.extend(dead_lettering_to(names.due()));
        arguments
            .push(("x-message-ttl", Argument::Long(i64::try_from(2 * lower_ms).expect("two hours in milliseconds"))));
        // A retry whose bucket somebody has deleted becomes a stray instead of nothing.
        objects.push(exchange(&name, ExchangeKind::Fanout, vec![missed()]));
        objects.push(queue(&name, arguments));
        objects.push(bind(&name, &name, ""));
    }
    // Two exchanges for events: the log takes every one, which would keep an alternate exchange on the same exchange silent.
    objects.push(exchange(&names.results(), ExchangeKind::Topic, vec![("alternate-exchange", text(names.unrouted()))]));
    let unrouted = ("alternate-exchange", text(names.unrouted()));
    objects.push(exchange(&names.events(), ExchangeKind::Fanout, vec![unrouted]));
    objects.push(Object::Binding {
        from: names.events(),
        to: names.results(),
        to_exchange: true,
        routing_key: String::new(),
    });
    if let Some(log) = log {
        let bytes = i64::try_from(log.max_bytes).unwrap_or(i64::MAX);
        let arguments = vec![
            ("x-queue-type", text("stream")),
            ("x-max-age", text(format!("{}s", log.max_age.as_secs()))),
            ("x-max-length-bytes", Argument::Long(bytes)),
            // Only whole segments are dropped; the default of 500 MB would keep far more than was asked for.
            ("x-stream-max-segment-size-bytes", Argument::Long((bytes / 20).clamp(1_000_000, 50_000_000))),
        ];
        objects.push(queue(&names.results_log(), arguments));
        objects.push(bind(&names.events(), &names.results_log(), ""));
    }
    objects
}

/// At least once: a message leaves its queue when the target has it, and not before. That needs `reject-publish`: with the
/// usual overflow RabbitMQ falls back to at-most-once without a word.
fn dead_lettering_to(exchange: String) -> [(&'static str, Argument); 3] {
    [
        ("x-dead-letter-exchange", text(exchange)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]
}

fn exchange(name: &str, kind: ExchangeKind, arguments: Vec<(&'static str, Argument)>) -> Object {
    Object::Exchange { name: name.to_owned(), kind, internal: false, arguments }
}

fn queue(name: &str, arguments: Vec<(&'static str, Argument)>) -> Object {
    Object::Queue { name: name.to_owned(), arguments, moves: false }
}

fn bind(from: &str, queue: &str, routing_key: &str) -> Object {
    Object::Binding {
        from: from.to_owned(),
        to: queue.to_owned(),
        to_exchange: false,
        routing_key: routing_key.to_owned(),
    }
}

/// The objects in the form that `rabbitmqctl import_definitions` reads.
pub fn definitions(objects: &[Object], vhost: &str) -> Value {
    let arguments = |arguments: &[(&'static str, Argument)]| -> Value {
        arguments.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value))).collect()
    };
    let (mut exchanges, mut queues, mut bindings) = (vec![], vec![], vec![]);
    for object in objects {
        match object {
            Object::Exchange { name, kind, internal, arguments: args } => exchanges.push(json!({
                "name": name, "vhost": vhost, "type": kind_name(kind), "durable": true, "auto_delete": false, "internal": internal, "arguments": arguments(args),
            })),
            Object::Queue { name, arguments: args, .. } => queues.push(json!({
                "name": name, "vhost": vhost, "durable": true, "auto_delete": false, "arguments": arguments(args),
            })),
            Object::Binding { from, to, to_exchange, routing_key } => bindings.push(json!({
                "source": from, "vhost": vhost, "destination": to, "destination_type": if *to_exchange { "exchange" } else { "queue" },
                "routing_key": routing_key, "arguments": {},
            })),
            Object::NoBinding { .. } => {}
        }
    }
    json!({ "exchanges": exchanges, "queues": queues, "bindings": bindings })
}

/// As AMQP names the type of an exchange.
pub fn kind_name(kind: &ExchangeKind) -> &str {
    match kind {
        ExchangeKind::Direct => "direct",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Topic => "topic",
        ExchangeKind::Headers => "headers",
        ExchangeKind::Custom(name) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_target_is_declared_before_it_is_named() {
        let names = Names::new("p");
        let log = ResultsLog { max_age: Duration::from_secs(3600), max_bytes: 1_000_000 };
        let mut declared: Vec<String> = vec![];
        for object in objects(&names, &["a".into(), "b".into()], Some(log)) {
            match object {
                Object::Exchange { name, arguments, .. } | Object::Queue { name, arguments, .. } => {
                    for (key, value) in arguments {
                        if key == "alternate-exchange" || key == "x-dead-letter-exchange" {
                            assert!(
                                matches!(&value, Argument::Text(target) if declared.contains(target)),
                                "{name} names {value:?} too early"
                            );
                        }
                    }
                    declared.push(name);
                }
                Object::Binding { from, to, .. } | Object::NoBinding { from, to } => {
                    assert!(declared.contains(&from) && declared.contains(&to), "{from} -> {to}")
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_bucket_holds_no_delay_as_long_as_twice_another(ms in 0u64..10_000_000) {
            let (queue, chosen) = Names::new("p").bucket_for(Duration::from_millis(ms));
            let lower: u64 = queue.rsplit('.').next().unwrap().parse().unwrap();
            prop_assert!(lower <= chosen && chosen < 2 * lower, "{queue} {chosen}");
            prop_assert!(chosen >= ms.min(8_191_999));
            prop_assert!(chosen == ms || !(250..=8_191_999).contains(&ms));
        }
    }

    #[test]
    fn the_buckets_are_declared() {
        let names = Names::new("p");
        let objects = objects(&names, &[], None);
        for ms in [1, 250, 499, 500, 60_000, 3_600_000, 8_000_000, u64::MAX / 2000] {
            let (bucket, _) = names.bucket_for(Duration::from_millis(ms));
            assert!(
                objects.iter().any(|object| matches!(object, Object::Queue { name, .. } if *name == bucket)),
                "{bucket}"
            );
        }
    }
}
