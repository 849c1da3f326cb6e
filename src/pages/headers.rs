//! Response headers of pages.

use http::header::{
    CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_SECURITY_POLICY as CSP, CONTENT_TYPE, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::language::Language;
use crate::http_headers::PRIVATE_NO_STORE;

/// The `Content-Security-Policy` of all pages: files of the same origin only, no inline scripts or styles, no frames.
///
/// It has no `form-action`, which Chromium also enforces on the redirects after a form: an application could then not
/// redirect to another origin after sign-in. The templates contain no markup of users that could hold a form.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'";

/// Sets the headers of a page in `language`.
pub(super) fn set_page_headers(headers: &mut HeaderMap, language: &Language) {
    for (name, value) in PAGE {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(CACHE_CONTROL, PRIVATE_NO_STORE);
    if let Ok(tag) = HeaderValue::try_from(language.tag()) {
        headers.insert(CONTENT_LANGUAGE, tag);
    }
}

const PAGE: [(HeaderName, &str); 8] = [
    (CONTENT_TYPE, "text/html; charset=utf-8"),
    (CSP, CONTENT_SECURITY_POLICY),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // With `no-referrer`, forms would send `Origin: null`, which CSRF protection rejects in browsers without
    // `Sec-Fetch-Site`.
    (REFERRER_POLICY, "same-origin"),
    (VARY, "Cookie, Accept-Language"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
];
