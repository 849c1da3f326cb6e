//! Where a request goes: to a route of the program's own, or through the proxy.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use http::{Request, Response, Uri};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use super::home::Home;
use crate::backend::config::{PathPrefix, RouteAuth};
use crate::proxy::{MatchedRoute, ProxyError, Routes};

/// A complete service, as far as the gateway cares.
pub(super) type Face = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Sends each request to its face, by its path alone.
///
/// The program's own paths win over a shorter route, so that `/` as a route leaves `/auth` alone.
/// A path that has more than one reading is refused before anything is looked up by it.
#[derive(Clone)]
pub(super) struct Gateway(pub(super) Arc<Faces>);

/// What the gateway chooses from.
pub(super) struct Faces {
    /// Where the program's own answers are made.
    pub(super) home: Home,
    /// The paths that the program answers itself, each with all below it.
    pub(super) own_paths: Vec<PathPrefix>,
    /// The program's own answers.
    pub(super) own: Router,
    /// The routes to upstreams.
    pub(super) routes: Routes,
    /// Whom each route lets through.
    pub(super) auth: HashMap<String, RouteAuth>,
    /// The proxy, for signed-in users alone.
    pub(super) required: Face,
    /// The proxy, for anyone, with the identity of those who are signed in.
    pub(super) optional: Face,
    /// The proxy, for anyone, looking at no session.
    pub(super) open: Face,
    /// What answers where no route does, if anything.
    pub(super) otherwise: Option<Router>,
}

enum Place {
    Here(Router),
    Proxied(Face, MatchedRoute),
    Nowhere(ProxyError),
}

impl Faces {
    fn place(&self, uri: &Uri) -> Place {
        let route = match self.routes.find(uri) {
            Ok(route) => route,
            Err(bad_path) => return Place::Nowhere(bad_path.into()),
        };
        if self.own_paths.iter().any(|own| own.covers(uri.path())) {
            return Place::Here(self.own.clone());
        }
        match (route, &self.otherwise) {
            (Some(route), _) => Place::Proxied(self.face(&route), route),
            (None, Some(otherwise)) => Place::Here(otherwise.clone()),
            (None, None) => Place::Nowhere(ProxyError::NoRoute),
        }
    }

    /// A route of which nothing is known lets nobody through.
    fn face(&self, route: &MatchedRoute) -> Face {
        match self.auth.get(route.path()) {
            Some(RouteAuth::None) => self.open.clone(),
            Some(RouteAuth::Optional) => self.optional.clone(),
            Some(RouteAuth::Required) | None => self.required.clone(),
        }
    }
}

impl Service<Request<Body>> for Gateway {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.0.place(request.uri()) {
            Place::Here(router) => Box::pin(self.0.home.clone().run(router.oneshot(request))),
            Place::Proxied(face, route) => {
                request.extensions_mut().insert(route);
                Box::pin(face.oneshot(request))
            }
            Place::Nowhere(error) => Box::pin(async move { Ok(error.into_response()) }),
        }
    }
}
