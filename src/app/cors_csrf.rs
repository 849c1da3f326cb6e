//! CORS for allowed origins and CSRF protection for all others.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use futures_util::future::Either;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, HeaderMap,
    ORIGIN, VARY,
};
use http::{HeaderValue, Method, Request, Response};
use pin_project_lite::pin_project;
use tower::util::{BoxCloneSyncService, Oneshot};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use tower_http::csrf::{ConfigError, CsrfLayer, ProtectionError};

use super::conditional::ConditionalLayer;
use super::csrf_log::CsrfLogLayer;
use crate::config::{AllowedOrigin, PathPrefix};
use crate::http_headers::{X_REQUEST_ID, list_contains, list_elements};
use crate::layer::{CookiePolicy, SESSION_EVENT_HEADER};
use crate::routers::ApiError;
use crate::server::{HttpService, Rejected};

/// Layer of [`CorsCsrf`].
#[derive(Clone)]
pub(super) struct CorsCsrfLayer {
    allowed_origins: Arc<[HeaderValue]>,
    condition: CsrfCondition,
    csrf: LoggedCsrfLayer,
}

impl CorsCsrfLayer {
    /// Enables CORS for `allowed_origins`, and rejects unsafe cross-site requests of all origins but
    /// `trusted_origins`, if they carry session `cookies` or are for a path below one of `login_paths`.
    pub(super) fn new(
        allowed_origins: &[AllowedOrigin],
        trusted_origins: &[&AllowedOrigin],
        cookies: Arc<CookiePolicy>,
        login_paths: &[PathPrefix],
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            allowed_origins: allowed_origins.iter().filter_map(header_value).collect(),
            condition: CsrfCondition::new(cookies, login_paths, trusted_origins),
            csrf: csrf(trusted_origins)?,
        })
    }
}

impl<S: HttpService + Sync> Layer<S> for CorsCsrfLayer {
    type Service = CorsCsrf<S>;

    fn layer(&self, inner: S) -> CorsCsrf<S> {
        let allowed_origins = Arc::clone(&self.allowed_origins);
        let condition = self.condition.clone();
        let checked = ServiceBuilder::new()
            // Outermost, so that pages of allowed origins can read rejections.
            .layer(ConditionalLayer::new(cors(&allowed_origins), move |request: &Request<Body>| {
                has_allowed_origin(&allowed_origins, request.headers())
            }))
            .layer(ConditionalLayer::new(self.csrf.clone(), move |request: &Request<Body>| {
                condition.applies_to(request)
            }))
            .service(inner.clone());
        let checks = Checks {
            allowed_origins: Arc::clone(&self.allowed_origins),
            condition: self.condition.clone(),
            checked: BoxCloneSyncService::new(checked),
        };
        CorsCsrf { inner, checks: Arc::new(checks) }
    }
}

/// Applies CORS and CSRF protection to the requests that need them.
///
/// Most requests need neither. They go to the inner service directly, without an allocation.
#[derive(Clone)]
pub(super) struct CorsCsrf<S> {
    inner: S,
    checks: Arc<Checks>,
}

struct Checks {
    allowed_origins: Arc<[HeaderValue]>,
    condition: CsrfCondition,
    /// The inner service behind both layers.
    checked: CheckedService,
}

type CheckedService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for CorsCsrf<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = CorsCsrfFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let checks = &*self.checks;
        let is_allowed = has_allowed_origin(&checks.allowed_origins, request.headers());
        // The CORS layer responds to all `OPTIONS` requests as preflights, also to those that the server rejects.
        let is_preflight = is_allowed && request.method() == Method::OPTIONS;
        let rejected_origin = if is_preflight { rejected_origin(&request) } else { None };
        let exposes = is_allowed && (!is_preflight || rejected_origin.is_some());
        let is_checked = is_allowed && rejected_origin.is_none();
        let needs_checks = is_checked || checks.condition.applies_to(&request);
        let future = if needs_checks {
            Either::Left(Box::pin(checks.checked.clone().oneshot(request)))
        } else {
            Either::Right(self.inner.call(request))
        };
        CorsCsrfFuture { future, rejected_origin, exposes, varies: !checks.allowed_origins.is_empty() }
    }
}

pin_project! {
    /// Response future of [`CorsCsrf`].
    ///
    /// Adds `Vary: Origin` to every response if there are allowed origins. Without it, a cache could serve
    /// a page of an allowed origin a response that lacks the CORS headers. Adds the gateway's headers to those that
    /// pages of allowed origins can read.
    pub struct CorsCsrfFuture<F> {
        #[pin]
        future: Either<Pin<Box<Oneshot<CheckedService, Request<Body>>>>, F>,
        // Allowed origin of an `OPTIONS` request that the server rejects.
        rejected_origin: Option<Box<HeaderValue>>,
        exposes: bool,
        varies: bool,
    }
}

fn rejected_origin(request: &Request<Body>) -> Option<Box<HeaderValue>> {
    request.extensions().get::<Rejected>()?;
    request.headers().get(ORIGIN).cloned().map(Box::new)
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for CorsCsrfFuture<F> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = ready!(this.future.poll(cx));
        if let Some(origin) = this.rejected_origin.take() {
            response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, *origin);
            let credentials = HeaderValue::from_static("true");
            response.headers_mut().insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
        }
        if *this.exposes {
            expose_headers(response.headers_mut());
        }
        if *this.varies {
            vary_by_origin(response.headers_mut());
        }
        Poll::Ready(Ok(response))
    }
}

