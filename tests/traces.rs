//! One command is one trace: a real worker, a real broker, the sandbox, and a collector that keeps what it gets.

#[path = "support/collector.rs"]
mod collector;
#[allow(dead_code, reason = "a part of it is used")]
#[path = "secrets/relay.rs"]
mod relay;
mod support;

use collector::{Collector, Seen};
use lapin::BasicProperties;
use qris_cancel_worker::{sandbox, settings, traces::Traces};
use relay::Heard;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(20);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const ORDER_SERVICE: &str = "00f067aa0ba902b7";
const PROCESS: &str = "process ";
const DOCUMENT: &str = include_str!("../docs/OBSERVABILITY.md");

/// A place whose worker sends its traces there, and tells of them to the first provider, but not to the second. What providers
/// hear is kept.
async fn place(endpoint: &str, heard: &Heard, faults: &str) -> Place {
    let options = sandbox::Options { faults: faults.parse().unwrap(), ..sandbox::Options::default() };
    let place = Place::new(Broker::shared(), options).await;
    let plain = place.provider.strip_prefix("http://").unwrap().to_owned();
    let relay = relay::relay(plain, None, heard.clone()).await;
    let text = read(&place.config).replace(&place.provider, &format!("http://{relay}"));
    let text = text.replace("profile = \"ifortepay\"", "profile = \"ifortepay\"\nsend_traceparent = true");
    std::fs::write(&place.config, format!("{text}\n[traces]\nendpoint = \"{endpoint}\"\n")).unwrap();
    place
}

/// A command as an order service publishes it that traces.
fn traced(traceparent: &str, tracestate: &str) -> BasicProperties {
    persistent()
        .with_message_id("m-1".into())
        .with_correlation_id("order-1".into())
        .with_headers(headers(&[("traceparent", text(traceparent)), ("tracestate", text(tracestate))]))
}

async fn publish(client: &Client, account: &str, job: &str, properties: BasicProperties) {
    let body = command(job, &format!("R-{job}")).to_string();
    assert!(client.publish_raw(&client.names.commands(), account, body.as_bytes(), properties).await);
}

async fn event(events: &mut Events, job: &str) -> (BTreeMap<String, String>, Value) {
    let event = events.of(job, SOON).await;
    let (properties, _) = events.all.iter().find(|(_, one)| *one == event).unwrap();
    let headers = properties.headers().as_ref().unwrap().inner();
    let headers = headers.iter().map(|(name, value)| (name.to_string(), value.as_long_string().unwrap().to_string()));
    (headers.collect(), event)
}

fn named<'a>(spans: &'a [Seen], name: &str) -> Vec<&'a Seen> {
    spans.iter().filter(|span| span.name.starts_with(name)).collect()
}

