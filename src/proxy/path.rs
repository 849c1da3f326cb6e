//! Path validation, and path comparison with route prefixes.
//!
//! Applications read an ambiguous path in different ways, so it could pass the rules of one route and reach
//! what another route protects. Paths that are not in normal form are therefore rejected. All others are
//! forwarded byte for byte.

/// Reason for which a path is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPath {
    /// A backslash, plain or encoded. Some servers read it as a slash.
    #[error("the path contains a backslash")]
    Backslash,
    /// A `%` without two hexadecimal digits after it.
    #[error("the path contains an invalid percent-encoding")]
    BadEscape,
    /// A control character, plain or encoded.
    #[error("the path contains a control character")]
    Control,
    /// A `.` or `..` segment, plain or encoded, with or without `;` parameters.
    #[error("the path contains a `.` or `..` segment")]
    DotSegment,
    /// Two slashes with nothing, or only `;` parameters, between them.
    #[error("the path contains an empty segment")]
    EmptySegment,
    /// An encoded slash, on a route that does not allow it.
    #[error("the path contains an encoded slash")]
    EncodedSlash,
    /// The path does not begin with a slash.
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    /// A character of a request's path that is not ASCII and not percent-encoded (RFC 3986, section 3.3).
    #[error("the path contains a character that is not percent-encoded")]
    NotAscii,
    /// An overlong UTF-8 sequence, which lenient decoders read as a shorter character such as `/` (RFC 3629,
    /// section 10).
    #[error("the path contains an overlong UTF-8 sequence")]
    OverlongUtf8,
}

/// Checks that a path, without its query, is in normal form.
///
/// Double encoding is in normal form: `%252e` stands for the characters `%2e` and is forwarded unchanged.
///
/// ```
/// use sekisho::proxy::{BadPath, check_path};
///
/// assert_eq!(check_path("/a/%2E./b", false), Err(BadPath::DotSegment));
/// assert_eq!(check_path("/a%2Fb", false), Err(BadPath::EncodedSlash));
/// assert_eq!(check_path("/a%2Fb", true), Ok(()));
/// assert_eq!(check_path("/caf%C3%A9;v=1/%252e%252e/", false), Ok(()));
/// ```
///
/// # Errors
///
/// [`BadPath`] is the first problem found.
pub fn check(path: &str, allow_encoded_slash: bool) -> Result<(), BadPath> {
    if is_plain(path) {
        return Ok(());
    }
    if !path.starts_with('/') {
        return Err(BadPath::NotAbsolute);
    }
    for character in percent_decoded(path) {
        check_character(character, allow_encoded_slash)?;
    }
    check_utf8(path)?;
    check_segments(path)
}

/// Checks the path of a request, as [`check`] does, and that it is ASCII.
///
/// # Errors
///
/// [`BadPath`] is the first problem found.
pub fn check_request_path(path: &str, allow_encoded_slash: bool) -> Result<(), BadPath> {
    if path.is_ascii() { check(path, allow_encoded_slash) } else { Err(BadPath::NotAscii) }
}

/// Returns `true` if `path` is at or below `prefix`, in any spelling: percent-encoded or with `;` parameters.
pub(crate) fn is_at_or_below(prefix: &NormalizedPath, path: &str) -> bool {
    prefix_length(&prefix.0, path).is_some()
}

/// Returns `true` for a path that may have other spellings, which only [`is_at_or_below`] recognizes.
pub(crate) fn may_be_respelled(path: &str) -> bool {
    memchr::memchr2(b'%', b';', path.as_bytes()).is_some()
}

/// A path prefix in the form in which paths are compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NormalizedPath(Vec<u8>);

impl NormalizedPath {
    pub(crate) fn new(path: &str) -> Self {
        Self(normalize(path))
    }
}

