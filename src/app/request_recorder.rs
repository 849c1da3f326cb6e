//! The outermost service of the stacks: records every request.
//!
//! - Assigns the request id, and continues the trace of `traceparent` or starts one.
//! - Resolves the client's address, and runs the request in its [`RequestContext`].
//! - Converts a panic of the inner service into a 500 response.
//! - Records metrics when the response starts and ends, and writes the access log entry and the span once the
//!   response body has been sent.
//!
//! Written by hand rather than of several layers, because every request passes it: a feature that is switched
//! off costs nothing.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use futures_util::future::Either;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::Service;

use super::admission::begin_for_user;
use super::catch_panic::{CatchPanicFuture, catch_panic};
use super::client_address::{PublicAuthority, TrustedProxies, resolve_client};
use crate::clock::Clock;
use crate::http_headers::{SESSION_EVENT_HEADER, X_REQUEST_ID};
use crate::identity::Identity;
use crate::request_context::{RequestContext, Scoped};
use crate::server::{ClientShares, InReserve};
use crate::session_event::SessionEvent;
use crate::telemetry::metrics::{HttpMetrics, RouteMetricsTable};
use crate::telemetry::{AccessLogEntry, CLIENT_CLOSED_REQUEST, Telemetry, TraceContext, ids};

/// Records every request of its inner service.
#[derive(Clone)]
pub(super) struct RequestRecorder<S> {
    inner: S,
    shared: Arc<Shared>,
}

/// Settings of a [`RequestRecorder`].
#[derive(Clone)]
pub(super) struct RecorderConfig {
    /// The proxies whose headers about the client are trusted.
    pub(super) trusted_proxies: TrustedProxies,
    /// The scheme and host that upstreams are told.
    pub(super) public_authority: Option<PublicAuthority>,
    /// The host name of the gateway, for spans.
    pub(super) server_name: Arc<str>,
    /// The clock of the access log.
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<HttpMetrics>,
    /// The access log and the span exporter.
    pub(super) telemetry: Telemetry,
}

/// State that the requests of one recorder share.
struct Shared {
    config: RecorderConfig,
    routes: RouteMetricsTable,
}

impl<S> RequestRecorder<S> {
    /// Register all routes in `config.metrics` before this call: their table is copied here.
    pub(super) fn new(inner: S, mut config: RecorderConfig) -> Self {
        let routes = config.metrics.numbered();
        // Each thread has its own recorder, and threads must not contend for a reference count.
        config.public_authority = config.public_authority.as_ref().map(PublicAuthority::unshared);
        Self { inner, shared: Arc::new(Shared { config, routes }) }
    }

    /// Records a request that the inner service does not receive, and the response of `respond` to it.
    pub(super) fn record_rejection(
        &self,
        mut request: Request<()>,
        respond: impl FnOnce() -> Response<Body>,
    ) -> Response<Body> {
        let record = RequestRecord::begin(&self.shared, &mut request);
        let context = record.context.clone();
        let response = context.enter(respond);
        record.on_response(response)
    }
}

impl<S> Service<Request<Body>> for RequestRecorder<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = RecorderFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let record = RequestRecord::begin(&self.shared, &mut request);
        let context = record.context.clone();
        let future = context.enter(|| catch_panic(|| self.inner.call(request)));
        RecorderFuture { future: context.scope(future), record: Some(record) }
    }
}

