//! Separation of the gateway's cookies from those of the upstreams.

use std::borrow::Cow;

use http::HeaderValue;
use http::header::{COOKIE, HeaderMap, SET_COOKIE};

use crate::http_headers::{cookie_name, split_pairs};

/// Names of the cookies that upstreams neither receive nor set.
#[derive(Clone, Debug, Default)]
pub struct ReservedCookies {
    /// The names. They are compared exactly, since cookie names are case-sensitive.
    pub names: Vec<String>,
}

impl ReservedCookies {
    /// Removes the reserved cookies from request headers. Other cookies keep their bytes and order.
    pub fn remove_from_request(&self, headers: &mut HeaderMap) {
        let kept: Vec<HeaderValue> = self.without_reserved(headers).map(Cow::into_owned).collect();
        headers.remove(COOKIE);
        for line in kept {
            headers.append(COOKIE, line);
        }
    }

    /// Returns the `Cookie` lines without the reserved cookies. Lines with nothing else are left out.
    ///
    /// Most browsers send a single line.
    pub(super) fn without_reserved<'h>(
        &self,
        headers: &'h HeaderMap,
    ) -> impl Iterator<Item = Cow<'h, HeaderValue>> {
        headers.get_all(COOKIE).iter().filter_map(|line| {
            if split_pairs(line.as_bytes()).any(|pair| self.contains(cookie_name(pair))) {
                self.strip_line(line).map(Cow::Owned)
            } else {
                Some(Cow::Borrowed(line))
            }
        })
    }

    /// Removes `Set-Cookie` lines of reserved cookies from response headers. Other lines keep their order.
    pub(super) fn remove_from_response(&self, headers: &mut HeaderMap) {
        let is_reserved = |line: &HeaderValue| {
            split_pairs(line.as_bytes()).next().is_some_and(|pair| self.contains(effective_name(pair)))
        };
        if !headers.get_all(SET_COOKIE).iter().any(is_reserved) {
            return;
        }
        let kept: Vec<HeaderValue> =
            headers.get_all(SET_COOKIE).iter().filter(|line| !is_reserved(line)).cloned().collect();
        headers.remove(SET_COOKIE);
        for line in kept {
            headers.append(SET_COOKIE, line);
        }
    }

    /// Returns a `Cookie` line without the reserved cookies, or `None` if no cookie remains.
    fn strip_line(&self, line: &HeaderValue) -> Option<HeaderValue> {
        let kept: Vec<&[u8]> =
            split_pairs(line.as_bytes()).filter(|pair| !self.contains(cookie_name(pair))).collect();
        if kept.is_empty() {
            return None;
        }
        let joined = kept.join(&b';');
        let rest = joined.trim_ascii();
        let is_empty = rest.iter().all(|byte| matches!(byte, b';' | b' ' | b'\t'));
        if is_empty { None } else { HeaderValue::from_bytes(rest).ok() }
    }

    fn contains(&self, name: &[u8]) -> bool {
        self.names.iter().any(|reserved| reserved.as_bytes() == name)
    }
}

/// Returns the name under which a browser sends a cookie back, given its name-value pair.
///
/// A browser returns a nameless cookie (`=name=value`) as `name=value`, which would be read as a reserved
/// cookie.
fn effective_name(pair: &[u8]) -> &[u8] {
    let start = pair.iter().position(|&byte| !matches!(byte, b'=' | b' ' | b'\t')).unwrap_or(pair.len());
    cookie_name(&pair[start..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::test_support::lines;

    fn reserved_cookies() -> ReservedCookies {
        ReservedCookies { names: vec!["__Host-a".to_owned(), "r".to_owned()] }
    }

    fn values(headers: &HeaderMap) -> Vec<&str> {
        headers.values().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn reserved_cookies_are_removed_from_requests() {
        for (sent, forwarded) in [
            (&["__Host-a=1"][..], &[][..]),
            (&["__Host-a=1; r=2"], &[]),
            (&["r=1;;  "], &[]),
            (&["x=1; __Host-a=2; y=3"], &["x=1; y=3"]),
            (&["__Host-a=2; y=3"], &["y=3"]),
            (&["x=1; __Host-a=2"], &["x=1"]),
            (&["x=1;r=2;y=3"], &["x=1;y=3"]),
            (&["x=\"; r=1; \""], &["x=\"; \""]),
            (&["x=1", "r=1", "y=2; r=3"], &["x=1", "y=2"]),
            (&["r =1; x=1"], &["x=1"]),
            (&["r; x"], &["x"]),
            (&["R=1; __host-a=2; rr=3"], &["R=1; __host-a=2; rr=3"]),
            (&[" x = 1 ;; y "], &[" x = 1 ;; y "]),
        ] {
            let mut headers = lines(&COOKIE, sent);
            reserved_cookies().remove_from_request(&mut headers);
            assert_eq!(values(&headers), forwarded, "{sent:?}");
        }
    }

    #[test]
    fn set_cookie_lines_with_a_reserved_effective_name_are_removed() {
        let named = ["__Host-a=1; Path=/; Secure", "r=", "r", "  r\t = 1"];
        let nameless = ["=r=1", "= r=1", "==r=1", "=r", " =\tr =1; Path=/"];
        for line in [&named[..], &nameless].concat() {
            let mut headers = lines(&SET_COOKIE, &["x=1", line, "y=r=2; Path=/"]);
            reserved_cookies().remove_from_response(&mut headers);
            assert_eq!(values(&headers), ["x=1", "y=r=2; Path=/"], "{line}");
        }
    }

    #[test]
    fn non_ascii_cookie_bytes_are_preserved() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_bytes(b"x=\xff\xfe; r=1").unwrap());
        reserved_cookies().remove_from_request(&mut headers);
        assert_eq!(headers[COOKIE].as_bytes(), b"x=\xff\xfe");
    }
}
