//! Hop-by-hop headers, which apply to a single connection (RFC 9110, section 7.6.1).

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, TE};

use super::reserved_headers::{eq_cgi_name, length_bit, remove_matching};
use crate::http_headers;

/// Removes the hop-by-hop headers, other spellings of `Content-Length`, and every header that `Connection` nominates.
pub(super) fn remove(headers: &mut HeaderMap) {
    for name in connection_headers(headers) {
        headers.remove(name);
    }
    remove_matching(headers, |name| *name != CONTENT_LENGTH && is_framing(name.as_str()));
}

/// Returns `true` for a name that is hop-by-hop even if `Connection` does not nominate it.
///
/// CGI-like applications read `Transfer_Encoding` as the same name, so every spelling counts.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|hop_by_hop| eq_cgi_name(hop_by_hop, name))
}

/// Returns `true` for a name that is hop-by-hop or `Content-Length`, in any spelling.
pub(super) fn is_framing(name: &str) -> bool {
    // Most other names differ in the first letter or in length.
    let initial = name.as_bytes().first().copied().unwrap_or_default();
    INITIALS & letter_bit(initial) != 0
        && LENGTHS & length_bit(name) != 0
        && (is_hop_by_hop(name) || eq_cgi_name(CONTENT_LENGTH_NAME, name))
}

/// Returns `true` if `TE` accepts trailers. No other `TE` member applies beyond this hop.
pub(super) fn accepts_trailers(headers: &HeaderMap) -> bool {
    http_headers::list_contains(headers, &TE, "trailers")
}

/// Returns the headers that `Connection` nominates.
pub(super) fn connection_headers(headers: &HeaderMap) -> Vec<HeaderName> {
    http_headers::list_elements(headers, &CONNECTION)
        .filter(|token| !CONNECTION_OPTIONS.iter().any(|option| token.eq_ignore_ascii_case(option)))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .collect()
}

/// `Connection` options that are not header names.
const CONNECTION_OPTIONS: [&[u8]; 2] = [b"close", b"keep-alive"];

/// The first letters of [`HOP_BY_HOP`] and `Content-Length`, a bit each.
const INITIALS: u32 =
    letter_bit(b'c') | letter_bit(b'k') | letter_bit(b'p') | letter_bit(b't') | letter_bit(b'u');

/// The lengths of these names, a bit each.
const LENGTHS: u64 = {
    let mut lengths = length_bit(CONTENT_LENGTH_NAME);
    let mut index = 0;
    while index < HOP_BY_HOP.len() {
        lengths |= length_bit(HOP_BY_HOP[index]);
        index += 1;
    }
    lengths
};

const CONTENT_LENGTH_NAME: &str = "content-length";

/// Returns the same bit for both cases of a letter. Few other bytes share it.
const fn letter_bit(byte: u8) -> u32 {
    1 << (byte & 31)
}

/// Names of the hop-by-hop headers.
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
    use crate::proxy::test_support::headers;

    #[test]
    fn nominated_headers_are_removed_in_any_line_and_case() {
        let mut fields = headers(&[
            ("connection", "close, X-One ,,"),
            ("connection", "x-TWO,not a name"),
            ("x-one", "1"),
            ("x-one", "2"),
            ("x-two", "1"),
            ("x-three", "1"),
        ]);
        remove(&mut fields);
        assert_eq!(fields.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-three"]);
    }

    #[test]
    fn initials_are_those_of_all_names() {
        assert!(HOP_BY_HOP.iter().chain(&["content-length"]).all(|name| is_framing(name)));
        assert!(HOP_BY_HOP.iter().all(|name| is_framing(&name.to_ascii_uppercase())));
    }

    #[test]
    fn standard_hop_by_hop_headers_are_removed() {
        let mut fields = headers(&HOP_BY_HOP.map(|name| (name, "x")));
        fields.insert("trailer", HeaderValue::from_static("x"));
        remove(&mut fields);
        assert_eq!(fields.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["trailer"]);
    }

    #[test]
    fn te_trailers_is_found_among_codings() {
        assert!(accepts_trailers(&headers(&[("te", "gzip;q=0.5"), ("te", "deflate , Trailers")])));
        assert!(!accepts_trailers(&headers(&[("te", "gzip")])));
    }
}
