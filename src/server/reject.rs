//! What is refused before anybody else sees it.

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

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

    /// As RFC 9457 has it.
    fn problem(self) -> &'static str {
        match self {
            Self::BadHost => {
                r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"The Host header is missing, repeated or malformed.","code":"bad_host"}"#
            }
            Self::Overloaded => {
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The server has too much to do right now.","code":"overloaded"}"#
            }
            Self::TooManyFields => {
                r#"{"type":"about:blank","title":"Request Header Fields Too Large","status":431,"detail":"The request has too many header fields.","code":"too_many_header_fields"}"#
            }
            Self::UriTooLong => {
                r#"{"type":"about:blank","title":"URI Too Long","status":414,"detail":"The request's path and query are too long.","code":"uri_too_long"}"#
            }
        }
    }

    /// The answer to a request.
    pub(super) fn response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.problem()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self == Self::Overloaded {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// The answer to a connection, whatever it was going to ask.
    pub(super) fn bytes(self) -> Vec<u8> {
        let (status, problem) = (self.status(), self.problem());
        let length = problem.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/problem+json\r\nContent-Length: {length}\r\n\
             Cache-Control: no-store\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{problem}"
        )
        .into_bytes()
    }
}
