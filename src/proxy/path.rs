//! Which paths are let in, and how a path is compared with a route's.
//!
//! A path that applications read in different ways can pass one route's rules and reach what
//! another protects. So paths that are not in normal form are refused, and what is left is
//! forwarded byte for byte.

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPath {
    /// A backslash, plain or encoded: some servers read it as a slash.
    #[error("the path holds a backslash")]
    Backslash,
    /// A `%` without two hexadecimal digits after it.
    #[error("the path holds a `%` that begins no valid escape")]
    BadEscape,
    /// A control character, plain or encoded.
    #[error("the path holds a control character")]
    Control,
    /// A `.` or `..` segment, plain or encoded, with or without `;` parameters.
    #[error("the path holds a `.` or `..` segment")]
    DotSegment,
    /// Two slashes with nothing, or only `;` parameters, between them.
    #[error("the path holds an empty segment")]
    EmptySegment,
    /// An encoded slash, where the route doesn't let it pass.
    #[error("the path holds an encoded slash")]
    EncodedSlash,
    /// It doesn't begin with a slash.
    #[error("the path does not begin with `/`")]
    NotAbsolute,
}

/// Checks that a path, without its query, is in normal form.
///
/// Encoding twice is no disguise: `%252e` stands for the characters `%2e`, and is forwarded so.
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
/// [`BadPath`] names the first fault found.
pub fn check(path: &str, encoded_slash_ok: bool) -> Result<(), BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath::NotAbsolute);
    }
    for character in PercentDecoded::of(path) {
        check_character(character, encoded_slash_ok)?;
    }
    check_segments(path)
}

/// How much of `path` the route `prefix` takes up, in bytes; `None` if the path isn't at or below
/// it. `prefix` is a [`normalize_byte`] one.
pub(super) fn prefix_length(prefix: &[u8], path: &str) -> Option<usize> {
    let mut rest = NormalizedPath::of(path);
    let mut length = 0;
    for &wanted in prefix {
        let found = rest.next().filter(|found| found.byte == wanted)?;
        length = found.end;
    }
    rest.next().is_none_or(|next| next.byte == b'/').then_some(length)
}

/// The path as the most lenient application would read it: escapes undone, `;` parameters left
/// out, runs of slashes made one, no slash at the end.
///
/// Routes are compared in this form, or `/%61dmin` and `/admin;x` would escape the rules of
/// `/admin` and be served by it all the same. (RFC 3986, section 6.2.2.2, holds the first for
/// the same path; servlet containers hold the second so.)
pub(super) fn normalize(path: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = NormalizedPath::of(path).map(|character| character.byte).collect();
    if bytes.last() == Some(&b'/') {
        bytes.pop();
    }
    bytes
}

fn check_character(character: Character, encoded_slash_ok: bool) -> Result<(), BadPath> {
    match character {
        Character { byte: b'%', encoded: false, .. } => Err(BadPath::BadEscape),
        Character { byte: b'/', encoded: true, .. } if !encoded_slash_ok => Err(BadPath::EncodedSlash),
        Character { byte: b'\\', .. } => Err(BadPath::Backslash),
        Character { byte, .. } if byte.is_ascii_control() => Err(BadPath::Control),
        _ => Ok(()),
    }
}

/// An encoded slash ends a segment here too, or `%2f..%2f` would pass where it is let through.
fn check_segments(path: &str) -> Result<(), BadPath> {
    let mut name: Vec<u8> = Vec::new();
    let mut in_parameters = false;
    for character in PercentDecoded::of(path).skip(1) {
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

/// A byte of a path, its escape undone.
#[derive(Clone, Copy)]
struct Character {
    byte: u8,
    encoded: bool,
    /// Where it ends in the path as sent.
    end: usize,
}

/// The bytes of a path with escapes undone. A `%` that begins none stands for itself.
struct PercentDecoded<'a> {
    path: &'a [u8],
    at: usize,
}

impl<'a> PercentDecoded<'a> {
    fn of(path: &'a str) -> Self {
        Self { path: path.as_bytes(), at: 0 }
    }
}

impl Iterator for PercentDecoded<'_> {
    type Item = Character;

    fn next(&mut self) -> Option<Character> {
        let rest = self.path.get(self.at..)?;
        let (byte, encoded) = match *rest {
            [b'%', high, low, ..] => escape(high, low).map_or((b'%', false), |byte| (byte, true)),
            [byte, ..] => (byte, false),
            [] => return None,
        };
        self.at += if encoded { 3 } else { 1 };
        Some(Character { byte, encoded, end: self.at })
    }
}

fn escape(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// What [`normalize_byte`] describes, less its last rule.
struct NormalizedPath<'a> {
    decoded: PercentDecoded<'a>,
    last: u8,
}

