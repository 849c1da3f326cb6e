//! Reserved headers, which only the gateway may send.
//!
//! In requests these are the headers for the user's identity, the client's address and the original path;
//! in responses, the session event and the cookies of a forward auth response.
//!
//! Names are compared as CGI and its successors (WSGI, Rack, PHP) do: every character that is not a letter
//! or digit is the same character, so `X_Forwarded_User` equals `X-Forwarded-User`.

use http::HeaderName;
use http::header::HeaderMap;

use crate::http_headers::{SESSION_EVENT_HEADER, X_SET_ACCESS_COOKIE, X_SET_REFRESH_COOKIE};

/// Request headers that are removed from every client request, on all routes.
///
/// The identity headers of one route are reserved on all routes, since two routes may lead to the same
/// application.
#[derive(Debug)]
pub(super) struct ReservedHeaders {
    /// Reserved names besides the built-in ones.
    custom: Vec<HeaderName>,
    /// Lookup table of the first bytes of reserved names. It rules out most headers at once.
    initials: [bool; 256],
    /// Bits of the lengths of reserved names, which rule out most others.
    lengths: u64,
}

impl ReservedHeaders {
    /// Reserves the built-in names and `custom`.
    pub(super) fn new(custom: Vec<HeaderName>) -> Self {
        let mut initials = [false; 256];
        let names = || NAMES.into_iter().chain(custom.iter().map(HeaderName::as_str));
        for initial in names().chain(PREFIXES).filter_map(|name| name.bytes().next()) {
            for byte in 0..=u8::MAX {
                initials[usize::from(byte)] |= normalize_byte(byte) == normalize_byte(initial);
            }
        }
        let lengths = names().fold(0, |lengths, name| lengths | length_bit(name));
        Self { custom, initials, lengths }
    }

    /// Reserves the names by which applications let a request override its method too.
    pub(super) fn with_method_overrides(&self) -> Self {
        let overrides = METHOD_OVERRIDES.into_iter().map(HeaderName::from_static);
        Self::new(self.custom.iter().cloned().chain(overrides).collect())
    }

    pub(super) fn remove_from(&self, headers: &mut HeaderMap) {
        remove_matching(headers, |name| self.contains(name.as_str()));
    }

    /// Returns `true` if `name`, in any spelling, is reserved.
    pub(super) fn contains(&self, name: &str) -> bool {
        if !name.bytes().next().is_some_and(|initial| self.initials[usize::from(initial)]) {
            return false;
        }
        let has_prefix =
            |prefix: &str| name.get(..prefix.len()).is_some_and(|start| eq_cgi_name(prefix, start));
        let is_name = |reserved: &str| eq_cgi_name(reserved, name);
        PREFIXES.into_iter().any(has_prefix)
            || self.lengths & length_bit(name) != 0
                && (NAMES.into_iter().any(is_name) || self.custom.iter().map(HeaderName::as_str).any(is_name))
    }
}

/// Returns the bit of a name's length. All long names share one.
pub(super) const fn length_bit(name: &str) -> u64 {
    1 << if name.len() < 63 { name.len() } else { 63 }
}

impl Default for ReservedHeaders {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// Returns `true` if two header names are equal to a CGI-like application.
pub(super) fn eq_cgi_name(left: &str, right: &str) -> bool {
    left.len() == right.len() && left.bytes().map(normalize_byte).eq(right.bytes().map(normalize_byte))
}

/// Lower-cases letters and maps every other byte that is not a digit to `-`.
fn normalize_byte(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// Removes every header whose name matches. Allocates nothing in the common case of no match.
pub(super) fn remove_matching(headers: &mut HeaderMap, matches: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| matches(name)).cloned() {
        headers.remove(name);
    }
}

/// Removes the response headers that only the gateway may send.
pub(super) fn remove_reserved_response_headers(headers: &mut HeaderMap) {
    for name in RESERVED_RESPONSE_HEADERS {
        headers.remove(name);
    }
}

/// Response headers that only the gateway may send.
pub(super) const RESERVED_RESPONSE_HEADERS: [HeaderName; 3] =
    [SESSION_EVENT_HEADER, X_SET_ACCESS_COOKIE, X_SET_REFRESH_COOKIE];

/// Prefixes of reserved request headers.
const PREFIXES: [&str; 2] = ["x-forwarded-", "x-auth-request-"];

/// Names of reserved request headers.
///
/// CGI turns `Proxy` into `HTTP_PROXY`, the proxy for the application's own requests (httpoxy).
/// `X-Original-*` and `X-Rewrite-*` override the request's target, host or method in some frameworks, which would
/// bypass the route's checks. `Remote-*` are the identity headers of other gateways.
const NAMES: [&str; 16] = [
    "forwarded",
    "proxy",
    "x-forwarded",
    "x-real-ip",
    "x-original-host",
    "x-original-method",
    "x-original-path",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-path",
    "x-rewrite-uri",
    "x-rewrite-url",
    "remote-user",
    "remote-email",
    "remote-groups",
    "remote-name",
];

/// Names of request headers that override the method in some frameworks.
pub(super) const METHOD_OVERRIDES: [&str; 12] = [
    "http-method",
    "http-method-override",
    "method-override",
    "x-http-method",
    "x-http-method-override",
    "x-http-override",
    "x-http-verb",
    "x-http-verb-override",
    "x-method",
    "x-method-override",
    "x-override-method",
    "x-request-method",
];

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn reserved_names_match_in_every_spelling() {
        let reserved = ReservedHeaders::new(vec![HeaderName::from_static("x-shop-user")]);
        for names in [
            &["x-forwarded-user", "x_forwarded_user", "x-forwarded_email", "x.forwarded.groups"][..],
            &["x-forwarded-access-token", "x-forwarded-anything", "x-forwarded-", "x-forwarded", "forwarded"],
            &["x_real_ip", "x-original-url", "proxy", "remote-user", "remote_groups"],
            &["x_original-uri", "x.original.host", "x-original-method", "x_rewrite_url", "x-rewrite-uri"],
            &["x-auth-request-user", "x_auth_request_preferred_username", "x-shop-user", "x_shop.user"],
        ] {
            for name in names {
                assert!(reserved.contains(name), "{name}");
            }
        }
        for names in [
            &["x-forwardedfor", "x-forward", "forwarded-by", "my-x-forwarded-user"][..],
            &["x-auth-request", "user", "x-real-ip-2", "remote-users", "x-shop-users"],
        ] {
            for name in names {
                assert!(!reserved.contains(name), "{name}");
            }
        }
        assert!(!ReservedHeaders::default().contains("x-shop-user"));
    }

    #[test]
    fn method_overrides_are_reserved_on_request() {
        let custom = vec![HeaderName::from_static("x-shop-user")];
        let reserved = ReservedHeaders::new(custom);
        let limited = reserved.with_method_overrides();
        for name in ["x-http-method-override", "x_http_method", "x.method-override", "method_override"] {
            assert!(limited.contains(name) && !reserved.contains(name), "{name}");
        }
        assert!(limited.contains("x_shop_user") && limited.contains("x-forwarded-user"));
        assert!(!limited.contains("x-http-method-overridden"));
    }

    #[test]
    fn removal_takes_all_lines_of_a_name_and_no_other() {
        let mut headers = HeaderMap::new();
        for name in ["x_forwarded_user", "x-forwarded-user", "x-forwarded-user", "accept", "accept"] {
            headers.append(name, HeaderValue::from_static("x"));
        }
        ReservedHeaders::default().remove_from(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["accept"]);
        assert_eq!(headers.len(), 2);
    }
}
