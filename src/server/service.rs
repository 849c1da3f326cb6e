//! Per-connection service: checks each request, calls the inner service, and tracks the response.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures_util::future::{BoxFuture, Either};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderValue, STRICT_TRANSPORT_SECURITY};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pin_project_lite::pin_project;
use tower::{Service, ServiceExt};

use super::admission::{self, Held, Limit};
use super::body_pace::BodyPace;
use super::connection_context::ConnectionContext;
use super::connection_state::{CloseMode, Phase};
use super::extensions::{BodyPlace, InReserve, insert_connection};
use super::http_service::HttpService;
use super::http2_executor;
use super::limits::ServerLimits;
use super::reject::{RejectReason, Rejected};
use super::request_body::RequestBody;
use super::request_head::check_and_normalize;
use super::request_place::RequestPlace;
use super::unread_body::UnreadBody;
use crate::http_headers;
use crate::response_abort::ResponseAbortHandle;

/// Service of one connection.
pub(super) struct ConnectionService<S> {
    pub(super) inner: S,
    pub(super) context: Arc<ConnectionContext>,
}

impl<S: HttpService> hyper::service::Service<Request<Incoming>> for ConnectionService<S> {
    type Response = Response<TrackedBody>;
    type Error = Infallible;
    type Future = ResponseFuture<S>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let in_flight = InFlightRequest::new(&self.context, request.version());
        let state = &self.context.state;
        // hyper inserts `OnUpgrade` into requests that ask for an upgrade.
        let is_upgrade = request.extensions().get::<OnUpgrade>().is_some() && !state.is_http2();
        if is_upgrade {
            state.request_upgrade();
        }
        let is_http2_head = state.is_http2() && request.method() == Method::HEAD;
        let state = RequestState::Received { request: Some((self.inner.clone(), request)) };
        ResponseFuture { state, is_upgrade, is_http2_head, in_flight: Some(in_flight) }
    }
}

pin_project! {
    /// Response future of a request.
    ///
    /// The request takes its places and is handled when the future is first polled. hyper receives all requests that
    /// have arrived on an HTTP/2 connection before it polls the first of them. One that is refused would hold a place
    /// until then, and a burst on a few connections all of them.
    pub(super) struct ResponseFuture<S>
    where
        S: Service<Request<Body>>,
    {
        #[pin]
        state: RequestState<S>,
        is_upgrade: bool,
        is_http2_head: bool,
        in_flight: Option<InFlightRequest>,
    }
}

pin_project! {
    #[project = RequestStateProj]
    enum RequestState<S>
    where
        S: Service<Request<Body>>,
    {
        Received { request: Option<(S, Request<Incoming>)> },
        Called { #[pin] response: ServiceFuture<S> },
        Responded { response: Option<Response<Body>>, unread: UnreadBody },
    }
}

impl<S: HttpService> Future for ResponseFuture<S> {
    type Output = Result<Response<TrackedBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let is_upgrade_enabled = |request: &InFlightRequest| request.context.state.is_upgrade_enabled();
        if *this.is_upgrade && !this.in_flight.as_ref().is_none_or(is_upgrade_enabled) {
            // `serve_http1` sees the requested upgrade, enables it, and polls again.
            return Poll::Pending;
        }
        if let RequestStateProj::Received { request } = this.state.as_mut().project()
            && let Some((service, request)) = request.take()
            && let Some(in_flight) = this.in_flight
        {
            let response = in_flight.call(service, request, *this.is_upgrade);
            this.state.set(RequestState::Called { response });
        }
        let in_flight = this.in_flight.as_mut();
        let (mut response, is_body_read) = ready!(poll_response(this.state, in_flight, cx))?;
        if *this.is_http2_head {
            drop_body(&mut response);
        }
        let mut in_flight = this.in_flight.take();
        if let Some(in_flight) = &mut in_flight {
            in_flight.on_response(&mut response, is_body_read);
        }
        Poll::Ready(Ok(response.map(|body| TrackedBody { body, in_flight })))
    }
}

/// Polls the service, then discards what it has left of the body.
///
/// Returns the response, and `true` unless a part of the body is still to come.
fn poll_response<S: HttpService>(
    mut state: Pin<&mut RequestState<S>>,
    in_flight: Option<&mut InFlightRequest>,
    cx: &mut Context<'_>,
) -> Poll<Result<(Response<Body>, bool), Infallible>> {
    if let RequestStateProj::Called { response } = state.as_mut().project() {
        let response = ready!(response.poll(cx))?;
        let in_flight = in_flight.filter(|_| response.status() != StatusCode::SWITCHING_PROTOCOLS);
        let Some(unread) = in_flight.and_then(InFlightRequest::take_unread) else {
            return Poll::Ready(Ok((response, true)));
        };
        state.set(RequestState::Responded { response: Some(response), unread });
    }
    let RequestStateProj::Responded { response, unread } = state.project() else { return Poll::Pending };
    let is_body_read = ready!(unread.poll_discard(cx));
    response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok((response, is_body_read))))
}

