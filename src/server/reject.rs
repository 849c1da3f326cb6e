//! What is refused before anybody else sees it.

use axum::body::Body;
use http::{Response, StatusCode};

use crate::problem::Problem;

/// Why a request or a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RejectReason {
    /// `Host` is missing, there twice, no host, or another one than `:authority`.
    BadHost,
    /// As many connections or requests as there may be.
    Overloaded,
    /// More header fields than there may be.
    TooManyFields,
    /// A path and query longer than they may be.
    UriTooLong,
}

impl RejectReason {
    fn status(self) -> StatusCode {
        match self {
            Self::BadHost => StatusCode::BAD_REQUEST,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
        }
    }

    fn problem(self) -> Problem {
        let (code, detail) = match self {
            Self::BadHost => ("bad_host", "The Host header is missing, repeated or malformed."),
            Self::Overloaded => ("overloaded", "The server has too much to do right now."),
            Self::TooManyFields => ("too_many_header_fields", "The request has too many header fields."),
            Self::UriTooLong => ("uri_too_long", "The request's path and query are too long."),
        };
        Problem::new(self.status(), code, detail)
    }

    /// The answer to a request.
    pub(super) fn response(self) -> Response<Body> {
        self.problem().into_response()
    }

    /// The answer to a connection, whatever it was going to ask.
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
