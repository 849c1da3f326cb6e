//! The proxy service.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum_core::BoxError;
use axum_core::body::Body;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, Response, StatusCode, request};
use http_body::Body as _;
use http_body_util::Either;
use tower_service::Service;

use super::buffered_body::{self, BufferLimits};
use super::cookies::ReservedCookies;
use super::empty_body;
use super::error::ProxyError;
use super::event_stream::{bind_event_stream, is_event_stream};
use super::grpc_response::{bind_grpc, is_grpc_response};
use super::request::{HeaderFlags, UpstreamRequest};
use super::request_body::UpstreamRequestBody;
use super::response::prepare_response;
use super::response_body::DownstreamResponseBody;
use super::routes::{MatchedRoute, Route};
use super::session_use::SessionUses;
use super::settings::ProxySettings;
use super::upgrade::Upgrade;
use super::upload_progress::UploadProgress;
use super::upstream::{self, Lease, Pool, UpstreamBody};
use super::upstream_tokens::UpstreamTokens;
use super::via::Via;
use crate::http_headers::is_grpc;
use crate::identity::{Identity, SessionId};
use crate::long_lived_streams::{LongLivedStreams, StreamKind};
use crate::session_event::SessionUseRecorder;

/// Forwards requests to the upstreams of their routes; see the [module](super).
///
/// Clones are cheap and share their connections. The service never returns an error: every failure becomes
/// a response.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    settings: ProxySettings,
    pool: Arc<Pool>,
}

impl Proxy {
    /// Creates a proxy that hides `reserved_cookies` from upstreams and registers long-lived connections
    /// with `streams`.
    #[must_use]
    pub fn new(reserved_cookies: ReservedCookies, streams: LongLivedStreams) -> Self {
        Self::from_settings(ProxySettings {
            reserved_cookies,
            streams,
            session_uses: SessionUses::default(),
            upstream_tokens: None,
            via: Via::new(),
        })
    }

    /// Sets the issuer of the tokens for routes with a [`token_audience`](super::RouteSpec::token_audience).
    #[must_use]
    pub fn with_upstream_tokens(self, tokens: Arc<dyn UpstreamTokens>) -> Self {
        let settings = ProxySettings { upstream_tokens: Some(tokens), ..self.0.settings.clone() };
        Self(Arc::new(Inner { settings, pool: Arc::clone(&self.0.pool) }))
    }

    /// Sets the recorder of the use of sessions by WebSockets, other upgrades and uploads.
    ///
    /// Without one, a session that only they use expires as an idle one.
    #[must_use]
    pub fn with_session_uses(self, recorder: Arc<dyn SessionUseRecorder>) -> Self {
        let settings = ProxySettings { session_uses: SessionUses::new(recorder), ..self.0.settings.clone() };
        Self(Arc::new(Inner { settings, pool: Arc::clone(&self.0.pool) }))
    }

    /// Returns a proxy with the same settings and a connection pool of its own.
    ///
    /// Connections are driven by the runtime that opened them, so each runtime needs its own pool.
    #[must_use]
    pub fn with_own_connections(&self) -> Self {
        // The settings are copied rather than shared: every request of a thread changes the reference
        // count of the proxy, and threads must not contend for it.
        let settings = self.0.settings.clone();
        Self::from_settings(ProxySettings { session_uses: settings.session_uses.for_thread(), ..settings })
    }

    fn from_settings(settings: ProxySettings) -> Self {
        Self(Arc::new(Inner { settings, pool: Arc::default() }))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("streams", &self.0.settings.streams).finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for Proxy
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let proxy = Arc::clone(&self.0);
        let (mut parts, body) = request.into_parts();
        let body = Body::new(body);
        Box::pin(async move {
            let route = parts.extensions.remove::<MatchedRoute>();
            let result = match &route {
                Some(route) => proxy.forward(route.route(), &mut parts, body).await,
                None => Err(ProxyError::NoRoute),
            };
            Ok(result.unwrap_or_else(|error| error_response(error, route.as_ref())))
        })
    }
}

