//! What says how long a body is, made plain.
//!
//! hyper has found the body's end and refused what contradicts itself. What it lets through must not be
//! read in another way by whoever gets it next.

use http::HeaderValue;
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};

/// Whether the body is in a transfer coding besides chunks. hyper undoes no other, so what it hands on
/// would be taken for what it is not.
pub(super) fn is_coded(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
    let chunked = |line: &[u8]| line.trim_ascii().eq_ignore_ascii_case(b"chunked");
    lines.next().is_some_and(|line| !chunked(line)) || lines.next().is_some()
}

/// Leaves one thing that says how long the body is: chunks, or one number. hyper has seen that all
/// numbers are the same, and that chunks go before them (RFC 9112, section 6.3).
pub(super) fn make_plain(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
        return;
    }
    let mut lines = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let Some(length) = lines.next() else { return };
    if lines.next().is_none() && is_plain(length) {
        return;
    }
    let first = length.split(|&byte| byte == b',').next().map(<[u8]>::trim_ascii);
    match first.and_then(|first| str::from_utf8(first).ok()?.parse::<u64>().ok()) {
        Some(length) => _ = headers.insert(CONTENT_LENGTH, HeaderValue::from(length)),
        None => _ = headers.remove(CONTENT_LENGTH),
    }
}

fn is_plain(length: &[u8]) -> bool {
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
            assert!(!is_coded(&lines(&TRANSFER_ENCODING, plain)), "{plain:?}");
        }
        for coded in [&["gzip, chunked"][..], &["gzip", "chunked"], &["chunked", "chunked"], &[""]] {
            assert!(is_coded(&lines(&TRANSFER_ENCODING, coded)), "{coded:?}");
        }
    }

    #[test]
    fn a_length_is_written_once() {
        for (came, goes) in [
            (&[][..], None),
            (&["0"], Some("0")),
            (&["10"], Some("10")),
            (&["010"], Some("10")),
            (&["00"], Some("0")),
            (&["7", "7"], Some("7")),
            (&["7", "07"], Some("7")),
            (&["7, 7"], Some("7")),
        ] {
            let mut headers = lines(&CONTENT_LENGTH, came);
            make_plain(&mut headers);
            let left: Vec<_> = headers.values().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(left, Vec::from_iter(goes), "{came:?}");
        }
    }

    #[test]
    fn chunks_go_before_a_length() {
        let mut headers = lines(&CONTENT_LENGTH, &["7"]);
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        make_plain(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), [TRANSFER_ENCODING]);
    }
}
