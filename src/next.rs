//! The parameter `next` of sign-in pages: the path to which a browser returns.

use std::borrow::Cow;
use std::fmt;

use http::uri::PathAndQuery;
use percent_encoding::percent_decode;

/// A path of the public origin with its query, to which a browser may be redirected.
///
/// A redirect to an unchecked value is an open redirect: browsers read `//host`, `/\host` and, because they remove tabs
/// and line breaks, `/<tab>/host` as other hosts. The path is checked at each level of percent-encoding, because proxies
/// and applications may decode it before they redirect.
///
/// ```
/// use sekisho::next::Next;
///
/// let next = Next::parse("/movies?page=2");
/// assert_eq!(next.as_ref().map_or("/account", Next::as_str), "/movies?page=2");
/// for elsewhere in ["", "//other.example/", "/%2Fother.example/", "/sign-out"] {
///     assert_eq!(Next::parse(elsewhere), None);
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next(Cow<'static, str>);

impl Next {
    /// The path `/`.
    pub const ROOT: Self = Self(Cow::Borrowed("/"));

    /// Checks the decoded value of a query or form parameter. Returns `None` for anything but a path of this origin, and
    /// for `/sign-in` and `/sign-out`, which are no place to return to.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        Self::parse_outside(value, "/")
    }

    /// Checks as [`parse`](Self::parse), with the pages for sign-in and sign-out below `auth_prefix`.
    #[must_use]
    pub fn parse_outside(value: &str, auth_prefix: &str) -> Option<Self> {
        let is_valid = is_path_and_query(value) && is_path_of_origin(path_of(value), auth_prefix);
        is_valid.then(|| Self(Cow::Owned(value.to_owned())))
    }

    /// Returns the path and query. They are ASCII and valid in a `Location` header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns `true` if `value` is a path with an optional query, in printable ASCII and without a fragment.
///
/// Quotes and angle brackets have no place in a URL either (RFC 3986 appendix C). Browsers encode them.
fn is_path_and_query(value: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'<' | b'>');
    value.len() <= MAX_LENGTH && value.bytes().all(is_allowed) && value.parse::<PathAndQuery>().is_ok()
}

fn path_of(value: &str) -> &str {
    value.split_once('?').map_or(value, |(path, _)| path)
}

/// Returns `true` if `path` is in normal form and leads to no page that would redirect back, at each level of
/// percent-encoding.
fn is_path_of_origin(path: &str, auth_prefix: &str) -> bool {
    let auth_prefix: Cow<'_, [u8]> = percent_decode(auth_prefix.as_bytes()).into();
    let mut path = Cow::Borrowed(path.as_bytes());
    loop {
        if !is_normal(&path) || leads_back(&path, &auth_prefix) {
            return false;
        }
        let Cow::Owned(decoded) = Cow::from(percent_decode(&path)) else { return true };
        path = Cow::Owned(decoded);
    }
}

/// Returns `true` for an absolute path without backslashes, control characters, and empty or dot segments.
///
/// Only the last segment may be empty: it is the path's trailing slash.
fn is_normal(path: &[u8]) -> bool {
    let Some(relative) = path.strip_prefix(b"/") else { return false };
    let mut segments = relative.split(|&byte| byte == b'/').rev();
    let last = segments.next().unwrap_or_default();
    !relative.iter().any(|&byte| byte == b'\\' || byte.is_ascii_control())
        && !matches!(segment_name(last), b"." | b"..")
        && segments.all(|segment| !matches!(segment_name(segment), b"" | b"." | b".."))
}

/// Returns a segment without its `;` parameters, which servlet containers remove.
fn segment_name(segment: &[u8]) -> &[u8] {
    segment.split(|&byte| byte == b';').next().unwrap_or_default()
}

