//! Static files.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use ring::digest;

use crate::http_headers::list_elements;

/// A static file, served with an `ETag`.
///
/// Browsers revalidate it on every use (`no-cache`), so that an update of the program takes effect at once.
#[derive(Clone, Debug)]
pub struct Asset {
    content: Bytes,
    content_type: HeaderValue,
    etag: HeaderValue,
}

impl Asset {
    /// Creates a file; the extension of `name` determines its content type.
    #[must_use]
    pub fn new(name: &str, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        let etag = compute_etag(&content);
        let content_type = content_type(name).unwrap_or("application/octet-stream");
        Self { content, content_type: HeaderValue::from_static(content_type), etag }
    }

    /// Returns the response to a request with these headers.
    #[must_use]
    pub fn respond<B: From<Bytes> + Default>(&self, headers: &HeaderMap) -> Response<B> {
        let mut response = Response::new(B::default());
        let fields = response.headers_mut();
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        fields.insert(ETAG, self.etag.clone());
        if matches_etag(headers, &self.etag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        fields.insert(CONTENT_TYPE, self.content_type.clone());
        *response.body_mut() = B::from(self.content.clone());
        response
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

/// Returns the content type for the extension of a file name.
fn content_type(name: &str) -> Option<&'static str> {
    Some(match name.rsplit_once('.')?.1 {
        "css" => "text/css; charset=utf-8",
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        extension => return image_type(extension),
    })
}

/// Returns the content type of images with this extension.
pub(super) fn image_type(extension: &str) -> Option<&'static str> {
    Some(match extension {
        "avif" => "image/avif",
        "gif" => "image/gif",
        "jpeg" | "jpg" => "image/jpeg",
        "png" => "image/png",
        "svg" => "image/svg+xml; charset=utf-8",
        "webp" => "image/webp",
        _ => return None,
    })
}
