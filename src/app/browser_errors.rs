//! Error responses of the gateway itself, as the request's kind needs them: redirects to sign-in and pages for people,
//! problem details for programs.
//!
//! Responses of upstreams pass unchanged.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use http::header::{
    ACCEPT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    SET_COOKIE, VARY, WWW_AUTHENTICATE,
};
use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tower::Service;

use crate::http_headers::{SESSION_EVENT_HEADER, X_SIGN_IN_URL};
use crate::navigation::{RequestKind, vary_by_kind};
use crate::pages::{ErrorPage, Page, Pages, SignInTarget};
use crate::problem::Problem;
use crate::request_context::RequestContext;
use crate::routers::forward_auth::OriginalRequestSource;

/// Converts the gateway's own error responses to those that suit the [`RequestKind`].
#[derive(Clone)]
pub(super) struct BrowserErrors<S> {
    inner: S,
    responses: Arc<ErrorResponses>,
}

impl<S> BrowserErrors<S> {
    pub(super) fn new(inner: S, responses: Arc<ErrorResponses>) -> Self {
        Self { inner, responses }
    }
}

impl<S> Service<Request<Body>> for BrowserErrors<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BrowserErrorsFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = ErrorReader::of(&request);
        BrowserErrorsFuture {
            future: self.inner.call(request),
            client,
            responses: Arc::clone(&self.responses),
        }
    }
}

pin_project! {
    /// Response future of [`BrowserErrors`].
    pub struct BrowserErrorsFuture<F> {
        #[pin]
        future: F,
        client: ErrorReader,
        responses: Arc<ErrorResponses>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for BrowserErrorsFuture<F> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = ready!(this.future.poll(cx));
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            response = this.responses.convert(this.client, problem, response);
        }
        Poll::Ready(Ok(response))
    }
}

/// The parts of a request that decide how an error is reported to it.
struct ErrorReader {
    kind: RequestKind,
    /// Only kept for people.
    accept_language: Option<HeaderValue>,
}

impl ErrorReader {
    fn of<B>(request: &Request<B>) -> Self {
        let kind = RequestKind::of(request);
        let accept_language = match kind {
            RequestKind::Navigation | RequestKind::FormSubmission => {
                request.headers().get(ACCEPT_LANGUAGE).cloned()
            }
            RequestKind::Other => None,
        };
        Self { kind, accept_language }
    }
}

/// The error responses of a listener.
#[derive(Clone)]
pub(super) struct ErrorResponses {
    /// `None` if people get problem details too.
    pages: Option<Pages>,
    /// `None` without a sign-in page.
    sign_in: Option<SignInTarget>,
    sign_in_redirect: SignInRedirect,
}

/// Form of the response to a navigation without a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SignInRedirect {
    /// 303 with the path of the sign-in page.
    Relative,
    /// 303 with the absolute URL of the sign-in page.
    Absolute,
    /// 401 with `X-Sign-In-Url`, for a proxy that redirects by itself.
    Header,
    /// 401, as for programs.
    None,
}

impl ErrorResponses {
    pub(super) fn for_public_listener(sign_in: Option<SignInTarget>, pages: Pages) -> Self {
        Self { pages: Some(pages), sign_in, sign_in_redirect: SignInRedirect::Relative }
    }

    /// Returns those of `verify.listen`. People get them if `verify.redirect` is `redirect`.
    pub(super) fn for_forward_auth(
        sign_in: Option<SignInTarget>,
        pages: Pages,
        source: OriginalRequestSource,
        redirect: bool,
    ) -> Self {
        let (sign_in_redirect, pages) = match source {
            _ if !redirect => (SignInRedirect::None, None),
            // nginx and HAProxy make responses of their own from a 401.
            OriginalRequestSource::XOriginal => (SignInRedirect::Header, None),
            OriginalRequestSource::Envoy | OriginalRequestSource::XForwarded => {
                (SignInRedirect::Absolute, Some(pages))
            }
        };
        Self { pages, sign_in, sign_in_redirect }
    }

    fn convert(
        &self,
        client: &ErrorReader,
        problem: Problem,
        mut response: Response<Body>,
    ) -> Response<Body> {
        let is_unauthorized = response.status() == StatusCode::UNAUTHORIZED;
        // Wrong credentials have no session event. They are for the form or script that sent them.
        let needs_sign_in = is_unauthorized && response.headers().contains_key(SESSION_EVENT_HEADER);
        if is_unauthorized {
            vary_by_kind(response.headers_mut());
        }
        if needs_sign_in
            && client.kind == RequestKind::Navigation
            && let Some(location) = self.sign_in_location()
        {
            return self.redirect(location, problem, response);
        }
        match &self.pages {
            Some(pages) if client.kind != RequestKind::Other && (needs_sign_in || !is_unauthorized) => {
                error_page(pages, client, problem.code, response)
            }
            _ if needs_sign_in => self.add_sign_in_url(problem, response),
            _ => response,
        }
    }

