//! The names of headers that only we may send to upstreams: those that tell who and where the client
//! is, and which path was asked for.
//!
//! Names are compared as CGI and its heirs do, which turn whatever is no letter or digit into one
//! character, so `X_Forwarded_User` is `X-Forwarded-User`.

use http::HeaderName;
use http::header::HeaderMap;

use crate::http_headers::{SESSION_EVENT_HEADER, X_SET_ACCESS_COOKIE, X_SET_REFRESH_COOKIE};

/// The names that are taken off what any client sends on any route.
///
/// A name that one route gives its upstream is taken off on all: the upstream of another may be the same
/// program.
#[derive(Debug)]
pub(super) struct ReservedHeaders {
    /// Besides those that always are.
    custom: Vec<HeaderName>,
    /// The bytes with which reserved names begin: what begins otherwise, most headers, is none.
    initials: [bool; 256],
}

impl ReservedHeaders {
    pub(super) fn new(custom: Vec<HeaderName>) -> Self {
        let mut initials = [false; 256];
        let names = NAMES.into_iter().chain(PREFIXES).chain(custom.iter().map(HeaderName::as_str));
        for initial in names.filter_map(|name| name.bytes().next()) {
            // One that is no letter is as good as any other such.
            let same = (0..=u8::MAX).filter(|&byte| normalize_byte(byte) == normalize_byte(initial));
            same.for_each(|byte| initials[usize::from(byte)] = true);
        }
        Self { custom, initials }
    }

    pub(super) fn remove_from(&self, headers: &mut HeaderMap) {
        remove_matching(headers, |name| self.contains(name.as_str()));
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        if !name.bytes().next().is_some_and(|initial| self.initials[usize::from(initial)]) {
            return false;
        }
        let is = |reserved: &str| eq_cgi_name(reserved, name);
        PREFIXES
            .into_iter()
            .any(|prefix| name.get(..prefix.len()).is_some_and(|begin| eq_cgi_name(prefix, begin)))
            || NAMES.into_iter().any(is)
            || self.custom.iter().map(HeaderName::as_str).any(is)
    }
}

impl Default for ReservedHeaders {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// Whether two names are one, in whatever spelling.
pub(super) fn eq_cgi_name(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().map(normalize_byte).eq(other.bytes().map(normalize_byte))
}

/// What all bytes are that count as one.
fn normalize_byte(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// Removes every header whose name `goes`. Nothing is allocated where none does, which is the rule.
pub(super) fn remove_matching(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| goes(name)).cloned() {
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

const PREFIXES: [&str; 2] = ["x-forwarded-", "x-auth-request-"];

/// CGI takes `Proxy` for the variable that names a proxy for its own requests. The two after
/// `X-Real-IP` let a client choose the path in some frameworks, after it has been checked here. The
/// last four are what other gateways call the user.
const NAMES: [&str; 10] = [
    "forwarded",
    "proxy",
    "x-forwarded",
    "x-real-ip",
    "x-original-url",
    "x-rewrite-url",
    "remote-user",
    "remote-email",
    "remote-groups",
    "remote-name",
];

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn reserved_names_are_known_in_every_spelling() {
        let reserved = ReservedHeaders::new(vec![HeaderName::from_static("x-shop-user")]);
        for name in [
            "x-forwarded-user",
            "x_forwarded_user",
            "x-forwarded_email",
            "x.forwarded.groups",
            "x-forwarded-access-token",
            "x-forwarded-anything",
            "x-forwarded-",
            "x-forwarded",
            "forwarded",
            "x_real_ip",
            "x-original-url",
            "proxy",
            "x-auth-request-user",
            "x_auth_request_preferred_username",
            "remote-user",
            "remote_groups",
            "x-shop-user",
            "x_shop.user",
        ] {
            assert!(reserved.contains(name), "{name}");
        }
        for name in [
            "x-forwardedfor",
            "x-forward",
            "user",
            "forwarded-by",
            "x-real-ip-2",
            "my-x-forwarded-user",
            "x-auth-request",
            "remote-users",
            "x-shop-users",
        ] {
            assert!(!reserved.contains(name), "{name}");
        }
        assert!(!ReservedHeaders::default().contains("x-shop-user"));
    }

    #[test]
    fn all_lines_of_a_name_go_and_no_other() {
        let mut headers = HeaderMap::new();
        for name in ["x_forwarded_user", "x-forwarded-user", "x-forwarded-user", "accept", "accept"] {
            headers.append(name, HeaderValue::from_static("x"));
        }
        ReservedHeaders::default().remove_from(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["accept"]);
        assert_eq!(headers.len(), 2);
    }
}
