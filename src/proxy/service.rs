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
use super::settings::ProxySettings;
use super::upgrade::Upgrade;
use super::upload_progress::UploadProgress;
use super::upstream::{Lease, Pool, UpstreamBody};
use super::upstream_tokens::UpstreamTokens;
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

    /// Returns a proxy with the same settings and a connection pool of its own.
    ///
    /// Connections are driven by the runtime that opened them, so each runtime needs its own pool.
    #[must_use]
    pub fn with_own_connections(&self) -> Self {
        // The settings are copied rather than shared: every request of a thread changes the reference
        // count of the proxy, and threads must not contend for it.
        Self::from_settings(self.0.settings.clone())
    }

    fn from_settings(settings: ProxySettings) -> Self {
        Self(Arc::new(Inner { settings, pool: Arc::default() }))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("settings", &self.0.settings).finish_non_exhaustive()
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
        let seen = HeaderFlags::scan(&parts.headers);
        let has_body = !body.is_end_stream();
        let upgrade = if seen.upgrade { Upgrade::from_request(parts, has_body, route) } else { None };
        let identity = parts.extensions.get::<Identity>();
        self.authorize(route, parts, &seen, identity)?;
        let session = identity.map(|identity| identity.session);
        let (body, mut progress) = upload(route, body)?;
        let outgoing =
            UpstreamRequest::new(parts, route, &self.settings, identity, (&seen, upgrade.as_ref()))?;
        let sent =
            upstream::send(&self.pool, &route.upstreams, route.timeouts, &outgoing, body, &mut progress);
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
        let (parts, body) = incoming::prepare_response(response, route, &self.settings).into_parts();
        let upstream = body.into_upgraded().ok_or_else(unasked)?;
        let response = Response::from_parts(parts, Body::empty());
        Ok(granted.begin(response, upstream, route, session, &self.settings.streams))
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
        let response = incoming::prepare_response(response, route, &self.settings);
        if long_lived::is_event_stream(response.headers()) {
            let response = response.map(|body| DownstreamResponseBody::new(body, route, lease, progress));
            long_lived::bind_event_stream(response, session, &self.settings.streams)
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
        if seen.via && self.settings.via.has_looped(&parts.headers) {
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
