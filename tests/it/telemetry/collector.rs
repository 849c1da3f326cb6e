//! An OpenTelemetry collector that records spans.

use http::Response;
use http_body_util::BodyExt;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::timeout;

use crate::support::process::PROCESS_TIMEOUT;
use crate::support::upstream::{listen, serve};

pub(super) struct Collector {
    pub(super) url: String,
    spans: UnboundedReceiver<Span>,
}

impl Collector {
    pub(super) async fn start() -> Self {
        let (keep, spans) = mpsc::unbounded_channel();
        let address = listen(move |socket| {
            let keep = keep.clone();
            serve(socket, move |request| {
                let keep = keep.clone();
                async move {
                    assert_eq!(request.uri().path(), "/v1/traces");
                    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let batch = ExportTraceServiceRequest::decode(body).unwrap();
                    for span in
                        batch.resource_spans.into_iter().flat_map(|of| of.scope_spans).flat_map(|of| of.spans)
                    {
                        let _ = keep.send(span);
                    }
                    Response::new(axum::body::Body::empty())
                }
            })
        })
        .await;
        Self { url: format!("http://{address}"), spans }
    }

    /// Waits for the next span.
    pub(super) async fn span(&mut self) -> Span {
        timeout(PROCESS_TIMEOUT, self.spans.recv()).await.expect("no span arrived").unwrap()
    }

    /// Returns all spans received so far.
    pub(super) fn all(&mut self) -> Vec<Span> {
        std::iter::from_fn(|| self.spans.try_recv().ok()).collect()
    }
}

/// Returns an attribute as text.
pub(super) fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{other:?}"),
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
