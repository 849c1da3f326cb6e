//! The two cookies: read, set, cleared. Pure functions over headers.

use std::time::Duration;

use cookie::Cookie;
pub use cookie::SameSite;
use http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use time::OffsetDateTime;

use crate::http_headers::{cookie_pairs, cookie_value, split_pairs};

/// What the two session cookies are called, and with which attributes they are set.
///
/// They are always `HttpOnly`, with `Path=/` and no `Domain`. The default is what a browser guards
/// best: the prefix `__Host-`, `Secure`, `SameSite=Lax`.
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
}

impl CookiePolicy {
    /// A policy with these names and attributes.
    ///
    /// # Errors
    ///
    /// [`CookiePolicyError`], when browsers would refuse such cookies or confuse the two.
    pub fn new(
        access_name: impl Into<String>,
        refresh_name: impl Into<String>,
        same_site: SameSite,
        secure: bool,
    ) -> Result<Self, CookiePolicyError> {
        let policy =
            Self { access_name: access_name.into(), refresh_name: refresh_name.into(), same_site, secure };
        policy.check()?;
        Ok(policy)
    }

    /// For plain HTTP on the developer's own machine: `access_token` and `refresh_token`, without
    /// `Secure`.
    #[must_use]
    pub fn insecure_for_loopback() -> Self {
        Self {
            access_name: "access_token".to_owned(),
            refresh_name: "refresh_token".to_owned(),
            same_site: SameSite::Lax,
            secure: false,
        }
    }

    /// The names, that of the access token first.
    #[must_use]
    pub fn names(&self) -> [&str; 2] {
        [&self.access_name, &self.refresh_name]
    }

    /// Reads both cookies from all `Cookie` lines (HTTP/2 may send one for each cookie).
    ///
    /// # Errors
    ///
    /// [`DuplicateCookie`] if one of them came twice: nobody can tell which the server has set.
    pub fn read<'h>(&self, headers: &'h HeaderMap) -> Result<SessionCookies<'h>, DuplicateCookie> {
        let [access, refresh] = self.find(headers)?;
        Ok(SessionCookies {
            access: CookieValue::from_bytes(access),
            refresh: CookieValue::from_bytes(refresh),
        })
    }

    /// What came under the two names, whatever it is worth.
    pub(super) fn find<'h>(&self, headers: &'h HeaderMap) -> Result<[Option<&'h [u8]>; 2], DuplicateCookie> {
        let [mut access, mut refresh] = [None; 2];
        for pair in cookie_pairs(headers) {
            let (slot, value) = if let Some(value) = cookie_value(pair, &self.access_name) {
                (&mut access, value)
            } else if let Some(value) = cookie_value(pair, &self.refresh_name) {
                (&mut refresh, value)
            } else {
                continue;
            };
            if slot.replace(value).is_some() {
                return Err(DuplicateCookie);
            }
        }
        Ok([access, refresh])
    }

    /// Whether one of the two is in a request, usable or not.
    #[must_use]
    pub fn present_in(&self, headers: &HeaderMap) -> bool {
        self.find(headers).map_or(true, |found| found.iter().any(Option::is_some))
    }

    /// Both `Set-Cookie` values for fresh tokens, the access token's first.
    ///
    /// They live for `max_age`, at least a second and at most 400 days (RFC 6265bis section 5.5).
    ///
    /// # Errors
    ///
    /// [`IllegalToken`] when a token holds anything but cookie octets, which
    /// [`RefreshedSession`](super::RefreshedSession) forbids.
    pub fn set(
        &self,
        access_token: &str,
        refresh_token: &str,
        max_age: Duration,
    ) -> Result<[HeaderValue; 2], IllegalToken> {
        let legal = |token: &str| is_token(token.as_bytes());
        if !legal(access_token) || !legal(refresh_token) {
            return Err(IllegalToken);
        }
        Ok(self.build(access_token, refresh_token, max_age).each_ref().map(header_value))
    }

    /// Both `Set-Cookie` values that make a browser forget the tokens, in the same order.
    #[must_use]
    pub fn clear(&self) -> [HeaderValue; 2] {
        self.build_removal().each_ref().map(header_value)
    }

    /// What [`set`](Self::set) sets, as cookies: for handlers that use a cookie jar.
    #[must_use]
    pub fn build(&self, access_token: &str, refresh_token: &str, max_age: Duration) -> [Cookie<'static>; 2] {
        let max_age = max_age.clamp(MAX_AGE_MIN, MAX_AGE_MAX).as_secs();
        let max_age = time::Duration::seconds(i64::try_from(max_age).unwrap_or(0));
        [(&self.access_name, access_token), (&self.refresh_name, refresh_token)]
            .map(|(name, token)| self.cookie(name, token).max_age(max_age).build().into_owned())
    }

    /// What [`clear`](Self::clear) clears, as cookies: for handlers that use a cookie jar.
    #[must_use]
    pub fn build_removal(&self) -> [Cookie<'static>; 2] {
        self.names().map(|name| {
            let cookie = self.cookie(name, "").max_age(time::Duration::ZERO);
            cookie.expires(OffsetDateTime::UNIX_EPOCH).build().into_owned()
        })
    }

    /// All values that came under one of the two names, however often, as far as they may be tokens:
    /// for a sign-out, which ends whatever it finds.
    pub fn tokens_in<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = &'h str> {
        cookie_pairs(headers)
            .filter_map(|pair| self.names().iter().find_map(|name| cookie_value(pair, name)))
            .filter_map(|value| CookieValue::new(value).token())
    }

    /// Whether these response headers set or clear one of the two already.
    pub(super) fn sets_session_cookie(&self, headers: &HeaderMap) -> bool {
        headers.get_all(SET_COOKIE).iter().any(|line| {
            let pair = split_pairs(line.as_bytes()).next().unwrap_or_default();
            self.names().iter().any(|name| cookie_value(pair, name).is_some())
        })
    }

    fn cookie<'c>(&self, name: &'c str, value: &'c str) -> cookie::CookieBuilder<'c> {
        Cookie::build((name, value)).http_only(true).same_site(self.same_site).secure(self.secure).path("/")
    }

    fn check(&self) -> Result<(), CookiePolicyError> {
        for name in self.names() {
            if name.is_empty() || !name.bytes().all(is_name_octet) {
                return Err(CookiePolicyError::IllegalName { name: name.to_owned() });
            }
            if !self.secure && has_secure_prefix(name) {
                return Err(CookiePolicyError::PrefixNeedsSecure { name: name.to_owned() });
            }
        }
        if self.access_name.eq_ignore_ascii_case(&self.refresh_name) {
            return Err(CookiePolicyError::SameName { name: self.access_name.clone() });
        }
        if !self.secure && self.same_site == SameSite::None {
            return Err(CookiePolicyError::SameSiteNoneNeedsSecure);
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
        }
    }
}

