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

use super::cross_origin::{UpgradeGuard, refused_upgrade};
use super::home::Home;
use super::panics::CatchPanic;
use crate::backend::config::{PathPrefix, RouteAuth};
use crate::identity::RequestContext;
use crate::layer::{Reject401, Rejection, RejectionKind, SilentRefresh, SilentRefreshLayer};
use crate::proxy::{MatchedRoute, Proxy, ProxyError, Routes};
use crate::services::token::Tokens;

/// The proxy behind the session layer. A panic becomes an answer inside of it, so that fresh cookies
/// leave all the same.
pub(super) type Behind<R, S = Proxy> = SilentRefresh<CatchPanic<S>, Tokens, R>;

/// Says which requests without a session go on.
pub(super) type OnReject = fn(&Rejection) -> Option<Response<Body>>;

/// Sends each request to its face, by its path alone.
///
/// The program's own paths win over a shorter route, so that `/` as a route leaves `/auth` alone.
/// A path that has more than one reading is refused before anything is looked up by it.
#[derive(Clone)]
pub(super) struct Gateway(Arc<Faces>);

/// What the gateway chooses from.
pub(super) struct Faces {
    /// Where the program's own answers are made.
    pub(super) home: Home,
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
    pub(super) proxied: Proxied,
    /// What answers where no route does, if anything, and by which number it is counted.
    pub(super) otherwise: Option<(Router, u32)>,
    /// Which pages may have the protocol changed, where a session is looked at.
    pub(super) upgrades: Arc<UpgradeGuard>,
}

/// The proxy, behind what each kind of route asks for.
#[derive(Clone)]
pub(super) struct Proxied {
    session: SilentRefreshLayer<Tokens>,
    /// For signed-in users alone.
    required: Behind<Reject401>,
    /// For anyone, with the identity of those who are signed in.
    optional: Behind<OnReject>,
    /// For anyone, looking at no session.
    open: Proxy,
}

impl Proxied {
    pub(super) fn new(session: SilentRefreshLayer<Tokens>, proxy: Proxy) -> Self {
        Self {
            required: behind(session.clone().with_on_reject(Reject401), proxy.clone()),
            optional: behind(session.clone().with_on_reject(anonymous_or_503 as OnReject), proxy.clone()),
            open: proxy,
            session,
        }
    }

    /// The same with connections of its own.
    pub(super) fn for_thread(&self) -> Self {
        Self::new(self.session.clone(), self.open.with_own_connections())
    }
}

pub(super) fn behind<R: Clone, S>(session: SilentRefreshLayer<Tokens, R>, proxy: S) -> Behind<R, S> {
    session.layer(CatchPanic(proxy))
}

/// Nobody signed in is nobody, but where that can't be told, the answer says so.
fn anonymous_or_503(rejection: &Rejection) -> Option<Response<Body>> {
    (rejection.kind == RejectionKind::Unavailable).then(|| rejection.problem())
}

enum Place<'a> {
    Here(&'a Router, u32),
    Proxied(RouteAuth, MatchedRoute, u32),
    Nowhere(ProxyError),
    Refused(u32),
}

impl Gateway {
    pub(super) fn new(faces: Faces) -> Self {
        Self(Arc::new(faces))
    }

    /// Sends a request to its face. All are always ready, so each is called as it is.
    pub(super) fn send(&self, mut request: Request<Body>) -> Going {
        let faces = &*self.0;
        match faces.place(request.uri(), request.headers()) {
            Place::Here(router, number) => {
                RequestContext::with_current(|scope| scope.set_route(number));
                let answer = router.clone().call(request);
                Going::Here { future: Box::pin(faces.home.clone().run(answer)) }
            }
            Place::Proxied(auth, route, number) => {
                RequestContext::with_current(|scope| scope.set_route(number));
                request.extensions_mut().insert(route);
                match auth {
                    RouteAuth::None => Going::Open { future: faces.proxied.open.clone().call(request) },
                    RouteAuth::Optional => {
                        Going::Optional { future: faces.proxied.optional.clone().call(request) }
                    }
                    RouteAuth::Required => {
                        Going::Required { future: faces.proxied.required.clone().call(request) }
                    }
                }
            }
            Place::Nowhere(error) => Going::Nowhere { answer: Some(Box::new(error.into_response())) },
            Place::Refused(number) => {
                RequestContext::with_current(|scope| scope.set_route(number));
                Going::Nowhere { answer: Some(Box::new(refused_upgrade())) }
            }
        }
    }
}

impl Faces {
    fn place(&self, uri: &Uri, headers: &HeaderMap) -> Place<'_> {
        let route = match self.routes.find(uri) {
            Ok(route) => route,
            Err(bad_path) => return Place::Nowhere(bad_path.into()),
        };
        if let Some((_, number)) = self.own_paths.iter().find(|(own, _)| own.covers(uri.path())) {
            return Place::Here(&self.own, *number);
        }
        match (route, &self.otherwise) {
            (Some(route), _) => {
                // A route of which nothing is known lets nobody through.
                let rule = self.rules.get(route.number()).copied();
                let (auth, number) = rule.unwrap_or((RouteAuth::Required, 0));
                if auth != RouteAuth::None && self.upgrades.refuses(headers) {
                    return Place::Refused(number);
                }
                Place::Proxied(auth, route, number)
            }
            (None, Some((otherwise, number))) => Place::Here(otherwise, *number),
            (None, None) => Place::Nowhere(ProxyError::NoRoute),
        }
    }
}

impl Service<Request<Body>> for Gateway {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Going;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Going {
        self.send(request)
    }
}

type Answering<S> = <S as Service<Request<Body>>>::Future;

pin_project! {
    /// Response future of [`Gateway`].
    #[project = GoingProj]
    pub(super) enum Going {
        Here { future: Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>> },
        Open { #[pin] future: Answering<Proxy> },
        Optional { #[pin] future: Answering<Behind<OnReject>> },
        Required { #[pin] future: Answering<Behind<Reject401>> },
        Nowhere { answer: Option<Box<Response<Body>>> },
    }
}

impl Future for Going {
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
