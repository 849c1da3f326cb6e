//! The body of every error: problem details (RFC 9457).

use utoipa::IntoResponses;

use crate::problem::Problem;

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
