//! Requests without a valid session.

use std::fmt;

use http::header::{HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Extensions, Method, Request, Response, StatusCode, Uri};

use super::headers::{insert_event, make_private};
use crate::problem::Problem;
use crate::session_event::SessionEvent;

/// Reason why a request has no [`Identity`](crate::identity::Identity).
///
/// When such a request continues as anonymous, the layer adds this to its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The reason.
    pub event: SessionEvent,
    /// The kind of the rejection, which determines its status.
    pub kind: RejectionKind,
    /// True if the layer clears the cookies, provided that the response is a 401.
    pub clear_cookies: bool,
    /// True if the token came in `Authorization: Bearer` instead of the cookies.
    pub bearer: bool,
}

/// Kind of a [`Rejection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionKind {
    /// There is no session, or it has ended: 401.
    Unauthenticated,
    /// The session cannot be checked at the moment: 503.
    ///
    /// Clients must not treat this as the end of the session.
    Unavailable,
}

impl RejectionKind {
    /// Returns the status code of the response: 401 or 503.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Rejection {
    pub(super) const fn new(event: SessionEvent) -> Self {
        Self { event, kind: RejectionKind::Unauthenticated, clear_cookies: false, bearer: false }
    }

    pub(super) const fn for_bearer(event: SessionEvent) -> Self {
        Self { bearer: true, ..Self::new(event) }
    }

    pub(crate) const fn unavailable() -> Self {
        Self { kind: RejectionKind::Unavailable, ..Self::new(SessionEvent::StoreUnavailable) }
    }

    /// Returns an `application/problem+json` response (RFC 9457) with the event as its `code`.
    #[must_use]
    pub fn problem<B: From<String>>(&self) -> Response<B> {
        let problem = Problem::new(self.kind.status(), self.event.as_str(), self.detail());
        let mut response = problem.into_response();
        self.insert_headers(&mut response);
        response
    }

    /// Adds the header fields that every response to a rejected request has.
    pub(super) fn insert_headers<B>(&self, response: &mut Response<B>) {
        let status = response.status();
        let headers = response.headers_mut();
        insert_event(headers, self.event);
        make_private(headers);
        if status == StatusCode::UNAUTHORIZED {
            headers.entry(WWW_AUTHENTICATE).or_insert(HeaderValue::from_static(self.challenge()));
        } else if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.entry(RETRY_AFTER).or_insert(HeaderValue::from_static("1"));
        }
    }

    /// Returns the value of `WWW-Authenticate`: without an error code for a request without a bearer token
    /// (RFC 6750 section 3.1).
    const fn challenge(&self) -> &'static str {
        if self.bearer { r#"Bearer error="invalid_token""# } else { "Bearer" }
    }

    const fn detail(&self) -> &'static str {
        match (self.kind, self.event) {
            (RejectionKind::Unavailable, _) => {
                "The session cannot be checked at the moment. Try again shortly."
            }
            (_, SessionEvent::Missing) => "Sign in to access this resource.",
            (_, SessionEvent::Malformed | SessionEvent::UnknownKey | SessionEvent::UnknownSession) => {
                "The session is unknown. Sign in."
            }
            _ => "The session has ended. Sign in again.",
        }
    }
}

/// Handles requests without a valid session.
///
/// [`Reject401`] and [`RedirectToSignIn`](super::RedirectToSignIn) are the usual ones. Also implemented for closures
/// `Fn(&RejectedRequest<'_>) -> Option<Response<B>>`:
///
/// ```
/// use std::sync::Arc;
/// use http::Response;
/// use sekisho::layer::{CookiePolicy, RejectedRequest, RejectionKind, SilentRefreshLayer, TokenService};
///
/// /// Rejects anonymous requests of the API. Pages are for everyone, unless it is unknown who asks.
/// fn reject_api(rejected: &RejectedRequest<'_>) -> Option<Response<String>> {
///     let is_unknown = rejected.rejection.kind == RejectionKind::Unavailable;
///     (is_unknown || rejected.uri.path().starts_with("/api/")).then(|| rejected.rejection.problem())
/// }
///
/// # fn session_layer<T: TokenService>(tokens: Arc<T>) -> SilentRefreshLayer<T, impl Clone> {
/// SilentRefreshLayer::new(tokens, CookiePolicy::default()).with_on_reject(reject_api)
/// # }
/// ```
pub trait OnReject<B> {
    /// Returns the response, or `None` to let the request continue as anonymous.
    ///
    /// The layer adds `X-Session-Event`, `Cache-Control`, `Vary` and, depending on the status,
    /// `WWW-Authenticate` or `Retry-After`. On a 401 it also clears the cookies if
    /// [`Rejection::clear_cookies`] is set.
    fn on_reject(&self, rejected: &RejectedRequest<'_>) -> Option<Response<B>>;
}

impl<F: Fn(&RejectedRequest<'_>) -> Option<Response<B>>, B> OnReject<B> for F {
    fn on_reject(&self, rejected: &RejectedRequest<'_>) -> Option<Response<B>> {
        self(rejected)
    }
}

/// A request without a valid session, and the reason.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RejectedRequest<'r> {
    /// The reason.
    pub rejection: Rejection,
    /// The method.
    pub method: &'r Method,
    /// The target. Within an axum router that is nested at a path, it lacks that path.
    pub uri: &'r Uri,
    /// The headers, cookies included.
    pub headers: &'r HeaderMap,
    /// The extensions, such as axum's `OriginalUri`.
    pub extensions: &'r Extensions,
}

impl<'r> RejectedRequest<'r> {
    pub(super) fn new<B>(rejection: Rejection, request: &'r Request<B>) -> Self {
        Self {
            rejection,
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

/// Shows neither the headers nor the query, which may have secrets.
impl fmt::Debug for RejectedRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectedRequest")
            .field("rejection", &self.rejection)
            .field("method", &self.method)
            .field("path", &self.uri.path())
            .finish_non_exhaustive()
    }
}

/// Lets requests without a session continue as anonymous. Responds with an empty 503 if the session cannot be
/// checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct ContinueAnonymous;

impl<B: Default> OnReject<B> for ContinueAnonymous {
    fn on_reject(&self, rejected: &RejectedRequest<'_>) -> Option<Response<B>> {
        let kind = rejected.rejection.kind;
        if kind == RejectionKind::Unauthenticated {
            return None;
        }
        let mut response = Response::new(B::default());
        *response.status_mut() = kind.status();
        Some(response)
    }
}

/// Responds with 401 or 503 and a [problem](Rejection::problem) as the body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reject401;

impl<B: From<String>> OnReject<B> for Reject401 {
    fn on_reject(&self, rejected: &RejectedRequest<'_>) -> Option<Response<B>> {
        Some(rejected.rejection.problem())
    }
}
