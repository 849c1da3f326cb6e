//! Reading, setting and clearing the two session cookies.

use std::time::Duration;

use cookie::Cookie;
pub use cookie::SameSite;
use http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use time::OffsetDateTime;

use crate::http_headers::{cookie_pairs, cookie_value, is_token_byte, split_pairs};

/// Names and attributes of the two session cookies.
///
/// They are always `HttpOnly`, with `Path=/` and no `Domain`. The default is the safest choice: the name
/// prefix `__Host-`, `Secure` and `SameSite=Lax`.
///
/// ```
/// use std::time::Duration;
/// use sekisho::layer::CookiePolicy;
///
/// let [access, _refresh] = CookiePolicy::default().set("abc", "def", Duration::from_secs(60))?;
/// assert_eq!(access, "__Host-access_token=abc; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=60");
/// # Ok::<(), sekisho::layer::IllegalToken>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookiePolicy {
    access_name: String,
    refresh_name: String,
    same_site: SameSite,
    secure: bool,
    partitioned: bool,
}

impl CookiePolicy {
    /// Maximum length of a name in bytes. Browsers limit name and value together to 4,096 bytes, and an access token has
    /// up to 4,000.
    pub(crate) const MAX_NAME_LEN: usize = 64;

    /// Creates a policy with these names and attributes. A name has at most 64 bytes, because browsers limit name and
    /// value together.
    ///
    /// # Errors
    ///
    /// Returns a [`CookiePolicyError`] if browsers would reject such cookies or confuse the two.
    pub fn new(
        access_name: impl Into<String>,
        refresh_name: impl Into<String>,
        same_site: SameSite,
        secure: bool,
    ) -> Result<Self, CookiePolicyError> {
        let policy = Self {
            access_name: access_name.into(),
            refresh_name: refresh_name.into(),
            same_site,
            secure,
            partitioned: false,
        };
        policy.check()?;
        Ok(policy)
    }

    /// Sets the attribute `Partitioned` (CHIPS, "Cookies Having Independent Partitioned State"): in a page that another
    /// site embeds, the browser keeps cookies of their own for that site, even if it blocks third-party cookies.
    ///
    /// # Errors
    ///
    /// Returns [`CookiePolicyError::PartitionedNeedsSameSiteNone`] unless the cookies have `SameSite=None` and `Secure`.
    pub fn with_partitioned(mut self, partitioned: bool) -> Result<Self, CookiePolicyError> {
        self.partitioned = partitioned;
        self.check()?;
        Ok(self)
    }

    /// Creates a policy for plain HTTP on the developer's own machine: `access_token` and `refresh_token`,
    /// without `Secure`.
    #[must_use]
    pub fn insecure_for_loopback() -> Self {
        Self {
            access_name: "access_token".to_owned(),
            refresh_name: "refresh_token".to_owned(),
            same_site: SameSite::Lax,
            secure: false,
            partitioned: false,
        }
    }

    /// Returns the names of the cookies, the access token's first.
    #[must_use]
    pub fn names(&self) -> [&str; 2] {
        [&self.access_name, &self.refresh_name]
    }

    /// Returns the `SameSite` attribute.
    #[must_use]
    pub fn same_site(&self) -> SameSite {
        self.same_site
    }