pin_project! {
    /// Response future of [`RequestRecorder`].
    pub struct RecorderFuture<F> {
        // Dropped before the record, so that the drop is still part of the recorded request.
        #[pin]
        future: Scoped<CatchPanicFuture<F>>,
        record: Option<RequestRecord>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for RecorderFuture<F> {
    type Output = Result<Response<Body>, Infallible>;

    #[expect(clippy::expect_used, reason = "polling after completion is a bug of the caller")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(response) = ready!(this.future.poll(cx));
        let record = this.record.take().expect("RecorderFuture polled after completion");
        Poll::Ready(Ok(record.on_response(response)))
    }
}

/// The record of a request, from its arrival to the end of its response.
///
/// Written on drop. A record without a response belongs to a client that closed the connection.
struct RequestRecord {
    shared: Arc<Shared>,
    context: RequestContext,
    started: Instant,
    version: Version,
    trace: TraceContext,
    /// True if the span is exported.
    sampled: bool,
    response: Option<ResponseProgress>,
}

/// The part of a response that has been sent.
struct ResponseProgress {
    status: StatusCode,
    event: Option<SessionEvent>,
    /// Length of the body in bytes, if known in advance.
    length: Option<u64>,
    /// Bytes of the body sent.
    sent: u64,
    /// True once the body has ended.
    ended: bool,
}

impl RequestRecord {
    fn begin<B>(shared: &Arc<Shared>, request: &mut Request<B>) -> Self {
        let config = &shared.config;
        let started = Instant::now();
        config.metrics.in_flight.increment(1.0);
        let client = resolve_client(&config.trusted_proxies, config.public_authority.as_ref(), request);
        let address = client.and_then(|client| client.address);
        let context = RequestContext::new(ids::request(), request.method().clone(), request.uri(), address);
        if let Some(client) = client {
            context.set_client_origin(client.is_https, client.is_host_reported);
        }
        let mut trace = assign_ids(request.headers_mut(), &context);
        let sampled = config.telemetry.spans.as_ref().is_some_and(|spans| spans.samples(trace.span));
        trace.sampled |= sampled;
        trace.inject(request.headers_mut());
        let version = request.version();
        Self { shared: Arc::clone(shared), context, started, version, trace, sampled, response: None }
    }

    /// Records the response head, and wraps the body to record its end.
    fn on_response(mut self, mut response: Response<Body>) -> Response<Body> {
        if let Some(share) = self.context.share() {
            share.end_in_flight();
        }
        // Replaces an upstream's request id, which is not in the gateway's log.
        response.headers_mut().insert(X_REQUEST_ID, request_id_header(&self.context));
        let status = response.status();
        let event = session_event_from_headers(response.headers());
        let length = response.body().size_hint().exact();
        let ended = response.body().is_end_stream();
        self.count(status, event);
        self.response = Some(ResponseProgress { status, event, length, sent: 0, ended });
        if ended {
            return response;
        }
        response.map(|body| Body::new(RecordedBody { body, record: self }))
    }

    /// Counts the request in the metrics.
    fn count(&self, status: StatusCode, event: Option<SessionEvent>) {
        self.shared.routes.of(self.context.route()).count(status, event);
        if let Some(event) = event {
            self.shared.config.metrics.count_event(event);
        }
    }

    /// Records the duration, and emits the access log entry and the span.
    fn on_complete(&self, response: &ResponseProgress) {
        let Shared { config, routes } = &*self.shared;
        let duration = self.started.elapsed();
        config.metrics.in_flight.decrement(1.0);
        let route = routes.of(self.context.route());
        route.duration.record(duration);
        if config.telemetry.access.is_none() && !self.sampled {
            return;
        }
        // hyper does not poll a body again after its announced length, and never for HEAD.
        let whole =
            response.ended || response.length == Some(response.sent) || self.context.method() == Method::HEAD;
        self.emit(&AccessLogEntry {
            at: config.clock.wall(),
            scope: &self.context,
            status: response.status,
            bytes: response.sent,
            whole,
            duration,
            route: &route.name,
            event: response.event,
            version: self.version,
            trace: &self.trace.trace_id(),
        });
    }

    fn emit(&self, entry: &AccessLogEntry<'_>) {
        let config = &self.shared.config;
        if let Some(access) = &config.telemetry.access {
            access.write(entry);
        }
        if let Some(spans) = config.telemetry.spans.as_ref().filter(|_| self.sampled) {
            spans.send(entry, self.trace, &config.server_name);
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if let Some(response) = &self.response {
            self.on_complete(response);
            return;
        }
        let status = StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or_default();
        self.count(status, None);
        self.on_complete(&ResponseProgress { status, event: None, length: None, sent: 0, ended: false });
    }
}

pin_project! {
    /// A response body that records the bytes sent and its end.
    struct RecordedBody {
        #[pin]
        body: Body,
        record: RequestRecord,
    }
}

impl HttpBody for RecordedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.record.context.enter(|| this.body.as_mut().poll_frame(cx)));
        if let Some(response) = &mut this.record.response {
            match &frame {
                Some(Ok(frame)) => {
                    response.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                    // hyper does not poll again after the last frame.
                    response.ended = frame.is_trailers() || this.body.is_end_stream();
                }
                Some(Err(_)) => {}
                None => response.ended = true,
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Records the user of a request in its context, for log lines and the access log entry, and counts the request for
/// its user. Rejects a request whose user has too many.
///
/// Placed inside the session layer, which adds the [`Identity`] to the request's extensions.
#[derive(Clone)]
pub(super) struct IdentityRecorder<S> {
    inner: S,
    /// Shared with the clones for the requests of a thread, not with other threads.
    shares: Arc<ClientShares>,
}

impl<S> IdentityRecorder<S> {
    pub(super) fn new(inner: S, shares: ClientShares) -> Self {
        Self { inner, shares: Arc::new(shares) }
    }
}

impl<S> Service<Request<Body>> for IdentityRecorder<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    /// The response of a rejected request is boxed, because it is rare.
    type Future = Either<S::Future, Pin<Box<Ready<Result<Response<Body>, S::Error>>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(identity) = request.extensions().get::<Identity>() {
            RequestContext::with_current(|context| context.set_identity(identity));
            let is_in_reserve = request.extensions().get::<InReserve>().is_some();
            if let Some(rejection) = begin_for_user(&self.shares, identity, is_in_reserve) {
                return Either::Right(Box::pin(ready(Ok(rejection))));
            }
        }
        Either::Left(self.inner.call(request))
    }
}

/// Replaces the request id, and returns the place of the request in a trace.
fn assign_ids(headers: &mut HeaderMap, context: &RequestContext) -> TraceContext {
    let trace = if headers.keys().any(is_request_id_or_trace_header) {
        remove_request_ids(headers);
        TraceContext::extract(headers, context.id())
    } else {
        TraceContext::new_root(context.id())
    };
    headers.insert(X_REQUEST_ID, request_id_header(context));
    trace
}

/// Returns `true` for a header that may hold a request id or a trace context.
///
/// Most clients send none. One scan of all names is cheaper than a look-up of each of these.
fn is_request_id_or_trace_header(name: &HeaderName) -> bool {
    let name = name.as_str();
    is_request_id_spelling(name) || name.starts_with("trace")
}

/// Removes the client's request ids, which could be those of other requests.
///
/// Includes spellings with `_` or `.`, which CGI and PHP applications read as the same name.
fn remove_request_ids(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| is_request_id_spelling(name.as_str())).cloned() {
        headers.remove(name);
    }
}

fn is_request_id_spelling(name: &str) -> bool {
    let canonical = "x-request-id";
    let matches =
        |(byte, canonical): (u8, u8)| byte == canonical || canonical == b'-' && matches!(byte, b'_' | b'.');
    name.len() == canonical.len() && name.bytes().zip(canonical.bytes()).all(matches)
}

fn request_id_header(context: &RequestContext) -> HeaderValue {
    // A UUID is always a valid header value.
    HeaderValue::from_bytes(context.id().as_bytes()).unwrap_or(HeaderValue::from_static(""))
}

/// Returns the session event that the session layer set on the response.
///
/// A scan is cheaper than a hash of the name: responses have few headers.
fn session_event_from_headers(headers: &HeaderMap) -> Option<SessionEvent> {
    let session_event = SESSION_EVENT_HEADER;
    let (_, event) = headers.iter().find(|(name, _)| **name == session_event)?;
    SessionEvent::parse(event.as_bytes())
}
