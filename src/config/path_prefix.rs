//! Path prefixes.

use std::fmt;
use std::str::FromStr;

use super::error::ParseError;
use crate::proxy::{NormalizedPath, is_at_or_below, literal_prefix, may_be_respelled};

/// A path prefix in normal form. It has no trailing slash, except `/` itself: one is removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathPrefix {
    path: String,
    normalized: NormalizedPath,
}

impl PathPrefix {
    /// Creates a prefix of a path that is in normal form.
    pub(crate) fn from_static(path: &str) -> Self {
        Self { path: path.to_owned(), normalized: NormalizedPath::new(path) }
    }

    /// Returns the path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// Returns `true` if `path` is this path or below it, in any spelling: percent-encoded (RFC 3986 section 6.2.2.2)
    /// or with `;` parameters. Segments are compared as a whole.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.matches_literally(path) || (may_be_respelled(path) && self.matches_respelled(path))
    }

    /// Returns `true` if `path` is this path or below it, in the same spelling.
    pub(crate) fn matches_literally(&self, path: &str) -> bool {
        let rest = path.strip_prefix(self.path.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// As [`matches`](Self::matches), at a higher cost for paths that need no decoding.
    pub(crate) fn matches_respelled(&self, path: &str) -> bool {
        is_at_or_below(&self.normalized, path)
    }
}

impl FromStr for PathPrefix {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some(prefix) = literal_prefix(text) {
            let problem = "a path is a prefix, not a pattern";
            return Err(ParseError::new(format!(
                "{problem}: write {prefix}, which matches all paths below it too"
            )));
        }
        let expected = || {
            ParseError::new(
                "expected a path such as /api, without //, dot segments, encoded slashes, or characters that are \
                 invalid in a URL",
            )
        };
        let rest = text.strip_prefix('/').ok_or_else(expected)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let is_normal = rest.is_empty() || rest.split('/').all(is_normal_segment);
        if is_normal && text != "//" { Ok(Self::from_static(&format!("/{rest}"))) } else { Err(expected()) }
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// Returns `true` if `segment` holds only `pchar`s (RFC 3986 section 3.3), is not empty and no dot segment.
/// Encoded slashes, backslashes, dots and control characters are refused: servers disagree about them.
fn is_normal_segment(segment: &str) -> bool {
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let is_valid = match byte {
            b'%' => match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
                (Some(high), Some(low)) => !matches!(high << 4 | low, b'/' | b'\\' | b'.' | 0..0x20 | 0x7f),
                _ => false,
            },
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte),
        };
        if !is_valid {
            return false;
        }
    }
    !matches!(segment, "" | "." | "..")
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_prefix_accepts_only_normal_paths() {
        for good in ["/", "/api", "/api/v1", "/a%20b", "/~u/@x", "/a.b", "/.well-known"] {
            assert_eq!(good.parse::<PathPrefix>().unwrap().as_str(), good);
        }
        // D1: a trailing slash makes no difference.
        for (text, prefix) in [("/api/", "/api"), ("/api/v1/", "/api/v1")] {
            assert_eq!(text.parse::<PathPrefix>().unwrap().as_str(), prefix);
        }
        for bad in [
            "", "api", "/api//", "//", "/a//b", "/.", "/a/../b", "/a%2fb", "/a%5Cb", "/%2e", "/%00", "/a%",
            "/a%2", "/a%zz", "/a?b", "/a#b", "/a b", "/a\\b", "/{a}", "/ä", "/a\n",
        ] {
            assert!(bad.parse::<PathPrefix>().is_err(), "{bad}");
        }
        let prefix: PathPrefix = "/api".parse().unwrap();
        for (path, matches) in [("/api", true), ("/api/v1", true), ("/apis", false), ("/", false)] {
            assert_eq!(prefix.matches(path), matches, "{path}");
        }
        for path in ["/%61pi", "/api;v=1", "/%61%70%69;x/y", "/api%2fx"] {
            assert!(prefix.matches(path) && !prefix.matches_literally(path), "{path}");
        }
        for path in ["/%61pis", "/%2561pi", "/x;/api", "/%41PI"] {
            assert!(!prefix.matches(path), "{path}");
        }
        let encoded: PathPrefix = "/a%20b".parse().unwrap();
        assert!(encoded.matches("/a%20b/c") && encoded.matches("/%61%20b"));
        let root: PathPrefix = "/".parse().unwrap();
        assert!(root.matches("/") && root.matches("/api"));
    }
}
