//! Where a request goes: to a route of the program's own, or through the proxy.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, Response, Uri};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::catch_panic::CatchPanic;
use super::cors_csrf::{WebSocketOriginCheck, cross_site_upgrade_response};
use super::shared_runtime::SharedRuntime;
use crate::config::{PathPrefix, RouteAuth};
use crate::layer::{Reject401, Rejection, RejectionKind, SilentRefresh, SilentRefreshLayer};
use crate::proxy::{MatchedRoute, Proxy, ProxyError, Routes};
use crate::request_context::RequestContext;
use crate::services::token::Tokens;

/// The proxy behind the session layer. A panic becomes an answer inside of it, so that fresh cookies
/// leave all the same.
pub(super) type WithSession<R, S = Proxy> = SilentRefresh<CatchPanic<S>, Tokens, R>;

/// Says which requests without a session go on.
pub(super) type OnReject = fn(&Rejection) -> Option<Response<Body>>;

/// Sends each request to its face, by its path alone.
///
/// The program's own paths win over a shorter route, so that `/` as a route leaves `/auth` alone.
/// A path that has more than one reading is refused before anything is looked up by it.
#[derive(Clone)]
pub(super) struct Dispatcher(Arc<DispatcherInner>);

/// What the gateway chooses from.
pub(super) struct DispatcherInner {
    /// Where the program's own answers are made.
    pub(super) home: SharedRuntime,
    /// The paths that the program answers itself, each with all below it, and by which number they
    /// are counted.
    pub(super) own_paths: Vec<(PathPrefix, u32)>,
    /// The program's own answers.
    pub(super) own: Router,
    /// The routes to upstreams.
    pub(super) routes: Routes,
    /// Whom each route lets through, and by which number it is counted, in the routes' own order.
    pub(super) rules: Vec<(RouteAuth, u32)>,
    /// The way to upstreams.
    pub(super) proxied: ProxyStacks,
    /// What answers where no route does, if anything, and by which number it is counted.
    pub(super) otherwise: Option<(Router, u32)>,
    /// Which pages may have the protocol changed, where a session is looked at.
    pub(super) upgrades: Arc<WebSocketOriginCheck>,
}

/// The proxy, behind what each kind of route asks for.
#[derive(Clone)]
pub(super) struct ProxyStacks {
    session: SilentRefreshLayer<Tokens>,
    /// For signed-in users alone.
    required: WithSession<Reject401>,
    /// For anyone, with the identity of those who are signed in.
    optional: WithSession<OnReject>,
    /// For anyone, looking at no session.
    open: Proxy,
}

impl ProxyStacks {
    pub(super) fn new(session: SilentRefreshLayer<Tokens>, proxy: Proxy) -> Self {
        Self {
            required: with_session(session.clone().with_on_reject(Reject401), proxy.clone()),
            optional: with_session(
                session.clone().with_on_reject(allow_anonymous as OnReject),
                proxy.clone(),
            ),
            open: proxy,
            session,
        }
    }

    /// The same with connections of its own.
    pub(super) fn for_thread(&self) -> Self {
        Self::new(self.session.clone(), self.open.with_own_connections())
    }
}

pub(super) fn with_session<R: Clone, S>(
    session: SilentRefreshLayer<Tokens, R>,
    proxy: S,
) -> WithSession<R, S> {
    session.layer(CatchPanic(proxy))
}

/// Nobody signed in is nobody, but where that can't be told, the answer says so.
fn allow_anonymous(rejection: &Rejection) -> Option<Response<Body>> {
    (rejection.kind == RejectionKind::Unavailable).then(|| rejection.problem())
}

enum Destination<'a> {
    Here(&'a Router, u32),
    Proxied(RouteAuth, MatchedRoute, u32),
    Nowhere(ProxyError),
    Refused(u32),
}

impl Dispatcher {
    pub(super) fn new(faces: DispatcherInner) -> Self {
        Self(Arc::new(faces))
    }

    /// Sends a request to its face. All are always ready, so each is called as it is.
    pub(super) fn dispatch(&self, mut request: Request<Body>) -> DispatchFuture {
        let faces = &*self.0;
        match faces.resolve(request.uri(), request.headers()) {
            Destination::Here(router, number) => {
                RequestContext::with_current(|scope| scope.set_route(number));
                let answer = router.clone().call(request);
                DispatchFuture::Here { future: Box::pin(faces.home.clone().run_on(answer)) }
            }
            Destination::Proxied(auth, route, number) => {
                RequestContext::with_current(|scope| scope.set_route(number));
                request.extensions_mut().insert(route);
                match auth {
                    RouteAuth::None => {
                        DispatchFuture::Open { future: faces.proxied.open.clone().call(request) }
                    }
                    RouteAuth::Optional => {
                        DispatchFuture::Optional { future: faces.proxied.optional.clone().call(request) }
                    }
                    RouteAuth::Required => {
                        DispatchFuture::Required { future: faces.proxied.required.clone().call(request) }
                    }
                }
            }
            Destination::Nowhere(error) => {
                DispatchFuture::Nowhere { answer: Some(Box::new(error.into_response())) }
            }
            Destination::Refused(number) => {
                RequestContext::with_current(|scope| scope.set_route(number));
                DispatchFuture::Nowhere { answer: Some(Box::new(cross_site_upgrade_response())) }
            }
        }
    }
}

impl DispatcherInner {
    fn resolve(&self, uri: &Uri, headers: &HeaderMap) -> Destination<'_> {
        let route = match self.routes.find(uri) {
            Ok(route) => route,
            Err(bad_path) => return Destination::Nowhere(bad_path.into()),
        };
        if let Some((_, number)) = self.own_paths.iter().find(|(own, _)| own.matches(uri.path())) {
            return Destination::Here(&self.own, *number);
        }
        match (route, &self.otherwise) {
            (Some(route), _) => {
                // A route of which nothing is known lets nobody through.
                let rule = self.rules.get(route.number()).copied();
                let (auth, number) = rule.unwrap_or((RouteAuth::Required, 0));
                if auth != RouteAuth::None && self.upgrades.rejects(headers) {
                    return Destination::Refused(number);
                }
                Destination::Proxied(auth, route, number)
            }
            (None, Some((otherwise, number))) => Destination::Here(otherwise, *number),
            (None, None) => Destination::Nowhere(ProxyError::NoRoute),
        }
    }
}

impl Service<Request<Body>> for Dispatcher {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = DispatchFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> DispatchFuture {
        self.dispatch(request)
    }
}

type ServiceFuture<S> = <S as Service<Request<Body>>>::Future;

pin_project! {
    /// Response future of [`Dispatcher`].
    #[project = GoingProj]
    pub(super) enum DispatchFuture {
        Here { future: Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>> },
        Open { #[pin] future: ServiceFuture<Proxy> },
        Optional { #[pin] future: ServiceFuture<WithSession<OnReject>> },
        Required { #[pin] future: ServiceFuture<WithSession<Reject401>> },
        Nowhere { answer: Option<Box<Response<Body>>> },
    }
}

impl Future for DispatchFuture {
    type Output = Result<Response<Body>, Infallible>;

    #[expect(clippy::expect_used, reason = "polling again is the caller's mistake")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            GoingProj::Here { future } => future.as_mut().poll(cx),
            GoingProj::Open { future } => future.poll(cx),
            GoingProj::Optional { future } => future.poll(cx),
            GoingProj::Required { future } => future.poll(cx),
            GoingProj::Nowhere { answer } => {
                Poll::Ready(Ok(*answer.take().expect("Going polled after completion")))
            }
        }
    }
}