/// Why a [`CookiePolicy`] can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CookiePolicyError {
    /// The name isn't a token as RFC 6265 section 4.1.1 wants it.
    #[error("{name:?} is not a legal cookie name: use letters, digits, `-` and `_`")]
    IllegalName {
        /// The name.
        name: String,
    },
    /// Browsers take the prefixes `__Host-`, `__Secure-` and `__Http-` only with `Secure`.
    #[error("the cookie name {name:?} has a prefix that needs Secure: turn Secure on, or drop the prefix")]
    PrefixNeedsSecure {
        /// The name.
        name: String,
    },
    /// Both cookies have one name, or differ only in case, which not every server tells apart.
    #[error("both cookies are called {name:?}: give them different names")]
    SameName {
        /// The name.
        name: String,
    },
    /// Browsers take `SameSite=None` only with `Secure`.
    #[error("SameSite=None needs Secure: turn Secure on, or choose Lax or Strict")]
    SameSiteNoneNeedsSecure,
}

/// A token that no cookie can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token holds octets that no cookie may hold")]
pub struct IllegalToken;

/// One of the session cookies came more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session cookie came more than once")]
pub struct DuplicateCookie;

/// Both cookies as a request brought them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCookies<'h> {
    /// The access token.
    pub access: CookieValue<'h>,
    /// The refresh token.
    pub refresh: CookieValue<'h>,
}

impl SessionCookies<'_> {
    /// Whether any of the two came, usable or not.
    #[must_use]
    pub fn any(&self) -> bool {
        self.access != CookieValue::Absent || self.refresh != CookieValue::Absent
    }
}

/// One cookie as a request brought it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum CookieValue<'h> {
    /// It did not come.
    #[default]
    Absent,
    /// Its value, as it came.
    Token(&'h str),
    /// It came, but no server of ours can have set this value: it is empty, too long, quoted, or
    /// holds octets that no cookie may hold.
    Unusable,
}

