//! Traces: a command's way through the worker as OpenTelemetry spans, off unless the settings name a collector.
//!
//! A delivery is a span, the child of the span that published the command, or of its first attempt where the command came
//! without. Under it lie a span for each request to the provider and one for each message that is published. They are named and
//! described as the semantic conventions for messaging and HTTP say; what is ours begins with `qris_cancel.`.
//!
//! The span in which something is done rides with its task, in OpenTelemetry's [`Context`], so that nobody has to hand it on, and
//! where nothing is traced nothing is made.

mod export;
pub mod parent;

use crate::{
    message::{Carried, Message, TraceContext},
    pipeline::{Ending, NotConfirmed},
    settings,
    snap::{Reply, SendError, request::SignedRequest, response::Answer},
    verdict::Verdict,
};
use export::Exporter;
use futures_util::future::Either;
use hyper::Uri;
use lapin::{BasicProperties, types::ShortString};
use opentelemetry::{
    Context, InstrumentationScope, KeyValue, Value,
    context::FutureExt,
    trace::{SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TracerProvider},
};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use parent::Parent;
use std::{future::Future, time::Duration};

/// The version of the semantic conventions that names come from.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.42.0";

/// Makes the spans of a worker, if it makes any.
#[derive(Default)]
pub struct Traces(Option<On>);

struct On {
    tracer: SdkTracer,
    exporter: Exporter,
}

/// What rides with a delivery's task: how to make further spans of it.
struct InHand {
    tracer: SdkTracer,
    account: String,
}

impl Traces {
    /// # Errors
    /// When the HTTP client for the collector cannot be set up.
    pub fn start(settings: Option<&settings::Traces>) -> Result<Self, String> {
        let Some(settings) = settings else { return Ok(Self::default()) };
        let resource = Resource::builder_empty()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()))
            .with_attributes(settings.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone())))
            .with_service_name(settings.service_name.clone())
            .build();
        let (queue, exporter) = Exporter::start(settings, &resource)?;
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio))))
            .with_resource(resource)
            .build();
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA)
            .build();
        Ok(Self(Some(On { tracer: provider.tracer_with_scope(scope), exporter })))
    }

    /// The span of all that is done with a delivery. What is told of the message belongs to it; a copy of the message keeps the
    /// trace context that it came with, or gets this one if it came without, so that later attempts are of the same trace.
    pub fn process(&self, message: &mut Message, queue: &str, exchange: &str) -> Span {
        let Some(On { tracer, .. }) = &self.0 else { return Span::default() };
        let context =
            Context::new().with_value(InHand { tracer: tracer.clone(), account: message.routing_key.clone() });
        let parent = remote(message);
        let began_elsewhere = parent.is_some();
        let context = parent.into_iter().fold(context, |context, parent| context.with_remote_span_context(parent));
        let mut attributes = messaging("process", "process", &[exchange, &message.routing_key, queue]);
        attributes.extend([
            KeyValue::new("messaging.rabbitmq.destination.routing_key", message.routing_key.clone()),
            KeyValue::new("qris_cancel.account", message.routing_key.clone()),
            KeyValue::new("qris_cancel.redelivered", message.redelivered),
        ]);
        let text = |name, text: &Option<String>| text.clone().map(|text| KeyValue::new(name, text));
        attributes.extend(text("messaging.message.id", &message.properties.message_id));
        attributes.extend(text("messaging.message.conversation_id", &message.properties.correlation_id));
        let before = if let Carried::Progress(progress) = &message.carried { progress.attempts } else { 0 };
        attributes.push(KeyValue::new("qris_cancel.attempt", i64::from(before) + 1));
        let span = SpanBuilder::from_name(format!("process {queue}"))
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes)
            .start_with_context(tracer, &context);
        let span = Span(Some(context.with_span(span)));
        message.trace = span.trace_context();
        if !began_elsewhere {
            message.properties.traceparent = span.traceparent();
            message.properties.tracestate = None;
        }
        span
    }

    /// Sends what is still to be sent, for no longer than this.
    pub async fn flush(&self, limit: Duration) {
        if let Some(on) = &self.0 {
            on.exporter.flush(limit).await;
        }
    }
}

fn remote(message: &Message) -> Option<SpanContext> {
    let parent = Parent::read(message.properties.traceparent.as_deref()?)?;
    let (trace, span) = (TraceId::from_hex(parent.trace_id).ok()?, SpanId::from_hex(parent.span_id).ok()?);
    // A tracestate that cannot be read is dropped; the trace goes on without.
    let state = message.properties.tracestate.as_deref().and_then(|state| state.parse().ok()).unwrap_or_default();
    let flags = TraceFlags::default().with_sampled(parent.sampled);
    Some(SpanContext::new(trace, span, flags, true, state))
}

/// Something that is done, from when this is made until its [`Span::end`], or until the last copy is dropped.
#[derive(Debug, Clone, Default)]
pub struct Span(Option<Context>);

