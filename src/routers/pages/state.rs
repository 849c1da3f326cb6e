//! State that the handlers of pages share.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRef, FromRequestParts};
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_LANGUAGE, CACHE_CONTROL, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri};
use url::form_urlencoded;

use super::super::{ApiError, AuthState};
use crate::http_headers::PRIVATE_NO_STORE;
use crate::identity::Identity;
use crate::layer::{Rejection, RejectionKind};
use crate::next::Next;
use crate::pages::{DemoCredentials, ErrorPage, Language, Page, Pages, SharedPages, SignInTarget};
use crate::session_event::SessionEvent;

/// State of the routes of pages.
#[derive(Clone)]
pub struct PagesState {
    /// Authentication service, cookies and clock.
    pub auth: AuthState,
    /// The pages in force.
    pub pages: SharedPages,
    /// The path prefix of the pages.
    pub auth_prefix: Arc<str>,
    /// The public origin.
    pub public_origin: Arc<str>,
    /// The address of the operator's own sign-in page, if there is one.
    pub own_sign_in: Option<Arc<SignInTarget>>,
    /// Minimum length of new passwords in characters.
    pub min_password_length: usize,
    /// The credentials that the sign-in page shows, in the demo.
    pub sample: Option<Arc<DemoCredentials>>,
}

impl PagesState {
    /// Returns the path of a page.
    pub(super) fn path(&self, page: &str) -> String {
        format!("{}/{page}", self.auth_prefix)
    }

    /// Returns the path of a page with the parameter `next`, unless that is `/`, and others.
    pub(super) fn path_with(&self, page: &str, next: &Next, others: &[(&str, &str)]) -> String {
        let next = (*next != Next::ROOT).then_some(("next", next.as_str()));
        let mut query = form_urlencoded::Serializer::new(String::new());
        let query = query.extend_pairs(next).extend_pairs(others).finish();
        if query.is_empty() { self.path(page) } else { format!("{}?{query}", self.path(page)) }
    }

    /// Returns the checked parameter `next` of a request.
    pub(super) fn next(&self, uri: &Uri) -> Next {
        let value = query_value(uri, "next").unwrap_or_default();
        Next::parse_outside(&value, &self.auth_prefix).unwrap_or(Next::ROOT)
    }
}

/// Returns the value of the first query parameter with this name.
pub(super) fn query_value(uri: &Uri, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Redirects to a path after any method, with the status 303.
pub(super) fn see_other(path: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, PRIVATE_NO_STORE);
    // A checked path is visible ASCII.
    headers.insert(LOCATION, HeaderValue::try_from(path).unwrap_or(HeaderValue::from_static("/")));
    response
}

/// Renders pages in the language of a request.
pub(super) struct View {
    pages: Pages,
    language: Language,
    is_form: bool,
}

impl View {
    /// Renders a page.
    pub(super) fn render(&self, page: &Page) -> Response {
        self.pages.render(page, &self.language)
    }

    /// Logs an unexpected error and renders its page.
    pub(super) fn internal_error(&self, error: &(dyn Error + 'static)) -> Response {
        tracing::error!(error, "page failed");
        self.error(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Renders the page of an error.
    pub(super) fn error(&self, status: StatusCode) -> Response {
        self.render(&Page::Error(ErrorPage::new(status).with_form(self.is_form)))
    }
}

impl<S: Sync> FromRequestParts<S> for View
where
    PagesState: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let pages = PagesState::from_ref(state).pages.load();
        let language = pages.language(parts.headers.get(ACCEPT_LANGUAGE));
        Ok(Self { pages, language, is_form: parts.method == Method::POST })
    }
}

/// The session of a request behind the session layer.
pub(super) enum PageSession {
    /// Valid.
    SignedIn(Identity),
    /// None, or one that ended by this event.
    Anonymous(SessionEvent),
    /// It cannot be checked at the moment.
    Unavailable,
}

impl PageSession {
    /// Returns the address of the user.
    pub(super) fn email(&self) -> Option<String> {
        match self {
            Self::SignedIn(identity) => Some(identity.email.to_string()),
            _ => None,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for PageSession {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        if let Some(identity) = parts.extensions.get::<Identity>() {
            return Ok(Self::SignedIn(identity.clone()));
        }
        Ok(match parts.extensions.get::<Rejection>() {
            Some(Rejection { kind: RejectionKind::Unavailable, .. }) => Self::Unavailable,
            Some(rejection) => Self::Anonymous(rejection.event),
            None => Self::Anonymous(SessionEvent::Missing),
        })
    }
}

/// The user of a page that requires one.
pub(super) struct SignedIn(pub(super) Identity);

impl<S: Sync> FromRequestParts<S> for SignedIn
where
    PagesState: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let Ok(session) = PageSession::from_request_parts(parts, state).await;
        match session {
            PageSession::SignedIn(identity) => Ok(Self(identity)),
            PageSession::Anonymous(event) => Err(ApiError::Unauthenticated(event).into_response()),
            PageSession::Unavailable => {
                let Ok(view) = View::from_request_parts(parts, state).await;
                Err(view.error(StatusCode::SERVICE_UNAVAILABLE))
            }
        }
    }
}