impl<'a> NormalizedPath<'a> {
    fn of(path: &'a str) -> Self {
        Self { decoded: PercentDecoded::of(path), last: 0 }
    }
}

impl Iterator for NormalizedPath<'_> {
    type Item = Character;

    fn next(&mut self) -> Option<Character> {
        let mut next = self.decoded.next()?;
        while next.byte == b';' || (next.byte == b'/' && self.last == b'/') {
            next = match next.byte {
                b';' => self.decoded.find(|character| character.byte == b'/')?,
                _ => self.decoded.next()?,
            };
        }
        self.last = next.byte;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_seed::proptest_config;

    #[test]
    fn normal_paths_pass() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/a/b.c/..d/...",
            "/.well-known/x",
            "/a;b=c/d;e",
            "/a;",
            "/a/;x",
            "/%20",
            "/~u/%7Eu",
            "/%252e%252e/%255c",
            "/%25",
            "/caf%C3%A9",
            "/caf\u{e9}",
            "/a:b@c!$&'()*+,=",
            "/%3f%23",
            "/..a",
            "/a..",
            "/%2e%2ex",
            "/{x}|\"",
        ] {
            assert_eq!(check(path, false), Ok(()), "{path}");
        }
    }

    #[test]
    fn other_paths_are_refused() {
        use BadPath::*;

        for (path, fault) in [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("a", NotAbsolute),
            ("//", EmptySegment),
            ("//evil/x", EmptySegment),
            ("/a//b", EmptySegment),
            ("/;x/admin", EmptySegment),
            ("/a/%3bx/b", EmptySegment),
            ("/.", DotSegment),
            ("/..", DotSegment),
            ("/a/./b", DotSegment),
            ("/a/../b", DotSegment),
            ("/%2e", DotSegment),
            ("/%2E%2e/", DotSegment),
            ("/a/%2e./b", DotSegment),
            ("/a/.%2E/b", DotSegment),
            ("/a/..;/b", DotSegment),
            ("/a/..;x=1", DotSegment),
            ("/a/%2e%2e%3b/b", DotSegment),
            ("/a\\b", Backslash),
            ("/a/..%5c", Backslash),
            ("/%5C", Backslash),
            ("/%00", Control),
            ("/a%0d%0aX:%20y", Control),
            ("/a%7f", Control),
            ("/a\tb", Control),
            ("/%1F", Control),
            ("/%", BadEscape),
            ("/%2", BadEscape),
            ("/%g1", BadEscape),
            ("/%1g", BadEscape),
            ("/%%32", BadEscape),
            ("/%u002e", BadEscape),
            ("/a%2fb", EncodedSlash),
            ("/a%2F", EncodedSlash),
        ] {
            assert_eq!(check(path, false), Err(fault), "{path}");
        }
    }

    #[test]
    fn an_encoded_slash_hides_no_dot_segment() {
        assert_eq!(check("/group%2Fproject/http%3A%2F%2Fhost", true), Ok(()));
        for path in ["/a%2F..%2Fb", "/a%2f%2e%2e", "/..%2Fb", "/a/.%2Fb"] {
            assert_eq!(check(path, true), Err(BadPath::DotSegment), "{path}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_segment_boundary_however_it_is_spelt() {
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
        }
    }

    /// Pieces that make trouble, so that random paths are seldom harmless.
    fn path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/"),
            Just("."),
            Just("%2e"),
            Just("%2E"),
            Just(";"),
            Just("%3B"),
            Just("%2f"),
            Just("%2F"),
            Just("\\"),
            Just("%5c"),
            Just("%"),
            Just("%00"),
            Just("%25"),
            Just("2e"),
            Just("a"),
            Just("%41"),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    fn decode(segment: &str) -> String {
        let bytes: Vec<u8> = PercentDecoded::of(segment).map(|character| character.byte).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    proptest! {
        // Four of five are refused.
        #![proptest_config(ProptestConfig { cases: 2_000, ..proptest_config() })]

        #[test]
        fn what_passes_has_no_second_reading(path in path(), encoded_slash in any::<bool>()) {
            if check(&path, encoded_slash).is_err() {
                return Ok(());
            }
            prop_assert!(!path.contains("//") && !path.contains('\\'));
            let read = if encoded_slash { path.replace("%2f", "/").replace("%2F", "/") } else { path };
            for segment in read.split('/') {
                let decoded = decode(segment);
                let name = decoded.split(';').next().unwrap();
                prop_assert!(name != "." && name != "..", "{segment}");
                prop_assert!(!decoded.contains(['/', '\\', '\0']), "{segment}");
            }
        }

        #[test]
        fn no_input_panics(path in any::<String>(), prefix in any::<String>()) {
            let _ = check(&path, true);
            if let Some(length) = prefix_length(&normalize(&prefix), &path) {
                prop_assert!(path.is_char_boundary(length));
            }
        }
    }
}