/// Future of the service, which is boxed in the rare cases: the future of every request is moved to its task.
type ServiceFuture<S> = Either<<S as Service<Request<Body>>>::Future, BoxedResponse>;

type BoxedResponse = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Calls the service at once if it is ready, which avoids another move of the request.
///
/// The call is deferred for an upgrade, until the connection supports it.
fn call_service<S: HttpService>(
    mut service: S,
    request: Request<Body>,
    is_upgrade: bool,
) -> ServiceFuture<S> {
    if !is_upgrade && service.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready() {
        return Either::Left(service.call(request));
    }
    Either::Right(Box::pin(service.oneshot(request)))
}

/// Drops the body of a response to `HEAD` (RFC 9110 section 9.3.2), and announces its length.
///
/// hyper does so for HTTP/1.1 only.
fn drop_body(response: &mut Response<Body>) {
    let body = std::mem::take(response.body_mut());
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
    }
}

/// Returns the minimum rate of a body in bytes per second, 0 for none.
///
/// gRPC and upgraded protocols may be silent.
fn min_body_rate(request: &Request<Incoming>, is_upgrade: bool, limits: &ServerLimits) -> u32 {
    let is_exempt = is_upgrade || request.body().is_end_stream() || http_headers::is_grpc(request.headers());
    if is_exempt { 0 } else { limits.min_body_rate }
}

/// Guard of a request from its head to the last byte of its response.
struct InFlightRequest {
    context: Arc<ConnectionContext>,
    /// Held while the request counts against the limit of requests that wait for a response.
    held: Option<Held>,
    /// Holds it instead for a request with a body.
    place: Option<Arc<RequestPlace>>,
    /// True if the request counts against the limit of open requests.
    is_open: bool,
    is_http10: bool,
    /// True if the client sends the body after a 100 response.
    expects_continue: bool,
    is_upgraded: bool,
    /// Body of an HTTP/1.1 request that does not reach the service.
    rejected_body: Option<Box<Incoming>>,
}

impl InFlightRequest {
    fn new(context: &Arc<ConnectionContext>, version: Version) -> Self {
        context.release_head();
        context.state.request_started();
        Self {
            context: Arc::clone(context),
            held: None,
            place: None,
            is_open: false,
            is_http10: version == Version::HTTP_10,
            expects_continue: false,
            is_upgraded: false,
            rejected_body: None,
        }
    }

    /// Calls the service, unless there is no place for the request or its head is invalid.
    fn call<S: HttpService>(
        &mut self,
        service: S,
        mut request: Request<Incoming>,
        is_upgrade: bool,
    ) -> ServiceFuture<S> {
        self.expects_continue = !request.body().is_end_stream() && request.headers().contains_key(EXPECT);
        let taken = self.take_places();
        let limits = &self.context.settings.limits;
        let checked = taken.and_then(|()| check_and_normalize(&mut request, limits));
        if let Err(reason) = checked {
            return self.reject(service, request, reason);
        }
        self.insert_origin(&mut request);
        if self.held == Some(Held::Reserve) {
            request.extensions_mut().insert(InReserve);
        }
        let min_rate = min_body_rate(&request, is_upgrade, limits);
        let mut request = request.map(|body| self.wrap_body(body, min_rate));
        if let Some(place) = &self.place {
            request.extensions_mut().insert(BodyPlace(Arc::clone(place)));
        }
        call_service(service, request, is_upgrade)
    }

    /// Responds to a rejected request, by the service if that does so.
    fn reject<S: HttpService>(
        &mut self,
        service: S,
        request: Request<Incoming>,
        reason: RejectReason,
    ) -> ServiceFuture<S> {
        let (head, body) = request.into_parts();
        if !self.context.state.is_http2() && !body.is_end_stream() {
            self.rejected_body = Some(Box::new(body));
        }
        if !self.context.passes_rejections {
            return Either::Right(Box::pin(ready(Ok(reason.response()))));
        }
        let mut request = Request::from_parts(head, Body::empty());
        self.insert_origin(&mut request);
        request.extensions_mut().insert(Rejected(reason));
        call_service(service, request, false)
    }

    fn insert_origin<B>(&self, request: &mut Request<B>) {
        insert_connection(request.extensions_mut(), &self.context);
    }

