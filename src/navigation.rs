//! The rule that tells navigations from the requests of programs.

use http::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, UPGRADE, VARY};
use http::{Method, Request};

use crate::http_headers::{list_contains, list_elements};

/// Kind of a request: a person's, who can be shown a page, or a program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A navigation: `GET` or `HEAD` for a document in a tab or window. Its errors are redirects and pages.
    Navigation,
    /// A navigation by another method, such as the `POST` of a form. Its errors are pages. It is never redirected,
    /// because a redirect would lose the form's data.
    FormSubmission,
    /// Any other request: by a script, for an image, in a frame, or in advance. Its errors are problem details.
    Other,
}

impl RequestKind {
    /// Returns the kind of a request.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        Self::from_head(request.method(), request.headers())
    }

    /// Returns the kind of a request with this method and these headers.
    ///
    /// A browser names the mode and destination of a request in `Sec-Fetch-Mode` and `Sec-Fetch-Dest` (Fetch Metadata
    /// Request Headers). It sends neither to an origin without TLS other than loopback, and before Safari 16.4. Such a
    /// request is a navigation if its `Accept` lists `text/html`, unless it is one of a script or an upgrade.
    #[must_use]
    pub fn from_head(method: &Method, headers: &HeaderMap) -> Self {
        if !is_for_document(headers) || is_prefetch(headers) {
            Self::Other
        } else if matches!(*method, Method::GET | Method::HEAD) {
            Self::Navigation
        } else {
            Self::FormSubmission
        }
    }
}

fn is_for_document(headers: &HeaderMap) -> bool {
    match headers.get(SEC_FETCH_MODE) {
        Some(mode) => {
            mode == "navigate" && headers.get(SEC_FETCH_DEST).is_some_and(|dest| dest == "document")
        }
        None => accepts_html(headers) && !is_by_script(headers) && !has_fetch_metadata(headers),
    }
}

fn accepts_html(headers: &HeaderMap) -> bool {
    list_elements(headers, &ACCEPT).any(|range| {
        let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let is_html = parts.next().is_some_and(|media_type| media_type.eq_ignore_ascii_case(b"text/html"));
        is_html && !parts.any(is_zero_quality)
    })
}

/// Returns `true` for the weight 0, which excludes a media range (RFC 9110 section 12.4.2).
fn is_zero_quality(parameter: &[u8]) -> bool {
    let value = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="));
    value.is_some_and(|value| value.starts_with(b"0") && value.iter().all(|byte| matches!(byte, b'0' | b'.')))
}

fn is_by_script(headers: &HeaderMap) -> bool {
    headers.contains_key(X_REQUESTED_WITH) || headers.contains_key(UPGRADE)
}

fn has_fetch_metadata(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("sec-fetch-"))
}

/// Returns `true` for a request in advance, whose response a person may never see.
fn is_prefetch(headers: &HeaderMap) -> bool {
    [SEC_PURPOSE, PURPOSE].iter().any(|name| {
        let purposes = list_elements(headers, name).flat_map(|purpose| purpose.split(|&byte| byte == b';'));
        purposes.map(<[u8]>::trim_ascii).any(|purpose| purpose.eq_ignore_ascii_case(b"prefetch"))
    })
}

/// Adds the request headers on which [`RequestKind`] depends to `Vary`, and `Cookie`.
pub fn vary_by_kind(headers: &mut HeaderMap) {
    if list_contains(headers, &VARY, "*") {
        return;
    }
    let missing = VARYING.into_iter().filter(|name| !list_contains(headers, &VARY, name));
    let present = list_elements(headers, &VARY).filter_map(|name| std::str::from_utf8(name).ok());
    let names: Vec<&str> = present.chain(missing).collect();
    if let Ok(value) = HeaderValue::try_from(names.join(", ")) {
        headers.insert(VARY, value);
    }
}

const VARYING: [&str; 4] = ["Cookie", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Accept"];

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");
const PURPOSE: HeaderName = HeaderName::from_static("purpose");
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

#[cfg(test)]
mod tests;
