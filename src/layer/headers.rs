//! Response headers that the layer sets.

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, SET_COOKIE, VARY};

use crate::http_headers::{PRIVATE_NO_STORE, SESSION_EVENT_HEADER, cookie_name, list_contains, split_pairs};
use crate::session_event::SessionEvent;

/// Sets `X-Session-Event`.
pub(super) fn insert_event(headers: &mut HeaderMap, event: SessionEvent) {
    headers.insert(SESSION_EVENT_HEADER, HeaderValue::from_static(event.as_str()));
}

/// Removes an `X-Session-Event` that reports `event`.
pub(super) fn remove_event(headers: &mut HeaderMap, event: SessionEvent) {
    if headers.get(SESSION_EVENT_HEADER).is_some_and(|reported| reported == event.as_str()) {
        headers.remove(SESSION_EVENT_HEADER);
    }
}

/// Adds the `Set-Cookie` lines of both session cookies, and keeps the response out of caches.
pub(super) fn append_cookies(headers: &mut HeaderMap, cookies: [HeaderValue; 2]) {
    for cookie in cookies {
        headers.append(SET_COOKIE, cookie);
    }
    make_private(headers);
}

/// Adds the `Set-Cookie` lines of both session cookies in place of those with the same names, as
/// [`append_cookies`] does. Other cookies keep their order.
pub(super) fn replace_cookies(headers: &mut HeaderMap, cookies: [HeaderValue; 2]) {
    let names = cookies.each_ref().map(set_cookie_name);
    let lines = headers.get_all(SET_COOKIE).iter();
    let kept: Vec<_> = lines.filter(|line| !names.contains(&set_cookie_name(line))).cloned().collect();
    headers.remove(SET_COOKIE);
    for line in kept {
        headers.append(SET_COOKIE, line);
    }
    append_cookies(headers, cookies);
}

/// Returns the name of the cookie that a `Set-Cookie` line sets or clears.
fn set_cookie_name(line: &HeaderValue) -> &[u8] {
    cookie_name(split_pairs(line.as_bytes()).next().unwrap_or_default())
}

/// Keeps the response out of shared caches.
pub(super) fn make_private(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, PRIVATE_NO_STORE);
    let overriding: Vec<_> = headers.keys().filter(|name| overrides_cache_control(name)).cloned().collect();
    for name in overriding {
        headers.remove(name);
    }
    if !list_contains(headers, &VARY, "cookie") && !list_contains(headers, &VARY, "*") {
        headers.append(VARY, HeaderValue::from_static("Cookie"));
    }
}

/// Returns `true` if caches that support the header prefer it to `Cache-Control` (RFC 9213 section 2.2;
/// nginx).
fn overrides_cache_control(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.ends_with("cdn-cache-control") || matches!(name, "surrogate-control" | "x-accel-expires")
}

/// Returns `true` if `Cache-Control` allows shared caches to store the response.
pub(super) fn is_public(headers: &HeaderMap) -> bool {
    list_contains(headers, &CACHE_CONTROL, "public")
}