fn vary_by_origin(headers: &mut HeaderMap) {
    if !list_contains(headers, &VARY, "*") && !list_contains(headers, &VARY, "origin") {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}

/// Adds the gateway's headers to those that the response exposes to pages of other origins.
///
/// A `*` of the response exposes nothing: with credentials it stands for itself (Fetch standard, section 3.3.3).
fn expose_headers(headers: &mut HeaderMap) {
    let own = [SESSION_EVENT_HEADER, X_REQUEST_ID];
    let is_other = |name: &&[u8]| !own.iter().any(|own| own.as_str().as_bytes().eq_ignore_ascii_case(name));
    let mut names: Vec<&[u8]> = list_elements(headers, &ACCESS_CONTROL_EXPOSE_HEADERS).collect();
    names.retain(|name| !name.is_empty() && is_other(name));
    names.extend(own.iter().map(|own| own.as_str().as_bytes()));
    if let Ok(exposed) = HeaderValue::from_bytes(&names.join(&b", "[..])) {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// CORS with credentials. Applied to requests of allowed origins alone, so that other `OPTIONS` requests
/// reach the upstream. [`expose_headers`] adds to the response what it exposes itself.
fn cors(allowed_origins: &[HeaderValue]) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(allowed_origins.iter().cloned()))
        .allow_credentials(true)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .max_age(PREFLIGHT_MAX_AGE)
}

fn has_allowed_origin(allowed_origins: &[HeaderValue], headers: &HeaderMap) -> bool {
    let is_allowed = |origin| allowed_origins.contains(origin);
    !allowed_origins.is_empty() && headers.get(ORIGIN).is_some_and(is_allowed)
}

/// CSRF protection without CORS: rejects unsafe cross-site requests with session `cookies` of all origins
/// but `trusted_origins`. Does not respond to preflights.
pub(super) fn csrf_layer(
    trusted_origins: &[&AllowedOrigin],
    cookies: Arc<CookiePolicy>,
) -> Result<CsrfGuardLayer<impl Fn(&Request<Body>) -> bool + Clone + Send + Sync + use<>>, ConfigError> {
    let condition = CsrfCondition::new(cookies, &[], trusted_origins);
    let applies = move |request: &Request<Body>| condition.applies_to(request);
    Ok(ConditionalLayer::new(csrf(trusted_origins)?, applies))
}

/// Layer of [`csrf_layer`].
pub(super) type CsrfGuardLayer<P> = ConditionalLayer<LoggedCsrfLayer, P>;

type LoggedCsrfLayer = CsrfLogLayer<CsrfLayer<RejectionFn>>;

fn csrf(trusted_origins: &[&AllowedOrigin]) -> Result<LoggedCsrfLayer, ConfigError> {
    let mut csrf = CsrfLayer::new();
    for origin in trusted_origins.iter().filter(|origin| !origin.is_app()) {
        csrf = csrf.add_trusted_origin(origin.as_str())?;
    }
    let csrf = csrf.with_rejection_response(reject_cross_site as RejectionFn);
    let trusted_origins: Vec<_> = trusted_origins.iter().map(|origin| origin.as_str()).collect();
    Ok(CsrfLogLayer::new(csrf, trusted_origins.join(", ").into()))
}

fn header_value(origin: &AllowedOrigin) -> Option<HeaderValue> {
    HeaderValue::try_from(origin.as_str()).ok()
}

/// The requests that need CSRF protection: unsafe ones that carry session cookies, and all unsafe ones for the
/// login paths. Any other request has no user to act for.
#[derive(Clone)]
struct CsrfCondition {
    cookies: Arc<CookiePolicy>,
    login_paths: Arc<[PathPrefix]>,
    /// Trusted origins of apps. The CSRF layer accepts `http` and `https` as the schemes of trusted origins only.
    app_origins: Arc<[HeaderValue]>,
}

impl CsrfCondition {
    fn new(
        cookies: Arc<CookiePolicy>,
        login_paths: &[PathPrefix],
        trusted_origins: &[&AllowedOrigin],
    ) -> Self {
        let app_origins = trusted_origins.iter().filter(|origin| origin.is_app());
        let app_origins = app_origins.filter_map(|origin| header_value(origin)).collect();
        Self { cookies, login_paths: login_paths.into(), app_origins }
    }

    fn applies_to(&self, request: &Request<Body>) -> bool {
        // The CSRF layer accepts safe methods in any case.
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return false;
        }
        let needs_protection = self.cookies.present_in(request.headers())
            || self.login_paths.iter().any(|path| path.matches(request.uri().path()));
        needs_protection && !has_allowed_origin(&self.app_origins, request.headers())
    }
}

/// Builds the response to a cross-site request.
pub(super) type RejectionFn = fn(ProtectionError) -> Response<Body>;

fn reject_cross_site(_: ProtectionError) -> Response<Body> {
    ApiError::CrossSite.into_response()
}

/// Time that a browser may cache a preflight response.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(600);