impl Inner {
    async fn forward(
        &self,
        route: &Route,
        parts: &mut request::Parts,
        body: Body,
    ) -> Result<Response<Body>, ProxyError> {
        let flags = HeaderFlags::scan(&parts.headers);
        self.authorize(route, parts, &flags, !body.is_end_stream())?;
        let body = check_body(route, &parts.method, body).await?;
        let upgrade = if flags.upgrade {
            Upgrade::from_request(parts, !body.is_end_stream(), &route.spec.upgrades)
        } else {
            None
        };
        let body = if route.spec.buffer_request > 0 && upgrade.is_none() {
            buffer_body(route, &parts.headers, body).await?
        } else {
            body
        };
        let has_body = !body.is_end_stream();
        let identity = parts.extensions.get::<Identity>();
        let session = identity.map(|identity| identity.session);
        let (body, mut progress) = self.wrap_body(route, body, session)?;
        let request =
            UpstreamRequest::new(parts, route, &self.settings, identity, &flags, upgrade.as_ref(), has_body)?;
        let (response, lease) =
            upstream::send(&self.pool, &route.upstreams, route.timeouts, &request, body, &mut progress)
                .await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.start_tunnel(response, route, session, upgrade.filter(|_| progress.is_finished()))
        } else {
            Ok(self.stream(response, route, session, lease, progress))
        }
    }

    /// Rewrites a response and streams its body.
    fn stream(
        &self,
        response: Response<UpstreamBody>,
        route: &Route,
        session: Option<SessionId>,
        mut lease: Lease,
        progress: UploadProgress,
    ) -> Response<Body> {
        let kind_of_upstream = stream_kind(response.headers());
        let response = prepare_response(response, route, &self.settings);
        // The route's edits may change `Content-Type`.
        let is_edited = route.response_headers.edits.is_some();
        let kind = if is_edited { stream_kind(response.headers()) } else { kind_of_upstream };
        if [kind_of_upstream, kind].contains(&Some(StreamKind::Events)) {
            lease.release_permit();
        }
        let wrap = |body| DownstreamResponseBody::new(body, route, lease, progress);
        let streams = &self.settings.streams;
        match kind {
            Some(StreamKind::Events) => bind_event_stream(response.map(wrap), session, streams),
            Some(StreamKind::Grpc) => response.map(|body| bind_grpc(wrap(body), session, streams)),
            _ => response.map(|body| wrap(body).into_body()),
        }
    }

    /// Accepts a `101` response and starts its tunnel.
    fn start_tunnel(
        &self,
        response: Response<UpstreamBody>,
        route: &Route,
        session: Option<SessionId>,
        upgrade: Option<Upgrade>,
    ) -> Result<Response<Body>, ProxyError> {
        let unexpected = || ProxyError::UpstreamError("unexpected 101 response of the upstream".into());
        let accepted = upgrade.ok_or_else(unexpected)?.accept(response.headers())?;
        let (parts, body) = prepare_response(response, route, &self.settings).into_parts();
        let Either::Left(http1) = body else { return Err(unexpected()) };
        let response = Response::from_parts(parts, Body::empty());
        let idle_timeout = route.spec.tunnel_idle_timeout;
        Ok(accepted.start(response, http1.into_upgraded(), idle_timeout, session, &self.settings))
    }

    /// Wraps a request body. Rejects a body whose declared length exceeds the route's limit.
    fn wrap_body(
        &self,
        route: &Route,
        body: Body,
        session: Option<SessionId>,
    ) -> Result<(Body, UploadProgress), ProxyError> {
        check_length(route, &body)?;
        if body.is_end_stream() {
            return Ok((Body::empty(), UploadProgress::without_body()));
        }
        let reporter = self.settings.session_uses.reporter(session);
        let (body, progress) = UpstreamRequestBody::new(body, route, reporter);
        Ok((Body::new(body), progress))
    }

    /// Checks the method, forwarding loops and the user's roles. A preflight that passes needs neither.
    fn authorize(
        &self,
        route: &Route,
        parts: &request::Parts,
        flags: &HeaderFlags,
        has_body: bool,
    ) -> Result<(), ProxyError> {
        let is_preflight = route.passes_preflight(&parts.method, &parts.headers, has_body);
        if !is_preflight {
            route.methods.check(&parts.method)?;
        }
        if flags.via && self.settings.via.has_looped(&parts.headers) {
            return Err(ProxyError::LoopDetected);
        }
        let roles = &route.spec.roles;
        let has_role = |identity: &Identity| roles.iter().any(|role| identity.roles.contains(role));
        let is_allowed =
            roles.is_empty() || is_preflight || parts.extensions.get::<Identity>().is_some_and(has_role);
        if is_allowed { Ok(()) } else { Err(ProxyError::Forbidden) }
    }
}

/// Returns the kind of stream that the body of a response may be.
fn stream_kind(headers: &HeaderMap) -> Option<StreamKind> {
    let content_type = headers.get(CONTENT_TYPE)?.as_bytes();
    if is_event_stream(content_type) {
        Some(StreamKind::Events)
    } else {
        is_grpc_response(content_type).then_some(StreamKind::Grpc)
    }
}

/// Checks the body of a request whose method gives it no meaning, and replaces an empty one by none.
async fn check_body(route: &Route, method: &Method, body: Body) -> Result<Body, ProxyError> {
    let body = if empty_body::may_be_empty(&body, method) {
        // Boxed: the future is large, and most requests do not need it.
        Box::pin(empty_body::resolve(body, route.spec.idle_timeout)).await?
    } else {
        body
    };
    if !route.spec.get_body && empty_body::is_bodiless(method) && !body.is_end_stream() {
        return Err(ProxyError::BodyNotAllowed);
    }
    Ok(body)
}

/// Reads a small body whole. Those of gRPC may be streams, whose client waits for responses meanwhile.
async fn buffer_body(route: &Route, headers: &HeaderMap, body: Body) -> Result<Body, ProxyError> {
    if body.is_end_stream() || is_grpc(headers) {
        return Ok(body);
    }
    check_length(route, &body)?;
    let limits = BufferLimits { buffer: route.spec.buffer_request, body: route.spec.max_body };
    // Boxed: the future is large, and most requests do not need it.
    Box::pin(buffered_body::buffer(body, &limits, route.spec.idle_timeout)).await
}

/// Rejects a body whose announced length exceeds the route's limit.
fn check_length(route: &Route, body: &Body) -> Result<(), ProxyError> {
    if route.spec.max_body.is_some_and(|limit| body.size_hint().lower() > limit) {
        return Err(ProxyError::BodyTooLarge);
    }
    Ok(())
}

fn error_response(error: ProxyError, route: Option<&MatchedRoute>) -> Response<Body> {
    let code = error.code();
    let route = route.map(MatchedRoute::path);
    let cause = std::error::Error::source(&error);
    if error.status().is_server_error() {
        tracing::warn!(code, route, cause, "request not forwarded");
    } else {
        tracing::debug!(code, route, cause, "request not forwarded");
    }
    error.into_response()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn streams_are_detected_by_content_type() {
        for (content_type, kind) in [
            ("text/event-stream;charset=utf-8", Some(StreamKind::Events)),
            ("application/grpc+proto", Some(StreamKind::Grpc)),
            ("text/html", None),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
            assert_eq!(stream_kind(&headers), kind, "{content_type}");
        }
        assert_eq!(stream_kind(&HeaderMap::new()), None);
    }
}
