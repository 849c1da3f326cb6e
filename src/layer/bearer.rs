//! `Authorization: Bearer`, for clients that hold their tokens themselves.

use http::header::{AUTHORIZATION, HeaderMap};

/// The bearer token of a request (RFC 6750 section 2.1). `None` without one: other schemes aren't
/// looked at. `Some(None)` when what came can't be one.
pub(super) fn from_headers(headers: &HeaderMap) -> Option<Option<&str>> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let line = lines.next()?.as_bytes();
    if lines.next().is_some() {
        // A second line means that somebody on the way may have read the other one.
        return Some(None);
    }
    let end = line.iter().position(|&b| b == b' ').unwrap_or(line.len());
    let (scheme, credentials) = line.split_at(end);
    scheme.eq_ignore_ascii_case(b"Bearer").then(|| token(credentials.trim_ascii()))
}

fn token(credentials: &[u8]) -> Option<&str> {
    let legal = (1..=TOKEN_MAX).contains(&credentials.len()) && credentials.iter().all(u8::is_ascii_graphic);
    str::from_utf8(credentials).ok().filter(|_| legal)
}

/// Longer ones are refused unread.
const TOKEN_MAX: usize = 8192;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn one(line: &[u8]) -> Option<Option<String>> {
        let line = HeaderValue::from_bytes(line).unwrap();
        from_headers(&[(AUTHORIZATION, line)].into_iter().collect()).map(|token| token.map(str::to_owned))
    }

    #[test]
    fn the_scheme_has_no_case() {
        for line in [b"Bearer a.b".as_slice(), b"bearer a.b", b"BEARER   a.b"] {
            assert_eq!(one(line), Some(Some("a.b".to_owned())));
        }
    }

    #[test]
    fn other_schemes_are_not_looked_at() {
        for line in [b"Basic YTpi".as_slice(), b"Bearers a", b"", b"a.b"] {
            assert_eq!(one(line), None);
        }
        assert_eq!(from_headers(&HeaderMap::new()), None);
    }

    #[test]
    fn what_cannot_be_a_token_is_none() {
        let long = [b"Bearer ".as_slice(), &[b'a'; TOKEN_MAX + 1]].concat();
        for line in [b"Bearer".as_slice(), b"Bearer ", b"Bearer a b", b"Bearer \xff", &long] {
            assert_eq!(one(line), Some(None));
        }
    }

    #[test]
    fn two_lines_are_no_token() {
        let line = |value| (AUTHORIZATION, HeaderValue::from_static(value));
        let headers = [line("Bearer a"), line("Basic YTpi")].into_iter().collect();
        assert_eq!(from_headers(&headers), Some(None));
    }
}
