//! What is done with every request, of either protocol, before and after the service.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, HOST, HeaderValue, STRICT_TRANSPORT_SECURITY};
use http::uri::Authority;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pin_project_lite::pin_project;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

use super::connection::ConnectionContext;
use super::connection_state::CloseMode;
use super::http2_executor;
use super::limits::ServerLimits;
use super::reject::RejectReason;
use super::{Peer, TlsConnection};
use crate::response_abort::ResponseAbortHandle;

/// The service of one connection, behind the checks that are the same for all.
pub(super) struct ConnectionService<S> {
    service: S,
    client: Arc<ConnectionContext>,
}

impl<S> ConnectionService<S> {
    pub(super) fn new(service: S, client: Arc<ConnectionContext>) -> Self {
        Self { service, client }
    }
}

impl<S> hyper::service::Service<Request<Incoming>> for ConnectionService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<TrackedBody>;
    type Error = Infallible;
    type Future = ResponseFuture<S>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let turn = InFlightRequest::begin(&self.client);
        let limits = &self.client.terms.limits;
        // Where hyper has put that, the request asks for an upgrade.
        let activity = &self.client.activity;
        let upgrades = request.extensions().get::<OnUpgrade>().is_some() && !activity.is_multiplexed();
        if upgrades {
            activity.asks_for_upgrade();
        }
        let answer = match turn.check_capacity().and_then(|()| check(&mut request, limits)) {
            Ok(()) => {
                request.extensions_mut().insert(Peer(self.client.peer));
                if self.client.is_secured {
                    request.extensions_mut().insert(TlsConnection);
                }
                // An empty body of ours needs no memory.
                let body = |body: Incoming| match body.is_end_stream() {
                    true => Body::empty(),
                    false => Body::new(RequestBody::new(body, &self.client)),
                };
                ResponseState::of(self.service.clone(), request.map(body), upgrades)
            }
            Err(refusal) => ResponseState::Refused { response: Some(Box::new(refusal.response())) },
        };
        ResponseFuture { answer, upgrades, turn: Some(turn) }
    }
}

pin_project! {
    /// A request on its way to its answer.
    pub(super) struct ResponseFuture<S>
    where
        S: Service<Request<Body>>,
    {
        #[pin]
        answer: ResponseState<S>,
        // Whether it asks for that.
        upgrades: bool,
        turn: Option<InFlightRequest>,
    }
}

impl<S> Future for ResponseFuture<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Output = Result<Response<TrackedBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if *this.upgrades && this.turn.as_ref().is_some_and(|turn| !turn.client.activity.is_upgradeable()) {
            // The connection sees that it was asked for, and asks again as one that is.
            return Poll::Pending;
        }
        let mut response = ready!(this.answer.poll(cx))?;
        if let Some(turn) = this.turn {
            turn.on_response(&mut response);
        }
        let turn = this.turn.take();
        Poll::Ready(Ok(response.map(|body| TrackedBody { body, turn })))
    }
}

pin_project! {
    // What is rare is in a box: each request's future is moved to its place.
    #[project = AnswerProj]
    enum ResponseState<S>
    where
        S: Service<Request<Body>>,
    {
        Called { #[pin] future: S::Future },
        Waiting { future: Pin<Box<Oneshot<S, Request<Body>>>> },
        Refused { response: Option<Box<Response<Body>>> },
    }
}

impl<S> ResponseState<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    /// Calls a service that is ready, as ours always is, without another copy of the request. A request
    /// that `upgrades` is called later: once its connection can be upgraded.
    fn of(mut service: S, request: Request<Body>, upgrades: bool) -> Self {
        if !upgrades && service.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready() {
            return Self::Called { future: service.call(request) };
        }
        Self::Waiting { future: Box::pin(service.oneshot(request)) }
    }
}

impl<S> Future for ResponseState<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Output = Result<Response<Body>, Infallible>;

    #[expect(clippy::expect_used, reason = "polling again is the caller's mistake")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AnswerProj::Called { future } => future.poll(cx),
            AnswerProj::Waiting { future } => future.as_mut().poll(cx),
            AnswerProj::Refused { response } => {
                Poll::Ready(Ok(*response.take().expect("Answer polled after completion")))
            }
        }
    }
}

/// A request's turn, from its head to the last byte of its answer.
struct InFlightRequest {
    client: Arc<ConnectionContext>,
    /// Whether it counts as waiting for its answer.
    is_in_flight: bool,
    is_upgraded: bool,
}

impl InFlightRequest {
    fn begin(client: &Arc<ConnectionContext>) -> Self {
        client.activity.request_started();
        let is_in_flight = client.slot.connections().begin_request(client.terms.limits.in_flight);
        Self { client: Arc::clone(client), is_in_flight, is_upgraded: false }
    }

    fn check_capacity(&self) -> Result<(), RejectReason> {
        if self.is_in_flight {
            return Ok(());
        }
        metrics::counter!("sekisho_requests_shed_total").increment(1);
        Err(RejectReason::Overloaded)
    }

