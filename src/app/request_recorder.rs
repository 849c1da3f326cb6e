//! Where requests come in: the one service around everything that browsers reach.
//!
//! It gives each request its id and its place in a trace, notes where it comes from, catches what
//! panics below, and sees the answer out: counts it, and writes its line when the last byte has gone.
//! It is written by hand because every request passes it: what isn't asked for costs nothing.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::Service;

use super::catch_panic::{CatchPanicFuture, catch_panic};
use super::client_address::TrustedProxies;
use super::resolve_client;
use crate::clock::Clock;
use crate::http_headers::{SESSION_EVENT_HEADER, X_REQUEST_ID};
use crate::request_context::{RequestContext, Scoped};
use crate::session_event::SessionEvent;
use crate::telemetry::metrics::{HttpMetrics, RouteMetricsTable};
use crate::telemetry::{AccessLogEntry, CLIENT_CLOSED_REQUEST, Telemetry, TraceContext, ids};

/// Lets requests in, and sees their answers out.
#[derive(Clone)]
pub(super) struct RequestRecorder<S> {
    inner: S,
    hall: Arc<RecorderInner>,
}

/// What the entrance needs to know.
#[derive(Clone)]
pub(super) struct RecorderConfig {
    /// Who is believed about where a request comes from.
    pub(super) trusted: TrustedProxies,
    /// Stands in for a host that an old client doesn't name.
    pub(super) public_host: Option<HeaderValue>,
    /// What browsers call this server, without a port.
    pub(super) name: Arc<str>,
    /// The time, for the access log.
    pub(super) clock: Arc<dyn Clock>,
    /// The counts.
    pub(super) meters: Arc<HttpMetrics>,
    /// Where lines and spans go.
    pub(super) telemetry: Telemetry,
}

/// What the visits of one entrance share.
struct RecorderInner {
    desk: RecorderConfig,
    routes: RouteMetricsTable,
}

impl<S> RequestRecorder<S> {
    pub(super) fn new(inner: S, desk: RecorderConfig) -> Self {
        // By now all routes that requests can meet here have their numbers.
        let routes = desk.meters.numbered();
        Self { inner, hall: Arc::new(RecorderInner { desk, routes }) }
    }

    /// Lets a request in, to what `call` makes of it behind the entrance.
    pub(super) fn call_with<F>(
        &self,
        request: Request<Body>,
        call: impl FnOnce(&S, Request<Body>) -> F,
    ) -> RecorderFuture<F>
    where
        F: Future<Output = Result<Response<Body>, Infallible>>,
    {
        let_in(&self.hall, request, |request| call(&self.inner, request))
    }
}

fn let_in<F>(
    hall: &Arc<RecorderInner>,
    mut request: Request<Body>,
    call: impl FnOnce(Request<Body>) -> F,
) -> RecorderFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    let visit = RequestRecord::begin(hall, &mut request);
    let scope = visit.scope.clone();
    let future = scope.enter(|| catch_panic(|| call(request)));
    RecorderFuture { future: scope.scope(future), visit: Some(visit) }
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let_in(&self.hall, request, |request| self.inner.call(request))
    }
}

