//! The command's schema: what the profiles of one or several readers agree on.

use crate::{
    command::{MAX_BYTES, MAX_JOB_ID},
    snap::{
        profile::{CommandField, Field, Profile},
        request::MerchantDefaults,
    },
};
use serde_json::{Map, Value, json};

/// Who reads the commands: an account, or a profile of which any account may be.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    pub profile: &'a Profile,
    /// What stands in for absent merchant fields; `None` where the account is not known.
    pub defaults: Option<&'a MerchantDefaults>,
}

impl<'a> Reader<'a> {
    /// An account with this profile, whichever it is.
    pub fn of_any_account(profile: &'a Profile) -> Self {
        Self { profile, defaults: None }
    }

    fn field(&self, field: CommandField) -> Option<&Field> {
        self.profile.cancel_field(field)
    }

    /// Whether a command must bring it.
    fn requires(&self, field: CommandField) -> bool {
        use CommandField::{ExternalStoreId, MerchantId, SubMerchantId};
        let stands_in = match self.defaults {
            Some(defaults) => defaults.get(field).is_some(),
            None => matches!(field, MerchantId | SubMerchantId | ExternalStoreId),
        };
        self.field(field).is_some_and(|field| field.required && field.constants.is_empty()) && !stands_in
    }

    /// What its profile says of a field, in words.
    fn says(&self, field: CommandField) -> String {
        let name = &self.profile.name;
        let Some(taken) = self.field(field) else { return format!("{name}: not taken") };
        let mut rules = vec![if self.requires(field) { "required".to_owned() } else { "optional".to_owned() }];
        if taken.required && !self.requires(field) && taken.constants.is_empty() {
            rules[0] = "required, unless the account's stands in".into();
        }
        if taken.max < usize::MAX {
            rules.push(format!("at most {} characters", taken.max));
        }
        rules.extend(taken.constants.iter().map(|(key, value)| format!("{key} is always {value:?}")));
        format!("{name}: {}", rules.join(", "))
    }
}

