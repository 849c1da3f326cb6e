//! Export of one span per sampled request to an OpenTelemetry collector, in batches on a background task.
//!
//! The `BatchSpanProcessor` of `opentelemetry_sdk` is not used: it counts the spans that a full queue drops, but only
//! logs the number, so `sekisho_spans_lost_total` would miss them.

use std::time::{Duration, SystemTime};

use metrics::{Counter, counter};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;

use super::access::AccessLogEntry;
use super::trace_context::TraceContext;

/// Queues the spans of sampled requests for export. Cheap to clone. Never blocks.
#[derive(Clone, Debug)]
pub struct SpanSender {
    queue: Sender<SpanData>,
    /// Span ids below this number are sampled.
    threshold: u64,
    samples_all: bool,
    scope: InstrumentationScope,
    lost: Counter,
}

/// Error of creating the exporter.
#[derive(Debug, thiserror::Error)]
#[error("otlp.endpoint: cannot create the exporter")]
pub struct OtlpError(#[source] opentelemetry_otlp::ExporterBuildError);

/// Handle of the export task.
#[derive(Debug)]
pub struct ExporterHandle {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl SpanSender {
    /// Starts the export to the collector at `endpoint` (`http://host:port`) on the current runtime.
    ///
    /// `sample` is the fraction of requests to export, from 0 to 1.
    ///
    /// # Errors
    ///
    /// [`OtlpError`] if the endpoint is invalid.
    pub fn start(endpoint: &str, sample: f64) -> Result<(Self, ExporterHandle), OtlpError> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(OtlpError)?;
        exporter.set_resource(&Resource::builder().with_service_name("sekisho").build());
        let (queue, spans) = mpsc::channel(QUEUE_CAPACITY);
        let (stop, stopped) = oneshot::channel();
        let lost = counter!("sekisho_spans_lost_total");
        let task = tokio::spawn(export(exporter, spans, stopped, lost.clone()));
        let scope = InstrumentationScope::builder("sekisho").with_version(env!("CARGO_PKG_VERSION")).build();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a fraction of the range"
        )]
        let threshold = (sample.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
        let samples_all = sample >= 1.0;
        Ok((Self { queue, threshold, samples_all, scope, lost }, ExporterHandle { stop, task }))
    }

    /// Returns `true` if the request with this span is to be exported. The span id is generated here, so
    /// that clients cannot force sampling.
    pub(crate) fn samples(&self, span: u64) -> bool {
        self.samples_all || span < self.threshold
    }

    /// Queues the span of a completed request.
    pub(crate) fn send(&self, entry: &AccessLogEntry<'_>, context: TraceContext, server: &str) {
        if self.queue.try_send(self.span(entry, context, server)).is_err() {
            self.lost.increment(1);
        }
    }

    /// Builds a span according to OpenTelemetry's semantic conventions for HTTP servers. Omits headers and
    /// the query, which may contain secrets.
    fn span(&self, entry: &AccessLogEntry<'_>, context: TraceContext, server: &str) -> SpanData {
        let scope = entry.scope;
        let method = known_method(scope.method());
        let route = entry.route.to_owned();
        let mut attributes = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route.clone()),
            KeyValue::new("url.path", scope.path().to_owned()),
            KeyValue::new("http.response.status_code", i64::from(entry.status.as_u16())),
            KeyValue::new("server.address", server.to_owned()),
        ];
        let client = scope.client().map(|client| client.to_string());
        let upstream = scope.upstream().map(str::to_owned);
        let event = entry.event.map(|event| event.as_str().to_owned());
        let known =
            [("client.address", client), ("sekisho.upstream", upstream), ("sekisho.session_event", event)];
        attributes.extend(known.into_iter().filter_map(|(name, value)| Some(KeyValue::new(name, value?))));
        let end_time = SystemTime::from(entry.at);
        SpanData {
            span_context: SpanContext::new(
                TraceId::from(context.trace),
                SpanId::from(context.span),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: context.parent.map_or(SpanId::INVALID, SpanId::from),
            parent_span_is_remote: context.parent.is_some(),
            span_kind: SpanKind::Server,
            name: format!("{method} {route}").into(),
            start_time: end_time.checked_sub(entry.duration).unwrap_or(end_time),
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if entry.status.is_server_error() { Status::error("") } else { Status::Unset },
            instrumentation_scope: self.scope.clone(),
        }
    }
}

impl ExporterHandle {
    /// Exports the queued spans and stops the task.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        if tokio::time::timeout(EXPORT_TIMEOUT, self.task).await.is_err() {
            tracing::warn!("final span export timed out");
        }
    }
}

async fn export(
    exporter: SpanExporter,
    mut spans: Receiver<SpanData>,
    mut stop: oneshot::Receiver<()>,
    lost: Counter,
) {
    let mut failing = false;
    loop {
        let stopping = tokio::select! {
            _ = &mut stop => true,
            () = tokio::time::sleep(EXPORT_INTERVAL) => false,
            () = batch_full(&spans) => false,
        };
        while !spans.is_empty() {
            let mut batch = Vec::new();
            let count = spans.recv_many(&mut batch, MAX_BATCH).await;
            let result = exporter.export(batch).await;
            if let Err(error) = &result {
                lost.increment(count as u64);
                if !failing {
                    tracing::warn!(error = error as &dyn std::error::Error, "span export failed");
                }
            }
            failing = result.is_err();
        }
        if stopping {
            return;
        }
    }
}

/// Waits until the queue holds a full batch.
async fn batch_full(spans: &Receiver<SpanData>) {
    while spans.len() < MAX_BATCH {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns the name of a standard method, or `_OTHER`, which bounds the number of span names.
fn known_method(method: &http::Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

/// Capacity of the queue in spans.
const QUEUE_CAPACITY: usize = 4_096;

/// Maximum number of spans in a batch.
const MAX_BATCH: usize = 512;

/// Interval between exports of incomplete batches.
const EXPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which the length of the queue is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Timeout of an export.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
