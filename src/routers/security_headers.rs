//! Security headers of pages and API responses.
//!
//! A header is only added if the response does not have it, so that a page can set a stricter value.

use axum::Router;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderName, HeaderValue};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::pages;

/// Adds the headers of pages: same-origin resources only, no inline scripts or styles, no framing.
pub fn for_pages(router: Router) -> Router {
    with_headers(router, &PAGES)
}

/// Adds the headers of API responses: no content sniffing, embedding or caching.
pub fn for_api(router: Router) -> Router {
    with_headers(router, &API)
}

fn with_headers(router: Router, headers: &[(HeaderName, &'static str)]) -> Router {
    headers.iter().fold(router, |router, (name, value)| {
        let value = HeaderValue::from_static(value);
        router.layer(SetResponseHeaderLayer::if_not_present(name.clone(), value))
    })
}

const PAGES: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, pages::CONTENT_SECURITY_POLICY),
    (CROSS_ORIGIN_OPENER_POLICY, "same-origin"),
    (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
];

const API: [(HeaderName, &str); 4] = [
    (CACHE_CONTROL, "private, no-store"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

const CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
