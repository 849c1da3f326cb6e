//! Requests that bring no good session.

use http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use super::response::make_private;
use crate::http_headers::SESSION_EVENT_HEADER;
use crate::problem::Problem;
use crate::session_event::SessionEvent;

/// Why a request has no [`Identity`](crate::identity::Identity).
///
/// When such a request goes on as anonymous, the layer puts this into its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The word for it.
    pub event: SessionEvent,
    /// Whether there is no session, or nobody can tell.
    pub kind: RejectionKind,
    /// Whether the layer clears the cookies, should the answer be a 401.
    pub clear_cookies: bool,
    /// Whether it was an `Authorization: Bearer` that failed, and not the cookies.
    pub bearer: bool,
}

/// The two ways to have no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionKind {
    /// There is none, or it is over: 401.
    Unauthenticated,
    /// It can't be told now, and must not be taken for the end: 503.
    Unavailable,
}

impl RejectionKind {
    /// 401 or 503.
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

    pub(super) const fn of_bearer(event: SessionEvent) -> Self {
        Self { bearer: true, ..Self::new(event) }
    }

    pub(super) const fn unavailable() -> Self {
        Self { kind: RejectionKind::Unavailable, ..Self::new(SessionEvent::StoreUnavailable) }
    }

    /// An `application/problem+json` answer (RFC 9457) with the event as its `code`.
    #[must_use]
    pub fn problem<B: From<String>>(&self) -> Response<B> {
        let problem = Problem::new(self.kind.status(), self.event.as_str(), self.detail());
        let mut response = problem.into_response();
        self.insert_headers(&mut response);
        response
    }

    /// Adds the header fields that an answer to such a request must have.
    pub(super) fn insert_headers<B>(&self, response: &mut Response<B>) {
        let status = response.status();
        let headers = response.headers_mut();
        headers.insert(SESSION_EVENT_HEADER, HeaderValue::from_static(self.event.as_str()));
        make_private(headers);
        if status == StatusCode::UNAUTHORIZED {
            headers.entry(WWW_AUTHENTICATE).or_insert(HeaderValue::from_static(self.challenge()));
        } else if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.entry(RETRY_AFTER).or_insert(HeaderValue::from_static("1"));
        }
    }

    /// RFC 6750 section 3.1: no error code for a request that presented no token there.
    const fn challenge(&self) -> &'static str {
        if self.bearer { r#"Bearer error="invalid_token""# } else { "Bearer" }
    }

    const fn detail(&self) -> &'static str {
        match (self.kind, self.event) {
            (RejectionKind::Unavailable, _) => "The session can't be checked now. Try again in a moment.",
            (_, SessionEvent::Missing) => "This needs a signed-in user.",
            (_, SessionEvent::Malformed | SessionEvent::UnknownKey | SessionEvent::UnknownSession) => {
                "The session is not known here. Sign in."
            }
            _ => "The session has ended. Sign in again.",
        }
    }
}

/// Says what becomes of a request that brings no good session.
///
/// Closures `Fn(&Rejection) -> Option<Response<B>>` do:
///
/// ```
/// use std::sync::Arc;
/// use http::{Response, StatusCode, header};
/// use sekisho::layer::{CookiePolicy, Rejection, RejectionKind, SilentRefreshLayer, TokenService};
///
/// # fn redirecting<T: TokenService>(tokens: Arc<T>) -> SilentRefreshLayer<T, impl Clone> {
/// SilentRefreshLayer::new(tokens, CookiePolicy::default()).with_on_reject(|rejection: &Rejection| {
///     let mut response = Response::new(String::new());
///     *response.status_mut() = match rejection.kind {
///         RejectionKind::Unauthenticated => StatusCode::SEE_OTHER,
///         RejectionKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
///     };
///     response.headers_mut().insert(header::LOCATION, header::HeaderValue::from_static("/sign-in"));
///     Some(response)
/// })
/// # }
/// ```
pub trait OnReject<B> {
    /// The answer, or `None` to let the request go on as anonymous.
    ///
    /// The layer adds the header fields that such an answer must have, and clears the cookies
    /// where it may.
    fn on_reject(&self, rejection: &Rejection) -> Option<Response<B>>;
}

impl<F, B> OnReject<B> for F
where
    F: Fn(&Rejection) -> Option<Response<B>>,
{
    fn on_reject(&self, rejection: &Rejection) -> Option<Response<B>> {
        self(rejection)
    }
}

/// Lets requests without a session go on as anonymous; an empty 503 where it can't be told whether there is one.
#[derive(Clone, Copy, Debug, Default)]
pub struct ContinueAnonymous;

impl<B: Default> OnReject<B> for ContinueAnonymous {
    fn on_reject(&self, rejection: &Rejection) -> Option<Response<B>> {
        if rejection.kind == RejectionKind::Unauthenticated {
            return None;
        }
        let mut response = Response::new(B::default());
        *response.status_mut() = rejection.kind.status();
        Some(response)
    }
}

/// Answers 401 or 503, with the [problem](Rejection::problem) as its body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reject401;

impl<B: From<String>> OnReject<B> for Reject401 {
    fn on_reject(&self, rejection: &Rejection) -> Option<Response<B>> {
        Some(rejection.problem())
    }
}
