//! Spans for an OpenTelemetry collector: one for each sampled request, sent in batches behind the
//! requests' backs.

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

/// Takes the spans of sampled requests. Cheap to clone; it never waits.
#[derive(Clone, Debug)]
pub struct SpanSender {
    queue: Sender<SpanData>,
    /// Of 2^64 span ids those below this are sampled.
    below: u64,
    all: bool,
    scope: InstrumentationScope,
    lost: Counter,
}

/// Why no spans can be exported.
#[derive(Debug, thiserror::Error)]
#[error("otlp.endpoint: the exporter can't be made")]
pub struct OtlpError(#[source] opentelemetry_otlp::ExporterBuildError);

/// The task that sends spans.
#[derive(Debug)]
pub struct ExporterHandle {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl SpanSender {
    /// Starts to export to the collector at `endpoint`, `http://host:port`, the part `sample` of all
    /// requests. Runs on the runtime that it is called on.
    ///
    /// # Errors
    ///
    /// [`OtlpError`] if the address is none.
    pub fn start(endpoint: &str, sample: f64) -> Result<(Self, ExporterHandle), OtlpError> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(EXPORT_WITHIN)
            .build()
            .map_err(OtlpError)?;
        exporter.set_resource(&Resource::builder().with_service_name("sekisho").build());
        let (queue, spans) = mpsc::channel(MOST_WAITING);
        let (stop, stopped) = oneshot::channel();
        let lost = counter!("sekisho_spans_lost_total");
        let task = tokio::spawn(export(exporter, spans, stopped, lost.clone()));
        let scope = InstrumentationScope::builder("sekisho").with_version(env!("CARGO_PKG_VERSION")).build();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of the range")]
        let below = (sample.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
        let all = sample >= 1.0;
        Ok((Self { queue, below, all, scope, lost }, ExporterHandle { stop, task }))
    }

    /// Whether the request with this span is to be exported. Our own number decides, so that no client
    /// can ask for it.
    pub(crate) fn samples(&self, span: u64) -> bool {
        self.all || span < self.below
    }

    /// Hands over the span of a request that has ended.
    pub(crate) fn send(&self, ended: &AccessLogEntry<'_>, context: TraceContext, server: &str) {
        if self.queue.try_send(self.span(ended, context, server)).is_err() {
            self.lost.increment(1);
        }
    }

    /// By OpenTelemetry's semantic conventions for HTTP servers. Headers and queries are left out: they
    /// may hold anything.
    fn span(&self, ended: &AccessLogEntry<'_>, context: TraceContext, server: &str) -> SpanData {
        let scope = ended.scope;
        let (method, route) = (known_method(scope.method()), ended.route.to_owned());
        let mut attributes = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route.clone()),
            KeyValue::new("url.path", scope.path().to_owned()),
            KeyValue::new("http.response.status_code", i64::from(ended.status.as_u16())),
            KeyValue::new("server.address", server.to_owned()),
        ];
        let client = scope.client().map(|client| client.to_string());
        let upstream = scope.upstream().map(str::to_owned);
        let event = ended.event.map(|event| event.as_str().to_owned());
        let known =
            [("client.address", client), ("sekisho.upstream", upstream), ("sekisho.session_event", event)];
        attributes.extend(known.into_iter().filter_map(|(name, value)| Some(KeyValue::new(name, value?))));
        let end_time = SystemTime::from(ended.at);
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
            start_time: end_time.checked_sub(ended.duration).unwrap_or(end_time),
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if ended.status.is_server_error() { Status::error("") } else { Status::Unset },
            instrumentation_scope: self.scope.clone(),
        }
    }
}

impl ExporterHandle {
    /// Sends what waits, and ends.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        if tokio::time::timeout(EXPORT_WITHIN, self.task).await.is_err() {
            tracing::warn!("the last spans were not exported in time");
        }
    }
}

async fn export(
    exporter: SpanExporter,
    mut spans: Receiver<SpanData>,
    mut stopped: oneshot::Receiver<()>,
    lost: Counter,
) {
    let mut failing = false;
    loop {
        let stopping = tokio::select! {
            _ = &mut stopped => true,
            () = tokio::time::sleep(EXPORT_EVERY) => false,
            () = batch_full(&spans) => false,
        };
        while !spans.is_empty() {
            let mut batch = Vec::new();
            let count = spans.recv_many(&mut batch, AT_ONCE).await;
            let sent = exporter.export(batch).await;
            if let Err(error) = &sent {
                lost.increment(count as u64);
                if !failing {
                    tracing::warn!(error = error as &dyn std::error::Error, "spans are not exported");
                }
            }
            failing = sent.is_err();
        }
        if stopping {
            return;
        }
    }
}

/// Waits until a batch is full.
async fn batch_full(spans: &Receiver<SpanData>) {
    while spans.len() < AT_ONCE {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A method that anybody could have made up would make names without end.
fn known_method(method: &http::Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

/// How many spans may wait, and how many go out at once.
const MOST_WAITING: usize = 4_096;
const AT_ONCE: usize = 512;

/// How long a span waits at most, and how often it is looked whether many do.
const EXPORT_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the collector may take.
const EXPORT_WITHIN: Duration = Duration::from_secs(5);