/// Returns `true` for an absolute path of letters, digits and a few other characters, none of whose segments is empty
/// or begins with a dot.
///
/// Most paths are such. They are in normal form, and equal to what they are [normalized](normalize) to, except for a
/// trailing slash.
pub(super) fn is_plain(path: &str) -> bool {
    let mut follows_slash = false;
    let is_plain_byte = |byte: u8| {
        let is_plain = PLAIN_BYTES[usize::from(byte)] || (matches!(byte, b'/' | b'.') && !follows_slash);
        follows_slash = byte == b'/';
        is_plain
    };
    path.starts_with('/') && path.bytes().all(is_plain_byte)
}

/// The bytes that are plain after any other. A table, since the path of every request is checked.
const PLAIN_BYTES: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        bytes[byte as usize] =
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b':' | b'@');
        byte += 1;
    }
    bytes
};

/// Returns `true` if a [plain](is_plain) path is at or below a [normalized](normalize) prefix.
pub(super) fn is_plain_below(prefix: &[u8], path: &str) -> bool {
    path.as_bytes().strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Returns the length in bytes of the part of `path` that matches `prefix`, or `None` if the path is not at
/// or below the prefix. `prefix` must be [normalized](normalize).
pub(super) fn prefix_length(prefix: &[u8], path: &str) -> Option<usize> {
    let mut rest = normalized(path);
    let mut length = 0;
    for &expected in prefix {
        let character = rest.next().filter(|character| character.byte == expected)?;
        length = character.end;
    }
    rest.next().is_none_or(|next| next.byte == b'/').then_some(length)
}

/// Normalizes a path as the most lenient application reads it.
///
/// Percent-encodings are decoded, `;` parameters and a trailing slash are removed, and repeated slashes are
/// merged. Routes are compared in this form. Otherwise `/%61dmin` (equivalent by RFC 3986, section 6.2.2.2)
/// and `/admin;x` (equivalent in servlet containers) would bypass the rules of `/admin` and still be served
/// by its application.
pub(super) fn normalize(path: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = normalized(path).map(|character| character.byte).collect();
    if bytes.last() == Some(&b'/') {
        bytes.pop();
    }
    bytes
}

fn check_character(character: Character, allow_encoded_slash: bool) -> Result<(), BadPath> {
    match character {
        Character { byte: b'%', encoded: false, .. } => Err(BadPath::BadEscape),
        Character { byte: b'/', encoded: true, .. } if !allow_encoded_slash => Err(BadPath::EncodedSlash),
        Character { byte: b'\\', .. } => Err(BadPath::Backslash),
        Character { byte, .. } if byte.is_ascii_control() => Err(BadPath::Control),
        _ => Ok(()),
    }
}

/// Rejects overlong UTF-8 sequences, also those of five and six bytes, which UTF-8 once had.
///
/// Other sequences that are no UTF-8 are accepted: applications may use another encoding.
fn check_utf8(path: &str) -> Result<(), BadPath> {
    let bytes: Vec<u8> = percent_decoded(path).map(|character| character.byte).collect();
    let is_continuation = |byte: &u8| matches!(byte, 0x80..=0xbf);
    let is_overlong = |at: usize| {
        let (length, second) = match bytes[at] {
            0xc0 | 0xc1 => (2, 0xbf),
            0xe0 => (3, 0x9f),
            0xf0 => (4, 0x8f),
            0xf8 => (5, 0x87),
            0xfc => (6, 0x83),
            _ => return false,
        };
        let Some(rest) = bytes.get(at + 1..at + length) else { return false };
        rest.iter().all(is_continuation) && rest[0] <= second
    };
    if (0..bytes.len()).any(is_overlong) { Err(BadPath::OverlongUtf8) } else { Ok(()) }
}

/// Rejects empty and dot segments.
///
/// An encoded slash ends a segment too. Otherwise `%2f..%2f` would pass on routes that allow it.
fn check_segments(path: &str) -> Result<(), BadPath> {
    let mut name: Vec<u8> = Vec::new();
    let mut in_parameters = false;
    for character in percent_decoded(path).skip(1) {
        match character.byte {
            b'/' if name.is_empty() && !character.encoded => return Err(BadPath::EmptySegment),
            b'/' => {
                check_name(&name)?;
                name.clear();
                in_parameters = false;
            }
            b';' => in_parameters = true,
            byte if !in_parameters => name.push(byte),
            _ => {}
        }
    }
    check_name(&name)
}

fn check_name(name: &[u8]) -> Result<(), BadPath> {
    if matches!(name, b"." | b"..") { Err(BadPath::DotSegment) } else { Ok(()) }
}

/// A percent-decoded byte of a path.
#[derive(Clone, Copy)]
struct Character {
    byte: u8,
    encoded: bool,
    /// Offset of its end in the path as received.
    end: usize,
}

/// Returns the percent-decoded bytes of a path. An invalid `%` stands for itself.
fn percent_decoded(path: &str) -> impl Iterator<Item = Character> {
    let path = path.as_bytes();
    let mut position = 0;
    std::iter::from_fn(move || {
        let (byte, encoded) = match path[position..] {
            [b'%', high, low, ..] => decode_hex(high, low).map_or((b'%', false), |byte| (byte, true)),
            [byte, ..] => (byte, false),
            [] => return None,
        };
        position += if encoded { 3 } else { 1 };
        Some(Character { byte, encoded, end: position })
    })
}

fn decode_hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// Returns the bytes of a [normalized](normalize) path, except that a trailing slash is kept.
fn normalized(path: &str) -> impl Iterator<Item = Character> {
    let mut decoded = percent_decoded(path);
    let mut previous = 0;
    std::iter::from_fn(move || {
        let mut next = decoded.next()?;
        while next.byte == b';' || (next.byte == b'/' && previous == b'/') {
            next = match next.byte {
                b';' => decoded.find(|character| character.byte == b'/')?,
                _ => decoded.next()?,
            };
        }
        previous = next.byte;
        Some(next)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_seed::proptest_config;

    #[test]
    fn normal_paths_are_accepted() {
        let plain = ["/", "/a", "/a/", "/a:b@c!$&'()*+,=", "/{x}|\"", "/caf\u{e9}"];
        let dots = ["/a/b.c/..d/...", "/.well-known/x", "/..a", "/a..", "/%2e%2ex"];
        let parameters = ["/a;b=c/d;e", "/a;", "/a/;x"];
        let encoded = ["/%20", "/~u/%7Eu", "/%252e%252e/%255c", "/%25", "/caf%C3%A9", "/%3f%23"];
        // UTF-8 at its limits, and other encodings.
        let bytes = ["/%e0%a0%80", "/%f0%90%80%80", "/%ff", "/%C0propos", "/%e0", "/%25c0%25af", "/%af%c0"];
        for path in [&plain[..], &dots, &parameters, &encoded, &bytes].concat() {
            assert_eq!(check(path, false), Ok(()), "{path}");
        }
    }

    #[test]
    fn ambiguous_paths_are_rejected() {
        use BadPath::*;

        for (reason, paths) in [
            (NotAbsolute, &["", "*", "a"][..]),
            (EmptySegment, &["//", "//evil/x", "/a//b", "/;x/admin", "/a/%3bx/b"]),
            (DotSegment, &["/.", "/..", "/a/./b", "/a/../b", "/%2e", "/%2E%2e/", "/a/%2e./b", "/a/.%2E/b"]),
            (DotSegment, &["/a/..;/b", "/a/..;x=1", "/a/%2e%2e%3b/b"]),
            (Backslash, &["/a\\b", "/a/..%5c", "/%5C"]),
            (Control, &["/%00", "/a%0d%0aX:%20y", "/a%7f", "/a\tb", "/%1F"]),
            (BadEscape, &["/%", "/%2", "/%g1", "/%1g", "/%%32", "/%u002e"]),
            (EncodedSlash, &["/a%2fb", "/a%2F"]),
            (
                OverlongUtf8,
                &["/%c0%af", "/a/%C0%AE%c0%ae/b", "/%c1%9c", "/%c0%80", "/%e0%80%af", "/%e0%9f%bf"],
            ),
            (OverlongUtf8, &["/%f0%80%80%af", "/%f8%80%80%80%af", "/%fc%80%80%80%80%af", "/x%c1%81;a"]),
        ] {
            for path in paths {
                assert_eq!(check(path, false), Err(reason), "{path}");
            }
        }
    }

    #[test]
    fn encoded_slash_does_not_hide_a_dot_segment() {
        assert_eq!(check("/group%2Fproject/http%3A%2F%2Fhost", true), Ok(()));
        for path in ["/a%2F..%2Fb", "/a%2f%2e%2e", "/..%2Fb", "/a/.%2Fb"] {
            assert_eq!(check(path, true), Err(BadPath::DotSegment), "{path}");
        }
    }

    #[test]
    fn prefix_matches_at_segment_boundaries_in_any_spelling() {
        for (prefix, path, length) in [
            ("/api", "/api", Some(4)),
            ("/api", "/api/x", Some(4)),
            ("/api", "/%61pi/x", Some(6)),
            ("/api", "/api;v=1/x", Some(4)),
            ("/a/b", "/a;x/b/c", Some(6)),
            ("/api", "/api%2Fx", Some(4)),
            ("/api", "/%2Fapi", Some(7)),
            ("/caf%C3%A9", "/caf%c3%a9/x", Some(10)),
            ("/caf\u{e9}", "/caf%c3%a9", Some(10)),
            ("/", "/anything", Some(0)),
            ("/api", "/apis", None),
            ("/api", "/API", None),
            ("/api", "/ap", None),
            ("/api", "/", None),
            ("/api", "/x/api", None),
            ("/api", "/%2561pi", None),
        ] {
            assert_eq!(prefix_length(&normalize(prefix), path), length, "{prefix} {path}");
            if is_plain(path) {
                assert_eq!(is_plain_below(&normalize(prefix), path), length.is_some(), "{prefix} {path}");
            }
        }
    }

    /// Paths of ambiguous pieces, so that few random paths are harmless.
    fn path() -> impl Strategy<Value = String> {
        const PIECES: [&str; 16] = [
            "/", ".", "%2e", "%2E", ";", "%3B", "%2f", "%2F", "\\", "%5c", "%", "%00", "%25", "2e", "a",
            "%41",
        ];
        prop::collection::vec(prop::sample::select(&PIECES[..]), 0..12)
            .prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    fn decode(segment: &str) -> String {
        let bytes: Vec<u8> = percent_decoded(segment).map(|character| character.byte).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    proptest! {
        // About four of five random paths are rejected.
        #![proptest_config(ProptestConfig { cases: 2_000, ..proptest_config() })]

        #[test]
        fn accepted_paths_are_unambiguous(path in path(), encoded_slash in any::<bool>()) {
            if check(&path, encoded_slash).is_err() {
                prop_assert!(!is_plain(&path));
                return Ok(());
            }
            prop_assert!(!path.contains("//") && !path.contains('\\'));
            let decoded_slashes = if encoded_slash { path.replace("%2f", "/").replace("%2F", "/") } else { path };
            for segment in decoded_slashes.split('/') {
                let decoded = decode(segment);
                let name = decoded.split(';').next().unwrap();
                prop_assert!(name != "." && name != "..", "{segment}");
                prop_assert!(!decoded.contains(['/', '\\', '\0']), "{segment}");
            }
        }

        #[test]
        fn no_input_panics(path in any::<String>(), prefix in any::<String>()) {
            let _ = check(&path, true);
            let is_below = prefix_length(&normalize(&prefix), &path).is_some();
            prop_assert!(!is_plain(&path) || is_plain_below(&normalize(&prefix), &path) == is_below);
            if let Some(length) = prefix_length(&normalize(&prefix), &path) {
                prop_assert!(path.is_char_boundary(length));
            }
        }
    }
}
