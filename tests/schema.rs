//! The published schemas: what `schema` prints is what docs/schemas holds, a command's schema and its reader agree, and every event
//! is as the event's schema says.

use proptest::{prelude::*, sample::select, strategy::ValueTree, test_runner::TestRunner};
use qris_cancel_worker::{
    amqp::topology::Names,
    command::{CancelCommand, Hints, Terms},
    outcome::{Cause, Outcome},
    schema::{self, Reader},
    snap::{
        profile::{BUILT_IN, Profile},
        request::MerchantDefaults,
    },
};
use serde_json::{Map, Value, json};
use std::{path::Path, process::Command};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

fn profiles() -> [Profile; BUILT_IN.len()] {
    BUILT_IN.map(|(name, text)| Profile::read(name, text).unwrap())
}

/// With what stands in for merchant fields: nothing, as for any account; or what an account has, all or nothing.
fn defaults() -> [Option<MerchantDefaults>; 3] {
    let own = |text: &str| Some(text.to_owned());
    let all = MerchantDefaults { merchant_id: own("M-1"), sub_merchant_id: own("S-1"), external_store_id: own("T-1") };
    [None, Some(MerchantDefaults::default()), Some(all)]
}

fn general() -> Value {
    schema::command(&profiles().each_ref().map(Reader::of_any_account))
}

fn asyncapi() -> Value {
    schema::asyncapi(&Names::new("qris.cancel"), &profiles().each_ref().map(Reader::of_any_account))
}

fn validator(schema: &Value) -> jsonschema::Validator {
    jsonschema::meta::validate(schema).unwrap_or_else(|e| panic!("no schema: {e}"));
    jsonschema::options().should_validate_formats(true).offline().build(schema).unwrap()
}

/// Of the CloudEvents events around what this schema takes.
fn of_cloud_events(schema: &Value) -> jsonschema::Validator {
    let around = json!({
        "$schema": schema["$schema"],
        "$ref": format!("{}#/$defs/cloudEvent", schema["$id"].as_str().unwrap()),
        "$defs": { "command": schema },
    });
    validator(&around)
}

fn read(profile: &Profile, defaults: &MerchantDefaults, command: &Value, id: Option<&str>) -> Result<(), String> {
    let hints = Hints { message_id: id, ..Hints::default() };
    let read = CancelCommand::read(command.to_string().as_bytes(), hints, Terms { profile, defaults });
    read.map(drop).map_err(|rejection| format!("{:?}", rejection.violations))
}

#[test]
#[allow(clippy::disallowed_methods, reason = "whether to write is no setting of the worker")]
fn the_schemas_in_docs_are_what_the_worker_prints() {
    for (arguments, file) in [
        (["schema", "command"], "command.schema.json"),
        (["schema", "event"], "event.schema.json"),
        (["schema", "asyncapi"], "asyncapi.json"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_qris-cancel-worker")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = Path::new(HERE).join("docs/schemas").join(file);
        if std::env::var("WRITE_SCHEMAS").is_ok() {
            std::fs::write(&path, &output.stdout).unwrap();
        }
        let written = std::fs::read(&path).unwrap_or_default();
        assert!(written == output.stdout, "{file} is not what `schema` prints: run make schemas");
    }
}

#[test]
fn one_account_or_profile_has_a_schema_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (_, aspi) = BUILT_IN.iter().find(|(name, _)| *name == "aspi").unwrap();
    let own = aspi.replace("\"reason\", required = true, max = 256", "\"reason\", required = true, max = 9");
    std::fs::write(dir.path().join("own.toml"), own).unwrap();
    let account = |name: &str, more: &str| {
        format!(
            "[accounts.{name}]\nprofile = \"./own.toml\"\nbase_url = \"https://bank.example\"\npartner_id = \"p\"\nclient_key = \"c\"\n\
             channel_id = \"1\"\nsigning_mode = \"asymmetric\"\n{more}\n\
             private_key = {{ file = \"{HERE}/tests/vectors/midtrans-public-sample-key.pem\" }}\n"
        )
    };
    let broker = "[amqp]\nurl = { env = \"AMQP_URL\" }\n".to_owned();
    let settings = broker + &account("shop", "merchant_id = \"M-1\"") + &account("mall", "");
    std::fs::write(dir.path().join("worker.toml"), settings).unwrap();
    let schema = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qris-cancel-worker"));
        command.args(["schema", "command"]).args(arguments).current_dir(&dir);
        let output = command.env("AMQP_URL", "amqp://127.0.0.1:1").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let of_profile = schema(&["--profile", "./own.toml"]);
    assert_eq!(of_profile["properties"]["reason"]["maxLength"], 9);
    assert_eq!(of_profile["properties"]["merchantId"]["maxLength"], 64);
    let required = |account: &str| schema(&["--account", account, "--config", "worker.toml"])["required"].clone();
    assert_eq!(required("shop"), json!(["reason"]));
    assert_eq!(required("mall"), json!(["reason", "merchantId"]));
    let ifortepay = schema(&["--profile", "ifortepay"]);
    assert_eq!(ifortepay["properties"]["merchantId"], Value::Null);
    assert_eq!(ifortepay["properties"]["additionalInfo"]["properties"]["type"]["const"], "DYNAMIC");
}