pin_project! {
    /// Response future of [`RequestRecorder`].
    pub(super) struct RecorderFuture<F> {
        // Before the visit: what the request's end says is said of it.
        #[pin]
        future: Scoped<CatchPanicFuture<F>>,
        visit: Option<RequestRecord>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for RecorderFuture<F> {
    type Output = Result<Response<Body>, Infallible>;

    #[expect(clippy::expect_used, reason = "polling again is the caller's mistake")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(response) = ready!(this.future.poll(cx));
        let visit = this.visit.take().expect("Entered polled after completion");
        Poll::Ready(Ok(visit.on_response(response)))
    }
}

/// A request from its arrival to its answer's end, which is when this is dropped.
struct RequestRecord {
    hall: Arc<RecorderInner>,
    scope: RequestContext,
    began: Instant,
    version: Version,
    context: TraceContext,
    /// Whether its span is exported.
    sampled: bool,
    answer: Option<ResponseProgress>,
}

/// How far an answer has come.
struct ResponseProgress {
    status: StatusCode,
    event: Option<SessionEvent>,
    /// How long its body is, if that is known from the start.
    length: Option<u64>,
    sent: u64,
    whole: bool,
}

impl RequestRecord {
    fn begin(hall: &Arc<RecorderInner>, request: &mut Request<Body>) -> Self {
        let desk = &hall.desk;
        let began = Instant::now();
        desk.meters.in_flight.increment(1.0);
        let client = resolve_client(&desk.trusted, desk.public_host.as_ref(), request);
        let scope = RequestContext::new(ids::request(), request.method().clone(), request.uri(), client);
        let mut context = assign_ids(request.headers_mut(), &scope);
        let sampled = desk.telemetry.spans.as_ref().is_some_and(|spans| spans.samples(context.span));
        context.sampled |= sampled;
        context.inject(request.headers_mut());
        let version = request.version();
        Self { hall: Arc::clone(hall), scope, began, version, context, sampled, answer: None }
    }

    /// The head goes out now, and the body as it comes.
    fn on_response(mut self, mut response: Response<Body>) -> Response<Body> {
        // In place of an upstream's own, which would not be found in our log.
        response.headers_mut().insert(X_REQUEST_ID, request_id_header(&self.scope));
        let event = session_event_from_headers(response.headers());
        let (status, length) = (response.status(), response.body().size_hint().exact());
        let ended = response.body().is_end_stream();
        self.count(status, event);
        self.answer = Some(ResponseProgress { status, event, length, sent: 0, whole: ended });
        if ended { response } else { response.map(|body| Body::new(RecordedBody { body, visit: self })) }
    }

    fn count(&self, status: StatusCode, event: Option<SessionEvent>) {
        self.hall.routes.of(self.scope.route()).count(status, event);
        if let Some(event) = event {
            self.hall.desk.meters.count_event(event);
        }
    }

    /// Writes down how it ended.
    fn on_complete(&self, answer: &ResponseProgress) {
        let RecorderInner { desk: RecorderConfig { telemetry, meters, clock, .. }, routes } = &*self.hall;
        let duration = self.began.elapsed();
        meters.in_flight.decrement(1.0);
        let route = routes.of(self.scope.route());
        route.duration.record(duration);
        if telemetry.access.is_none() && !self.sampled {
            return;
        }
        // What is sent to its announced length ends there; nobody looks at what HEAD would bring.
        let whole = answer.whole || answer.length == Some(answer.sent) || self.scope.method() == Method::HEAD;
        let ended = AccessLogEntry {
            at: clock.now(),
            scope: &self.scope,
            status: answer.status,
            bytes: answer.sent,
            whole,
            duration,
            route: &route.name,
            event: answer.event,
            version: self.version,
            trace: &self.context.trace_id(),
        };
        self.emit(telemetry, &ended);
    }

    fn emit(&self, telemetry: &Telemetry, ended: &AccessLogEntry<'_>) {
        if let Some(access) = &telemetry.access {
            access.write(ended);
        }
        if let Some(spans) = telemetry.spans.as_ref().filter(|_| self.sampled) {
            spans.send(ended, self.context, &self.hall.desk.name);
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        match &self.answer {
            Some(answer) => self.on_complete(answer),
            None => {
                let status = StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or_default();
                self.count(status, None);
                self.on_complete(&ResponseProgress {
                    status,
                    event: None,
                    length: None,
                    sent: 0,
                    whole: false,
                });
            }
        }
    }
}

pin_project! {
    /// An answer's body on its way out.
    struct RecordedBody {
        #[pin]
        body: Body,
        visit: RequestRecord,
    }
}

impl HttpBody for RecordedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.project();
        let frame = ready!(this.visit.scope.enter(|| this.body.poll_frame(cx)));
        if let Some(answer) = &mut this.visit.answer {
            match &frame {
                Some(Ok(frame)) => answer.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
                Some(Err(_)) => {}
                None => answer.whole = true,
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

/// Names the request to whoever comes after us, and finds its place in a trace.
fn assign_ids(headers: &mut HeaderMap, scope: &RequestContext) -> TraceContext {
    let context = if headers.keys().any(is_request_id_or_trace_header) {
        remove_ids(headers);
        TraceContext::extract(headers, scope.id())
    } else {
        TraceContext::new_root(scope.id())
    };
    headers.insert(X_REQUEST_ID, request_id_header(scope));
    context
}

/// Whether a client's header may be an id or belong to a trace. Most send none, and one look at all names
/// costs less than to ask for each.
fn is_request_id_or_trace_header(name: &HeaderName) -> bool {
    let name = name.as_str();
    is_request_id_spelling(name) || name.starts_with("trace")
}

/// A request's id is ours: what a client sends could be another request's. None is left in any spelling
/// that an application may take for the same name.
fn remove_ids(headers: &mut HeaderMap) {
    while let Some(foreign) = headers.keys().find(|name| is_request_id_spelling(name.as_str())).cloned() {
        headers.remove(foreign);
    }
}

fn is_request_id_spelling(name: &str) -> bool {
    let ours = "x-request-id";
    let same = |(theirs, ours): (u8, u8)| theirs == ours || ours == b'-' && matches!(theirs, b'_' | b'.');
    name.len() == ours.len() && name.bytes().zip(ours.bytes()).all(same)
}

fn request_id_header(scope: &RequestContext) -> HeaderValue {
    // A UUID is always a legal value.
    HeaderValue::from_bytes(scope.id().as_bytes()).unwrap_or(HeaderValue::from_static(""))
}

/// What the session machinery did, as the answer has it. Answers have few headers: to look at all names
/// costs less than a hash of this one.
fn session_event_from_headers(headers: &HeaderMap) -> Option<SessionEvent> {
    let named = SESSION_EVENT_HEADER;
    let (_, event) = headers.iter().find(|(name, _)| **name == named)?;
    SessionEvent::parse(event.as_bytes())
}
