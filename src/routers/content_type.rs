//! Media type of a request body.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// Returns `true` if `Content-Type` names this media type, with any parameters.
pub(super) fn has_media_type(headers: &HeaderMap, media_type: &str) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(media_type)
}