    /// Returns `true` if the cookies have the attribute `Secure`.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Reads both cookies from all `Cookie` lines. HTTP/2 clients may send one line for each cookie.
    ///
    /// # Errors
    ///
    /// Returns [`DuplicateCookie`] if one of them occurs twice, because it is unclear which one is genuine.
    pub fn read<'h>(&self, headers: &'h HeaderMap) -> Result<RequestCookies<'h>, DuplicateCookie> {
        let [access, refresh] = self.find(headers)?;
        Ok(RequestCookies {
            access: CookieValue::from_bytes(access),
            refresh: CookieValue::from_bytes(refresh),
        })
    }

    /// Returns the raw values of both cookies.
    pub(super) fn find<'h>(&self, headers: &'h HeaderMap) -> Result<[Option<&'h [u8]>; 2], DuplicateCookie> {
        let mut access = None;
        let mut refresh = None;
        for pair in cookie_pairs(headers) {
            let previous = if let Some(value) = cookie_value(pair, &self.access_name) {
                access.replace(value)
            } else if let Some(value) = cookie_value(pair, &self.refresh_name) {
                refresh.replace(value)
            } else {
                None
            };
            if previous.is_some() {
                return Err(DuplicateCookie);
            }
        }
        Ok([access, refresh])
    }

    /// Returns `true` if a request has one of the cookies, usable or not.
    #[must_use]
    pub fn present_in(&self, headers: &HeaderMap) -> bool {
        self.find(headers).map_or(true, |found| found.iter().any(Option::is_some))
    }

    /// Returns both `Set-Cookie` values for new tokens, the access token's first.
    ///
    /// The cookies expire after `max_age`, clamped to between a second and 400 days (RFC 6265bis section 5.5).
    ///
    /// # Errors
    ///
    /// Returns [`IllegalToken`] if a token contains anything but cookie octets, which
    /// [`RefreshedSession`](super::RefreshedSession) forbids.
    pub fn set(
        &self,
        access_token: &str,
        refresh_token: &str,
        max_age: Duration,
    ) -> Result<[HeaderValue; 2], IllegalToken> {
        if !is_token(access_token.as_bytes()) || !is_token(refresh_token.as_bytes()) {
            return Err(IllegalToken);
        }
        Ok(self.build(access_token, refresh_token, max_age).each_ref().map(header_value))
    }

    /// Returns both `Set-Cookie` values that clear the cookies, in the same order.
    #[must_use]
    pub fn clear(&self) -> [HeaderValue; 2] {
        self.build_removal().each_ref().map(header_value)
    }

    /// Returns the cookies that [`set`](Self::set) sets, for handlers that use a cookie jar.
    #[must_use]
    pub fn build(&self, access_token: &str, refresh_token: &str, max_age: Duration) -> [Cookie<'static>; 2] {
        let max_age = max_age.clamp(MIN_MAX_AGE, MAX_MAX_AGE).as_secs();
        let max_age = time::Duration::seconds(i64::try_from(max_age).unwrap_or(0));
        [(&self.access_name, access_token), (&self.refresh_name, refresh_token)]
            .map(|(name, token)| self.cookie(name, token).max_age(max_age).build().into_owned())
    }

    /// Returns the removal cookies of [`clear`](Self::clear), for handlers that use a cookie jar.
    #[must_use]
    pub fn build_removal(&self) -> [Cookie<'static>; 2] {
        self.names().map(|name| {
            let cookie = self.cookie(name, "").max_age(time::Duration::ZERO);
            cookie.expires(OffsetDateTime::UNIX_EPOCH).build().into_owned()
        })
    }

    /// Returns all usable values of both cookies, including duplicates.
    ///
    /// Used by sign-out, which terminates all sessions that the request names.
    pub fn tokens_in<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = &'h str> {
        cookie_pairs(headers)
            .filter_map(|pair| self.names().iter().find_map(|name| cookie_value(pair, name)))
            .filter_map(|value| CookieValue::new(value).token())
    }

    /// Returns `true` if response headers set or clear one of the cookies.
    pub(super) fn sets_session_cookie(&self, headers: &HeaderMap) -> bool {
        headers.get_all(SET_COOKIE).iter().any(|line| {
            let pair = split_pairs(line.as_bytes()).next().unwrap_or_default();
            self.names().iter().any(|name| cookie_value(pair, name).is_some())
        })
    }

    fn cookie<'c>(&self, name: &'c str, value: &'c str) -> cookie::CookieBuilder<'c> {
        let cookie = Cookie::build((name, value)).http_only(true).same_site(self.same_site);
        cookie.partitioned(self.partitioned).secure(self.secure).path("/")
    }

    fn check(&self) -> Result<(), CookiePolicyError> {
        for name in self.names() {
            if name.is_empty() || !name.bytes().all(is_token_byte) {
                return Err(CookiePolicyError::IllegalName(name.to_owned()));
            }
            if name.len() > Self::MAX_NAME_LEN {
                return Err(CookiePolicyError::NameTooLong(name.to_owned()));
            }
            if !self.secure && has_secure_prefix(name) {
                return Err(CookiePolicyError::PrefixNeedsSecure(name.to_owned()));
            }
        }
        if self.access_name.eq_ignore_ascii_case(&self.refresh_name) {
            return Err(CookiePolicyError::SameName(self.access_name.clone()));
        }
        if !self.secure && self.same_site == SameSite::None {
            return Err(CookiePolicyError::SameSiteNoneNeedsSecure);
        }
        if self.partitioned && self.same_site != SameSite::None {
            return Err(CookiePolicyError::PartitionedNeedsSameSiteNone);
        }
        Ok(())
    }
}

impl Default for CookiePolicy {
    fn default() -> Self {
        Self {
            access_name: "__Host-access_token".to_owned(),
            refresh_name: "__Host-refresh_token".to_owned(),
            same_site: SameSite::Lax,
            secure: true,
            partitioned: false,
        }
    }
}

