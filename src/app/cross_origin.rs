//! Pages of other origins: which may call, and that all others do no harm.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use http::header::{HeaderMap, HeaderName, ORIGIN, VARY};
use http::{HeaderValue, Request, Response};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use tower_http::csrf::{ConfigError, CsrfLayer, ProtectionError};

use super::choose::ChooseLayer;
use crate::backend::config::Origin;
use crate::layer::{CookiePolicy, SESSION_EVENT_HEADER};
use crate::proxy::asks_for_upgrade;
use crate::routers::ApiError;

/// CORS with credentials for pages of the origins `allowed`. All other requests pass untouched:
/// `OPTIONS` is a preflight only for those pages, and the upstream's business otherwise.
pub(super) fn cors(
    allowed: &[Origin],
) -> ChooseLayer<CorsLayer, impl Fn(&Request<Body>) -> bool + Clone + Send + Sync + use<>> {
    let origins: Vec<_> =
        allowed.iter().filter_map(|origin| HeaderValue::try_from(origin.as_str()).ok()).collect();
    let allowed: Arc<[HeaderValue]> = origins.clone().into();
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_credentials(true)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([SESSION_EVENT_HEADER, HeaderName::from_static("x-request-id")])
        .max_age(PREFLIGHT_LASTS);
    ChooseLayer::new(layer, move |request: &Request<Body>| {
        request.headers().get(ORIGIN).is_some_and(|origin| allowed.contains(origin))
    })
}

/// Where pages of other origins may call, says so to caches in every answer: one that was made for
/// another page lacks the headers by which those may read it.
pub(super) fn varying(
    allowed: &[Origin],
) -> impl Fn(Response<Body>) -> Response<Body> + Clone + Send + Sync + use<> {
    let varies = !allowed.is_empty();
    move |mut response| {
        if varies && !is_said_to_vary(response.headers()) {
            response.headers_mut().append(VARY, HeaderValue::from_static("Origin"));
        }
        response
    }
}

fn is_said_to_vary(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(VARY).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .any(|name| ["*", "origin"].iter().any(|by| name.trim().eq_ignore_ascii_case(by)))
}

/// Refuses cross-site requests but those of the origins `trusted`.
pub(super) fn csrf(trusted: &[&str]) -> Result<CsrfLayer<Refuse>, ConfigError> {
    let csrf = trusted.iter().try_fold(CsrfLayer::new(), CsrfLayer::add_trusted_origin)?;
    Ok(csrf.with_rejection_response(refuse as Refuse))
}

/// Which requests [`csrf`] is asked about: those that carry our cookies, and all for the paths
/// `always`, which are sign-in and registration: they could sign a victim in as somebody else. All
/// other requests act for nobody.
pub(super) fn could_harm(
    cookies: Arc<CookiePolicy>,
    always: Vec<String>,
) -> impl Fn(&Request<Body>) -> bool + Clone + Send + Sync {
    let always: Arc<[String]> = always.into();
    move |request| cookies.are_in(request.headers()) || always.iter().any(|path| path == request.uri().path())
}

/// Tells which pages may have the protocol changed, to WebSocket as a rule. Browsers ask nobody before
/// they do so, and let pages of any origin read what comes.
pub(super) struct UpgradeGuard {
    pub(super) cookies: Arc<CookiePolicy>,
    pub(super) trusted: Vec<String>,
}

impl UpgradeGuard {
    /// Whether this is an upgrade in a user's name, by our cookies, that no page of a trusted origin
    /// asks for. Every browser names the `Origin`, once; `Host` says nothing about it.
    pub(super) fn refuses(&self, headers: &HeaderMap) -> bool {
        if !asks_for_upgrade(headers) || !self.cookies.are_in(headers) {
            return false;
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else { return true };
        !self.trusted.iter().any(|trusted| trusted.as_bytes() == origin.as_bytes())
    }
}

/// The answer to an upgrade that is refused.
pub(super) fn refused_upgrade() -> Response<Body> {
    tracing::info!("a cross-site upgrade was refused");
    ApiError::CrossSite.into_response()
}

/// How a cross-site request is answered.
pub(super) type Refuse = fn(ProtectionError) -> Response<Body>;

fn refuse(error: ProtectionError) -> Response<Body> {
    tracing::info!(%error, "a cross-site request was refused");
    ApiError::CrossSite.into_response()
}

const PREFLIGHT_LASTS: Duration = Duration::from_secs(600);
