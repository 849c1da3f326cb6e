//! The service of `verify.listen`: the layers of the public stack around
//! [`routers::forward_auth`](crate::routers::forward_auth).

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
use tower::layer::layer_fn;
use tower::{Service, ServiceBuilder, service_fn};

use super::admission::{Admission, limit_clients};
use super::browser_errors::{BrowserErrors, ErrorResponses};
use super::catch_panic::CatchPanic;
use super::client_address::TrustedProxies;
use super::cors_csrf::csrf_layer;
use super::error::AppError;
use super::request_recorder::{IdentityRecorder, RecorderConfig, RequestRecorder};
use super::upgrade_origin::{WebSocketOriginCheck, cross_site_upgrade_response};
use crate::config::{AllowedOrigin, Config};
use crate::layer::{CookiePolicy, Reject401, SilentRefreshLayer};
use crate::pages::{Pages, SignInTarget};
use crate::proxy::{ProxyError, ReservedCookies, check_request_path};
use crate::request_context::RequestContext;
use crate::routers::ApiError;
use crate::routers::forward_auth::{self, OriginalRequestSource};
use crate::server::Peer;
use crate::services::token::Tokens;

/// The service of the listener for forward auth requests. Cheap to clone.
///
/// A reload replaces the router. Requests in flight keep the one they started on.
#[derive(Clone)]
pub struct ForwardAuthService(Arc<ArcSwap<Router>>);

/// Records auth requests that are rejected before their original request is known.
#[derive(Clone)]
struct RejectionRecorder {
    recorder: RequestRecorder<()>,
    route: u32,
}

impl ForwardAuthService {
    pub(super) fn new(router: Router) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(router)))
    }

    pub(super) fn replace(&self, router: Router) {
        self.0.store(Arc::new(router));
    }
}

impl RejectionRecorder {
    fn record(&self, request: http::Request<()>, rejection: Response) -> Response {
        self.recorder.record_rejection(request, || {
            RequestContext::with_current(|context| context.set_route(self.route));
            rejection
        })
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

/// The parts of the forward auth stack that last as long as the process.
pub(super) struct ForwardAuthStack {
    path: Arc<str>,
    source: OriginalRequestSource,
    session: SilentRefreshLayer<Tokens>,
    cookies: Arc<CookiePolicy>,
}

impl ForwardAuthStack {
    /// Returns `None` without `verify.listen`.
    pub(super) fn new(
        config: &Config,
        session: &SilentRefreshLayer<Tokens>,
        cookies: &Arc<CookiePolicy>,
    ) -> Option<Self> {
        let verify = config.verify.as_ref()?;
        Some(Self {
            path: format!("{}/verify", config.server.auth_prefix.as_str()).into(),
            source: verify.source,
            session: session.clone(),
            cookies: Arc::clone(cookies),
        })
    }

    pub(super) fn error_responses(
        &self,
        sign_in: Option<SignInTarget>,
        pages: Pages,
        redirect: bool,
    ) -> ErrorResponses {
        ErrorResponses::for_forward_auth(sign_in, pages, self.source, redirect)
    }

    /// Builds the stack, outermost layer first.
    pub(super) fn build(
        &self,
        trusted_origins: &[&AllowedOrigin],
        upgrade_origin: Arc<WebSocketOriginCheck>,
        recorder: &RecorderConfig,
        admission: Admission,
        errors: ErrorResponses,
    ) -> Result<Router, AppError> {
        let route = recorder.metrics.route("builtin:verify");
        let rejections = RejectionRecorder { recorder: RequestRecorder::new((), recorder.clone()), route };
        let original_request = OriginalRequestState {
            path: Arc::clone(&self.path),
            source: self.source,
            trusted_proxies: recorder.trusted_proxies.clone().into(),
            rejections,
        };
        let recorder = recorder.clone();
        let shares = admission.shares().clone();
        let cookies = Arc::clone(&self.cookies);
        let errors = Arc::new(errors);
        let reserved_cookies = ReservedCookies { names: cookies.names().map(str::to_owned).to_vec() };
        let stack = ServiceBuilder::new()
            // Outermost, so that all layers below, and the access log, see the original request.
            .layer(from_fn_with_state(original_request, restore_original_request))
            // From here to the session layer: the layers of the public stack, without CORS.
            .layer(layer_fn(move |inner| RequestRecorder::new(inner, recorder.clone())))
            .layer(layer_fn(move |inner| BrowserErrors::new(inner, Arc::clone(&errors))))
            .map_request(move |request| record_route(route, request))
            .layer(from_fn_with_state(Arc::new(admission), limit_clients))
            .layer(from_fn_with_state(upgrade_origin, reject_cross_origin_websocket))
            .layer(csrf_layer(trusted_origins, Arc::clone(&self.cookies))?)
            // Outside the session layer, which sets the cookies.
            .map_response(move |response| forward_auth::expose_cookies_as_headers(&cookies, response))
            .layer(self.session.clone().with_on_reject(Reject401))
            // Inside the session layer, so that a panic does not lose the new cookies.
            .layer(layer_fn(CatchPanic))
            .layer(layer_fn(move |inner| IdentityRecorder::new(inner, shares.clone())))
            // No `Router`, which would drop the body of a response to HEAD: the original method.
            .service(service_fn(move |request| {
                ready(Ok::<_, Infallible>(respond(&reserved_cookies, request)))
            }));
        Ok(Router::new().fallback_service(stack))
    }
}

#[derive(Clone)]
struct OriginalRequestState {
    path: Arc<str>,
    source: OriginalRequestSource,
    trusted_proxies: Arc<TrustedProxies>,
    rejections: RejectionRecorder,
}

impl OriginalRequestState {
    fn reject(&self, request: Request, rejection: impl IntoResponse) -> Response {
        self.rejections.record(request.map(drop), rejection.into_response())
    }
}

/// Replaces a trusted proxy's forward auth request by the request that it is about.
async fn restore_original_request(
    State(state): State<OriginalRequestState>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().map(|Peer(peer)| peer.ip());
    if !peer.is_some_and(|peer| state.trusted_proxies.contains(peer)) {
        tracing::info!(peer = peer.map(tracing::field::display), "forward auth request from untrusted peer");
        let detail = "Only the proxies of server.trusted_proxies may send forward auth requests.";
        return state.reject(request, ApiError::Forbidden(detail));
    }
    if let Err(error) = forward_auth::restore_original_request(state.source, &state.path, &mut request) {
        tracing::info!(%error, "invalid forward auth request");
        return state.reject(request, error);
    }
    // Encoded slashes are allowed: their meaning depends on the application behind the proxy in front.
    match check_request_path(request.uri().path(), true) {
        Ok(()) => next.run(request).await,
        Err(bad_path) => state.reject(request, ProxyError::from(bad_path).into_response()),
    }
}

fn record_route(number: u32, request: Request) -> Request {
    RequestContext::with_current(|context| context.set_route(number));
    request
}

/// Rejects WebSocket handshakes of untrusted origins.
async fn reject_cross_origin_websocket(
    State(upgrade_origin): State<Arc<WebSocketOriginCheck>>,
    request: Request,
    next: Next,
) -> Response {
    if upgrade_origin.rejects_handshake(request.headers()) {
        return cross_site_upgrade_response();
    }
    next.run(request).await
}

fn respond(reserved_cookies: &ReservedCookies, mut request: Request) -> Response {
    reserved_cookies.remove_from_request(request.headers_mut());
    forward_auth::respond(&request).into_response()
}
