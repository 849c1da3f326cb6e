//! Dispatches requests by path: to the built-in router, or through the proxy.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::admission::Admission;
use super::proxy_stacks::{OnReject, ProxyStacks, WithSession};
use super::shared_runtime::SharedRuntime;
use super::upgrade_origin::{WebSocketOriginCheck, cross_site_upgrade_response};
use crate::config::{PathPrefix, RouteAuth};
use crate::layer::Reject401;
use crate::proxy::{BadPath, MatchedRoute, Proxy, ProxyError, Routes, check_path, may_be_respelled};
use crate::request_context::RequestContext;
use crate::server::{InReserve, Rejected, overloaded_response};

/// Dispatches each request by its path alone.
///
/// The paths of the built-in router take precedence over routes, so that a route `/` leaves `/auth` alone.
/// A path that can be read in more than one way is rejected before it is looked up. A request that the server rejects
/// gets the server's response.
#[derive(Clone)]
pub(super) struct Dispatcher(Arc<DispatcherInner>);

/// The destinations of a [`Dispatcher`].
pub(super) struct DispatcherInner {
    /// Counts each request for its client.
    pub(super) admission: Admission,
    /// Runs the built-in router and the fallback.
    pub(super) shared_runtime: SharedRuntime,
    /// The path prefixes of the built-in router, each with its route number in the metrics.
    pub(super) builtin_paths: Vec<(PathPrefix, u32)>,
    /// The built-in router.
    pub(super) builtin: Router,
    /// The routes to upstreams.
    pub(super) routes: Routes,
    /// The required authentication and the route number of each route, in the order of `routes`.
    pub(super) route_auth: Vec<(RouteAuth, u32)>,
    /// The proxy.
    pub(super) proxies: ProxyStacks,
    /// The router for paths without a route, if there is one, and its route number.
    pub(super) fallback: Option<(Router, u32)>,
    /// Checks the origin of upgrades on routes that use sessions.
    pub(super) upgrade_origin: Arc<WebSocketOriginCheck>,
}

enum Destination<'a> {
    Router(&'a Router, u32),
    Proxy(RouteAuth, MatchedRoute, u32),
    CrossSiteUpgrade(u32),
    None(ProxyError),
}

impl Dispatcher {
    pub(super) fn new(inner: DispatcherInner) -> Self {
        Self(Arc::new(inner))
    }
}

impl Service<Request<Body>> for Dispatcher {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = DispatchFuture;

    /// All destinations are always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> DispatchFuture {
        let inner = &*self.0;
        if let Some(rejected) = request.extensions().get::<Rejected>() {
            return DispatchFuture::ready(rejected.response());
        }
        let destination = inner.resolve(&request);
        let is_in_reserve = request.extensions().get::<InReserve>().is_some();
        if let Some(number) = destination.route_number() {
            RequestContext::with_current(|context| context.set_route(number));
        }
        if let Some(rejection) = inner.admission.begin(&mut request, is_in_reserve) {
            return DispatchFuture::ready(rejection);
        }
        match destination {
            Destination::Router(router, _) => {
                let response = router.clone().call(request);
                DispatchFuture::Router { future: Box::pin(inner.shared_runtime.clone().run_on(response)) }
            }
            Destination::Proxy(auth, route, _) => {
                // The reserve is for the built-in router: sign-in, sign-out and sessions.
                if is_in_reserve {
                    return DispatchFuture::ready(overloaded_response());
                }
                if let Some(rejection) = inner.admission.check_route(&route) {
                    return DispatchFuture::ready(rejection);
                }
                request.extensions_mut().insert(route);
                let ProxyStacks { required, optional, open, .. } = &inner.proxies;
                match auth {
                    RouteAuth::None => DispatchFuture::Open { future: open.clone().call(request) },
                    RouteAuth::Optional => {
                        DispatchFuture::Optional { future: optional.clone().call(request) }
                    }
                    RouteAuth::Required => {
                        DispatchFuture::Required { future: required.clone().call(request) }
                    }
                }
            }
            Destination::CrossSiteUpgrade(_) => DispatchFuture::ready(cross_site_upgrade_response()),
            Destination::None(error) => DispatchFuture::ready(error.into_response()),
        }
    }
}

