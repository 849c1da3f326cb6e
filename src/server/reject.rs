//! Rejection of requests and connections before they reach the service.

use axum::body::Body;
use http::{Response, StatusCode};

use super::admission::{self, Limit};
use crate::problem::Problem;

/// Returns the response to a request beyond the limit of requests in flight, and counts it.
#[must_use]
pub fn overloaded_response() -> Response<Body> {
    admission::record(Limit::InFlight);
    RejectReason::Overloaded.response()
}

/// Present in a request that the server rejects, if its service
/// [responds to those](super::Listener::with_rejections).
///
/// The service must not handle the request, which may be invalid and has no body. It responds with [`Rejected::response`],
/// or with another form of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected(pub(super) RejectReason);

impl Rejected {
    /// Returns the response as problem details.
    #[must_use]
    pub fn response(self) -> Response<Body> {
        self.0.response()
    }
}

/// Reason for a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RejectReason {
    /// The name of a header field is not a token.
    BadFieldName,
    /// `Host` is missing, repeated or invalid, or differs from `:authority`.
    BadHost,
    /// The header fields together are too large, or with HTTP/1.1 too many.
    HeadTooLarge,
    /// The head is not valid HTTP/1.1.
    MalformedHead,
    /// The limit on connections or on requests in flight is reached.
    Overloaded,
    /// Too many header fields.
    TooManyFields,
    /// The path and query are too long.
    UriTooLong,
}

impl RejectReason {
    fn status(self) -> StatusCode {
        match self {
            Self::BadFieldName | Self::BadHost | Self::MalformedHead => StatusCode::BAD_REQUEST,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::HeadTooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
        }
    }

    fn problem(self) -> Problem {
        let (code, detail) = match self {
            Self::BadFieldName => ("bad_field_name", "The name of a header field is malformed."),
            Self::BadHost => ("bad_host", "The Host header is missing, repeated or malformed."),
            Self::HeadTooLarge => {
                ("header_too_large", "The request has too many header fields, or they are too large.")
            }
            Self::MalformedHead => ("malformed_request", "The request is not valid HTTP."),
            Self::Overloaded => ("overloaded", "The server is overloaded."),
            Self::TooManyFields => ("too_many_header_fields", "The request has too many header fields."),
            Self::UriTooLong => ("uri_too_long", "The request's path and query are too long."),
        };
        Problem::new(self.status(), code, detail)
    }

    /// Returns the response to a rejected request.
    pub(super) fn response(self) -> Response<Body> {
        self.problem().into_response()
    }

    /// Returns an HTTP/1.1 response to a rejected connection that has sent no request.
    pub(super) fn bytes(self) -> Vec<u8> {
        let status = self.status();
        let problem = self.problem().to_json();
        let length = problem.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/problem+json\r\nContent-Length: {length}\r\n\
             Cache-Control: no-store\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{problem}"
        )
        .into_bytes()
    }
}
