//! Properties of reading session cookies, and of keeping them from upstreams.

use cookie::Cookie;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

use crate::http_headers::{cookie_name, cookie_pairs, split_pairs};
use crate::layer::{CookiePolicy, CookieValue};
use crate::proxy::ReservedCookies;
use crate::proxy::fuzzing::remove_set_cookies;

/// Checks `Cookie` and `Set-Cookie` fields, of which the input has one in each line.
///
/// # Panics
///
/// If a property does not hold.
pub fn check_cookie_header(input: &[u8]) {
    let policy = CookiePolicy::insecure_for_loopback();
    let reserved = ReservedCookies { names: policy.names().map(str::to_owned).to_vec() };
    let headers = fields(&COOKIE, input);
    check_reading(&policy, &headers);
    check_removal(&policy, &reserved, &headers);
    check_set_cookies(&policy, &reserved, &fields(&SET_COOKIE, input));
}

/// Builds a field of each line that is a valid value.
fn fields(name: &HeaderName, lines: &[u8]) -> HeaderMap {
    let values = lines.split(|byte| *byte == b'\n').map(HeaderValue::from_bytes);
    values.flatten().map(|value| (name.clone(), value)).collect()
}

/// The values of both cookies are those that the crate `cookie` finds. It parses text only.
fn check_reading(policy: &CookiePolicy, headers: &HeaderMap) {
    let lines: Option<Vec<&str>> = headers.values().map(|line| line.to_str().ok()).collect();
    let Some(lines) = lines else { return };
    let all: Vec<Cookie<'_>> = lines.into_iter().flat_map(Cookie::split_parse).flatten().collect();
    let values = policy
        .names()
        .map(|name| all.iter().filter(|cookie| cookie.name() == name).map(Cookie::value).collect::<Vec<_>>());
    let Ok(read) = policy.read(headers) else {
        assert!(values.iter().any(|values| values.len() > 1), "{values:?} are no duplicates");
        return;
    };
    for (cookie, values) in [read.access, read.refresh].into_iter().zip(&values) {
        match cookie {
            CookieValue::Absent => assert!(values.is_empty(), "{values:?}"),
            CookieValue::Token(token) => assert_eq!(*values, [token]),
            CookieValue::Unusable => assert_eq!(values.len(), 1, "{values:?}"),
        }
    }
    assert_eq!(policy.present_in(headers), values.iter().any(|values| !values.is_empty()));
    assert!(policy.tokens_in(headers).all(|token| values.iter().flatten().any(|value| *value == token)));
}

/// No reserved cookie is left, and all others keep their bytes and order.
fn check_removal(policy: &CookiePolicy, reserved: &ReservedCookies, headers: &HeaderMap) {
    let mut kept = headers.clone();
    reserved.remove_from_request(&mut kept);
    assert!(!policy.present_in(&kept), "{kept:?}");
    let is_reserved = |pair: &&[u8]| reserved.names.iter().any(|name| name.as_bytes() == cookie_name(pair));
    assert_eq!(
        filled_pairs(headers).filter(|pair| !is_reserved(pair)).collect::<Vec<_>>(),
        filled_pairs(&kept).collect::<Vec<_>>()
    );
    let mut kept_lines = kept.values();
    for line in headers.values().filter(|line| !split_pairs(line.as_bytes()).any(|pair| is_reserved(&pair))) {
        assert!(kept_lines.any(|kept| kept == line), "{line:?} has changed");
    }
    let mut kept_again = kept.clone();
    reserved.remove_from_request(&mut kept_again);
    assert_eq!(kept, kept_again);
}

/// Returns the trimmed pairs that are not empty.
fn filled_pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    cookie_pairs(headers).map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
}

/// The lines that upstreams may set are left as they are. A browser returns none of them as a session cookie.
fn check_set_cookies(policy: &CookiePolicy, reserved: &ReservedCookies, headers: &HeaderMap) {
    let mut kept = headers.clone();
    remove_set_cookies(reserved, &mut kept);
    for line in kept.values() {
        let returned = returned_cookie(line.as_bytes());
        assert!(!policy.present_in(&fields(&COOKIE, &returned)), "{line:?} sets a session cookie");
    }
    let mut kept_lines = kept.values().peekable();
    for line in headers.values() {
        if kept_lines.next_if_eq(&line).is_none() {
            let returned = returned_cookie(line.as_bytes());
            let start = returned.iter().position(|byte| !b"= \t".contains(byte)).unwrap_or(0);
            let name = cookie_name(&returned[start..]);
            let is_reserved = reserved.names.iter().any(|reserved| reserved.as_bytes() == name);
            assert!(is_reserved, "{line:?} sets no session cookie");
        }
    }
    assert_eq!(kept_lines.next(), None);
}

/// Returns the cookie as a browser sends it back (RFC 6265bis, sections 5.6 and 5.8.3).
fn returned_cookie(line: &[u8]) -> Vec<u8> {
    let pair = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let mut parts = pair.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
    match (parts.next().unwrap_or_default(), parts.next()) {
        (b"", Some(value)) => value.to_vec(),
        (name, Some(value)) => [name, b"=", value].concat(),
        (value, None) => value.to_vec(),
    }
}