    /// Returns the address of the sign-in page that leads back to the current request.
    fn sign_in_location(&self) -> Option<HeaderValue> {
        let target = self.sign_in.as_ref()?;
        let is_absolute = match self.sign_in_redirect {
            SignInRedirect::None => return None,
            SignInRedirect::Relative => false,
            SignInRedirect::Absolute | SignInRedirect::Header => true,
        };
        let request = RequestContext::current()?;
        if target.is_at(request.path()) {
            return None;
        }
        let next = target.next_for(request.target());
        let location = if is_absolute { target.absolute_location(&next) } else { target.location(&next) };
        HeaderValue::try_from(location).ok()
    }

    fn redirect(
        &self,
        location: HeaderValue,
        problem: Problem,
        mut response: Response<Body>,
    ) -> Response<Body> {
        if self.sign_in_redirect == SignInRedirect::Header {
            response.headers_mut().insert(X_SIGN_IN_URL, location);
            return self.add_sign_in_url(problem, response);
        }
        *response.status_mut() = StatusCode::SEE_OTHER;
        *response.body_mut() = Body::empty();
        let headers = response.headers_mut();
        for name in [CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE] {
            headers.remove(name);
        }
        headers.insert(LOCATION, location);
        response
    }

    fn add_sign_in_url(&self, mut problem: Problem, mut response: Response<Body>) -> Response<Body> {
        if let Some(target) = &self.sign_in {
            problem.sign_in_url = Some(target.url());
            *response.body_mut() = Body::from(problem.to_json());
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        response
    }
}

/// Replaces the body of `response` by a page.
fn error_page(pages: &Pages, client: &ErrorReader, code: &str, response: Response<Body>) -> Response<Body> {
    let is_form = client.kind == RequestKind::FormSubmission;
    let page = Page::Error(ErrorPage::for_error(response.status(), code).with_form(is_form));
    let language = pages.language(client.accept_language.as_ref());
    let (page, body) = pages.render::<Body>(&page, &language).into_parts();
    let (mut parts, _) = response.into_parts();
    parts.headers = page_headers(&parts.headers, page.headers);
    Response::from_parts(parts, body)
}

/// Adds the headers of an error response to those of its page, except those of its body.
fn page_headers(error: &HeaderMap, mut page: HeaderMap) -> HeaderMap {
    for name in [RETRY_AFTER, WWW_AUTHENTICATE].into_iter().filter(|name| error.contains_key(name)) {
        page.remove(name);
    }
    let is_added = |name: &HeaderName| *name == SET_COOKIE || *name == VARY || !page.contains_key(name);
    let added: Vec<_> = error.iter().filter(|(name, _)| is_added(name) && **name != CONTENT_LENGTH).collect();
    page.extend(added.into_iter().map(|(name, value)| (name.clone(), value.clone())));
    vary_by_kind(&mut page);
    page
}

#[cfg(test)]
mod tests {
    use std::io;

    use axum::response::IntoResponse;
    use http::{Method, Uri};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::layer::Rejection;
    use crate::pages::{PagesSettings, SignIn, Site};
    use crate::proxy::ProxyError;
    use crate::request_context::RequestId;
    use crate::routers::ApiError;
    use crate::services::store::StoreError;
    use crate::session_event::SessionEvent;

    fn cause() -> Box<dyn std::error::Error + Send + Sync> {
        io::Error::other("cause").into()
    }

    fn responses_of_the_proxy() -> Vec<Response<Body>> {
        let errors = [
            ProxyError::BadHost,
            ProxyError::BodyIncomplete(cause()),
            ProxyError::BodyNotAllowed,
            ProxyError::BodyTimeout,
            ProxyError::BodyTooLarge,
            ProxyError::CodingUnknown,
            ProxyError::Forbidden,
            ProxyError::IdentityUnusable,
            ProxyError::LoopDetected,
            ProxyError::MethodNotAllowed { allow: HeaderValue::from_static("GET") },
            ProxyError::NoRoute,
            ProxyError::UpstreamBusy,
            ProxyError::UpstreamConnectTimeout,
            ProxyError::UpstreamError(cause()),
            ProxyError::UpstreamTimeout,
            ProxyError::UpstreamUnavailable,
            ProxyError::UpstreamUnreachable(cause()),
        ];
        errors.into_iter().map(ProxyError::into_response).collect()
    }

    /// Returns the responses of the built-in routes and of the layers for which a sign-in is no remedy.
    fn responses_of_routes() -> Vec<Response<Body>> {
        let errors = [
            ApiError::BodyTimeout,
            ApiError::Busy,
            ApiError::Conflict("The address is already in use.".to_owned()),
            ApiError::CrossSite,
            ApiError::Forbidden("Your account may not do this."),
            ApiError::internal(io::Error::other("cause")),
            ApiError::InvalidRequest("The name is empty.".to_owned()),
            ApiError::MethodNotAllowed,
            ApiError::NotFound("There is nothing at this address."),
            ApiError::Panicked,
            ApiError::RegistrationClosed,
            ApiError::from(StoreError::unavailable(io::Error::other("cause"))),
            ApiError::TooLarge,
            ApiError::UnsupportedMediaType,
            ApiError::WrongPassword,
        ];
        let mut responses: Vec<_> = errors.into_iter().map(IntoResponse::into_response).collect();
        responses.push(Rejection::unavailable().problem());
        responses.push(super::super::admission::client_busy());
        responses.push(crate::server::overloaded_response());
        responses
    }

