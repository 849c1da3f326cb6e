//! Header names used by more than one module, and parsers of list and cookie headers.

#![cfg_attr(not(feature = "server"), allow(dead_code, reason = "the layer alone needs only some of these"))]

use http::HeaderValue;
use http::header::{COOKIE, HeaderMap, HeaderName};
use http::uri::Authority;

/// The response header that carries the [`SessionEvent`](crate::session_event::SessionEvent).
pub const SESSION_EVENT_HEADER: HeaderName = HeaderName::from_static("x-session-event");

/// The id of a request, in the request, its response and the log.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The position of a request in a trace (W3C Trace Context).
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A copy of the `Set-Cookie` of the access token, in responses to forward auth requests.
pub(crate) const X_SET_ACCESS_COOKIE: HeaderName = HeaderName::from_static("x-set-access-cookie");

/// A copy of the `Set-Cookie` of the refresh token, in responses to forward auth requests.
pub(crate) const X_SET_REFRESH_COOKIE: HeaderName = HeaderName::from_static("x-set-refresh-cookie");

/// The address of the sign-in page, in 401 responses to forward auth requests.
pub(crate) const X_SIGN_IN_URL: HeaderName = HeaderName::from_static("x-sign-in-url");

/// The `Cache-Control` of responses that no cache may store.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The `Cache-Control` of responses that depend on a session.
pub(crate) const PRIVATE_NO_STORE: HeaderValue = HeaderValue::from_static("private, no-store");

/// Returns the elements of a comma-separated field on all its lines.
pub(crate) fn list_elements<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl DoubleEndedIterator<Item = &'h [u8]> + use<'h> {
    headers.get_all(name).iter().flat_map(|line| split_list(line.as_bytes()))
}

/// Returns `true` if a comma-separated field has `element`, compared without regard to case.
pub(crate) fn list_contains(headers: &HeaderMap, name: &HeaderName, element: &str) -> bool {
    list_elements(headers, name).any(|listed| listed.eq_ignore_ascii_case(element.as_bytes()))
}

/// Splits one line of a comma-separated field (RFC 9110 section 5.6.1).
///
/// Elements are trimmed. Empty ones are included.
pub(crate) fn split_list(line: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Returns the name-value pairs of all `Cookie` lines, as [`split_pairs`] does.
pub(crate) fn cookie_pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(COOKIE).iter().flat_map(|line| split_pairs(line.as_bytes()))
}

/// Splits a `Cookie` line, or the value of a `Set-Cookie`, at its semicolons.
///
/// Pairs are not trimmed. `memchr` compares many bytes at once, which pays because a line is mostly one
/// long token.
pub(crate) fn split_pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let Some(end) = memchr::memchr(b';', line) else { return rest.take() };
        rest = Some(&line[end + 1..]);
        Some(&line[..end])
    })
}

/// Returns the name of a cookie pair: all up to the first `=`, trimmed (RFC 6265bis section 5.6).
pub(crate) fn cookie_name(pair: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'=', pair).unwrap_or(pair.len());
    pair[..end].trim_ascii()
}

/// Returns the trimmed value of a cookie pair if its name is `name`, which must not contain `=`.
///
/// Cheaper than [`cookie_name`], which has to search for the `=`.
pub(crate) fn cookie_value<'h>(pair: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let rest = pair.trim_ascii_start().strip_prefix(name.as_bytes())?;
    Some(rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii())
}

/// Returns `true` if an authority contains userinfo, which HTTP does not allow (RFC 9110 section 4.2.4).
pub(crate) fn has_userinfo(authority: &Authority) -> bool {
    authority.as_str().contains('@')
}

#[cfg(test)]
mod tests {
    use http::header::VARY;

    use super::*;

    #[test]
    fn list_spans_lines_and_keeps_empty_elements() {
        let mut headers = HeaderMap::new();
        headers.append(VARY, HeaderValue::from_static("a , b,"));
        headers.append(VARY, HeaderValue::from_bytes(b"\xff,C").unwrap());
        let elements: Vec<&[u8]> = list_elements(&headers, &VARY).collect();
        assert_eq!(elements, [b"a".as_slice(), b"b", b"", b"\xff", b"C"]);
        assert!(list_contains(&headers, &VARY, "c"));
        assert!(!list_contains(&headers, &VARY, "d"));
    }

    #[test]
    fn pairs_span_lines_and_keep_their_bytes() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; b=\"2\";;"));
        headers.append(COOKIE, HeaderValue::from_bytes(b" c=\xff").unwrap());
        let pairs: Vec<&[u8]> = cookie_pairs(&headers).collect();
        assert_eq!(pairs, [b"a=1".as_slice(), b" b=\"2\"", b"", b"", b" c=\xff"]);
    }

    #[test]
    fn name_ends_at_first_equals_sign() {
        assert_eq!(cookie_name(b" a = b=c "), b"a");
        assert_eq!(cookie_name(b"a"), b"a");
        assert_eq!(cookie_value(b" a = b=c ", "a"), Some(b"b=c".as_slice()));
        assert_eq!(cookie_value(b"ab=1", "a"), None);
        assert_eq!(cookie_value(b"a", "a"), None);
    }
}
