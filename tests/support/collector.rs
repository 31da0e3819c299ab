//! A collector of OTLP over HTTP that keeps what it gets.

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

type Requests = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

pub struct Collector {
    /// `http://127.0.0.1:PORT/v1/traces`.
    pub endpoint: String,
    requests: Requests,
}

/// A span, as a test looks at it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub trace: String,
    pub id: String,
    /// Empty at the root.
    pub parent: String,
    pub name: String,
    /// As OTLP numbers them: 3 client, 4 producer, 5 consumer.
    pub kind: i32,
    pub failed: bool,
    pub nanos: u64,
    pub attributes: BTreeMap<String, String>,
}

impl Seen {
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.id)
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let requests = Requests::default();
        let keep = |State(requests): State<Requests>, headers: HeaderMap, body: Bytes| async move {
            requests.lock().unwrap().push((headers, body));
        };
        let app = Router::new().route("/v1/traces", post(keep)).with_state(requests.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { endpoint, requests }
    }

    /// Every request as it came.
    pub fn requests(&self) -> Vec<(HeaderMap, Bytes)> {
        self.requests.lock().unwrap().clone()
    }

    /// The attributes of the process that sent first.
    pub fn resource(&self) -> BTreeMap<String, String> {
        let (_, body) = &self.requests()[0];
        let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
        attributes(&request.resource_spans[0].resource.as_ref().unwrap().attributes)
    }

    /// All spans, in the order in which they began.
    pub fn spans(&self) -> Vec<Seen> {
        let mut spans = Vec::new();
        for (_, body) in self.requests() {
            for resource in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
                spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans).map(seen));
            }
        }
        spans.sort_by_key(|(began, _)| *began);
        spans.into_iter().map(|(_, span)| span).collect()
    }

    /// Waits until there are so many of this name.
    pub async fn wait(&self, name: &str, count: usize, limit: Duration) -> Vec<Seen> {
        let begun = Instant::now();
        loop {
            let spans = self.spans();
            if spans.iter().filter(|span| span.name.starts_with(name)).count() >= count {
                return spans;
            }
            assert!(begun.elapsed() < limit, "not {count} spans {name} within {limit:?}: {spans:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn seen(span: Span) -> (u64, Seen) {
    let seen = Seen {
        trace: hex::encode(&span.trace_id),
        id: hex::encode(&span.span_id),
        parent: hex::encode(&span.parent_span_id),
        name: span.name,
        kind: span.kind,
        failed: span.status.is_some_and(|status| status.code == 2),
        nanos: span.end_time_unix_nano - span.start_time_unix_nano,
        attributes: attributes(&span.attributes),
    };
    (span.start_time_unix_nano, seen)
}

fn attributes(all: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> BTreeMap<String, String> {
    all.iter().map(|attribute| (attribute.key.clone(), text(attribute.value.clone()))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(yes)) => yes.to_string(),
        other => panic!("an attribute of another kind: {other:?}"),
    }
}
