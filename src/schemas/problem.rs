//! The body of every error: problem details (RFC 9457).

use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// Why a request failed.
///
/// `type` is always `about:blank`, so `title` is the status code's own phrase (RFC 9457, section
/// 4.2.1). Programs look at `code`, people at `detail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    pub kind: &'static str,
    /// The status code's phrase.
    #[schema(example = "Not Found")]
    pub title: &'static str,
    /// The status code.
    #[schema(example = 404)]
    pub status: u16,
    /// What went wrong and what to do about it.
    #[schema(example = "There is no such movie.")]
    pub detail: String,
    /// A word for the error that stays the same from release to release.
    #[schema(example = "not_found")]
    pub code: &'static str,
}

impl Problem {
    /// The media type of a problem.
    pub const CONTENT_TYPE: &'static str = "application/problem+json";

    /// A problem without a `type` of its own.
    #[must_use]
    pub fn new(status: u16, title: &'static str, code: &'static str, detail: String) -> Self {
        Self { kind: "about:blank", title, status, detail, code }
    }
}

/// How every read may be refused: for the description of a route.
#[derive(Clone, Debug, IntoResponses)]
pub enum ReadErrorResponses {
    /// Nobody is signed in (`unauthenticated`).
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(Problem),
    /// The database can't be reached (`store_unavailable`).
    #[response(status = 503, content_type = "application/problem+json")]
    StoreUnavailable(Problem),
}

/// How every write may be refused: for the description of a route.
#[derive(Clone, Debug, IntoResponses)]
pub enum WriteErrorResponses {
    /// A field is missing, unknown or wrong; `detail` names it (`invalid_request`).
    #[response(status = 400, content_type = "application/problem+json")]
    InvalidRequest(Problem),
    /// Nobody is signed in (`unauthenticated`).
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(Problem),
    /// The user may not do this (`forbidden`).
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// The body is too large (`too_large`).
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// The body is not JSON (`unsupported_media_type`).
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(Problem),
    /// The database can't be reached (`store_unavailable`).
    #[response(status = 503, content_type = "application/problem+json")]
    StoreUnavailable(Problem),
}