impl Destination<'_> {
    /// Returns the number of the route in the metrics.
    fn route_number(&self) -> Option<u32> {
        match self {
            Self::Router(_, number) | Self::Proxy(_, _, number) | Self::CrossSiteUpgrade(number) => {
                Some(*number)
            }
            Self::None(_) => None,
        }
    }
}

impl DispatcherInner {
    fn resolve(&self, request: &Request<Body>) -> Destination<'_> {
        let uri = request.uri();
        let route = match self.routes.find(uri) {
            Ok(route) => route,
            Err(bad_path) => return Destination::None(bad_path.into()),
        };
        match self.find_builtin(uri.path()) {
            Ok(Some(number)) => return Destination::Router(&self.builtin, number),
            Ok(None) => {}
            Err(bad_path) => return Destination::None(bad_path.into()),
        }
        match (route, &self.fallback) {
            (Some(route), _) => {
                // Fail closed: a route without an entry requires a session.
                let route_auth = self.route_auth.get(route.index()).copied();
                let (auth, number) = route_auth.unwrap_or((RouteAuth::Required, 0));
                let auth = if route.passes_preflight(request) { RouteAuth::None } else { auth };
                if auth != RouteAuth::None && self.upgrade_origin.rejects(request.headers()) {
                    return Destination::CrossSiteUpgrade(number);
                }
                Destination::Proxy(auth, route, number)
            }
            (None, Some((fallback, number))) => Destination::Router(fallback, *number),
            (None, None) => Destination::None(ProxyError::NoRoute),
        }
    }

    /// Returns the route number of the built-in path at or above `path`.
    ///
    /// Other spellings of a built-in path are as much the gateway's own as they are those of a route. The router
    /// knows none of them, but an upstream might.
    fn find_builtin(&self, path: &str) -> Result<Option<u32>, BadPath> {
        let mut paths = self.builtin_paths.iter();
        if !may_be_respelled(path) {
            return Ok(paths.find(|(prefix, _)| prefix.matches_literally(path)).map(|(_, number)| *number));
        }
        let found = paths.find(|(prefix, _)| prefix.matches_respelled(path));
        // The route that the path would have may allow encoded slashes.
        found.map(|(_, number)| check_path(path, false).map(|()| *number)).transpose()
    }
}

type FutureOf<S> = <S as Service<Request<Body>>>::Future;

pin_project! {
    /// Response future of [`Dispatcher`].
    #[project = DispatchFutureProj]
    pub enum DispatchFuture {
        Router { future: Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>> },
        Open { #[pin] future: FutureOf<Proxy> },
        Optional { #[pin] future: FutureOf<WithSession<OnReject>> },
        Required { #[pin] future: FutureOf<WithSession<Reject401>> },
        Ready { response: Option<Box<Response<Body>>> },
    }
}

impl DispatchFuture {
    fn ready(response: Response<Body>) -> Self {
        Self::Ready { response: Some(Box::new(response)) }
    }
}

impl Future for DispatchFuture {
    type Output = Result<Response<Body>, Infallible>;

    #[expect(clippy::expect_used, reason = "polling after completion is a bug of the caller")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            DispatchFutureProj::Router { future } => future.as_mut().poll(cx),
            DispatchFutureProj::Open { future } => future.poll(cx),
            DispatchFutureProj::Optional { future } => future.poll(cx),
            DispatchFutureProj::Required { future } => future.poll(cx),
            DispatchFutureProj::Ready { response } => {
                Poll::Ready(Ok(*response.take().expect("DispatchFuture polled after completion")))
            }
        }
    }
}
