//! What says how long a body is, made plain.
//!
//! hyper finds the end of a request's body and refuses what contradicts itself; `upstream/http1/` does so
//! for answers. What is let through must not be read in another way by whoever gets it next.

use axum_core::body::Body;
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http_body::Body as _;

/// What is known of a body's length before it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// In bytes.
    Known(u64),
    NoBody,
    Unknown,
}

impl BodyLength {
    pub(super) fn of(body: &Body) -> Self {
        match body.size_hint().exact() {
            _ if body.is_end_stream() => Self::NoBody,
            Some(length) => Self::Known(length),
            None => Self::Unknown,
        }
    }
}

/// Whether the body is in a transfer coding besides chunks. hyper undoes no other, so what it hands on
/// would be taken for what it is not.
pub(super) fn has_unsupported_coding(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
    let chunked = |line: &[u8]| line.trim_ascii().eq_ignore_ascii_case(b"chunked");
    lines.next().is_some_and(|line| !chunked(line)) || lines.next().is_some()
}

/// The number that a `Content-Length` is.
pub(super) fn length(value: &[u8]) -> Option<u64> {
    // Rust's numbers may have a sign.
    let digits = Some(value).filter(|value| value.iter().all(u8::is_ascii_digit))?;
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Leaves one number, where HTTP/2 was lenient.
pub(super) fn normalize_content_length(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let Some(first) = lines.next() else { return };
    if lines.next().is_none() && is_canonical(first) {
        return;
    }
    match length(first) {
        Some(length) => _ = headers.insert(CONTENT_LENGTH, length.into()),
        None => _ = headers.remove(CONTENT_LENGTH),
    }
}

/// Whether it is written as everybody writes it.
pub(super) fn is_canonical(length: &[u8]) -> bool {
    length == b"0" || !length.starts_with(b"0") && length.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn lines(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn chunks_are_the_only_coding() {
        for plain in [&[][..], &["chunked"], &["Chunked "]] {
            assert!(!has_unsupported_coding(&lines(&TRANSFER_ENCODING, plain)), "{plain:?}");
        }
        for coded in [&["gzip, chunked"][..], &["gzip", "chunked"], &["chunked", "chunked"], &[""]] {
            assert!(has_unsupported_coding(&lines(&TRANSFER_ENCODING, coded)), "{coded:?}");
        }
    }

    #[test]
    fn a_length_is_digits() {
        for (value, number) in [("0", Some(0)), ("010", Some(10)), ("18446744073709551615", Some(u64::MAX))] {
            assert_eq!(length(value.as_bytes()), number, "{value}");
        }
        for value in ["", "+1", "-1", " 1", "1.0", "0x1", "1,1", "18446744073709551616"] {
            assert_eq!(length(value.as_bytes()), None, "{value}");
        }
        assert!(is_canonical(b"10") && !is_canonical(b"010") && !is_canonical(b"7, 7"));
    }
}