impl<'h> CookieValue<'h> {
    /// The value, if it may be a token.
    #[must_use]
    pub fn token(self) -> Option<&'h str> {
        match self {
            Self::Token(token) => Some(token),
            Self::Absent | Self::Unusable => None,
        }
    }

    /// The cookie of this value, if it came.
    pub(super) fn from_bytes(value: Option<&'h [u8]>) -> Self {
        value.map_or(Self::Absent, Self::new)
    }

    fn new(value: &'h [u8]) -> Self {
        if value.len() > VALUE_MAX || !is_token(value) {
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

/// Whether it is one or more cookie octets (RFC 6265 section 4.1.1).
fn is_token(value: &[u8]) -> bool {
    // All of it, without an early end: so many octets are looked at at once.
    let visible = |octet: u8| octet.is_ascii_graphic() & (octet != b';');
    let all_visible = value.iter().fold(true, |all, &octet| all & visible(octet));
    !value.is_empty() && all_visible && memchr::memchr3(b'"', b',', b'\\', value).is_none()
}

/// A `tchar` of RFC 9110 section 5.6.2.
fn is_name_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
}

/// Browsers compare these without regard to case (RFC 6265bis section 5.4).
fn has_secure_prefix(name: &str) -> bool {
    ["__Host-", "__Secure-", "__Http-"]
        .iter()
        .any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
}

#[expect(clippy::expect_used, reason = "names and values are checked to be visible ASCII")]
fn header_value(cookie: &Cookie<'_>) -> HeaderValue {
    let mut value = HeaderValue::try_from(cookie.to_string()).expect("a cookie of visible ASCII");
    // Keeps the token out of every Debug of the headers.
    value.set_sensitive(true);
    value
}

const MAX_AGE_MIN: Duration = Duration::from_secs(1);
const MAX_AGE_MAX: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// What browsers keep at most of name and value together (RFC 6265bis section 5.6).
const VALUE_MAX: usize = 4096;

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

    fn one(line: &[u8]) -> Option<String> {
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
        assert_eq!(one(b"Access_Token=a; xaccess_token=b; access_token_=c; access_token"), None);
    }

    #[test]
    fn a_quoted_neighbour_hides_nothing() {
        assert_eq!(one(br#"x="1; access_token=a; y="2"#), Some("a".to_owned()));
    }

    #[test]
    fn the_value_goes_to_the_semicolon() {
        assert_eq!(one(b"access_token=a=b=="), Some("a=b==".to_owned()));
    }

    #[test]
    fn duplicates_are_noticed_on_one_line_and_across() {
        assert_eq!(read(&[b"access_token=a; access_token=a"]), Err(DuplicateCookie));
        assert_eq!(read(&[b"refresh_token=a", b"x=1; refresh_token="]), Err(DuplicateCookie));
    }

    #[test]
    fn illegal_values_are_unusable() {
        let long = [b"access_token=".as_slice(), &[b'a'; VALUE_MAX + 1]].concat();
        for line in [b"access_token=".as_slice(), br#"access_token="a""#, b"access_token=a b", &long] {
            assert_eq!(one(line).as_deref(), Some("(unusable)"), "{}", line.escape_ascii());
        }
        for line in
            [b"access_token=a,b".as_slice(), br"access_token=a\b", b"access_token=\xff", b"access_token=a\tb"]
        {
            assert_eq!(one(line).as_deref(), Some("(unusable)"), "{}", line.escape_ascii());
        }
        assert!(one(&long[..long.len() - 1]).is_some_and(|value| value.len() == VALUE_MAX));
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
    fn set_cookie_to_the_letter() {
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
    fn a_token_can_smuggle_no_attribute() {
        let policy = CookiePolicy::default();
        for illegal in ["a; Domain=example.org", "", "a\r\nSet-Cookie: x=y", "é"] {
            assert_eq!(policy.set(illegal, "r", Duration::from_secs(1)), Err(IllegalToken));
            assert_eq!(policy.set("a", illegal, Duration::from_secs(1)), Err(IllegalToken));
        }
    }

    #[test]
    fn all_finds_every_copy() {
        let headers = headers(&[b"access_token=a; refresh_token=r; x=1", b"refresh_token=s; access_token="]);
        let all: Vec<_> = CookiePolicy::insecure_for_loopback().tokens_in(&headers).collect();
        assert_eq!(all, ["a", "r", "s"]);
    }

    #[test]
    fn impossible_policies_are_refused() {
        let error = |access, refresh, same_site, secure| {
            CookiePolicy::new(access, refresh, same_site, secure).unwrap_err().to_string()
        };
        insta::assert_snapshot!(error("a b", "r", SameSite::Lax, true), @r#""a b" is not a legal cookie name: use letters, digits, `-` and `_`"#);
        insta::assert_snapshot!(error("a", "", SameSite::Lax, true), @r#""" is not a legal cookie name: use letters, digits, `-` and `_`"#);
        insta::assert_snapshot!(error("a", "__host-r", SameSite::Lax, false), @r#"the cookie name "__host-r" has a prefix that needs Secure: turn Secure on, or drop the prefix"#);
        insta::assert_snapshot!(error("a", "A", SameSite::Lax, true), @r#"both cookies are called "a": give them different names"#);
        insta::assert_snapshot!(error("a", "r", SameSite::None, false), @"SameSite=None needs Secure: turn Secure on, or choose Lax or Strict");
    }

    #[test]
    fn built_in_policies_pass_their_own_check() {
        assert_eq!(CookiePolicy::default().check(), Ok(()));
        assert_eq!(CookiePolicy::insecure_for_loopback().check(), Ok(()));
    }

    #[test]
    fn our_own_set_cookie_is_recognised() {
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