#[test]
fn the_examples_are_good() {
    for profile in &profiles() {
        let schema = schema::command(&[Reader::of_any_account(profile)]);
        let example = &schema["examples"][0];
        assert!(validator(&schema).is_valid(example), "{}: {example}", profile.name);
        read(profile, &MerchantDefaults::default(), example, None).unwrap_or_else(|e| panic!("{}: {e}", profile.name));
    }
    let (general, event) = (general(), schema::event());
    let documents = [(&general, BUILT_IN.len()), (&event, 1)];
    for (schema, count) in documents {
        let examples = schema["examples"].as_array().unwrap();
        assert_eq!(examples.len(), count);
        examples.iter().for_each(|example| validator(schema).validate(example).unwrap());
    }
    let readme = std::fs::read_to_string(Path::new(HERE).join("README.md")).unwrap();
    let blocks = readme.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let blocks = Vec::from_iter(blocks.map(|block| serde_json::from_str::<Value>(block).unwrap()));
    assert_eq!(&event["examples"][0], blocks.iter().find(|block| block["specversion"] == "1.0").unwrap());
    validator(&general).validate(&blocks[0]).unwrap();

    let asyncapi = asyncapi();
    let example = |message: &str| asyncapi["components"]["messages"][message]["examples"][0]["payload"].clone();
    validator(&general).validate(&example("cancelCommand")).unwrap();
    of_cloud_events(&general).validate(&example("cancelCommandEvent")).unwrap();
    validator(&event).validate(&example("resultEvent")).unwrap();
}

/// A text of so many characters, some of which take several bytes.
fn texts() -> impl Strategy<Value = Value> {
    let lengths = prop_oneof![
        4 => select(vec![1, 2, 9, 12]),
        1 => select(vec![13, 32, 33, 50, 51, 64, 65, 256, 257]),
    ];
    (lengths, select(vec!['a', 'a', 'é', '😀'])).prop_map(|(length, c)| json!(c.to_string().repeat(length)))
}

fn anything() -> impl Strategy<Value = Value> {
    let values = [
        json!(""),
        json!(null),
        json!(7),
        json!([]),
        json!({}),
        json!("a\u{7}"),
        json!("a\n"),
        json!("\u{85}"),
        json!("x"),
    ];
    select(Vec::from(values))
}