    fn on_response(&mut self, response: &mut Response<Body>) {
        self.release_in_flight();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.is_upgraded = true;
            self.client.activity.upgrades();
            return;
        }
        if let Some(hang_up) = response.extensions_mut().remove() {
            self.register_abort(&hang_up);
        }
        let headers = response.headers_mut();
        if self.client.is_secured && !headers.contains_key(STRICT_TRANSPORT_SECURITY) {
            headers.insert(STRICT_TRANSPORT_SECURITY, HSTS);
        }
        // HTTP/2 has its own way to say so.
        if self.client.activity.close_requested(CloseMode::Draining) && !self.client.activity.is_multiplexed()
        {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Nobody else is on a connection of HTTP/1.1: it ends altogether.
    fn register_abort(&self, hang_up: &ResponseAbortHandle) {
        if self.client.activity.is_multiplexed() {
            http2_executor::ends_by(hang_up);
        } else {
            // The keeper counts who has it.
            let activity = Arc::downgrade(&self.client.activity);
            hang_up.on_abort(move || {
                if let Some(activity) = activity.upgrade() {
                    activity.request_close(CloseMode::Reset);
                }
            });
        }
    }

    fn release_in_flight(&mut self) {
        if std::mem::take(&mut self.is_in_flight) {
            self.client.slot.connections().end_request();
        }
    }

    /// Only HTTP/2 can wait for a client without a write that waits.
    fn chunk_queued(&self) {
        if self.client.activity.is_multiplexed() {
            http2_executor::hands_over(self.client.slot.connections().write_timeout());
        }
    }

    fn chunk_consumed(&self) {
        if self.client.activity.is_multiplexed() {
            http2_executor::is_taken();
        }
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        self.release_in_flight();
        if !self.is_upgraded {
            self.client.activity.request_finished();
        }
    }
}

pin_project! {
    /// A request's body, which somebody may read even after the answer.
    struct RequestBody {
        #[pin]
        body: Incoming,
        client: Arc<ConnectionContext>,
    }

    impl PinnedDrop for RequestBody {
        fn drop(this: Pin<&mut Self>) {
            this.client.activity.has_body(false);
        }
    }
}

impl RequestBody {
    fn new(body: Incoming, client: &Arc<ConnectionContext>) -> Self {
        client.activity.has_body(true);
        Self { body, client: Arc::clone(client) }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if this.body.is_end_stream() {
            this.client.activity.has_body(false);
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

/// An answer's body. Its turn ends with it.
pub(super) struct TrackedBody {
    body: Body,
    turn: Option<InFlightRequest>,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        // Who asks for more has passed on what there was.
        if let Some(turn) = &this.turn {
            turn.chunk_consumed();
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let (Some(turn), Some(Ok(_))) = (&this.turn, &frame) {
            turn.chunk_queued();
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

/// What hyper leaves to us.
fn check<B>(request: &mut Request<B>, limits: &ServerLimits) -> Result<(), RejectReason> {
    if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > limits.uri_bytes) {
        return Err(RejectReason::UriTooLong);
    }
    if request.version() == Version::HTTP_2 {
        if request.headers().len() > limits.header_fields {
            return Err(RejectReason::TooManyFields);
        }
        return normalize_http2(request);
    }
    if names_one_host(request) { Ok(()) } else { Err(RejectReason::BadHost) }
}

/// Makes a request of HTTP/2 say what it says where HTTP/1.1 says it, for all who come after: the host
/// in `Host` (RFC 9113, section 8.3.1), and all cookies in one field (section 8.2.3).
fn normalize_http2<B>(request: &mut Request<B>) -> Result<(), RejectReason> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (request.uri().authority(), hosts.next(), hosts.next()) {
        (Some(authority), None, _) if has_no_userinfo(authority) => {
            Some(HeaderValue::from_str(authority.as_str()).map_err(|_| RejectReason::BadHost)?)
        }
        (Some(authority), Some(host), None) => {
            let same = host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
            if !same || !has_no_userinfo(authority) {
                return Err(RejectReason::BadHost);
            }
            None
        }
        (None, Some(host), None) if is_host(host) => None,
        _ => return Err(RejectReason::BadHost),
    };
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    join_cookies(request.headers_mut());
    Ok(())
}

/// Clients send each cookie in a field of its own, so that it compresses well.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(cookies) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, cookies);
    }
}

/// RFC 9112, section 3.2: a request that names no host, two of them or none that can be read is
/// answered with 400, whatever it asks for. HTTP/1.0 may leave it out.
fn names_one_host<B>(request: &Request<B>) -> bool {
    let mut lines = request.headers().get_all(HOST).iter();
    let target = request.uri().authority();
    match (lines.next(), lines.next()) {
        (Some(host), None) => is_host(host) && target.is_none_or(has_no_userinfo),
        (None, _) => request.version() < Version::HTTP_11 && target.is_none_or(has_no_userinfo),
        (Some(_), Some(_)) => false,
    }
}

fn is_host(value: &HeaderValue) -> bool {
    let host = value.as_bytes();
    is_plain_host(host) || Authority::try_from(host).is_ok_and(|host| has_no_userinfo(&host))
}

/// Whether it is a name or an IPv4 address, perhaps with a port: as nearly all are, and surely an
/// [`Authority`], which costs more to read.
fn is_plain_host(host: &[u8]) -> bool {
    let is_plain = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-');
    let end = host.iter().position(|octet| !is_plain(octet)).unwrap_or(host.len());
    let is_port = |rest: &[u8]| rest[0] == b':' && rest[1..].iter().all(u8::is_ascii_digit);
    end > 0 && (end == host.len() || is_port(&host[end..]))
}

fn has_no_userinfo(authority: &Authority) -> bool {
    !authority.as_str().contains('@')
}

/// A year, the least that counts as lasting.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_host_is_an_authority() {
        for host in ["localhost", "a", "127.0.0.1", "app.example:8443", "APP.example.:", "a-b:0", "-.:99999"]
        {
            assert!(is_plain_host(host.as_bytes()), "{host}");
            assert!(Authority::try_from(host).is_ok_and(|host| has_no_userinfo(&host)), "{host}");
        }
        for other in ["", ":80", "a:b", "a:1:2", "[::1]", "[::1]:80", "u@h", "a b", "a/b", "a_b", "é", "a%20"]
        {
            assert!(!is_plain_host(other.as_bytes()), "{other}");
        }
    }
}
