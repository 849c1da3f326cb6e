//! `Authorization: Bearer`, for clients that store their tokens themselves.

use http::header::{AUTHORIZATION, HeaderMap};

/// Returns the bearer token of a request (RFC 6750 section 2.1).
///
/// `None` if there is no `Authorization` or it has another scheme. `Some(None)` if the token is malformed.
pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Option<&str>> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let line = lines.next()?.as_bytes();
    if lines.next().is_some() {
        // Servers on the way may have read the other line.
        return Some(None);
    }
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    let (scheme, credentials) = line.split_at(end);
    scheme.eq_ignore_ascii_case(b"Bearer").then(|| parse_token(credentials.trim_ascii()))
}

fn parse_token(credentials: &[u8]) -> Option<&str> {
    let is_legal =
        (1..=MAX_TOKEN_LEN).contains(&credentials.len()) && credentials.iter().all(u8::is_ascii_graphic);
    str::from_utf8(credentials).ok().filter(|_| is_legal)
}

/// Maximum length of a token, in bytes.
const MAX_TOKEN_LEN: usize = 8192;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parse_line(line: &[u8]) -> Option<Option<String>> {
        let line = HeaderValue::from_bytes(line).unwrap();
        from_headers(&[(AUTHORIZATION, line)].into_iter().collect()).map(|token| token.map(str::to_owned))
    }

    #[test]
    fn scheme_is_case_insensitive() {
        for line in [b"Bearer a.b".as_slice(), b"bearer a.b", b"BEARER   a.b"] {
            assert_eq!(parse_line(line), Some(Some("a.b".to_owned())));
        }
    }

    #[test]
    fn other_schemes_are_ignored() {
        for line in [b"Basic YTpi".as_slice(), b"Bearers a", b"", b"a.b"] {
            assert_eq!(parse_line(line), None);
        }
        assert_eq!(from_headers(&HeaderMap::new()), None);
    }

    #[test]
    fn malformed_tokens_are_none() {
        let long = [b"Bearer ".as_slice(), &[b'a'; MAX_TOKEN_LEN + 1]].concat();
        for line in [b"Bearer".as_slice(), b"Bearer ", b"Bearer a b", b"Bearer \xff", &long] {
            assert_eq!(parse_line(line), Some(None));
        }
    }

    #[test]
    fn repeated_authorization_is_malformed() {
        let line = |value| (AUTHORIZATION, HeaderValue::from_static(value));
        let headers = [line("Bearer a"), line("Basic YTpi")].into_iter().collect();
        assert_eq!(from_headers(&headers), Some(None));
    }
}
