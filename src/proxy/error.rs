//! Errors of the proxy and their responses.

use axum_core::BoxError;
use axum_core::body::Body;
use http::header::{ALLOW, CONNECTION};
use http::{HeaderValue, Response, StatusCode};

use super::path::BadPath;
use crate::problem::Problem;

/// Reason for which a request received no response from an upstream.
///
/// [`into_response`](Self::into_response) converts it to `application/problem+json` (RFC 9457) with a stable
/// [`code`](Self::code). Causes are logged, but not sent to the client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// `Host` is missing, repeated or malformed.
    #[error("The Host header is missing, repeated or malformed.")]
    BadHost,
    /// The path is not in normal form.
    #[error("The path is not in normal form: {0}.")]
    BadPath(#[from] BadPath),
    /// The client disconnected within the body, or its framing is invalid.
    #[error("The request's body ended too early.")]
    BodyIncomplete(#[source] BoxError),
    /// The route refuses bodies of methods that give them no meaning.
    #[error("A request with this method must not have a body here.")]
    BodyNotAllowed,
    /// The client sent no data of the body within the idle timeout.
    #[error("The request's body did not arrive in time.")]
    BodyTimeout,
    /// The body is larger than the route allows.
    #[error("The request's body is larger than this path allows.")]
    BodyTooLarge,
    /// The body has a transfer coding other than `chunked` (RFC 9112, section 6.1).
    #[error("The transfer coding of the request's body is not supported.")]
    CodingUnknown,
    /// The user has none of the roles that the route requires.
    #[error("{}", Problem::FORBIDDEN)]
    Forbidden,
    /// The user's id or e-mail address is not a valid header value.
    #[error("The request could not be forwarded.")]
    IdentityUnusable,
    /// This process has already forwarded the request.
    #[error("The request was forwarded in a loop.")]
    LoopDetected,
    /// The method is `CONNECT` or `TRACE`, or the route does not allow it.
    #[error("This method is not allowed here.")]
    MethodNotAllowed {
        /// Value of the `Allow` header.
        allow: HeaderValue,
    },
    /// No route matches the path.
    #[error("Nothing is served at this path.")]
    NoRoute,
    /// The upstream has reached its limits of concurrent and queued requests.
    #[error("The upstream server is busy.")]
    UpstreamBusy,
    /// The connection to the upstream timed out.
    #[error("The upstream server could not be reached in time.")]
    UpstreamConnectTimeout,
    /// The upstream closed the connection or sent an invalid response.
    #[error("The upstream server sent no valid response.")]
    UpstreamError(#[source] BoxError),
    /// The upstream sent no response head in time, or stopped reading the body.
    #[error("The upstream server did not respond in time.")]
    UpstreamTimeout,
    /// The upstream is ejected (circuit open).
    #[error("The upstream server is not available.")]
    UpstreamUnavailable,
    /// The connection to the upstream failed.
    #[error("The upstream server could not be reached.")]
    UpstreamUnreachable(#[source] BoxError),
}

impl ProxyError {
    /// Returns the status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status_and_code().0
    }

    /// Returns the stable, machine-readable code of the problem.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.status_and_code().1
    }

    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadHost => (StatusCode::BAD_REQUEST, "bad_host"),
            Self::BadPath(_) => (StatusCode::BAD_REQUEST, "bad_path"),
            Self::BodyIncomplete(_) => (StatusCode::BAD_REQUEST, "body_incomplete"),
            Self::BodyNotAllowed => (StatusCode::BAD_REQUEST, "body_not_allowed"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::CodingUnknown => (StatusCode::NOT_IMPLEMENTED, "coding_unknown"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            Self::IdentityUnusable => (StatusCode::INTERNAL_SERVER_ERROR, "identity_unusable"),
            Self::LoopDetected => (StatusCode::LOOP_DETECTED, "loop_detected"),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::NoRoute => (StatusCode::NOT_FOUND, "no_route"),
            Self::UpstreamBusy => (StatusCode::SERVICE_UNAVAILABLE, "upstream_busy"),
            Self::UpstreamConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, "upstream_connect_timeout"),
            Self::UpstreamError(_) => (StatusCode::BAD_GATEWAY, "upstream_error"),
            Self::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"),
            Self::UpstreamUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "upstream_unavailable"),
            Self::UpstreamUnreachable(_) => (StatusCode::BAD_GATEWAY, "upstream_unreachable"),
        }
    }

    /// Returns the response for the client.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let mut response = Problem::new(self.status(), self.code(), self.to_string()).into_response();
        let headers = response.headers_mut();
        if matches!(self, Self::CodingUnknown) {
            // A proxy in front of the gateway may delimit this body differently (request smuggling).
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Self::MethodNotAllowed { allow } = self {
            headers.insert(ALLOW, allow);
        }
        response
    }
}
