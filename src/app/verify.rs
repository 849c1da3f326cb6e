//! `/auth/verify`, put together: what guards the public listener, around the questions of other proxies.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::{HeaderMap, HeaderName, ORIGIN, UPGRADE};
use tower::layer::layer_fn;
use tower::{ServiceBuilder, service_fn};

use super::client_address::TrustedProxies;
use super::entrance::{Desk, Entrance};
use super::panics::CatchPanic;
use super::{AppError, Parts, cross_origin};
use crate::backend::config::{self, VerifySource};
use crate::identity::RequestScope;
use crate::layer::{CookiePolicy, Reject401, SilentRefreshLayer};
use crate::proxy::{ProxyError, ReservedCookies, check_path};
use crate::routers::ApiError;
use crate::routers::verify::{self, Source};
use crate::server::Peer;
use crate::services::token::Tokens;

/// The stack, outermost first, in the order in which a question passes it; `None` if nobody may ask.
pub(super) fn router(
    parts: &Parts<'_>,
    cookies: &Arc<CookiePolicy>,
    session: &SilentRefreshLayer<Tokens>,
    desk: &Desk,
) -> Result<Option<Router>, AppError> {
    let server = &parts.config.server;
    let Some(verify) = &parts.config.verify else { return Ok(None) };
    let origins: Vec<_> =
        server.allowed_origins.iter().chain([&parts.public_origin]).map(config::Origin::as_str).collect();
    let asked = Asked {
        path: format!("{}/verify", server.auth_prefix.as_str()).into(),
        source: source(verify.source),
        trusted: desk.trusted.clone().into(),
    };
    let pages = Pages {
        origins: origins.iter().filter_map(|origin| HeaderValue::try_from(*origin).ok()).collect(),
        cookies: Arc::clone(cookies),
    };
    let route = desk.meters.route("own:verify");
    let (reserved, spelled) =
        (ReservedCookies { names: cookies.names().map(str::to_owned).to_vec() }, Arc::clone(cookies));
    let checked = ServiceBuilder::new()
        .map_request(move |request| routed(route, request))
        .layer(from_fn_with_state(pages, handshakes))
        .layer(cross_origin::guard(&origins, Arc::clone(cookies))?)
        .map_response(move |response| verify::spell_out(&spelled, response))
        .layer(session.clone().with_on_reject(Reject401))
        .layer(layer_fn(CatchPanic))
        // No router: one would leave the body off what answers the browser's HEAD.
        .service(service_fn(move |request| ready(Ok::<_, Infallible>(answer(&reserved, request)))));
    // From the entrance on it is the original request, also in the log.
    let entrance = Entrance::new(checked, desk.clone());
    Ok(Some(Router::new().fallback_service(entrance).layer(from_fn_with_state(asked, restored))))
}

fn routed(route: u32, request: Request) -> Request {
    RequestScope::with(|scope| scope.routed(route));
    request
}

/// Where questions are asked, by whom, and how they tell of the original request.
#[derive(Clone)]
struct Asked {
    path: Arc<str>,
    source: Source,
    trusted: Arc<TrustedProxies>,
}

/// Makes a trusted proxy's question the request that it is about.
async fn restored(State(asked): State<Asked>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|Peer(peer)| peer.ip());
    if !peer.is_some_and(|peer| asked.trusted.contains(peer)) {
        tracing::info!(?peer, "a question of somebody who is not among server.trusted_proxies");
        return ApiError::Forbidden("Only the proxies of server.trusted_proxies may ask here.")
            .into_response();
    }
    let request = match verify::original(asked.source, &asked.path, request) {
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

/// Which pages may open a WebSocket with our cookies.
#[derive(Clone)]
struct Pages {
    origins: Arc<[HeaderValue]>,
    cookies: Arc<CookiePolicy>,
}

/// Refuses WebSockets of pages whose origin isn't trusted: they are opened by a `GET`, which the guard
/// against cross-site requests lets through, and no browser keeps a page from reading what they say.
async fn handshakes(State(pages): State<Pages>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let trusted = headers.get(ORIGIN).is_some_and(|origin| pages.origins.contains(origin));
    if !trusted && opens_websocket(headers) && pages.cookies.are_in(headers) {
        tracing::info!("a page of another origin was refused a WebSocket");
        return ApiError::CrossSite.into_response();
    }
    next.run(request).await
}

/// Traefik keeps `Upgrade` to itself, so any header of a handshake will do. (RFC 6455, section 4.1.)
fn opens_websocket(headers: &HeaderMap) -> bool {
    let websocket = |name: &[u8]| name.trim_ascii().to_ascii_lowercase().starts_with(b"websocket");
    let mut upgrades =
        headers.get_all(UPGRADE).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    headers.contains_key(SEC_WEBSOCKET_KEY)
        || headers.contains_key(SEC_WEBSOCKET_VERSION)
        || upgrades.any(websocket)
}

fn answer(reserved: &ReservedCookies, mut request: Request) -> Response {
    reserved.remove_from_request(request.headers_mut());
    verify::answer(&request).into_response()
}

fn source(source: VerifySource) -> Source {
    match source {
        VerifySource::Envoy => Source::Envoy,
        VerifySource::XForwarded => Source::XForwarded,
        VerifySource::XOriginal => Source::XOriginal,
    }
}

const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SEC_WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
