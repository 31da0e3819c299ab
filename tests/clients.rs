//! The clients of examples/, as their readers run them: real processes against a real RabbitMQ and worker, killed and started again.
//! And what others made for CloudEvents and AsyncAPI, held against what the worker says. `make test-clients` runs it.

#[path = "clients/order_services.rs"]
mod order_services;
#[path = "clients/program.rs"]
mod program;
#[path = "clients/reconciliation.rs"]
mod reconciliation;
#[path = "support/mod.rs"]
mod support;

use program::{Program, ask, command};
use qris_cancel_worker::sandbox;
use serde_json::{Value, json};
use std::time::Duration;
use support::{Broker, Place};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// Long, as all of this may run on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn asyncapis_own_parser_finds_nothing_wrong_with_the_document() {
    let document = support::read(format!("{HERE}/docs/schemas/asyncapi.json"));
    let problems = |text: &str| Program::start(command("tests/clients/asyncapi.mjs"), text).finish();
    assert_eq!(problems(&document), Vec::<String>::new());

    // And it would find something.
    let faults: [fn(&mut Value); 3] = [
        |document| drop(document["channels"].as_object_mut().unwrap().shift_remove("results")),
        |document| document["channels"]["results"]["bindings"]["amqp"]["exchange"]["type"] = json!("no kind"),
        |document| document["channels"]["results"]["address"] = json!("{account}.{outcome}.{more}"),
    ];
    for fault in faults {
        let mut faulty: Value = serde_json::from_str(&document).unwrap();
        fault(&mut faulty);
        assert!(!problems(&faulty.to_string()).is_empty());
    }
}

/// Events are read by them as they were told, and the commands that they wrap are taken.
#[tokio::test(flavor = "multi_thread")]
async fn the_sdks_of_cloudevents_and_the_worker_understand_each_other() {
    let place = Place::new(Broker::shared(), sandbox::Options::default()).await;
    let _worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    for sdk in ["tests/clients/cloudevents_sdk.py", "tests/clients/cloudevents_sdk.mjs"] {
        let name = if sdk.ends_with("py") { "python" } else { "node" };
        let mut data = support::command("x", &format!("R-{name}"));
        data.as_object_mut().unwrap().shift_remove("jobId"); // it is the event's id then
        let job = format!("job-{name}");
        let written = ask(command(sdk), "write", &[json!({ "id": job, "data": data })]);
        let [content_type, body] = ["contentType", "body"].map(|part| written[0][part].as_str().unwrap());
        let properties = support::persistent().with_content_type(content_type.into());
        assert!(client.publish_raw(&place.names.commands(), "ifortepay", body.as_bytes(), properties).await);
        assert_eq!(events.of(&job, LIMIT).await["data"]["outcome"], "canceled", "{body}");

        // A faulty one, too: its event has other members.
        let faulty = format!("faulty-{name}");
        assert!(client.publish("ifortepay", &json!({ "jobId": faulty, "resaon": "x" })).await);
        events.of(&faulty, LIMIT).await;
        let told = events.all.iter().map(|(properties, event)| {
            let content_type = properties.content_type().as_ref().unwrap().as_str();
            json!({ "contentType": content_type, "body": event.to_string() })
        });
        let told: Vec<_> = told.collect();
        let read = ask(command(sdk), "read", &told);
        for ((_, event), mut read) in events.all.iter().zip(read) {
            let instant =
                |event: &Value| chrono::DateTime::parse_from_rfc3339(event["time"].as_str().unwrap()).unwrap();
            assert_eq!(instant(&read), instant(event), "{name}");
            read["time"] = event["time"].clone();
            assert_eq!(&read, event, "{name}");
        }
    }
}
