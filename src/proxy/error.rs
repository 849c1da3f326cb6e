//! What goes wrong between the client and an upstream, and what the client is told.

use axum_core::BoxError;
use axum_core::body::Body;
use http::header::{ALLOW, CONNECTION};
use http::{HeaderValue, Response, StatusCode};

use super::path::BadPath;
use crate::problem::Problem;

/// Why a request got no answer from an upstream.
///
/// [`into_response`](Self::into_response) makes it `application/problem+json` (RFC 9457) with a
/// stable [`code`](Self::code). Causes go to the log alone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// `Host` is missing, there twice, or no host.
    #[error("The Host header is missing, repeated or malformed.")]
    BadHost,
    /// The path isn't in normal form.
    #[error("The path is not in normal form: {0}.")]
    BadPath(#[from] BadPath),
    /// The client went away in the middle of the body, or broke its framing.
    #[error("The request's body ended too early.")]
    BodyIncomplete(#[source] BoxError),
    /// The client stopped sending in the middle of the body.
    #[error("The request's body did not arrive in time.")]
    BodyTimeout,
    /// The body is larger than the route allows.
    #[error("The request's body is larger than this path allows.")]
    BodyTooLarge,
    /// The body is in a transfer coding besides chunks (RFC 9112, section 6.1).
    #[error("The request's body is in a transfer coding that is not known here.")]
    CodingUnknown,
    /// The user has none of the roles that the route asks for.
    #[error("Your account may not use this path.")]
    Forbidden,
    /// The user's id or address can't be written into a header.
    #[error("The request could not be passed on.")]
    IdentityUnusable,
    /// The request has been here before.
    #[error("The request came back to where it was forwarded from.")]
    LoopDetected,
    /// `CONNECT` or `TRACE`, or a method that the route doesn't list.
    #[error("This method is not allowed here.")]
    MethodNotAllowed {
        /// The methods that are, as `Allow` lists them.
        allow: HeaderValue,
    },
    /// No route for this path.
    #[error("Nothing is served at this path.")]
    NoRoute,
    /// The upstream has as much to do as it may have, and as much waiting as may wait.
    #[error("The upstream server is busy.")]
    UpstreamBusy,
    /// No connection to the upstream in time.
    #[error("The upstream server can't be reached in time.")]
    UpstreamConnectTimeout,
    /// The upstream's answer was no HTTP, or ended before it began.
    #[error("The upstream server gave no valid answer.")]
    UpstreamError(#[source] BoxError),
    /// The upstream's answer did not begin in time, or it stopped reading the body.
    #[error("The upstream server did not answer in time.")]
    UpstreamTimeout,
    /// The upstream could not be reached lately, and another request is finding out whether it can.
    #[error("The upstream server is not available.")]
    UpstreamUnavailable,
    /// No connection to the upstream.
    #[error("The upstream server can't be reached.")]
    UpstreamUnreachable(#[source] BoxError),
}

impl ProxyError {
    /// The answer's status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadHost | Self::BadPath(_) | Self::BodyIncomplete(_) => StatusCode::BAD_REQUEST,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::CodingUnknown => StatusCode::NOT_IMPLEMENTED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::IdentityUnusable => StatusCode::INTERNAL_SERVER_ERROR,
            Self::LoopDetected => StatusCode::LOOP_DETECTED,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::UpstreamError(_) | Self::UpstreamUnreachable(_) => StatusCode::BAD_GATEWAY,
            Self::UpstreamBusy | Self::UpstreamUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamConnectTimeout | Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadHost => "bad_host",
            Self::BadPath(_) => "bad_path",
            Self::BodyIncomplete(_) => "body_incomplete",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::CodingUnknown => "coding_unknown",
            Self::Forbidden => "forbidden",
            Self::IdentityUnusable => "identity_unusable",
            Self::LoopDetected => "loop_detected",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::NoRoute => "no_route",
            Self::UpstreamBusy => "upstream_busy",
            Self::UpstreamConnectTimeout => "upstream_connect_timeout",
            Self::UpstreamError(_) => "upstream_error",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::UpstreamUnreachable(_) => "upstream_unreachable",
        }
    }

    /// The answer.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let mut response = Problem::new(self.status(), self.code(), self.to_string()).into_response();
        let headers = response.headers_mut();
        if matches!(self, Self::CodingUnknown) {
            // Where that body ends, somebody before us may see in another way.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Self::MethodNotAllowed { allow } = self {
            headers.insert(ALLOW, allow);
        }
        response
    }
}
