//! Pages of other origins: which may call, and that all others do no harm.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use futures_util::future::Either;
use http::header::{HeaderMap, ORIGIN, UPGRADE, VARY};
use http::{HeaderValue, Method, Request, Response};
use pin_project_lite::pin_project;
use tower::util::{BoxCloneSyncService, Oneshot};
use tower::{ServiceBuilder, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use tower_http::csrf::{ConfigError, CsrfLayer, ProtectionError};

use super::conditional::ConditionalLayer;
use super::dispatcher::{DispatchFuture, Dispatcher};
use crate::config::Origin;
use crate::http_headers::{X_REQUEST_ID, list_contains};
use crate::layer::{CookiePolicy, SESSION_EVENT_HEADER};
use crate::proxy::asks_for_upgrade;
use crate::routers::ApiError;

/// Lets pages of other origins call where they may, and do no harm where they may not.
///
/// Most requests can do none and pass as if it weren't there.
pub(super) struct CorsCsrf {
    plain: Dispatcher,
    rules: CorsCsrfPolicy,
    /// The service behind both layers, each for those requests alone that concern it.
    checked: CheckedService,
}

/// Who may do what.
#[derive(Clone)]
pub(super) struct CorsCsrfPolicy {
    allowed: Arc<[HeaderValue]>,
    could_harm: CsrfCondition,
    csrf: CsrfLayer<RejectionFn>,
}

type CheckedService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

impl CorsCsrfPolicy {
    /// Pages of the origins `allowed` may call, `resolve` is our own. Requests that carry `cookies` act for
    /// a user, and those for the paths `sign_in` could sign a victim in as somebody else.
    pub(super) fn new(
        allowed: &[Origin],
        origin: &Origin,
        cookies: Arc<CookiePolicy>,
        sign_in: &[String],
    ) -> Result<Self, ConfigError> {
        let trusted: Vec<_> = allowed.iter().chain([origin]).map(Origin::as_str).collect();
        let values = allowed.iter().filter_map(|origin| HeaderValue::try_from(origin.as_str()).ok());
        let allowed: Arc<[HeaderValue]> = values.collect();
        let could_harm = CsrfCondition { cookies, always: sign_in.into() };
        Ok(Self { allowed, could_harm, csrf: csrf(&trusted)? })
    }
}

impl CorsCsrf {
    /// Holds requests for `plain` to these rules.
    pub(super) fn new(rules: CorsCsrfPolicy, plain: Dispatcher) -> Self {
        let (pages, harm) = (Arc::clone(&rules.allowed), rules.could_harm.clone());
        let checked = ServiceBuilder::new()
            // Also refusals must be readable for pages of other origins that may call.
            .layer(ConditionalLayer::new(cors(&pages), move |request: &Request<Body>| {
                has_allowed_origin(&pages, request)
            }))
            // Before any session is looked at.
            .layer(ConditionalLayer::new(rules.csrf.clone(), move |request: &Request<Body>| {
                harm.applies_to(request)
            }))
            .service(plain.clone());
        let checked = BoxCloneSyncService::new(checked);
        Self { plain, rules, checked }
    }

    /// Lets a request pass, checked if need be.
    pub(super) fn call(&self, request: Request<Body>) -> CorsCsrfFuture {
        let rules = &self.rules;
        let future = if has_allowed_origin(&rules.allowed, &request) || rules.could_harm.applies_to(&request)
        {
            Either::Left(Box::pin(self.checked.clone().oneshot(request)))
        } else {
            Either::Right(self.plain.dispatch(request))
        };
        VaryOriginFuture { future, varies: !rules.allowed.is_empty() }
    }
}

/// Response future of [`CorsCsrf`].
pub(super) type CorsCsrfFuture =
    VaryOriginFuture<Either<Pin<Box<Oneshot<CheckedService, Request<Body>>>>, DispatchFuture>>;

pin_project! {
    /// Where pages of other origins may call, says so to caches in every answer: one that was made for
    /// another page lacks the headers by which those may read it.
    pub(super) struct VaryOriginFuture<F> {
        #[pin]
        future: F,
        varies: bool,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for VaryOriginFuture<F> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = ready!(this.future.poll(cx));
        if *this.varies && !varies_by_origin(response.headers()) {
            response.headers_mut().append(VARY, HeaderValue::from_static("Origin"));
        }
        Poll::Ready(Ok(response))
    }
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    list_contains(headers, &VARY, "*") || list_contains(headers, &VARY, "origin")
}

/// CORS with credentials, for requests of pages that may call. `OPTIONS` is a preflight only for those,
/// and the upstream's business otherwise.
fn cors(allowed: &[HeaderValue]) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(allowed.iter().cloned()))
        .allow_credentials(true)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([SESSION_EVENT_HEADER, X_REQUEST_ID])
        .max_age(PREFLIGHT_LASTS)
}