    fn take_places(&mut self) -> Result<(), RejectReason> {
        let admission = &self.context.permit.registry.admission;
        self.is_open = admission.try_open_request();
        self.held = if self.is_open { admission.try_begin_request() } else { None };
        if self.held.is_some() {
            return Ok(());
        }
        admission::record(if self.is_open { Limit::InFlight } else { Limit::Open });
        Err(RejectReason::Overloaded)
    }

    /// Wraps a body, unless it is empty: `Body::empty` allocates nothing.
    fn wrap_body(&mut self, body: Incoming, min_rate: u32) -> Body {
        if body.is_end_stream() {
            return Body::empty();
        }
        // A request without a place was rejected before.
        let held = self.held.take().unwrap_or(Held::Place);
        let place = Arc::new(RequestPlace::new(&self.context, held));
        self.place = Some(Arc::clone(&place));
        Body::new(RequestBody::new(body, place, BodyPace::new(min_rate)))
    }

    /// Takes what the service did not read of an HTTP/1.1 body.
    fn take_unread(&mut self) -> Option<UnreadBody> {
        let unread = match &self.place {
            Some(place) => place.take_unread(),
            None => self.rejected_body.take().map(|body| *body),
        };
        unread.map(|body| UnreadBody::new(body, self.expects_continue))
    }

    fn on_response(&mut self, response: &mut Response<Body>, is_body_read: bool) {
        self.release();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.is_upgraded = true;
            self.context.state.enter(Phase::Tunnel);
            return;
        }
        if let Some(handle) = response.extensions_mut().remove() {
            self.register_abort(&handle);
        }
        let closes = self.closes_connection(response, is_body_read);
        let headers = response.headers_mut();
        if self.context.is_tls && !headers.contains_key(STRICT_TRANSPORT_SECURITY) {
            headers.insert(STRICT_TRANSPORT_SECURITY, HSTS);
        }
        if closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self.is_http10 && http_headers::list_contains(headers, &CONNECTION, "close") {
            // In a response of version 1.1 hyper would replace it with `keep-alive` on request.
            *response.version_mut() = Version::HTTP_10;
        }
    }

    /// Returns `true` if the connection ends with this response, which announces that (RFC 9112 section 9.6).
    ///
    /// HTTP/2 connections send a GOAWAY instead.
    fn closes_connection(&self, response: &Response<Body>, is_body_read: bool) -> bool {
        let state = &self.context.state;
        let is_draining = state.is_close_requested(CloseMode::Drain);
        let has_length = !self.is_http10 || response.body().size_hint().exact().is_some();
        let keeps_open = !is_draining && has_length && is_body_read && !state.is_body_pending();
        !keeps_open && !state.is_http2()
    }

    /// Lets `handle` reset the HTTP/2 stream, or the whole HTTP/1.1 connection.
    fn register_abort(&self, handle: &ResponseAbortHandle) {
        if self.context.state.is_http2() {
            http2_executor::register_abort(handle);
            return;
        }
        // Weak: the registry takes a connection for closed once it holds the only strong reference.
        let state = Arc::downgrade(&self.context.state);
        handle.on_abort(move || {
            if let Some(state) = state.upgrade() {
                state.request_close(CloseMode::Reset);
            }
        });
    }

    fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.context.permit.registry.admission.end_request(held);
        }
        if let Some(place) = self.place.take() {
            place.release();
        }
    }

    /// Starts the write timeout of an HTTP/2 stream, which can be blocked without a blocked socket write.
    fn chunk_queued(&self) {
        if self.context.state.is_http2() {
            http2_executor::chunk_queued(self.context.permit.registry.write_timeout());
        }
    }

    fn chunk_consumed(&self) {
        if self.context.state.is_http2() {
            http2_executor::chunk_consumed();
        }
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        self.release();
        if self.is_open {
            self.context.permit.registry.admission.close_request();
        }
        if !self.is_upgraded {
            self.context.state.request_finished();
        }
    }
}

/// The next frame of a body, if it has arrived.
type FramePoll<E> = Poll<Option<Result<Frame<Bytes>, E>>>;

/// Response body. The request is in flight until it is dropped.
pub(super) struct TrackedBody {
    body: Body,
    in_flight: Option<InFlightRequest>,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> FramePoll<axum::Error> {
        let this = self.get_mut();
        // hyper polls again only after it has written the previous frame.
        if let Some(in_flight) = &this.in_flight {
            in_flight.chunk_consumed();
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let (Some(in_flight), Some(Ok(_))) = (&this.in_flight, &frame) {
            in_flight.chunk_queued();
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

/// One year, the shortest time that HSTS preload lists accept.
pub(super) const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");