/// Reason why a [`CookiePolicy`] is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CookiePolicyError {
    /// The name is not a token (RFC 6265 section 4.1.1).
    #[error("{0:?} is not a legal cookie name: use letters, digits, `-` and `_`")]
    IllegalName(String),
    /// The name has more than 64 bytes. Browsers would drop the cookie together with a long token.
    #[error(
        "the cookie name {0:?} has more than {max} bytes: choose a shorter one",
        max = CookiePolicy::MAX_NAME_LEN
    )]
    NameTooLong(String),
    /// Without `SameSite=None`, cookies are not sent within pages of another site, so that there is nothing to partition.
    #[error("Partitioned needs SameSite=None: choose None, or turn Partitioned off")]
    PartitionedNeedsSameSiteNone,
    /// Browsers accept the prefixes `__Host-`, `__Secure-` and `__Http-` only with `Secure`.
    #[error("the cookie name {0:?} has a prefix that needs Secure: turn Secure on, or drop the prefix")]
    PrefixNeedsSecure(String),
    /// Both cookies have the same name, or differ only in case, which some servers ignore.
    #[error("both cookies are called {0:?}: give them different names")]
    SameName(String),
    /// Browsers accept `SameSite=None` only with `Secure`.
    #[error("SameSite=None needs Secure: turn Secure on, or choose Lax or Strict")]
    SameSiteNoneNeedsSecure,
}

/// A token contains octets that are not allowed in a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token contains octets that are not allowed in a cookie")]
pub struct IllegalToken;

/// A session cookie occurs more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session cookie occurs more than once")]
pub struct DuplicateCookie;

/// Both cookies of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCookies<'h> {
    /// The access token.
    pub access: CookieValue<'h>,
    /// The refresh token.
    pub refresh: CookieValue<'h>,
}

impl RequestCookies<'_> {
    /// Returns `true` if one of the cookies is present, usable or not.
    #[must_use]
    pub fn any(&self) -> bool {
        self.access != CookieValue::Absent || self.refresh != CookieValue::Absent
    }
}

/// One cookie of a request.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum CookieValue<'h> {
    /// The cookie is missing.
    #[default]
    Absent,
    /// The value of the cookie.
    Token(&'h str),
    /// The value cannot be a token: it is empty, too long or quoted, or contains octets that are not allowed
    /// in a cookie.
    Unusable,
}

impl<'h> CookieValue<'h> {
    /// Returns the value if it may be a token.
    #[must_use]
    pub fn token(self) -> Option<&'h str> {
        match self {
            Self::Token(token) => Some(token),
            Self::Absent | Self::Unusable => None,
        }
    }

    pub(super) fn from_bytes(value: Option<&'h [u8]>) -> Self {
        value.map_or(Self::Absent, Self::new)
    }

    fn new(value: &'h [u8]) -> Self {
        if value.len() > MAX_VALUE_LEN || !is_token(value) {
            return Self::Unusable;
        }
        str::from_utf8(value).map_or(Self::Unusable, Self::Token)
    }
}

impl std::fmt::Debug for CookieValue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::Token(_) => "Token(..)",
            Self::Unusable => "Unusable",
        })
    }
}

/// Returns `true` if the value consists of one or more cookie octets (RFC 6265 section 4.1.1).
fn is_token(value: &[u8]) -> bool {
    // No early exit, so that the loop is vectorised.
    let visible = |octet: u8| octet.is_ascii_graphic() & (octet != b';');
    let all_visible = value.iter().fold(true, |all, &octet| all & visible(octet));
    !value.is_empty() && all_visible && memchr::memchr3(b'"', b',', b'\\', value).is_none()
}

/// Returns `true` if browsers require `Secure` for the name. They ignore case (RFC 6265bis section 5.4).
fn has_secure_prefix(name: &str) -> bool {
    ["__Host-", "__Secure-", "__Http-"]
        .iter()
        .any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
}

#[expect(clippy::expect_used, reason = "names and values are checked to be visible ASCII")]
fn header_value(cookie: &Cookie<'_>) -> HeaderValue {
    let mut value = HeaderValue::try_from(cookie.to_string()).expect("a cookie of visible ASCII");
    // Hides the token in Debug output of the headers.
    value.set_sensitive(true);
    value
}