fn has_allowed_origin(pages: &[HeaderValue], request: &Request<Body>) -> bool {
    !pages.is_empty() && request.headers().get(ORIGIN).is_some_and(|origin| pages.contains(origin))
}

/// Refuses what a page of another origin than those `trusted` could do with our `cookies`. It answers no
/// preflights.
pub(super) fn csrf_layer(
    trusted: &[&str],
    cookies: Arc<CookiePolicy>,
) -> Result<CsrfGuardLayer<impl Fn(&Request<Body>) -> bool + Clone + Send + Sync + use<>>, ConfigError> {
    let could_harm = CsrfCondition { cookies, always: Arc::new([]) };
    Ok(ConditionalLayer::new(csrf(trusted)?, move |request: &Request<Body>| could_harm.applies_to(request)))
}

/// See [`csrf_layer`].
pub(super) type CsrfGuardLayer<P> = ConditionalLayer<CsrfLayer<RejectionFn>, P>;

/// Refuses cross-site requests but those of the origins `trusted`.
fn csrf(trusted: &[&str]) -> Result<CsrfLayer<RejectionFn>, ConfigError> {
    let csrf = trusted.iter().try_fold(CsrfLayer::new(), CsrfLayer::add_trusted_origin)?;
    Ok(csrf.with_rejection_response(reject_cross_site as RejectionFn))
}

/// Which requests [`csrf`] is asked about: those that carry our cookies, and all for the paths
/// `always`. All other requests act for nobody.
#[derive(Clone)]
struct CsrfCondition {
    cookies: Arc<CookiePolicy>,
    always: Arc<[String]>,
}

impl CsrfCondition {
    fn applies_to(&self, request: &Request<Body>) -> bool {
        // These pass it whatever they carry.
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return false;
        }
        self.cookies.present_in(request.headers())
            || self.always.iter().any(|path| path == request.uri().path())
    }
}

/// Tells which pages may have the protocol changed, to WebSocket as a rule. Browsers ask nobody before
/// they do so, and let pages of any origin read what comes.
pub(super) struct WebSocketOriginCheck {
    cookies: Arc<CookiePolicy>,
    trusted: Vec<String>,
}

impl WebSocketOriginCheck {
    /// Pages of the origins `allowed` may, and of `resolve`, our own.
    pub(super) fn new(cookies: Arc<CookiePolicy>, allowed: &[Origin], origin: &Origin) -> Self {
        let trusted = allowed.iter().chain([origin]).map(|origin| origin.as_str().to_owned()).collect();
        Self { cookies, trusted }
    }

    /// Whether this is an upgrade in a user's name that no page of a trusted origin asks for.
    pub(super) fn rejects(&self, headers: &HeaderMap) -> bool {
        // To pass a few names by costs less than to look for one of them.
        let may_ask = headers.keys().any(|name| name == UPGRADE);
        may_ask && asks_for_upgrade(headers) && self.is_untrusted_origin(headers)
    }

    /// Whether a request acts in a user's name, by our cookies, for no page of a trusted origin. Every
    /// browser names the `ForwardedInfo` of an upgrade, once; `Host` says nothing about it.
    pub(super) fn is_untrusted_origin(&self, headers: &HeaderMap) -> bool {
        if !self.cookies.present_in(headers) {
            return false;
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else { return true };
        !self.trusted.iter().any(|trusted| trusted.as_bytes() == origin.as_bytes())
    }
}

/// The answer to an upgrade that is refused.
pub(super) fn cross_site_upgrade_response() -> Response<Body> {
    tracing::info!("a cross-site upgrade was refused");
    ApiError::CrossSite.into_response()
}

/// How a cross-site request is answered.
pub(super) type RejectionFn = fn(ProtectionError) -> Response<Body>;

fn reject_cross_site(error: ProtectionError) -> Response<Body> {
    tracing::info!(%error, "a cross-site request was refused");
    ApiError::CrossSite.into_response()
}

const PREFLIGHT_LASTS: Duration = Duration::from_secs(600);
