//! The built-in router: the endpoints that `server.builtin` selects.

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn_with_state;
use http::header::{HOST, HeaderValue};
use http::{Request, Response};
use tower::ServiceBuilder;
use tower::layer::layer_fn;
use tower::util::MapRequestLayer;
use utoipa_axum::router::OpenApiRouter;

use super::body_deadline::limit_body_time;
use super::catch_panic::CatchPanic;
use super::proxy_stacks::OnReject;
use super::request_recorder::IdentityRecorder;
use crate::config::{self, BuiltinRoutes, PathPrefix};
use crate::layer::{Reject401, RejectedRequest, SilentRefreshLayer};
use crate::long_lived_streams::LongLivedStreams;
use crate::proxy::Forwarded;
use crate::request_context::RequestContext;
use crate::routers::events::{self, EventsState};
use crate::routers::pages::{BrowserOrigin, Demo, PagesState};
use crate::routers::{AuthState, auth, docs, jwks, movies, pages, security_headers, token, with_fallbacks};
use crate::server::ClientShares;
use crate::services::movies::Movies;
use crate::services::token::Tokens;
use crate::telemetry::metrics::HttpMetrics;

/// Returns the path prefixes of the built-in router, each with its route number in the metrics.
pub(super) fn paths(server: &config::Server, metrics: &HttpMetrics) -> Vec<(PathPrefix, u32)> {
    // Before the shorter path of its group.
    let mut paths = Vec::from_iter(events_path(server, metrics));
    for builtin in &server.builtin {
        let number = metrics.route(&format!("builtin:{}", builtin.as_str()));
        paths.extend(server.paths_of(*builtin).into_iter().map(|path| (path, number)));
    }
    paths
}

/// Returns the path of the event stream. It has a route number of its own, because its responses last for hours.
fn events_path(server: &config::Server, metrics: &HttpMetrics) -> Option<(PathPrefix, u32)> {
    let path = format!("{}/events", server.auth_prefix).parse().ok()?;
    server.has(BuiltinRoutes::Auth).then(|| (path, metrics.route("builtin:events")))
}

/// Returns the path prefixes of sign-in, registration and tokens. A cross-site request to them needs no cookies to do
/// harm: it could sign the victim in to another account.
pub(super) fn login_paths(server: &config::Server) -> Vec<PathPrefix> {
    vec![server.auth_prefix.clone(), PathPrefix::from_static("/token")]
}

/// Builds the built-in router.
pub(super) fn router(
    server: &config::Server,
    session: &SilentRefreshLayer<Tokens>,
    shares: ClientShares,
    streams: LongLivedStreams,
    movies: Movies,
    pages: PagesState,
    demo: Option<Demo>,
) -> Router {
    let state = pages.auth.clone();
    let identified = ServiceBuilder::new()
        // Inside the session layer, so that a panicking handler does not lose the new cookies.
        .layer(layer_fn(CatchPanic))
        .layer(layer_fn(move |inner| IdentityRecorder::new(inner, shares.clone())));
    let session_required =
        ServiceBuilder::new().layer(session.clone().with_on_reject(Reject401)).layer(identified.clone());
    let session_optional = ServiceBuilder::new()
        .layer(session.clone().with_on_reject(always_continue as OnReject))
        .layer(identified.clone());
    let mut api = OpenApiRouter::new();
    if server.has(BuiltinRoutes::Auth) {
        let identify = from_fn_with_state(state.clone(), events::identify);
        let events = events::router()
            .layer(ServiceBuilder::new().layer(identify).layer(identified))
            .with_state(EventsState::new(state.auth.tokens(), streams));
        let signed_in = auth::signed_in().layer(session_required.clone());
        api = api.merge(auth_routes(server, state.clone(), signed_in, events));
    }
    if server.has(BuiltinRoutes::Token) {
        api = api.merge(token::router().with_state(state));
    }
    if server.has(BuiltinRoutes::Movies) {
        api = api.merge(movies::router().with_state(movies.clone()).layer(session_required.clone()));
    }
    let (mut router, openapi) = api.split_for_parts();
    if server.has(BuiltinRoutes::Docs) {
        let [access_cookie, _] = pages.auth.sessions.cookies().names();
        router = router.merge(docs::router(docs::openapi(openapi, access_cookie)));
    }
    if let Some(demo) = demo {
        let demo = pages::demo(demo, pages.clone(), movies).layer(session_required);
        router = router.merge(pages::demo_files()).merge(demo);
    }
    if server.serves_pages {
        let public = pages::public(pages.clone());
        router = router.merge(public).merge(pages::with_session(pages).layer(session_optional));
    }
    // Applied to the fallbacks too. Headers that a page sets itself take precedence.
    security_headers::for_api(with_fallbacks(router))
        .layer(MapRequestLayer::new(insert_browser_origin))
        // Ends a handler whose client does not send its body in time.
        .layer(MapRequestLayer::new(limit_body_time))
}

/// Merges the routes below `server.auth_prefix`, and adds the public keys.
fn auth_routes(
    server: &config::Server,
    state: AuthState,
    signed_in: OpenApiRouter<AuthState>,
    events: OpenApiRouter,
) -> OpenApiRouter {
    let keys = jwks::router().with_state(state.auth.tokens().clone());
    let routes =
        auth::public().merge(signed_in).with_state(state).merge(events).merge(events::script().into());
    OpenApiRouter::new().nest(server.auth_prefix.as_str(), routes).merge(keys)
}

/// Tells the pages how the browser reaches the gateway.
fn insert_browser_origin(mut request: Request<Body>) -> Request<Body> {
    if let Some(origin) = browser_origin(&request) {
        request.extensions_mut().insert(origin);
    }
    request
}

fn browser_origin(request: &Request<Body>) -> Option<BrowserOrigin> {
    let context = RequestContext::current()?;
    // Absent if the request did not arrive through a listener.
    let forwarded = request.extensions().get::<Forwarded>()?;
    let host = if context.is_host_reported() {
        forwarded.host.clone()
    } else if let Some(authority) = request.uri().authority() {
        HeaderValue::try_from(authority.as_str()).ok()?
    } else {
        request.headers().get(HOST).unwrap_or(&forwarded.host).clone()
    };
    Some(BrowserOrigin { is_https: context.is_https(), host })
}

/// Lets every request of the pages continue, also if the session cannot be checked. The pages respond themselves, in
/// the language of the request.
fn always_continue(_: &RejectedRequest<'_>) -> Option<Response<Body>> {
    None
}