const MIN_MAX_AGE: Duration = Duration::from_secs(1);
const MAX_MAX_AGE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// Maximum length of a cookie's name and value that browsers store (RFC 6265bis section 5.6).
const MAX_VALUE_LEN: usize = 4096;

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let line = |bytes: &&[u8]| (COOKIE, HeaderValue::from_bytes(bytes).unwrap());
        lines.iter().map(line).collect()
    }

    fn read(lines: &[&[u8]]) -> Result<(Option<String>, Option<String>), DuplicateCookie> {
        let headers = headers(lines);
        let owned = |value: CookieValue<'_>| match value {
            CookieValue::Absent => None,
            CookieValue::Token(token) => Some(token.to_owned()),
            CookieValue::Unusable => Some("(unusable)".to_owned()),
        };
        let cookies = CookiePolicy::insecure_for_loopback().read(&headers)?;
        Ok((owned(cookies.access), owned(cookies.refresh)))
    }

    fn read_access(line: &[u8]) -> Option<String> {
        read(&[line]).unwrap().0
    }

    #[test]
    fn reads_both_among_others() {
        let both = Ok((Some("a.b-c_d".to_owned()), Some("r".to_owned())));
        assert_eq!(read(&[b"x=1; access_token=a.b-c_d; y; refresh_token=r"]), both);
        assert_eq!(read(&[b"refresh_token=r;access_token = a.b-c_d\t;"]), both);
        assert_eq!(read(&[b"refresh_token=r", b"x=1", b"access_token=a.b-c_d"]), both);
        assert_eq!(read(&[]), Ok((None, None)));
    }

    #[test]
    fn names_are_compared_as_they_are() {
        assert_eq!(read_access(b"Access_Token=a; xaccess_token=b; access_token_=c; access_token"), None);
    }

    #[test]
    fn a_quoted_neighbour_hides_nothing() {
        assert_eq!(read_access(br#"x="1; access_token=a; y="2"#), Some("a".to_owned()));
    }

    #[test]
    fn value_extends_to_the_semicolon() {
        assert_eq!(read_access(b"access_token=a=b=="), Some("a=b==".to_owned()));
    }

    #[test]
    fn duplicates_are_rejected_on_one_line_and_across_lines() {
        assert_eq!(read(&[b"access_token=a; access_token=a"]), Err(DuplicateCookie));
        assert_eq!(read(&[b"refresh_token=a", b"x=1; refresh_token="]), Err(DuplicateCookie));
    }

    #[test]
    fn illegal_values_are_unusable() {
        let line = |value: &[u8]| [b"access_token=", value].concat();
        let long = [b'a'; MAX_VALUE_LEN + 1];
        for value in [b"".as_slice(), br#""a""#, b"a b", b"a,b", br"a\b", b"a\tb", b"\xff", &long] {
            assert_eq!(read_access(&line(value)).as_deref(), Some("(unusable)"), "{}", value.escape_ascii());
        }
        assert!(read_access(&line(&long[1..])).is_some_and(|value| value.len() == MAX_VALUE_LEN));
    }

    #[test]
    fn debug_shows_no_token() {
        let headers = headers(&[b"access_token=hush"]);
        let cookies = CookiePolicy::insecure_for_loopback().read(&headers);
        assert!(!format!("{cookies:?}").contains("hush"));
        let set = CookiePolicy::default().set("hush", "hush", Duration::from_secs(1)).unwrap();
        assert!(!format!("{set:?}").contains("hush"));
    }

    #[test]
    fn set_cookie_has_all_attributes() {
        let set = CookiePolicy::default().set("a.b", "r", Duration::from_secs(1209)).unwrap();
        insta::assert_snapshot!(lines(&set), @"
        __Host-access_token=a.b; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=1209
        __Host-refresh_token=r; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=1209
        ");
        insta::assert_snapshot!(lines(&CookiePolicy::default().clear()), @"
        __Host-access_token=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT
        __Host-refresh_token=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT
        ");
        let strict = CookiePolicy::new("a", "r", SameSite::Strict, false).unwrap();
        insta::assert_snapshot!(lines(&strict.set("x", "y", Duration::from_secs(1)).unwrap()), @"
        a=x; HttpOnly; SameSite=Strict; Path=/; Max-Age=1
        r=y; HttpOnly; SameSite=Strict; Path=/; Max-Age=1
        ");
        let partitioned = CookiePolicy::new("a", "r", SameSite::None, true).unwrap();
        let partitioned = partitioned.with_partitioned(true).unwrap();
        insta::assert_snapshot!(lines(&partitioned.set("x", "y", Duration::from_secs(1)).unwrap()), @"
        a=x; HttpOnly; SameSite=None; Partitioned; Secure; Path=/; Max-Age=1
        r=y; HttpOnly; SameSite=None; Partitioned; Secure; Path=/; Max-Age=1
        ");
        insta::assert_snapshot!(lines(&partitioned.clear()), @"
        a=; HttpOnly; SameSite=None; Partitioned; Secure; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT
        r=; HttpOnly; SameSite=None; Partitioned; Secure; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT
        ");
    }

    #[test]
    fn max_age_neither_clears_nor_outlives_400_days() {
        let max_age = |age| {
            let [access, _] = CookiePolicy::insecure_for_loopback().set("a", "r", age).unwrap();
            access.to_str().unwrap().rsplit_once('=').unwrap().1.to_owned()
        };
        assert_eq!(max_age(Duration::ZERO), "1");
        assert_eq!(max_age(Duration::MAX), "34560000");
    }

    #[test]
    fn illegal_token_is_rejected() {
        let policy = CookiePolicy::default();
        for illegal in ["a; Domain=example.org", "", "a\r\nSet-Cookie: x=y", "é"] {
            assert_eq!(policy.set(illegal, "r", Duration::from_secs(1)), Err(IllegalToken));
            assert_eq!(policy.set("a", illegal, Duration::from_secs(1)), Err(IllegalToken));
        }
    }

    #[test]
    fn tokens_in_includes_duplicates() {
        let headers = headers(&[b"access_token=a; refresh_token=r; x=1", b"refresh_token=s; access_token="]);
        let all: Vec<_> = CookiePolicy::insecure_for_loopback().tokens_in(&headers).collect();
        assert_eq!(all, ["a", "r", "s"]);
    }

    #[test]
    fn invalid_policies_are_rejected() {
        let too_long = "r".repeat(CookiePolicy::MAX_NAME_LEN + 1);
        let error = |access, refresh, same_site, secure| {
            CookiePolicy::new(access, refresh, same_site, secure).unwrap_err().to_string()
        };
        insta::assert_snapshot!(error("a b", "r", SameSite::Lax, true), @r#""a b" is not a legal cookie name: use letters, digits, `-` and `_`"#);
        insta::assert_snapshot!(error("a", "", SameSite::Lax, true), @r#""" is not a legal cookie name: use letters, digits, `-` and `_`"#);
        insta::assert_snapshot!(error("a", &too_long, SameSite::Lax, true), @r#"the cookie name "rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr" has more than 64 bytes: choose a shorter one"#);
        insta::assert_snapshot!(error("a", "__host-r", SameSite::Lax, false), @r#"the cookie name "__host-r" has a prefix that needs Secure: turn Secure on, or drop the prefix"#);
        insta::assert_snapshot!(error("a", "A", SameSite::Lax, true), @r#"both cookies are called "a": give them different names"#);
        insta::assert_snapshot!(error("a", "r", SameSite::None, false), @"SameSite=None needs Secure: turn Secure on, or choose Lax or Strict");
        let lax = CookiePolicy::default().with_partitioned(true).unwrap_err();
        insta::assert_snapshot!(lax, @"Partitioned needs SameSite=None: choose None, or turn Partitioned off");
    }

    /// The longest access token of `Tokens`, with the longest name.
    #[test]
    fn browsers_accept_the_longest_cookie() {
        let name = "a".repeat(CookiePolicy::MAX_NAME_LEN);
        let policy = CookiePolicy::new(name, "r", SameSite::Lax, true).unwrap();
        let [access, _] = policy.build(&"t".repeat(4_000), "r", Duration::from_secs(1));
        assert!(access.name().len() + access.value().len() <= MAX_VALUE_LEN);
    }

    #[test]
    fn built_in_policies_pass_their_own_check() {
        assert_eq!(CookiePolicy::default().check(), Ok(()));
        assert_eq!(CookiePolicy::insecure_for_loopback().check(), Ok(()));
    }

    #[test]
    fn session_set_cookie_is_recognised() {
        let policy = CookiePolicy::insecure_for_loopback();
        let set = |line| {
            policy.sets_session_cookie(&[(SET_COOKIE, HeaderValue::from_static(line))].into_iter().collect())
        };
        assert!(set("access_token=; Max-Age=0"));
        assert!(set(" refresh_token =x"));
        assert!(!set("theme=dark; access_token=x"));
        assert!(!set("access_token"));
    }

    fn lines(values: &[HeaderValue; 2]) -> String {
        values.each_ref().map(|value| value.to_str().unwrap()).join("\n")
    }
}