/// Returns `true` for the pages that redirect to their `next`, and for those that end the session.
fn leads_back(path: &[u8], auth_prefix: &[u8]) -> bool {
    let auth_prefix = auth_prefix.strip_suffix(b"/").unwrap_or(auth_prefix);
    let page = path.strip_prefix(auth_prefix).and_then(|rest| rest.strip_prefix(b"/"));
    let first_segment = page.and_then(|page| page.split(|&byte| byte == b'/').next());
    first_segment.is_some_and(|segment| LOOPING_PAGES.contains(&segment_name(segment)))
}

/// Pages below `auth_prefix` that are no place to return to.
const LOOPING_PAGES: [&[u8]; 5] = [b"sign-in", b"continue", b"sign-out", b"logout", b"logout-all"];

/// Maximum length in bytes. The value may take three times as much in a query, and a request target 8 KiB.
const MAX_LENGTH: usize = 2_048;

// `url` comes with the server.
#[cfg(all(test, feature = "server"))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_seed::proptest_config;

    fn parse(value: &str) -> Next {
        Next::parse_outside(value, "/auth").unwrap_or(Next::ROOT)
    }

    #[test]
    fn paths_of_this_origin_are_kept_byte_for_byte() {
        let longest = format!("/{}", "a".repeat(MAX_LENGTH - 1));
        for value in [
            "/",
            "/movies",
            "/movies/?title=%E9%96%A2%E6%89%80&page=2",
            "/movies?back=https%3A%2F%2Fother.example%2F&to=//x&p=C:\\x&line=a%0Ab",
            "/%E9%96%A2%E6%89%80/%25/100%2525",
            "/@user/a:b;v=1/~c?d=e?f",
            "/a%2Fb/c.d/..e",
            "/auth/account",
            "/auth/sign-in-help",
            "/authors/sign-in",
            "/?",
            &longest,
        ] {
            assert_eq!(parse(value).as_str(), value);
        }
    }

    #[test]
    fn other_values_count_as_root() {
        let too_long = format!("/{}", "a".repeat(MAX_LENGTH));
        let forms =
            ["", "movies", "?a=b", "*", "https://app.example/", "javascript:alert(1)", "@other.example"];
        let hosts = ["//other.example", "///other.example", "/\\other.example", "\\\\other.example", "/a//b"];
        let characters =
            ["/\t/other.example", "\n//x", "/ a", "/a b", "/\u{e9}", "/\u{3000}", "/a#b", "/a\0", &too_long];
        let encoded = ["/%2fx", "/%5Cx", "/%09/x", "/a%0D%0Ab", "/%00", "/%255cx", "/%25252Fx", "/%5%63x"];
        let dots = ["/.", "/..", "/a/..//x", "/%2e%2E/x", "/.%2F/x", "/a/..;v=1/b", "/..%252f/x", "/;a/b"];
        for value in [&forms[..], &hosts, &characters, &encoded, &dots].concat() {
            assert_eq!(parse(value), Next::ROOT, "{value:?}");
        }
    }

    #[test]
    fn pages_that_redirect_again_count_as_root() {
        for value in [
            "/auth/sign-in",
            "/auth/sign-in?next=/auth/sign-in",
            "/auth/continue/",
            "/auth/sign-out",
            "/auth/logout",
            "/auth/%73ign-in;v=1/x",
            "/auth/%2573ign-in",
            "/auth%2Fsign-in",
        ] {
            assert_eq!(parse(value), Next::ROOT, "{value}");
        }
        assert_eq!(Next::parse("/sign-in"), None);
        assert_eq!(Next::parse_outside("/a%20b/sign-in", "/a%20b"), None);
    }

    proptest! {
        #![proptest_config(proptest_config())]

        #[test]
        fn any_value_stays_on_the_origin(value in "[/\\\\.%a-f0-9@:;?#\t\n ]{0,12}") {
            let origin = url::Url::parse("https://app.example").unwrap();
            let target = origin.join(parse(&value).as_str()).unwrap();
            prop_assert_eq!(target.origin(), origin.origin());
        }
    }
}