/// JSON Schema of the commands that these readers take: of several, what is common to them. At its root the plain command, in
/// `$defs` the CloudEvents event around one.
pub fn command(readers: &[Reader<'_>]) -> Value {
    let mut schema = json!({ "$schema": super::DIALECT, "$id": "urn:qris-cancel:command:v1" });
    let mut plain = plain(readers);
    plain["$defs"] = json!({ "cloudEvent": cloud_event("#") });
    schema.as_object_mut().expect("is one").extend(plain.as_object().expect("is one").clone());
    schema
}

/// A command without an envelope.
pub fn plain(readers: &[Reader<'_>]) -> Value {
    let mut properties = Map::from_iter([("jobId".to_owned(), job_id())]);
    let all_or_none = |holds: &dyn Fn(&Reader<'_>) -> bool| !readers.is_empty() && readers.iter().all(holds);
    let taken = Vec::from_iter(
        CommandField::ALL.into_iter().filter(|field| readers.iter().any(|reader| reader.field(*field).is_some())),
    );
    for &field in &taken {
        let schema = match field {
            CommandField::Amount => amount(),
            CommandField::AdditionalInfo => additional_info(readers),
            _ => text(field, readers),
        };
        properties.insert(field.name().into(), with_rules(schema, field, readers));
    }
    properties.insert("notAfter".into(), time("No cancel is sent after this time."));
    properties.insert("qrExpiresAt".into(), time("When the QR stops being payable."));
    properties.insert(
        "metadata".into(),
        json!({ "type": "object", "description": "Comes back in the events as it was; never sent to the provider." }),
    );
    let required = taken.iter().filter(|field| all_or_none(&|reader| reader.requires(**field)));
    let references = taken.iter().filter(|field| field.name().starts_with("original"));
    let names_it = |field: &CommandField| json!({ "required": [field.name()], "properties": { field.name(): { "minLength": 1 } } });
    json!({
        "title": "QRIS cancel command",
        "description": description(readers),
        "type": "object",
        "properties": properties,
        "required": Vec::from_iter(required.map(|field| field.name())),
        "anyOf": Vec::from_iter(references.map(names_it)),
        "additionalProperties": false,
        "examples": Vec::from_iter(readers.iter().map(example)),
    })
}

/// A structured CloudEvents 1.0 event whose data is a command.
pub fn cloud_event(command: &str) -> Value {
    let text = |description: &str| json!({ "type": "string", "minLength": 1, "description": description });
    json!({
        "title": "QRIS cancel command as a CloudEvents event",
        "description": "Structured mode, content type application/cloudevents+json. Further attributes are not looked at.",
        "type": "object",
        "properties": {
            "specversion": { "const": "1.0" },
            "id": text("The job id, where the data has none."),
            "source": text("Who publishes it."),
            "type": text("As the publisher likes."),
            "data": { "$ref": command },
            "data_base64": false,
        },
        "required": ["specversion", "id", "source", "type", "data"],
        "if": { "properties": { "data": { "required": ["jobId"] } } },
        "else": { "properties": { "id": job_id() } },
    })
}

fn job_id() -> Value {
    json!({
        "type": "string",
        "pattern": format!("^[!-~]{{1,{MAX_JOB_ID}}}$"),
        "description": "The publisher's own id of this job, which comes back in the event. Required; from the body, else the CloudEvents id, else the AMQP message_id.",
    })
}

fn text(field: CommandField, readers: &[Reader<'_>]) -> Value {
    let rules = || readers.iter().filter_map(|reader| reader.field(field));
    let max = rules().map(|rule| rule.max).max();
    let mut schema = json!({ "type": "string" });
    if rules().all(|rule| rule.required) {
        schema["minLength"] = json!(1);
    }
    schema["maxLength"] = json!(max);
    schema["pattern"] = json!(NO_CONTROL);
    schema
}

/// No character of Unicode's category Cc.
const NO_CONTROL: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

fn amount() -> Value {
    json!({
        "type": "object",
        "properties": {
            "value": { "type": "string", "pattern": r"^[0-9]{1,16}\.[0-9]{2}$" },
            "currency": { "type": "string", "pattern": "^[A-Z]{3}$" },
        },
        "required": ["value", "currency"],
        "additionalProperties": false,
    })
}

/// A constant is told where all readers have it.
fn additional_info(readers: &[Reader<'_>]) -> Value {
    let constants = |reader: &Reader<'_>| {
        Some(reader.field(CommandField::AdditionalInfo)?.constants.clone()).filter(|c| !c.is_empty())
    };
    let mut schema = json!({ "type": "object" });
    if let [reader] = readers
        && let Some(constants) = constants(reader)
    {
        schema["properties"] = constants.into_iter().map(|(key, value)| (key, json!({ "const": value }))).collect();
    }
    schema
}

fn time(description: &str) -> Value {
    json!({ "type": "string", "format": "date-time", "description": format!("{description} With an offset, as RFC 3339 writes it.") })
}

fn with_rules(mut schema: Value, field: CommandField, readers: &[Reader<'_>]) -> Value {
    let rules = Vec::from_iter(readers.iter().map(|reader| reader.says(field)));
    schema["description"] = json!(format!("{}.", rules.join("; ")));
    schema
}

fn description(readers: &[Reader<'_>]) -> String {
    let of = match readers {
        [reader] => format!("As {} takes it.", reader.profile.title),
        _ => "What holds for all built-in profiles; what is required, and how long, differs by the account's profile: \
              `qris-cancel-worker schema command --account NAME` has one account's schema."
            .into(),
    };
    format!(
        "{of} Beyond what a schema can say: UTF-8, at most {MAX_BYTES} bytes and 60 levels, and no key twice in an object. \
         Published to the commands exchange, persistent and with confirms; the routing key is the account."
    )
}

/// A small command that this reader takes.
fn example(reader: &Reader<'_>) -> Value {
    let mut command = Map::from_iter([("jobId".to_owned(), json!("order-4711-cancel"))]);
    let one_is_needed =
        !CommandField::ALL.iter().any(|field| field.name().starts_with("original") && reader.requires(*field));
    for field in CommandField::ALL {
        let is_reference = field == CommandField::OriginalReferenceNo && one_is_needed && reader.field(field).is_some();
        let Some(rule) = reader.field(field).filter(|rule| rule.required || is_reference) else { continue };
        let sample = match field {
            CommandField::Reason => "customer left",
            CommandField::OriginalReferenceNo => "2020102977770000000009",
            CommandField::OriginalPartnerReferenceNo => "2020102900000000000001",
            CommandField::Amount => {
                command.insert(field.name().into(), json!({ "value": "10000.00", "currency": "IDR" }));
                continue;
            }
            CommandField::AdditionalInfo if rule.constants.is_empty() => {
                command.insert(field.name().into(), json!({}));
                continue;
            }
            CommandField::AdditionalInfo => continue,
            _ => "000123456789",
        };
        command.insert(field.name().into(), json!(String::from_iter(sample.chars().take(rule.max))));
    }
    command.insert("qrExpiresAt".into(), json!("2026-11-21T11:00:00+07:00"));
    command.insert("metadata".into(), json!({ "orderId": 4711 }));
    Value::Object(command)
}
