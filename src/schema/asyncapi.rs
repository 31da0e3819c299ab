//! The AsyncAPI document: who publishes what to which exchange, and where the events can be read.

use super::{
    Reader,
    command::{cloud_event, plain},
    event,
};
use crate::{
    amqp::topology::Names,
    event::{CONTENT_TYPE, Envelope},
    outcome::Outcome,
};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The version of AsyncAPI's bindings to AMQP 0-9-1.
const BINDING: &str = "0.3.0";

/// AsyncAPI 3.0 of commands that these readers take, and of their events.
pub fn asyncapi(names: &Names, readers: &[Reader<'_>]) -> Value {
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "QRIS cancel worker",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Cancels unpaid QRIS payments: commands in, one result event for each out. Deliveries are at least once in both \
                            directions: a repeat of an event has the same id.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "defaultContentType": super::PLAIN,
        "channels": channels(names),
        "operations": operations(),
        "components": { "messages": messages(readers), "schemas": schemas(readers) },
    })
}

fn channels(names: &Names) -> Value {
    let account = json!({ "description": "The account's name in the worker's settings." });
    let outcome = json!({ "description": "What became of the command.", "enum": Outcome::ALL.map(Outcome::name) });
    let exchange = |name: String, kind: &str| {
        json!({ "amqp": {
            "is": "routingKey",
            "exchange": { "name": name, "type": kind, "durable": true, "autoDelete": false },
            "bindingVersion": BINDING,
        } })
    };
    let log = names.results_log();
    json!({
        "commands": {
            "address": "{account}",
            "description": format!("The exchange {}, to which order services publish; the routing key is the account.", names.commands()),
            "parameters": { "account": account },
            "messages": { "command": of_components("cancelCommand"), "cloudEvent": of_components("cancelCommandEvent") },
            "bindings": exchange(names.commands(), "direct"),
        },
        "results": {
            "address": "{account}.{outcome}",
            "description": format!(
                "The exchange {}. Bind a durable queue of your own: `#` for all events, `bnc.*` for an account, `*.unresolved` for an outcome.",
                names.results()
            ),
            "parameters": { "account": account, "outcome": outcome },
            "messages": { "event": of_components("resultEvent") },
            "bindings": exchange(names.results(), "topic"),
        },
        "replies": {
            "address": null,
            "description": "The queue that a command's reply_to names, if the worker's settings allow it, or direct reply-to. A courtesy copy, best effort.",
            "messages": { "event": of_components("resultEvent") },
        },
        "log": {
            "address": log,
            "description": "A stream of every event of the last days. Consume it with the argument x-stream-offset (`first`, a number, or an AMQP \
                            timestamp), a prefetch and acknowledgements. Not an archive.",
            "messages": { "event": of_components("resultEvent") },
            "bindings": { "amqp": {
                "is": "queue",
                "queue": { "name": log, "durable": true, "exclusive": false, "autoDelete": false },
                "bindingVersion": BINDING,
            } },
        },
    })
}

/// Seen from the worker.
fn operations() -> Value {
    let channel = |name: &str| json!({ "$ref": format!("#/channels/{name}") });
    let messages = |of: &str, names: &[&str]| {
        Vec::from_iter(names.iter().map(|name| json!({ "$ref": format!("#/channels/{of}/messages/{name}") })))
    };
    let persistent = json!({ "amqp": { "deliveryMode": 2, "bindingVersion": BINDING } });
    json!({
        "cancel": {
            "action": "receive",
            "summary": "An order service asks for a cancel.",
            "channel": channel("commands"),
            "messages": messages("commands", &["command", "cloudEvent"]),
            "bindings": persistent,
            "reply": {
                "address": { "location": "$message.header#/replyTo", "description": "The AMQP property reply_to. Optional." },
                "channel": channel("replies"),
                "messages": messages("replies", &["event"]),
            },
        },
        "tellResult": {
            "action": "send",
            "summary": "What became of a command.",
            "channel": channel("results"),
            "messages": messages("results", &["event"]),
            "bindings": persistent,
        },
        "keepResult": {
            "action": "send",
            "summary": "The same event, to be replayed from any time.",
            "channel": channel("log"),
            "messages": messages("log", &["event"]),
            "bindings": persistent,
        },
    })
}

fn messages(readers: &[Reader<'_>]) -> Value {
    let message = |name: &str, content_type: &str, schema: &str, correlation: &str, example: Value| {
        json!({
            "name": name,
            "contentType": content_type,
            "correlationId": { "location": "$message.header#/correlationId", "description": correlation },
            "payload": { "$ref": format!("#/components/schemas/{schema}") },
            "examples": [{ "payload": example }],
        })
    };
    let plain = plain(readers)["examples"][0].clone();
    let event_around = json!({
        "specversion": "1.0",
        "id": "0b9c3a54-6a0e-4b0e-9b57-1f3f0f1f7c11",
        "source": "/orders",
        "type": "com.example.orders.cancel-qr",
        "datacontenttype": super::PLAIN,
        "data": plain,
    });
    let given = "Optional; comes back as the event's.";
    json!({
        "cancelCommand": message("CancelCommand", super::PLAIN, "CancelCommand", given, plain),
        "cancelCommandEvent": message("CancelCommandEvent", CONTENT_TYPE, "CancelCommandEvent", given, event_around),
        "resultEvent": message("ResultEvent", CONTENT_TYPE, "ResultEvent", "The command's, else its job id.", event::example()),
    })
}

/// In draft 07, which is what AsyncAPI reads without being told otherwise.
fn schemas(readers: &[Reader<'_>]) -> Value {
    let mut settings = super::of_events(SchemaSettings::draft07());
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    generator.subschema_for::<Envelope<'static>>(); // under its name, ResultEvent
    let mut schemas = Map::from_iter([
        ("CancelCommand".to_owned(), plain(readers)),
        ("CancelCommandEvent".to_owned(), cloud_event("#/components/schemas/CancelCommand")),
    ]);
    schemas.extend(generator.take_definitions(true));
    Value::Object(schemas)
}

fn of_components(message: &str) -> Value {
    json!({ "$ref": format!("#/components/messages/{message}") })
}
