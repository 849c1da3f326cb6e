//! Message body length: `Content-Length` and `Transfer-Encoding` (RFC 9112, section 6).
//!
//! hyper delimits request bodies and rejects contradictory framing; `upstream/http1/` does so for responses.
//! Forwarded messages carry a canonical length, so that the next recipient cannot read it differently.

use axum_core::body::Body;
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http_body::Body as _;

/// Length of a body, as known before its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// Length in bytes.
    Known(u64),
    /// The message has no body.
    Empty,
    /// The body is streamed in chunks.
    Unknown,
}

impl BodyLength {
    pub(super) fn from_body(body: &Body) -> Self {
        match body.size_hint().exact() {
            _ if body.is_end_stream() => Self::Empty,
            Some(length) => Self::Known(length),
            None => Self::Unknown,
        }
    }
}

/// Returns `true` if the body has a transfer coding other than `chunked`.
///
/// hyper decodes `chunked` only. It would forward any other coding undecoded and unannounced.
pub(super) fn has_unsupported_coding(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
    let is_chunked = |line: &[u8]| line.trim_ascii().eq_ignore_ascii_case(b"chunked");
    lines.next().is_some_and(|line| !is_chunked(line)) || lines.next().is_some()
}

/// Parses a `Content-Length` value: digits only.
pub(super) fn parse_length(value: &[u8]) -> Option<u64> {
    // `u64::from_str` accepts a leading `+`.
    let digits = Some(value).filter(|value| value.iter().all(u8::is_ascii_digit))?;
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Replaces a repeated or non-canonical `Content-Length` by one canonical value.
///
/// h2 accepts such values.
pub(super) fn normalize_content_length(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let Some(first) = lines.next() else { return };
    if lines.next().is_none() && is_canonical(first) {
        return;
    }
    match parse_length(first) {
        Some(length) => _ = headers.insert(CONTENT_LENGTH, length.into()),
        None => _ = headers.remove(CONTENT_LENGTH),
    }
}

/// Returns `true` if the value is canonical: digits only, without leading zeros.
pub(super) fn is_canonical(value: &[u8]) -> bool {
    value == b"0" || !value.starts_with(b"0") && value.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::test_support::lines;

    #[test]
    fn chunked_is_the_only_supported_coding() {
        for plain in [&[][..], &["chunked"], &["Chunked "]] {
            assert!(!has_unsupported_coding(&lines(&TRANSFER_ENCODING, plain)), "{plain:?}");
        }
        for coded in [&["gzip, chunked"][..], &["gzip", "chunked"], &["chunked", "chunked"], &[""]] {
            assert!(has_unsupported_coding(&lines(&TRANSFER_ENCODING, coded)), "{coded:?}");
        }
    }

    #[test]
    fn content_length_is_digits_only() {
        for (value, number) in [("0", Some(0)), ("010", Some(10)), ("18446744073709551615", Some(u64::MAX))] {
            assert_eq!(parse_length(value.as_bytes()), number, "{value}");
        }
        for value in ["", "+1", "-1", " 1", "1.0", "0x1", "1,1", "18446744073709551616"] {
            assert_eq!(parse_length(value.as_bytes()), None, "{value}");
        }
        assert!(is_canonical(b"10") && !is_canonical(b"010") && !is_canonical(b"7, 7"));
    }
}