/// Mostly good values of a field.
fn values(field: &'static str) -> BoxedStrategy<Value> {
    let amount = |value: &str, currency: &str| json!({ "value": value, "currency": currency });
    let good = match field {
        "jobId" => prop_oneof![
            9 => "[!-~]{1,128}".prop_map(Value::from),
            1 => select(vec![json!("two words"), json!("é"), json!("j".repeat(129))]),
        ]
        .boxed(),
        "amount" => prop_oneof![
            9 => "[0-9]{1,16}\\.[0-9]{2}".prop_map(move |value| amount(&value, "IDR")),
            1 => select(vec![
                amount("1", "IDR"), amount("12345678901234567.00", "IDR"), amount("1.00", "idr"), amount("1.000", "IDR"),
                json!({ "value": "1.00" }), json!({ "value": "1.00", "currency": "IDR", "of": 1 }), amount("1.00\n", "IDR"),
            ]),
        ]
        .boxed(),
        "additionalInfo" | "metadata" => select(vec![
            json!({}), json!({ "type": "DYNAMIC" }), json!({ "type": "STATIC" }), json!({ "a": [1, { "b": null }] }),
        ])
        .boxed(),
        "notAfter" | "qrExpiresAt" => select(vec![
            json!("2026-11-20T18:30:15+07:00"), json!("2026-11-20T11:30:15.123456Z"), json!("2028-02-29T00:00:00-00:30"),
            json!("2026-11-20T18:30:15"), json!("2026-02-29T00:00:00Z"), json!("soon"),
        ])
        .boxed(),
        _ => texts().boxed(),
    };
    prop_oneof![24 => good, 1 => anything()].boxed()
}

fn commands() -> impl Strategy<Value = Value> {
    let field = |name: &'static str, often: f64| {
        prop::option::weighted(often, values(name)).prop_map(move |value| (name, value))
    };
    let fields = [
        ("jobId", 0.8),
        ("originalReferenceNo", 0.9),
        ("originalPartnerReferenceNo", 0.8),
        ("originalExternalId", 0.05),
        ("reason", 0.97),
        ("merchantId", 0.4),
        ("subMerchantId", 0.1),
        ("externalStoreId", 0.1),
        ("amount", 0.05),
        ("additionalInfo", 0.2),
        ("notAfter", 0.2),
        ("qrExpiresAt", 0.2),
        ("metadata", 0.3),
        ("resaon", 0.02),
    ];
    Vec::from(fields.map(|(name, often)| field(name, often))).prop_map(|fields| {
        let present = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(Map::from_iter(present))
    })
}

/// Both ways, for all that a schema can say. What it can't is no part of these commands: bytes, double keys, depth.
#[test]
fn a_schema_takes_what_its_reader_takes_and_nothing_else() {
    let profiles = profiles();
    let general = validator(&general());
    for profile in &profiles {
        for defaults in &defaults() {
            let own = schema::command(&[Reader { profile, defaults: defaults.as_ref() }]);
            let (plain, wrapped) = (validator(&own), of_cloud_events(&own));
            // Of an account that is not known, the merchant fields may stand in.
            let [_, _, all] = self::defaults();
            let terms = defaults.clone().or(all).unwrap();
            let mut runner = TestRunner::new(ProptestConfig::with_cases(100));
            let mut taken = 0;
            runner
                .run(&(commands(), "(two words|[!-~]{1,20})?"), |(command, id)| {
                    let reading = read(profile, &terms, &command, Some("message-1"));
                    prop_assert_eq!(plain.is_valid(&command), reading.is_ok(), "{} {:?}", command, reading);
                    prop_assert!(
                        general.is_valid(&command) || reading.is_err(),
                        "the general schema refuses {}",
                        command
                    );
                    let event =
                        json!({ "specversion": "1.0", "id": id, "source": "/shop", "type": "cancel", "data": command });
                    let of_event = read(profile, &terms, &event, None);
                    prop_assert_eq!(wrapped.is_valid(&event), of_event.is_ok(), "{} {:?}", event, of_event);
                    Ok(())
                })
                .unwrap_or_else(|e| panic!("{}: {e}", profile.name));
            // That it does not agree in refusing everything.
            let mut same = TestRunner::deterministic();
            for _ in 0..200 {
                let command = commands().new_tree(&mut same).unwrap().current();
                taken += usize::from(plain.is_valid(&command));
            }
            assert!((10..190).contains(&taken), "{}: {taken} of 200 were good", profile.name);
        }
    }
}

