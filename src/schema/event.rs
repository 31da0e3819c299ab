//! The event's schema.

use crate::{
    event::Envelope,
    outcome::{Cause, Outcome},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Value, json};
use std::borrow::Cow;

/// JSON Schema of the events.
pub fn event() -> Value {
    let settings = super::of_events(SchemaSettings::draft2020_12());
    let event = settings.into_generator().into_root_schema_for::<Envelope<'static>>();
    let mut schema =
        json!({ "$schema": super::DIALECT, "$id": "urn:qris-cancel:event:v1", "title": "", "description": "" });
    schema.as_object_mut().expect("is one").extend(event.as_object().expect("is one").clone());
    schema["examples"] = json!([example()]);
    schema
}

/// The causes are told and not enforced: new ones may come.
impl JsonSchema for Cause {
    fn schema_name() -> Cow<'static, str> {
        "Cause".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let of = |outcome: Outcome| {
            let causes = Self::ALL.iter().filter(|cause| cause.outcome() == outcome).map(|cause| cause.name());
            format!("{}: {}", outcome.name(), Vec::from_iter(causes).join(", "))
        };
        json_schema!({
            "type": "string",
            "description": format!(
                "Why it ended as it did. New ones may come: go by the outcome. There are, of {}.",
                Outcome::ALL.map(of).join("; of ")
            ),
            "examples": Vec::from_iter(Self::ALL.iter().map(|cause| cause.name())),
        })
    }
}

/// The README's.
pub fn example() -> Value {
    json!({
        "specversion": "1.0",
        "id": "997a9eaa-2e82-5ad8-b951-d0c95a759f1c",
        "source": "/qris-cancel/ifortepay",
        "type": "qris.cancel.canceled.v1",
        "subject": "order-4711-cancel",
        "time": "2026-11-21T03:30:15.240Z",
        "datacontenttype": super::PLAIN,
        "data": {
            "jobId": "order-4711-cancel",
            "account": "ifortepay",
            "provider": "ifortepay",
            "outcome": Outcome::Canceled,
            "cause": Cause::Canceled,
            "originalReferenceNo": "2020102977770000000009",
            "originalPartnerReferenceNo": "2020102900000000000001",
            "responseCode": "2007700",
            "responseMessage": "Successful",
            "cancelTime": "2026-11-21T10:30:15",
            "cancelTimeNormalised": "2026-11-21T10:30:15+07:00",
            "receivedAt": "2026-11-21T03:30:15.000Z",
            "finishedAt": "2026-11-21T03:30:15.240Z",
            "commandDigest": "daca9a9b3cd77376dcaa8811b163b847b191ab70ff907b1c44afa0e8c3d4f5c3",
            "attempts": 1,
            "callsTotal": 1,
            "calls": [{
                "number": 1,
                "operation": "cancel",
                "at": "2026-11-21T03:30:15.120Z",
                "externalId": "40182749562018374650192837465019",
                "bodySha256": "cc3bc08d0e94e2b1575483891c80ccc2d96f073f483c7986264363c09d4bc939",
                "httpStatus": 200,
                "responseCode": "2007700",
                "durationMs": 120,
            }],
            "replay": 0,
            "metadata": { "orderId": 4711 },
        },
    })
}