/// The first column of the table of attributes.
fn documented() -> BTreeSet<String> {
    let table = DOCUMENT.split("| attribute | on | |").nth(1).unwrap().split("\n\n").next().unwrap();
    let names =
        table.lines().filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_one_trace_from_its_publisher_to_its_event_and_over_a_retry() {
    let (collector, heard) = (Collector::start().await, Heard::default());
    let place = place(&collector.endpoint, &heard, "500=1").await;
    let mut worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    publish(&client, "ifortepay", "job-1", traced(&format!("00-{TRACE}-{ORDER_SERVICE}-01"), "shop=7")).await;
    let first = collector.wait(PROCESS, 1, SOON).await;
    assert_eq!(named(&first, PROCESS)[0].get("qris_cancel.waits"), "query_failed", "{first:#?}");
    place.send("PUT", "/_sandbox/faults", &json!({ "faults": "0" })).await;
    let (headers, event) = event(&mut events, "job-1").await;
    // What was done last is sent before it has stopped.
    assert_eq!(worker.stop("-TERM").await.0, 0);
    let spans = collector.spans();

    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    let process = named(&spans, PROCESS);
    let (first, last) = (process[0], *process.last().unwrap());
    assert!(process.len() >= 2 && process.iter().all(|span| span.parent == ORDER_SERVICE && span.kind == 5));
    assert_eq!(first.name, format!("process {}", place.names.commands_of("ifortepay")));
    for (name, value) in [
        ("messaging.system", "rabbitmq"),
        ("messaging.operation.type", "process"),
        ("messaging.message.id", "m-1"),
        ("messaging.message.conversation_id", "order-1"),
        ("messaging.rabbitmq.destination.routing_key", "ifortepay"),
        ("qris_cancel.account", "ifortepay"),
        ("qris_cancel.job_id", "job-1"),
        ("qris_cancel.attempt", "1"),
    ] {
        assert_eq!(first.get(name), value, "{name}");
    }
    let from = |exchange: String| format!("{exchange}:ifortepay:{}", place.names.commands_of("ifortepay"));
    assert_eq!(first.get("messaging.destination.name"), from(place.names.commands()));
    assert_eq!(last.get("messaging.destination.name"), from(place.names.due()));
    assert_eq!(last.get("qris_cancel.attempt"), process.len().to_string());
    assert_eq!((last.get("qris_cancel.outcome"), last.get("qris_cancel.cause")), ("canceled", "canceled"));

    // Every other span lies in one of these.
    let ids: BTreeSet<_> = process.iter().map(|span| &span.id).collect();
    let others: Vec<_> = spans.iter().filter(|span| !span.name.starts_with(PROCESS)).collect();
    assert!(others.iter().all(|span| ids.contains(&span.parent)), "{others:#?}");
    let retries = named(&spans, &format!("publish {}.retry.", place.prefix));
    assert_eq!(retries.len(), process.len() - 1);
    let told = named(&spans, &format!("publish {}", place.names.events()));
    assert!(told.len() == 1 && told[0].parent == last.id && told[0].kind == 4, "{told:#?}");
    assert_eq!(told[0].get("messaging.message.id"), event["id"].as_str().unwrap());
    assert_eq!(told[0].get("messaging.rabbitmq.destination.routing_key"), "ifortepay.canceled");

    let calls = named(&spans, "POST ");
    assert_eq!(calls.len() as u64, event["data"]["callsTotal"].as_u64().unwrap());
    let (failed, good) = (calls[0], *calls.last().unwrap());
    assert!(failed.failed && failed.get("error.type") == "500" && failed.kind == 3, "{failed:#?}");
    assert!(!good.failed && good.get("http.response.status_code") == "200", "{good:#?}");
    assert_eq!((good.get("server.address"), good.get("qris_cancel.verdict")), ("127.0.0.1", "canceled"));
    assert_eq!(good.get("qris_cancel.response_code"), "2007700");
    assert!(good.get("url.full").ends_with(&good.name["POST ".len()..]), "{good:#?}");
    let recorded = event["data"]["calls"].as_array().unwrap().last().unwrap();
    assert_eq!(good.get("qris_cancel.external_id"), recorded["externalId"].as_str().unwrap());
    assert!(good.nanos / 1_000_000 >= recorded["durationMs"].as_u64().unwrap());
    // The provider has heard of each call's own span, and takes the signature all the same.
    let mut told_of: Vec<_> = calls.iter().map(|span| span.traceparent()).collect();
    told_of.sort();
    assert_eq!(heard.values("traceparent"), told_of);
    assert!(heard.values("tracestate").is_empty());

    // Whoever reads the event goes on where it was made.
    assert_eq!(event["traceparent"], last.traceparent());
    assert_eq!((&headers["traceparent"], headers["tracestate"].as_str()), (&last.traceparent(), "shop=7"));
    assert_eq!(event["tracestate"], "shop=7");

    let shown: BTreeSet<_> = spans.iter().flat_map(|span| span.attributes.keys().cloned()).collect();
    assert_eq!(shown, documented(), "docs/OBSERVABILITY.md has other attributes");
    let resource = collector.resource();
    assert_eq!((resource["service.name"].as_str(), resource.len()), ("qris-cancel-worker", 3), "{resource:?}");
    let log = worker.read_log();
    let finished: Value =
        serde_json::from_str(log.lines().find(|line| line.contains("\"finished\"")).unwrap()).unwrap();
    assert_eq!(finished["span"]["trace_id"], TRACE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_with_no_trace_or_a_bad_one_begins_one_that_its_attempts_share() {
    let (collector, heard) = (Collector::start().await, Heard::default());
    let place = place(&collector.endpoint, &heard, "500=1").await;
    let mut worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    let none = persistent();
    publish(&client, "ifortepay", "none", none).await;
    publish(&client, "ifortepay", "zeros", traced(&"0".repeat(55), "shop=7")).await;
    publish(&client, "ifortepay", "shout", traced(&format!("00-{}-{ORDER_SERVICE}-01", TRACE.to_uppercase()), "x"))
        .await;
    let jobs = ["none", "zeros", "shout"];
    until("each has failed once", SOON, || {
        Box::pin(async {
            let spans = collector.spans();
            let tried: BTreeSet<_> = named(&spans, PROCESS).iter().map(|span| span.get("qris_cancel.job_id")).collect();
            jobs.iter().all(|job| tried.contains(job))
        })
    })
    .await;
    place.send("PUT", "/_sandbox/faults", &json!({ "faults": "0" })).await;
    for job in jobs {
        event(&mut events, job).await;
    }
    worker.stop("-TERM").await;
    let spans = collector.spans();
    let mut traces = BTreeSet::new();
    for job in jobs {
        let (headers, event) = event(&mut events, job).await;
        let carried = event["traceparent"].as_str().unwrap().to_owned();
        assert!(headers["traceparent"] == carried && !headers.contains_key("tracestate"), "{headers:?}");
        let process: Vec<_> =
            named(&spans, PROCESS).into_iter().filter(|span| span.get("qris_cancel.job_id") == job).cloned().collect();
        assert!(process.len() >= 2, "{process:#?}");
        assert_eq!(process[0].parent, "", "its first attempt is the root");
        assert!(process[1..].iter().all(|span| span.trace == process[0].trace && span.parent == process[0].id));
        assert_eq!(carried, process.last().unwrap().traceparent());
        traces.insert(process[0].trace.clone());
    }
    assert_eq!(traces.len(), 3);
    let heard = heard.values("traceparent");
    assert!(!heard.is_empty() && heard.iter().all(|one| traces.contains(&one[3..35])), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_publisher_does_not_record_is_carried_on_and_not_recorded() {
    let (collector, heard) = (Collector::start().await, Heard::default());
    let place = place(&collector.endpoint, &heard, "0").await;
    let mut worker = place.worker().await;
    let client = place.client().await;
    let mut events = client.collect().await;
    publish(&client, "ifortepay", "quiet", traced(&format!("00-{TRACE}-{ORDER_SERVICE}-00"), "shop=7")).await;
    // An account that does not say so tells its provider nothing.
    publish(&client, "bnc", "loud", traced(&format!("00-{TRACE}-{ORDER_SERVICE}-01"), "shop=7")).await;
    let (_, quiet) = event(&mut events, "quiet").await;
    let (_, loud) = event(&mut events, "loud").await;
    assert_eq!(worker.stop("-TERM").await.0, 0);
    let carried = quiet["traceparent"].as_str().unwrap();
    assert!(carried.starts_with(&format!("00-{TRACE}-")) && carried.ends_with("-00"), "{carried}");
    assert!(!carried.contains(ORDER_SERVICE), "{carried}");
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.get("qris_cancel.account") == "bnc"), "{spans:#?}");
    assert_eq!(loud["traceparent"], named(&spans, PROCESS)[0].traceparent());
    // Its token was fetched for the command, too.
    let operations: Vec<_> = named(&spans, "POST ").iter().map(|span| span.get("qris_cancel.operation")).collect();
    assert_eq!(operations, ["token", "cancel"]);
    let heard = heard.values("traceparent");
    assert!(heard.len() == 1 && heard[0].starts_with(&carried[..36]) && heard[0].ends_with("-00"), "{heard:?}");
}

/// Its answers have no end.
async fn one_that_never_stops_talking() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // It speaks when it is spoken to.
                let asked = stream.read(&mut [0; 16_384]).await.is_ok();
                let mut listens = asked && stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok();
                while listens {
                    listens = stream.write_all(&[0; 16_384]).await.is_ok();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
    });
    format!("http://{address}/v1/traces")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_hangs_slows_nothing_and_is_told_of_once() {
    const COMMANDS: usize = 200;
    // It takes connections, and says nothing.
    let hanging = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = format!("http://{}/v1/traces", hanging.local_addr().unwrap());
    for (endpoint, told) in [
        ("http://127.0.0.1:1/v1/traces", "Connection refused"),
        (&hangs, "no answer within 10s"),
        (&one_that_never_stops_talking().await, "its answer is longer than 65536 bytes"),
    ] {
        let place = place(endpoint, &Heard::default(), "0").await;
        let mut worker = place.worker().await;
        let client = place.client().await;
        let mut events = client.collect().await;
        for at in 0..COMMANDS {
            publish(&client, "ifortepay", &format!("job-{at}"), persistent()).await;
        }
        events.wait(COMMANDS, SOON).await;
        worker.wait_for_log(told, SOON).await;
        publish(&client, "ifortepay", "another", persistent()).await;
        event(&mut events, "another").await;
        let (code, took) = worker.stop("-TERM").await;
        assert!(code == 0 && took < Duration::from_secs(9), "{code} after {took:?}");
        let log = worker.read_log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("spans do not reach the collector")).collect();
        assert!(lines.len() == 1 && lines[0].contains(told), "{lines:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_nobody_takes_are_lost_and_hold_up_nobody() {
    let hanging = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = settings::Traces {
        endpoint: format!("http://{}/v1/traces", hanging.local_addr().unwrap()),
        headers: vec![],
        sample_ratio: 1.0,
        service_name: "test".into(),
        resource: vec![],
    };
    let traces = Traces::start(Some(&settings)).unwrap();
    let message = message("ifortepay", b"");
    let begun = Instant::now();
    for _ in 0..10_000 {
        traces.process(&mut message.clone(), "queue", "exchange").end();
    }
    let made = begun.elapsed();
    assert!(made < Duration::from_secs(10), "{made:?}");
    let begun = Instant::now();
    traces.flush(Duration::from_millis(300)).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    println!("{:?} a span", made / 10_000);
}