    fn copy(response: &Response<Body>) -> Response<Body> {
        let mut copied = Response::new(Body::empty());
        *copied.status_mut() = response.status();
        *copied.headers_mut() = response.headers().clone();
        copied.extensions_mut().extend(response.extensions().clone());
        if let Some(problem) = response.extensions().get::<Problem>() {
            *copied.body_mut() = Body::from(problem.to_json());
        }
        copied
    }

    /// Sends a request with these headers to a service that responds with `error`. Returns the response and its text.
    async fn respond(
        error: &Response<Body>,
        method: Method,
        headers: &[(&'static str, &'static str)],
    ) -> (http::response::Parts, String) {
        let site = Site { host: "app.example", auth_prefix: "/auth", serves_pages: true };
        let pages = Pages::new(&PagesSettings::default(), site).unwrap();
        let sign_in = SignInTarget::new(&SignIn::Builtin, "https://app.example", "/auth");
        let responses = Arc::new(ErrorResponses::for_public_listener(sign_in, pages));
        let inner = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(copy(error)) });
        let mut request = Request::builder().method(method.clone()).uri("/page").body(Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        let context = RequestContext::new(RequestId::from_u128(7), method, &Uri::from_static("/page"), None);
        let service = BrowserErrors::new(inner, responses);
        let response = context.scope(service.oneshot(request)).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        (parts, String::from_utf8(text).unwrap())
    }

    const NAVIGATION: [(&str, &str); 2] = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];

    #[tokio::test]
    async fn every_error_is_a_page_for_people_and_a_problem_for_programs() {
        for error in responses_of_the_proxy().into_iter().chain(responses_of_routes()) {
            let code = error.extensions().get::<Problem>().unwrap().code;
            let problem = error.extensions().get::<Problem>().unwrap().to_json();
            for method in [Method::GET, Method::POST] {
                let (page, text) = respond(&error, method.clone(), &NAVIGATION).await;
                assert_eq!(page.status, error.status(), "{code}");
                assert_eq!(page.headers["content-type"], "text/html; charset=utf-8", "{code}");
                let id = RequestId::from_u128(7);
                assert!(text.contains(id.as_str()) && text.contains("<h1>"), "{code}: {text}");
                // A link to try again would open the address of a form without its data.
                assert!(method == Method::GET || !text.contains("href=\"\""), "{code}: {text}");
                for kept in ["retry-after", "allow", "connection"] {
                    assert_eq!(page.headers.get(kept), error.headers().get(kept), "{code}: {kept}");
                }
                let is_temporary = matches!(page.status.as_u16(), 429 | 503);
                assert_eq!(page.headers.contains_key("retry-after"), is_temporary, "{code}");
                let (unchanged, text) = respond(&error, method, &[("accept", "application/json")]).await;
                assert_eq!(
                    (unchanged.status, &unchanged.headers),
                    (error.status(), error.headers()),
                    "{code}"
                );
                assert_eq!(text, problem, "{code}");
            }
        }
    }

    #[tokio::test]
    async fn navigation_without_session_is_redirected_and_a_form_gets_a_page() {
        for event in [SessionEvent::Missing, SessionEvent::LoggedOut, SessionEvent::ReuseDetected] {
            let error = ApiError::Unauthenticated(event).into_response();
            let (redirect, text) = respond(&error, Method::GET, &NAVIGATION).await;
            assert_eq!((redirect.status.as_u16(), &*text), (303, ""));
            assert_eq!(redirect.headers["location"], "/auth/sign-in?next=%2Fpage");
            let (page, text) = respond(&error, Method::POST, &NAVIGATION).await;
            assert!(page.status == 401 && text.contains("You are signed out"), "{text}");
            let (problem, text) = respond(&error, Method::GET, &[]).await;
            assert!(
                problem.status == 401
                    && text.contains("\"sign_in_url\":\"https://app.example/auth/sign-in\"")
            );
        }
        // Wrong credentials are for the form that sent them.
        let error = ApiError::InvalidCredentials.into_response();
        let (problem, text) = respond(&error, Method::POST, &NAVIGATION).await;
        assert!(problem.status == 401 && text.contains("invalid_credentials"), "{text}");
    }

    /// The text of other 403 pages blames the account.
    #[tokio::test]
    async fn form_of_another_site_is_explained() {
        let error = ApiError::CrossSite.into_response();
        let (_, text) = respond(&error, Method::POST, &NAVIGATION).await;
        assert!(text.contains("came from another site") && !text.contains("Your account"), "{text}");
    }
}
