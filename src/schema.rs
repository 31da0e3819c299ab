//! What others can hold their programs against: JSON Schema 2020-12 of the command and of the event, and an AsyncAPI 3.0
//! document of where they travel. The event's is made of the types that write it ([`crate::event`]); the command's of the
//! profiles that [`crate::command`] reads it by. Pure.

mod asyncapi;
mod command;
mod event;

pub use asyncapi::asyncapi;
pub use command::{Reader, command};
pub use event::event;

use schemars::{Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde_json::Value;

/// The dialect of the two schemas.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
const PLAIN: &str = "application/json";

/// Of the events, as they are written.
fn of_events(settings: SchemaSettings) -> SchemaSettings {
    settings.for_serialize().with_transform(RecursiveTransform(as_written))
}

/// What is unknown is left out and never null. And how many bits a number has here is nothing to others: validators do not
/// know such formats, and strict ones complain.
fn as_written(schema: &mut Schema) {
    let is_null = |value: &Value| value == "null" || value["type"] == "null";
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| !is_null(name));
        if let [one] = types.as_slice() {
            let one = one.clone();
            schema.insert("type".into(), one);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf")
        && choices.iter().any(is_null)
    {
        choices.retain(|choice| !is_null(choice));
        if let [Value::Object(one)] = choices.as_slice() {
            let one = one.clone();
            schema.remove("anyOf");
            schema.ensure_object().extend(one);
        }
    }
    let is_bits = |format: &Value| format.as_str().is_some_and(|format| format.starts_with("uint"));
    if schema.get("format").is_some_and(is_bits) {
        schema.remove("format");
    }
}
