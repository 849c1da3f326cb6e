//! Errors of the built-in routes, as problem details (RFC 9457) with a stable `code`.

use std::error::Error;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};

use super::form::FormError;
use crate::http_headers::{PRIVATE_NO_STORE, SESSION_EVENT_HEADER};
use crate::problem::Problem;
use crate::schemas::movie::InvalidField;
use crate::services::auth::AuthError;
use crate::services::movies::{MovieError, UnknownOrder};
use crate::services::password::PasswordError;
use crate::services::store::StoreError;
use crate::services::users::UserError;
use crate::session_event::SessionEvent;

/// Error of a request to a built-in route.
///
/// The `Display` text is the `detail` of the response. The source of an internal error is logged once, when
/// the response is created, and never sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The body did not arrive in time.
    #[error("The request body did not arrive in time.")]
    BodyTimeout,
    /// The password hashing queue is full.
    #[error("Too many requests are waiting. Try again in a moment.")]
    Busy,
    /// The request conflicts with existing data; the text names the conflict.
    #[error("{0}")]
    Conflict(String),
    /// The request was sent by a page of an origin that is not allowed.
    #[error("Requests from pages of this origin are not allowed.")]
    CrossSite,
    /// The user lacks a permission; the text names it.
    #[error("{0}")]
    Forbidden(&'static str),
    /// An unexpected error in the gateway.
    #[error("{}", Problem::INTERNAL)]
    Internal(#[source] Box<dyn Error + Send + Sync>),
    /// The email address and password do not match an enabled user.
    #[error("Incorrect email address or password.")]
    InvalidCredentials,
    /// The request is invalid; the text names the part.
    #[error("{0}")]
    InvalidRequest(String),
    /// The path exists, but not with this method.
    #[error("This method is not allowed here. The Allow header lists the methods that are.")]
    MethodNotAllowed,
    /// The path or object does not exist; the text names it.
    #[error("{0}")]
    NotFound(&'static str),
    /// A panic was caught and logged.
    #[error("{}", Problem::INTERNAL)]
    Panicked,
    /// Registration is closed.
    #[error("Registration is closed. Accounts are created by the operator.")]
    RegistrationClosed,
    /// The store is unavailable.
    #[error("The database is unavailable. Try again in a moment.")]
    StoreUnavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The body exceeds the limit.
    #[error("The request body is too large.")]
    TooLarge,
    /// There is no valid session.
    #[error("{}", unauthenticated_detail(*.0))]
    Unauthenticated(SessionEvent),
    /// The media type of the body is not supported.
    #[error("The body must be JSON, with `Content-Type: application/json`.")]
    UnsupportedMediaType,
    /// The current password in a password change is wrong.
    ///
    /// Not 401, because the session is valid and a client may treat a 401 as its end.
    #[error("The current password is wrong.")]
    WrongPassword,
}

impl ApiError {
    /// Creates an internal error, whose `cause` is only logged.
    pub fn internal(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::Internal(Box::new(cause))
    }

    /// Returns the status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status_and_code().0
    }

    /// Returns the `code` of the response.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.status_and_code().1
    }

    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::CrossSite => (StatusCode::FORBIDDEN, "cross_site"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::Internal(_) | Self::Panicked => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::InvalidCredentials => (StatusCode::UNAUTHORIZED, "invalid_credentials"),
            Self::InvalidRequest(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::RegistrationClosed => (StatusCode::FORBIDDEN, "registration_closed"),
            Self::StoreUnavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::Unauthenticated(event) => (StatusCode::UNAUTHORIZED, event.as_str()),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::WrongPassword => (StatusCode::FORBIDDEN, "wrong_password"),
        }
    }

    /// Returns the problem details of the response.
    #[must_use]
    pub fn problem(&self) -> Problem {
        Problem::new(self.status(), self.code(), self.to_string())
    }
}

/// Logs the source of an error, if it has one.
pub(super) fn log_cause(error: &dyn Error, code: &str) {
    if let Some(cause) = error.source() {
        tracing::error!(code, error = cause, "request failed");
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        log_cause(&self, self.code());
        let mut response = self.problem().into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, PRIVATE_NO_STORE);
        match self {
            // RFC 9110 section 15.5.2 requires a challenge in a 401 response.
            Self::InvalidCredentials => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Unauthenticated(event) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                headers.insert(SESSION_EVENT_HEADER, HeaderValue::from_static(event.as_str()));
            }
            Self::Busy | Self::StoreUnavailable(_) => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
            }
            _ => {}
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(field) => Self::Conflict(format!("The {field} is already in use.")),
            StoreError::Unavailable(_) => Self::StoreUnavailable(Box::new(error)),
            StoreError::Corrupt { .. } => Self::internal(error),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Credentials => Self::InvalidCredentials,
            AuthError::Password(error) => error.into(),
            AuthError::RegistrationClosed => Self::RegistrationClosed,
            AuthError::SessionGone => Self::Unauthenticated(SessionEvent::UnknownSession),
            AuthError::Store(error) => error.into(),
            AuthError::UnknownSession => Self::NotFound("There is no such session."),
            AuthError::User(error) => error.into(),
            AuthError::UserGone => Self::Unauthenticated(SessionEvent::UserDeleted),
            other => Self::internal(other),
        }
    }
}

