//! The headers that concern one connection alone (RFC 9110, section 7.6.1): which they are, and removing
//! them.

use http::header::{CONNECTION, HeaderMap, HeaderName, TE};

use super::reserved_headers::remove_matching;

/// Removes them, and every header that `Connection` names.
pub(super) fn remove(headers: &mut HeaderMap) {
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    remove_matching(headers, |name| is_hop_by_hop(name.as_str()));
}

/// Whether a header, in lower case, concerns the connection whether `Connection` names it or not.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.contains(&name)
}

/// Whether `TE` says that trailers are welcome; its one value that may be handed on.
pub(super) fn accepts_trailers(headers: &HeaderMap) -> bool {
    let mut tokens = headers.get_all(TE).iter().flat_map(|line| tokens(line.as_bytes()));
    tokens.any(|token| token.eq_ignore_ascii_case(b"trailers"))
}

/// Whether `Connection` names this.
pub(super) fn connection_names(headers: &HeaderMap, name: &str) -> bool {
    connection_tokens(headers).any(|token| token.eq_ignore_ascii_case(name.as_bytes()))
}

/// The headers that `Connection` names.
pub(super) fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let names = connection_tokens(headers)
        .filter(|token| !CONNECTION_OPTIONS.iter().any(|state| token.eq_ignore_ascii_case(state)));
    names.filter_map(|token| HeaderName::from_bytes(token).ok()).collect()
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(CONNECTION).iter().flat_map(|line| tokens(line.as_bytes()))
}

/// The elements of a list (RFC 9110, section 5.6.1), empty ones too.
pub(super) fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Options of `Connection` that name no header.
const CONNECTION_OPTIONS: [&[u8]; 2] = [b"close", b"keep-alive"];

pub(super) const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn takes_what_connection_names_in_any_line_and_case() {
        let mut headers = headers(&[
            ("connection", "close, X-One ,,"),
            ("connection", "x-TWO,not a name"),
            ("x-one", "1"),
            ("x-one", "2"),
            ("x-two", "1"),
            ("x-three", "1"),
        ]);
        remove(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-three"]);
    }

    #[test]
    fn takes_the_standing_ones() {
        let mut headers: HeaderMap = HOP_BY_HOP
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("x")))
            .into_iter()
            .collect();
        headers.insert("trailer", HeaderValue::from_static("x"));
        remove(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["trailer"]);
    }

    #[test]
    fn finds_trailers_among_other_codings() {
        assert!(accepts_trailers(&headers(&[("te", "gzip;q=0.5"), ("te", "deflate , Trailers")])));
        assert!(!accepts_trailers(&headers(&[("te", "gzip")])));
    }
}
