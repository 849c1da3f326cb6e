//! Keeping our cookies from upstreams, and upstreams from our cookies.

use std::borrow::Cow;

use http::HeaderValue;
use http::header::{COOKIE, HeaderMap, SET_COOKIE};

use crate::http_headers::{cookie_name, split_pairs};

/// The cookie names that upstreams neither see nor set.
#[derive(Clone, Debug, Default)]
pub struct ReservedCookies {
    /// The names, compared exactly: cookie names are case-sensitive.
    pub names: Vec<String>,
}

impl ReservedCookies {
    /// Takes ours out of a request's headers. The others stay as they are, in their order.
    pub fn remove_from_request(&self, headers: &mut HeaderMap) {
        let kept: Vec<HeaderValue> = self.without_reserved(headers).map(Cow::into_owned).collect();
        headers.remove(COOKIE);
        for line in kept {
            headers.append(COOKIE, line);
        }
    }

    /// A request's cookies without ours, line by line. Most browsers send one, with nothing but ours.
    pub(super) fn without_reserved<'h>(
        &self,
        headers: &'h HeaderMap,
    ) -> impl Iterator<Item = Cow<'h, HeaderValue>> {
        headers.get_all(COOKIE).iter().filter_map(|line| {
            let ours = split_pairs(line.as_bytes()).any(|pair| self.has(cookie_name(pair)));
            if ours { self.rest_of(line).map(Cow::Owned) } else { Some(Cow::Borrowed(line)) }
        })
    }

    /// Takes cookies of our names out of a response. The others stay as they are, in their order.
    pub(super) fn remove_from_response(&self, headers: &mut HeaderMap) {
        let reserved = |line: &HeaderValue| {
            split_pairs(line.as_bytes()).next().is_some_and(|pair| self.has(effective_name(pair)))
        };
        if !headers.get_all(SET_COOKIE).iter().any(reserved) {
            return;
        }
        let kept: Vec<HeaderValue> =
            headers.get_all(SET_COOKIE).iter().filter(|line| !reserved(line)).cloned().collect();
        headers.remove(SET_COOKIE);
        for line in kept {
            headers.append(SET_COOKIE, line);
        }
    }

    /// A `Cookie` line without ours; `None` if nothing is left.
    fn rest_of(&self, line: &HeaderValue) -> Option<HeaderValue> {
        let kept: Vec<&[u8]> =
            split_pairs(line.as_bytes()).filter(|pair| !self.has(cookie_name(pair))).collect();
        if kept.is_empty() {
            return None;
        }
        let rest = kept.join(&b';');
        let rest = rest.trim_ascii();
        let nothing = rest.iter().all(|byte| matches!(byte, b';' | b' ' | b'\t'));
        if nothing { None } else { HeaderValue::from_bytes(rest).ok() }
    }

    fn has(&self, name: &[u8]) -> bool {
        self.names.iter().any(|reserved| reserved.as_bytes() == name)
    }
}

/// The name under which a browser will send a cookie back, given its name-value pair.
///
/// One without a name (`=name=value`) comes back as `name=value`, and so would be read as ours.
fn effective_name(pair: &[u8]) -> &[u8] {
    let start = pair.iter().position(|&byte| !matches!(byte, b'=' | b' ' | b'\t')).unwrap_or(pair.len());
    cookie_name(&pair[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> ReservedCookies {
        ReservedCookies { names: vec!["__Host-a".to_owned(), "r".to_owned()] }
    }

    fn lines(name: http::HeaderName, lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), HeaderValue::from_static(line))).collect()
    }

    fn left(headers: &HeaderMap) -> Vec<&str> {
        headers.values().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn requests_lose_ours_and_nothing_else() {
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
            let mut headers = lines(COOKIE, sent);
            ours().remove_from_request(&mut headers);
            assert_eq!(left(&headers), forwarded, "{sent:?}");
        }
    }

    #[test]
    fn responses_lose_what_would_come_back_as_ours() {
        for line in [
            "__Host-a=1; Path=/; Secure",
            "r=",
            "r",
            "  r\t = 1",
            "=r=1",
            "= r=1",
            "==r=1",
            "=r",
            " =\tr =1; Path=/",
        ] {
            let mut headers = lines(SET_COOKIE, &["x=1", line, "y=r=2; Path=/"]);
            ours().remove_from_response(&mut headers);
            assert_eq!(left(&headers), ["x=1", "y=r=2; Path=/"], "{line}");
        }
    }

    #[test]
    fn bytes_beyond_ascii_are_kept() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_bytes(b"x=\xff\xfe; r=1").unwrap());
        ours().remove_from_request(&mut headers);
        assert_eq!(headers[COOKIE].as_bytes(), b"x=\xff\xfe");
    }
}
