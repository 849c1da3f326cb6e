//! Error responses in the OpenAPI document.

use utoipa::IntoResponses;

use crate::problem::Problem;

/// Error responses of every route that reads.
#[derive(Clone, Debug, IntoResponses)]
pub enum ReadErrorResponses {
    /// There is no valid session; `code` names the reason, and `sign_in_url` the sign-in page.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(Problem),
    /// The database is unavailable (`store_unavailable`).
    #[response(status = 503, content_type = "application/problem+json")]
    StoreUnavailable(Problem),
}

/// Error responses of every route that writes.
#[derive(Clone, Debug, IntoResponses)]
pub enum WriteErrorResponses {
    /// A field is missing, unknown or invalid; `detail` names it (`invalid_request`).
    #[response(status = 400, content_type = "application/problem+json")]
    InvalidRequest(Problem),
    /// There is no valid session; `code` names the reason, and `sign_in_url` the sign-in page.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(Problem),
    /// The user lacks a permission (`forbidden`).
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// The body is too large (`too_large`).
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// The body is not JSON (`unsupported_media_type`).
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(Problem),
    /// The database is unavailable (`store_unavailable`).
    #[response(status = 503, content_type = "application/problem+json")]
    StoreUnavailable(Problem),
}
