//! The proxy as a service.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum_core::BoxError;
use axum_core::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode, request};
use tower_service::Service;

use super::body::{DownstreamResponseBody, UpstreamRequestBody};
use super::cookies::ReservedCookies;
use super::error::ProxyError;
use super::long_lived::{self, LongLivedStreams};
use super::request::{HeaderFlags, UpstreamRequest};
use super::routes::{MatchedRoute, Route};
use super::upgrade::Upgrade;
use super::upload_progress::UploadProgress;
use super::upstream::{Lease, Pool, UpstreamBody};
use super::via::Via;
use super::{response as incoming, upstream};
use crate::identity::{Identity, SessionId};

/// Forwards requests to the upstreams of their routes; see the [module](super).
///
/// Cheap to clone; a clone uses the same connections. It never fails: what goes wrong becomes an
/// answer.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    rules: ProxySettings,
    connections: Arc<Pool>,
}

/// What all messages are held to.
#[derive(Clone, Debug)]
struct ProxySettings {
    reserved: ReservedCookies,
    streams: LongLivedStreams,
    via: Via,
}

impl Proxy {
    /// A proxy that keeps these cookies from upstreams, and its long-lived connections among these
    /// streams.
    #[must_use]
    pub fn new(reserved: ReservedCookies, streams: LongLivedStreams) -> Self {
        Self::of(ProxySettings { reserved, streams, via: Via::new() })
    }

    /// The same proxy, with connections to upstreams of its own: for another runtime, which is to
    /// drive them.
    #[must_use]
    pub fn with_own_connections(&self) -> Self {
        // A copy of the rules too: all requests of a thread count up and down who refers to them.
        Self::of(ProxySettings::clone(&self.0.rules))
    }

    fn of(rules: ProxySettings) -> Self {
        Self(Arc::new(Inner { rules, connections: Arc::default() }))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("rules", &self.0.rules).finish_non_exhaustive()
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
        Box::pin(async move {
            let route = parts.extensions.remove::<MatchedRoute>();
            let answer = match &route {
                Some(route) => proxy.forward(route.route(), &mut parts, body).await,
                None => Err(ProxyError::NoRoute),
            };
            Ok(answer.unwrap_or_else(|error| error_response(error, route.as_ref())))
        })
    }
}

impl Inner {
    async fn forward<B>(
        &self,
        route: &Route,
        parts: &mut request::Parts,
        body: B,
    ) -> Result<Response<Body>, ProxyError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let ProxySettings { reserved, via, .. } = &self.rules;
        let seen = HeaderFlags::scan(&parts.headers);
        let has_body = !body.is_end_stream();
        let upgrade = if seen.upgrade { Upgrade::from_request(parts, has_body, route) } else { None };
        let identity = parts.extensions.get::<Identity>();
        self.authorize(route, parts, &seen, identity)?;
        let session = identity.map(|identity| identity.session);
        let (body, mut progress) = upload(route, body)?;
        let outgoing =
            UpstreamRequest::new(parts, route, (reserved, via), identity, (&seen, upgrade.as_ref()))?;
        let sent = upstream::send(
            &self.connections,
            &route.upstreams,
            route.timeouts,
            &outgoing,
            body,
            &mut progress,
        );
        let (response, mut lease) = sent.await?;
        if long_lived::is_event_stream(response.headers()) {
            lease.release_permit();
        }
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(self.stream(response, route, session, lease, progress));
        }
        // Only who was asked to may switch.
        let unasked = || ProxyError::UpstreamError("the upstream switched protocols unasked".into());
        let granted = upgrade.ok_or_else(unasked)?.accept(response.headers())?;
        let (parts, body) = incoming::prepare_response(response, route, reserved, via).into_parts();
        let upstream = body.into_upgraded().ok_or_else(unasked)?;
        let response = Response::from_parts(parts, Body::empty());
        Ok(granted.begin(response, upstream, route, session, &self.rules.streams))
    }

    /// The answer, whose body is on its way.
    fn stream(
        &self,
        response: Response<UpstreamBody>,
        route: &Route,
        session: Option<SessionId>,
        lease: Lease,
        progress: UploadProgress,
    ) -> Response<Body> {
        let ProxySettings { reserved, streams, via } = &self.rules;
        let response = incoming::prepare_response(response, route, reserved, via);
        if long_lived::is_event_stream(response.headers()) {
            let response = response.map(|body| DownstreamResponseBody::new(body, route, lease, progress));
            long_lived::bind_event_stream(response, session, streams)
        } else {
            response.map(|body| DownstreamResponseBody::body(body, route, lease, progress))
        }
    }

    fn authorize(
        &self,
        route: &Route,
        parts: &request::Parts,
        seen: &HeaderFlags,
        identity: Option<&Identity>,
    ) -> Result<(), ProxyError> {
        route.methods.check(&parts.method)?;
        if seen.via && self.rules.via.has_looped(&parts.headers) {
            return Err(ProxyError::LoopDetected);
        }
        let roles = &route.spec.roles;
        let has_one = |identity: &Identity| roles.iter().any(|role| identity.roles.contains(role));
        if roles.is_empty() || identity.is_some_and(has_one) { Ok(()) } else { Err(ProxyError::Forbidden) }
    }
}

/// A body whose length says that it is too large is refused before anyone reads it.
fn upload<B>(route: &Route, body: B) -> Result<(Body, UploadProgress), ProxyError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if route.spec.max_body.is_some_and(|limit| body.size_hint().lower() > limit) {
        return Err(ProxyError::BodyTooLarge);
    }
    if body.is_end_stream() {
        return Ok((Body::empty(), UploadProgress::without_body()));
    }
    let (body, progress) = UpstreamRequestBody::new(body, route);
    Ok((Body::new(body), progress))
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