impl Span {
    /// Something is done in the trace of whatever the task has in hand.
    fn child(kind: SpanKind, made: impl FnOnce() -> (String, Vec<KeyValue>)) -> Self {
        Context::map_current(|context| {
            let Some(InHand { tracer, account }) = context.get() else { return Self(None) };
            let (name, mut attributes) = made();
            attributes.push(KeyValue::new("qris_cancel.account", account.clone()));
            let builder = SpanBuilder::from_name(name).with_kind(kind).with_attributes(attributes);
            Self(Some(context.with_span(builder.start_with_context(tracer, context))))
        })
    }

    /// The span that the task is in.
    pub fn current() -> Self {
        Context::map_current(|context| Self(context.get::<InHand>().map(|_| context.clone())))
    }

    /// A request to the provider.
    pub fn call(request: &SignedRequest) -> Self {
        Self::child(SpanKind::Client, || {
            let uri: Uri = request.url.parse().unwrap_or_default();
            let (host, path) = (uri.host().unwrap_or_default(), uri.path());
            let scheme = uri.scheme_str().unwrap_or_default();
            let usual = if scheme == "http" { 80 } else { 443 };
            let port = uri.port_u16().map_or(String::new(), |port| format!(":{port}"));
            let attributes = vec![
                KeyValue::new("http.request.method", "POST"),
                // Neither a user nor a query, either of which could be a secret.
                KeyValue::new("url.full", format!("{scheme}://{host}{port}{path}")),
                KeyValue::new("server.address", host.trim_matches(['[', ']']).to_owned()),
                KeyValue::new("server.port", i64::from(uri.port_u16().unwrap_or(usual))),
                KeyValue::new("qris_cancel.operation", request.operation.name()),
            ];
            (format!("POST {path}"), attributes)
        })
    }

    /// A message that is published.
    pub fn publish(exchange: &str, routing_key: &str, properties: &BasicProperties) -> Self {
        Self::child(SpanKind::Producer, || {
            let mut attributes = messaging("send", "publish", &[exchange, routing_key]);
            let text =
                |name, text: &Option<ShortString>| text.as_ref().map(|text| KeyValue::new(name, text.to_string()));
            attributes.push(KeyValue::new("messaging.rabbitmq.destination.routing_key", routing_key.to_owned()));
            attributes.extend(text("messaging.message.id", properties.message_id()));
            attributes.extend(text("messaging.message.conversation_id", properties.correlation_id()));
            (format!("publish {exchange}"), attributes)
        })
    }

    /// Does this work in the span.
    pub fn over<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        match &self.0 {
            Some(context) => Either::Right(work.with_context(context.clone())),
            None => Either::Left(work),
        }
    }

    pub fn set(&self, name: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(name, value));
        }
    }

    /// What was done has failed; a word says how.
    pub fn fail(&self, error: impl Into<String>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new("error.type", error.into()));
            context.span().set_status(Status::error(""));
        }
    }

    /// What came back from the provider.
    pub fn answered(&self, result: &Result<Reply, SendError>) {
        match result {
            Ok(reply) => {
                self.set("http.response.status_code", i64::from(reply.http_status));
                if reply.http_status >= 400 {
                    self.fail(reply.http_status.to_string());
                }
            }
            Err(error) => self.fail(error.name()),
        }
    }

    /// What is thought of the reply; with that, the call is over.
    pub fn judged(&self, verdict: Verdict, answer: Option<&Answer>) {
        self.set("qris_cancel.verdict", verdict.name());
        if let Some(code) = answer.and_then(|answer| answer.code) {
            self.set("qris_cancel.response_code", code.to_string());
        }
        self.end();
    }

    /// What came of a delivery.
    pub fn handled(&self, handled: &Result<Ending, NotConfirmed>) {
        match handled {
            Ok(Ending::Finished(cause)) => {
                self.set("qris_cancel.outcome", cause.outcome().name());
                self.set("qris_cancel.cause", cause.name());
            }
            Ok(Ending::Scheduled(why)) => self.set("qris_cancel.waits", why.name()),
            Ok(Ending::Postponed) => self.set("qris_cancel.waits", "postponed"),
            Ok(Ending::Rerouted) => self.set("qris_cancel.waits", "rerouted"),
            Err(_) => self.fail("not_confirmed"),
        }
    }

    pub fn end(&self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }

    /// What a message or a request carries so that its receiver goes on with the trace.
    pub fn traceparent(&self) -> Option<String> {
        let context = self.0.as_ref()?;
        let (span, flags) = (context.span().span_context().clone(), context.span().span_context().trace_flags());
        Some(format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), flags.to_u8() & 1))
    }

    fn trace_context(&self) -> Option<TraceContext> {
        let state = self.0.as_ref()?.span().span_context().trace_state().header();
        Some(TraceContext {
            traceparent: self.traceparent()?,
            tracestate: Some(state).filter(|state| !state.is_empty()),
        })
    }
}

fn messaging(kind: &'static str, operation: &'static str, destination: &[&str]) -> Vec<KeyValue> {
    let mut parts = destination.to_vec();
    parts.retain(|part| !part.is_empty());
    vec![
        KeyValue::new("messaging.system", "rabbitmq"),
        KeyValue::new("messaging.operation.type", kind),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.destination.name", parts.join(":")),
    ]
}
