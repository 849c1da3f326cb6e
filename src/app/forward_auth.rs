//! `/auth/verify`, put together: what guards the public listener, around the questions of other proxies.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::future::RouteFuture;
use http::header::{HeaderMap, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use tower::layer::layer_fn;
use tower::{Service, ServiceBuilder, service_fn};

use super::catch_panic::CatchPanic;
use super::client_address::TrustedProxies;
use super::cors_csrf::{WebSocketOriginCheck, cross_site_upgrade_response};
use super::request_recorder::{RecorderConfig, RequestRecorder};
use super::{AppError, cors_csrf};
use crate::config::{Config, Origin};
use crate::http_headers::list_elements;
use crate::layer::{CookiePolicy, Reject401, SilentRefreshLayer};
use crate::proxy::{ProxyError, ReservedCookies, check_path};
use crate::request_context::RequestContext;
use crate::routers::ApiError;
use crate::routers::forward_auth::{self, OriginalRequestSource};
use crate::server::Peer;
use crate::services::token::Tokens;

/// The answers to other proxies, by a name. Cheap to clone.
#[derive(Clone)]
pub struct ForwardAuthService(Arc<ArcSwap<Router>>);

impl ForwardAuthService {
    pub(super) fn new(router: Router) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(router)))
    }

    pub(super) fn replace(&self, router: Router) {
        self.0.store(Arc::new(router));
    }
}

impl Service<Request> for ForwardAuthService {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    /// The router is always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        Router::clone(&self.0.load()).call(request)
    }
}

/// How other proxies ask.
pub(super) struct ForwardAuthStack {
    path: Arc<str>,
    source: OriginalRequestSource,
    session: SilentRefreshLayer<Tokens>,
}

impl ForwardAuthStack {
    /// `None` if nobody may.
    pub(super) fn new(config: &Config, session: &SilentRefreshLayer<Tokens>) -> Option<Self> {
        let verify = config.verify.as_ref()?;
        Some(Self {
            path: format!("{}/verify", config.server.auth_prefix.as_str()).into(),
            source: verify.source,
            session: session.clone(),
        })
    }

    /// The stack, outermost first, in the order in which a question passes it. Pages of the `origins` may
    /// do what ours may.
    pub(super) fn router(
        &self,
        origins: &[&Origin],
        cookies: &Arc<CookiePolicy>,
        upgrades: Arc<WebSocketOriginCheck>,
        desk: &RecorderConfig,
    ) -> Result<Router, AppError> {
        let origins: Vec<_> = origins.iter().map(|origin| origin.as_str()).collect();
        let asked = ForwardAuthState {
            path: Arc::clone(&self.path),
            source: self.source,
            trusted: desk.trusted.clone().into(),
        };
        let route = desk.meters.route("builtin:verify");
        let (reserved, spelled) =
            (ReservedCookies { names: cookies.names().map(str::to_owned).to_vec() }, Arc::clone(cookies));
        let checked = ServiceBuilder::new()
            .map_request(move |request| record_route(route, request))
            .layer(from_fn_with_state(upgrades, reject_cross_origin_websocket))
            .layer(cors_csrf::csrf_layer(&origins, Arc::clone(cookies))?)
            .map_response(move |response| forward_auth::expose_cookies_as_headers(&spelled, response))
            .layer(self.session.clone().with_on_reject(Reject401))
            .layer(layer_fn(CatchPanic))
            // No router: one would leave the body off what answers the browser's HEAD.
            .service(service_fn(move |request| ready(Ok::<_, Infallible>(respond(&reserved, request)))));
        // From the entrance on it is the original request, also in the log.
        let entrance = RequestRecorder::new(checked, desk.clone());
        Ok(Router::new()
            .fallback_service(entrance)
            .layer(from_fn_with_state(asked, restore_original_request)))
    }
}

fn record_route(route: u32, request: Request) -> Request {
    RequestContext::with_current(|scope| scope.set_route(route));
    request
}

/// Where questions are asked, by whom, and how they tell of the original request.
#[derive(Clone)]
struct ForwardAuthState {
    path: Arc<str>,
    source: OriginalRequestSource,
    trusted: Arc<TrustedProxies>,
}

/// Makes a trusted proxy's question the request that it is about.
async fn restore_original_request(
    State(asked): State<ForwardAuthState>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().map(|Peer(peer)| peer.ip());
    if !peer.is_some_and(|peer| asked.trusted.contains(peer)) {
        tracing::info!(?peer, "a question of somebody who is not among server.trusted_proxies");
        return ApiError::Forbidden("Only the proxies of server.trusted_proxies may ask here.")
            .into_response();
    }
    let request = match forward_auth::restore_original_request(asked.source, &asked.path, request) {
        Ok(request) => request,
        Err(error) => {
            tracing::info!(%error, "a question that can't be answered");
            return error.into_response();
        }
    };
    // An encoded slash is for the proxy in front to judge: no route of ours says what it means there.
    match check_path(request.uri().path(), true) {
        Ok(()) => next.run(request).await,
        Err(bad_path) => ProxyError::from(bad_path).into_response(),
    }
}

/// Refuses WebSockets of pages whose origin isn't trusted: they are opened by a `GET`, which the guard
/// against cross-site requests lets through.
async fn reject_cross_origin_websocket(
    State(upgrades): State<Arc<WebSocketOriginCheck>>,
    request: Request,
    next: Next,
) -> Response {
    if opens_websocket(request.headers()) && upgrades.is_untrusted_origin(request.headers()) {
        return cross_site_upgrade_response();
    }
    next.run(request).await
}

/// Traefik keeps `Upgrade` to itself, so any header of a handshake will do. (RFC 6455, section 4.1.)
fn opens_websocket(headers: &HeaderMap) -> bool {
    let websocket = |name: &[u8]| name.to_ascii_lowercase().starts_with(b"websocket");
    headers.contains_key(SEC_WEBSOCKET_KEY)
        || headers.contains_key(SEC_WEBSOCKET_VERSION)
        || list_elements(headers, &UPGRADE).any(websocket)
}

fn respond(reserved: &ReservedCookies, mut request: Request) -> Response {
    reserved.remove_from_request(request.headers_mut());
    forward_auth::respond(&request).into_response()
}
