//! Static files embedded in the binary.

use std::fmt::Write as _;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use ring::digest;

use crate::http_headers::list_elements;

/// Embedded file, served with an `ETag`.
///
/// Browsers revalidate it on every use (`no-cache`), so that an update of the program takes effect at once.
#[derive(Clone)]
pub(super) struct Asset {
    content: Bytes,
    content_type: HeaderValue,
    etag: HeaderValue,
}

impl Asset {
    /// Creates a file; the extension of `name` determines its content type.
    pub(super) fn new(name: &str, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        let etag = compute_etag(&content);
        Self { content, content_type: HeaderValue::from_static(content_type(name)), etag }
    }

    /// Serves the file at `path`.
    pub(super) fn route(self, router: Router, path: &str) -> Router {
        router.route(path, get(async move |headers: HeaderMap| self.respond(&headers)))
    }

    fn respond(&self, headers: &HeaderMap) -> Response {
        let validators = [(CACHE_CONTROL, HeaderValue::from_static("no-cache")), (ETAG, self.etag.clone())];
        if matches_etag(headers, &self.etag) {
            return (StatusCode::NOT_MODIFIED, validators).into_response();
        }
        let content_type = [(CONTENT_TYPE, self.content_type.clone())];
        (validators, content_type, self.content.clone()).into_response()
    }
}

/// Returns `true` if `If-None-Match` lists the tag (RFC 9110 section 13.1.2, weak comparison).
fn matches_etag(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    list_elements(headers, &IF_NONE_MATCH).any(|tag| {
        let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
        tag == b"*" || tag == etag.as_bytes()
    })
}

fn compute_etag(content: &[u8]) -> HeaderValue {
    let hash = digest::digest(&digest::SHA256, content);
    let mut tag = String::from("\"");
    for byte in &hash.as_ref()[..16] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\""))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("css") => "text/css; charset=utf-8",
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml; charset=utf-8",
        _ => "application/octet-stream",
    }
}