impl From<UserError> for ApiError {
    fn from(error: UserError) -> Self {
        match error {
            UserError::Email(_) | UserError::Name => Self::InvalidRequest(sentence(&error)),
            UserError::Password(error) => error.into(),
            UserError::Store(error) => error.into(),
            other => Self::internal(other),
        }
    }
}

impl From<PasswordError> for ApiError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::Busy,
            PasswordError::Refused(_) | PasswordError::TooLong => Self::InvalidRequest(sentence(&error)),
            other => Self::internal(other),
        }
    }
}

impl From<FormError> for ApiError {
    fn from(error: FormError) -> Self {
        match error {
            FormError::ContentType => Self::UnsupportedMediaType,
            FormError::Timeout => Self::BodyTimeout,
            FormError::TooLarge => Self::TooLarge,
            other => Self::InvalidRequest(other.to_string()),
        }
    }
}

impl From<MovieError> for ApiError {
    fn from(error: MovieError) -> Self {
        match error {
            MovieError::NotFound(_) => Self::NotFound("There is no such movie."),
            MovieError::Store(error) => error.into(),
        }
    }
}

impl From<InvalidField> for ApiError {
    fn from(error: InvalidField) -> Self {
        Self::InvalidRequest(format!("{error}."))
    }
}

impl From<UnknownOrder> for ApiError {
    fn from(error: UnknownOrder) -> Self {
        Self::InvalidRequest(format!("{error}."))
    }
}

/// Adds fallbacks for unknown paths (404) and for methods that a path does not support (405 with `Allow`).
///
/// The latter only applies to routes that already exist: call this after adding them.
pub fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(async || ApiError::NotFound("There is nothing at this address."))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
}

fn unauthenticated_detail(event: SessionEvent) -> &'static str {
    match event {
        SessionEvent::AbsoluteExpired | SessionEvent::IdleExpired => {
            "Your session has expired. Sign in again."
        }
        SessionEvent::Displaced => "This session was replaced by newer ones. Sign in again.",
        SessionEvent::LoggedOut => "You have signed out. Sign in again.",
        SessionEvent::PasswordChanged => "Your password was changed. Sign in again.",
        SessionEvent::ReuseDetected => {
            "This session was used by two clients and was ended for your security. Sign in again."
        }
        SessionEvent::Revoked => "This session was ended by an administrator. Sign in again.",
        SessionEvent::RoleChanged => "Your permissions have changed. Sign in again.",
        SessionEvent::UserDeleted | SessionEvent::UserDisabled => "This account is no longer available.",
        _ => "Sign in first.",
    }
}

/// Returns an error's text as a sentence.
fn sentence(error: &dyn Error) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).chain(['.']).collect()
}

const RETRY_AFTER_SECONDS: &str = "2";

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn unavailable_store_sends_retry_after() {
        let response = ApiError::from(unavailable()).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(RETRY_AFTER));
        assert_eq!(ApiError::from(unavailable()).code(), "store_unavailable");
    }

    #[test]
    fn cause_is_logged_once_and_not_sent() {
        for error in [ApiError::from(unavailable()), ApiError::internal(io::Error::other(CAUSE))] {
            let body = serde_json::to_string(&error.problem()).expect("JSON");
            assert!(!body.contains(CAUSE), "{body}");
            assert_eq!(logged_by(error).matches(CAUSE).count(), 1);
        }
        assert_eq!(logged_by(ApiError::Busy), "");
    }

    #[test]
    fn corrupt_row_is_internal_and_conflict_is_409() {
        let corrupt = StoreError::Corrupt { table: "movies", column: "year" };
        assert_eq!(ApiError::from(corrupt).status(), StatusCode::INTERNAL_SERVER_ERROR);
        let problem = ApiError::from(StoreError::Conflict("address")).problem();
        assert_eq!((problem.status, &*problem.detail), (409, "The address is already in use."));
    }

    #[test]
    fn unauthenticated_response_carries_event() {
        let response = ApiError::Unauthenticated(SessionEvent::IdleExpired).into_response();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
        assert_eq!(response.headers()[SESSION_EVENT_HEADER], "idle_expired");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }

    const CAUSE: &str = "connection refused by the database";

    fn unavailable() -> StoreError {
        StoreError::unavailable(io::Error::other(CAUSE))
    }

    fn logged_by(error: ApiError) -> String {
        let (log, writer) = io::pipe().expect("a pipe");
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::new(writer)).finish();
        // Drops the subscriber, and with it the writer.
        tracing::subscriber::with_default(subscriber, || error.into_response());
        io::read_to_string(log).expect("UTF-8")
    }
}
