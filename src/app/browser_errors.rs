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
use crate::pages::{ErrorPage, Page, Pages, RequestKind, SignInTarget, vary_by_kind};
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
                error_page(pages, client, response)
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
fn error_page(pages: &Pages, client: &ErrorReader, response: Response<Body>) -> Response<Body> {
    let page = Page::Error(ErrorPage::new(response.status()));
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
