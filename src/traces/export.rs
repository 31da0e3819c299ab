//! Spans on their way to the collector, over OTLP: HTTP with protobuf.
//!
//! Nothing waits for a span: there is a queue, and what does not fit in is lost. A request is made once, and its spans are
//! lost if it fails. The log tells when that begins and when it is over, not each time.

use crate::{settings, snap::client::chain_of};
use opentelemetry::Context;
use opentelemetry_proto::{
    tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    transform::{common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use prost::Message;
use reqwest::{
    Client,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use secrecy::ExposeSecret;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

/// Spans that may wait; some megabytes.
const QUEUE: usize = 4096;
/// Spans in one request.
const BATCH: usize = 512;
/// So long a request waits for more spans.
const LINGER: Duration = Duration::from_millis(200);
/// As OTLP's own default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What a collector says is a few bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// When no span was lost for so long, the collector is said to be there again.
const CALM: Duration = Duration::from_secs(10);

/// Takes spans as they end.
#[derive(Debug)]
pub struct Queue {
    spans: mpsc::Sender<SpanData>,
    lost: Arc<AtomicU64>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends spans for as long as the worker runs.
pub struct Exporter {
    task: TaskTracker,
    ending: CancellationToken,
}

impl Exporter {
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn start(settings: &settings::Traces, resource: &Resource) -> Result<(Queue, Self), String> {
        let client = Client::builder()
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|e| format!("the HTTP client for traces cannot be set up: {}", chain_of(&e)))?;
        let (sender, spans) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let collector = Collector {
            client,
            endpoint: settings.endpoint.clone(),
            headers: headers(settings)?,
            resource: resource.into(),
        };
        let exporter = Self { task: TaskTracker::new(), ending: CancellationToken::new() };
        exporter.task.spawn(run(collector, spans, lost.clone(), exporter.ending.clone()));
        exporter.task.close();
        Ok((Queue { spans: sender, lost }, exporter))
    }

    pub async fn flush(&self, limit: Duration) {
        self.ending.cancel();
        if tokio::time::timeout(limit, self.task.wait()).await.is_err() {
            debug!("the last spans did not reach the collector in time");
        }
    }
}

fn headers(settings: &settings::Traces) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"))]);
    for (name, value) in &settings.headers {
        let read = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value.expose_secret()).ok());
        let (name, mut value) = read.ok_or_else(|| format!("traces.headers: {name} cannot be sent"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

async fn run(
    collector: Collector,
    mut spans: mpsc::Receiver<SpanData>,
    lost: Arc<AtomicU64>,
    ending: CancellationToken,
) {
    let (mut batch, mut losses) = (Vec::new(), Losses::default());
    loop {
        let received = tokio::select! {
            received = spans.recv_many(&mut batch, BATCH) => received,
            () = ending.cancelled(), if !spans.is_closed() => {
                // What is in it can still be had.
                spans.close();
                continue;
            }
        };
        if received == 0 {
            return;
        }
        if received < BATCH {
            tokio::select! { () = tokio::time::sleep(LINGER) => {}, () = ending.cancelled() => {} }
            while batch.len() < BATCH
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
        }
        let count = batch.len() as u64;
        let sent = collector.send(std::mem::take(&mut batch)).await;
        let overflow = lost.swap(0, Ordering::Relaxed);
        match sent {
            Err(error) => losses.note(&error, overflow + count),
            Ok(()) if overflow > 0 => losses.note("the collector is too slow", overflow),
            Ok(()) => losses.note_none(),
        }
    }
}

struct Collector {
    client: Client,
    endpoint: String,
    headers: HeaderMap,
    resource: ResourceAttributesWithSchema,
}

impl Collector {
    async fn send(&self, batch: Vec<SpanData>) -> Result<(), String> {
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        // An error's text without its causes is the address, which can hold a secret.
        let failed =
            |e: reqwest::Error| if e.is_timeout() { format!("no answer within {TIMEOUT:?}") } else { chain_of(&e) };
        let request = self.client.post(&self.endpoint).headers(self.headers.clone()).body(body);
        let mut response = request.send().await.map_err(failed)?;
        if response.status() != 200 {
            return Err(format!("HTTP {}; is it the address of OTLP over HTTP?", response.status().as_u16()));
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if answer.len() + chunk.len() > MAX_ANSWER {
                return Err(format!("its answer is longer than {MAX_ANSWER} bytes; is it a collector?"));
            }
            answer.extend_from_slice(&chunk);
        }
        match ExportTraceServiceResponse::decode(answer.as_slice()).ok().and_then(|answer| answer.partial_success) {
            Some(partly) if partly.rejected_spans > 0 => Err(format!("it rejected {} spans", partly.rejected_spans)),
            _ => Ok(()),
        }
    }
}

/// What the log tells of spans that were lost.
#[derive(Default)]
struct Losses {
    /// How many since that was told, and when the last.
    told: Option<(u64, Instant)>,
}

impl Losses {
    fn note(&mut self, error: &str, count: u64) {
        if self.told.is_none() {
            warn!(error, "spans do not reach the collector, and are lost until they do; commands go on");
        }
        let before = self.told.map_or(0, |(count, _)| count);
        self.told = Some((before + count, Instant::now()));
    }

    fn note_none(&mut self) {
        if let Some((lost, last)) = self.told
            && last.elapsed() > CALM
        {
            info!(lost, "spans reach the collector again");
            self.told = None;
        }
    }
}