#[test]
fn an_event_around_a_command_is_held_to_the_rules_of_cloudevents() {
    let (profile, schema) = (&profiles()[0], general());
    let validator = of_cloud_events(&schema);
    let good = json!({ "specversion": "1.0", "id": "e-1", "source": "/shop", "type": "t", "data": schema["examples"][0], "more": 1 });
    let changed = |name: &str, value: Option<Value>| {
        let mut event = good.clone();
        match value {
            Some(value) => drop(event.as_object_mut().unwrap().insert(name.to_owned(), value)),
            None => drop(event.as_object_mut().unwrap().shift_remove(name)),
        }
        event
    };
    let mut faulty = vec![changed("data_base64", Some(json!("e30="))), changed("specversion", Some(json!("0.3")))];
    for name in ["specversion", "id", "source", "type", "data"] {
        faulty.extend([None, Some(json!("")), Some(json!(7)), Some(json!(null))].map(|value| changed(name, value)));
    }
    let is_read = |event: &Value| read(profile, &MerchantDefaults::default(), event, None).is_ok();
    assert!(validator.is_valid(&good) && is_read(&good));
    for event in faulty {
        // Without a version only its content type says that it is an event.
        assert!(!validator.is_valid(&event) && !is_read(&event), "{event}");
    }
}

/// The events of the stories, as they were published.
fn told_events() -> Vec<(String, Value)> {
    let folder = std::fs::read_dir(Path::new(HERE).join("tests/story/events")).unwrap();
    let events = folder.map(|entry| {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let body = text.splitn(3, "---\n").nth(2).unwrap();
        (path.display().to_string(), serde_json::from_str(body).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    });
    events.collect()
}

/// The same schema, closed: as if nothing new could come.
fn closed(schema: &mut Value) {
    if let Value::Object(members) = schema {
        let is_condition = members.contains_key("required") || members.contains_key("$defs");
        if members.contains_key("properties") && is_condition && members.contains_key("type") {
            members.insert("additionalProperties".into(), json!(false));
        }
        members.values_mut().for_each(closed);
    }
}

#[test]
fn every_event_is_as_its_schema_says() {
    let open = schema::event();
    let mut strict = open.clone();
    closed(&mut strict);
    let asyncapi = asyncapi();
    let draft_07 = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": asyncapi["components"]["messages"]["resultEvent"]["payload"]["$ref"],
        "components": asyncapi["components"],
    });
    let events = told_events();
    assert!(events.len() >= 20, "{}", events.len());
    for (name, event) in &events {
        validator(&open).validate(event).unwrap_or_else(|e| panic!("{name}: {e}"));
        validator(&draft_07).validate(event).unwrap_or_else(|e| panic!("{name}, in the AsyncAPI document: {e}"));
        validator(&strict).validate(event).unwrap_or_else(|e| panic!("{name} has more than the schema says: {e}"));
    }
    let told = |outcome: Outcome| events.iter().any(|(_, event)| event["data"]["outcome"] == outcome.name());
    assert!(Outcome::ALL.into_iter().all(told), "the stories end in every outcome");
}

#[test]
fn the_events_schema_is_open_to_what_is_new_and_to_nothing_else() {
    let schema = schema::event();
    let validator = validator(&schema);
    let good = schema["examples"][0].clone();
    let with = |path: &str, value: Value| {
        let mut event = good.clone();
        match path.rsplit_once('/') {
            Some((parent, name)) => event.pointer_mut(parent).unwrap()[name] = value,
            None => unreachable!("paths begin with /"),
        }
        event
    };
    for (path, value) in
        [("/data/cause", json!("some_new_cause")), ("/data/newField", json!({})), ("/newattribute", json!("x"))]
    {
        assert!(validator.is_valid(&with(path, value)), "{path}");
    }
    for (path, value) in [
        ("/data/outcome", json!("maybe")),
        ("/data/outcome", json!("unresolved")),
        ("/data/outcome", json!("invalid")),
        ("/data/jobId", json!(null)),
        ("/data/commandDigest", json!("short")),
        ("/type", json!("qris.cancel.maybe.v1")),
        ("/id", json!("no uuid")),
        ("/specversion", json!("0.3")),
        ("/time", json!("today")),
    ] {
        assert!(!validator.is_valid(&with(path, value.clone())), "{path} {value}");
    }
    let causes = schema["$defs"]["Cause"]["description"].as_str().unwrap();
    assert!(Cause::ALL.iter().all(|cause| causes.contains(cause.name())), "{causes}");
}
