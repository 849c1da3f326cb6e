//! Secrets in files, such as those mounted by container platforms.

use std::fs;
use std::io;
use std::path::Path;

use secrecy::SecretString;
use zeroize::Zeroize;

/// Reads a secret from a file, [trimmed](trimmed).
///
/// # Errors
///
/// Returns an error if the file cannot be read, with the kind [`InvalidData`](io::ErrorKind::InvalidData) if it
/// is not UTF-8.
///
/// ```
/// use secrecy::ExposeSecret;
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("secret");
/// std::fs::write(&path, "correct horse\n")?;
/// assert_eq!(sekisho::secret::read_file(&path)?.expose_secret(), "correct horse");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read_file(path: &Path) -> io::Result<SecretString> {
    let mut text = fs::read_to_string(path)?;
    let secret = trimmed(&text).into();
    text.zeroize();
    Ok(secret)
}

/// Returns a secret without surrounding whitespace and byte order mark.
///
/// Editors, `echo` and YAML add them to files and variables. Every source of a secret is trimmed by this
/// function, so that one secret has one value wherever it comes from.
#[must_use]
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == BYTE_ORDER_MARK)
}

/// Returns a password without the line end that ends the input. Passwords may begin and end with spaces.
#[must_use]
pub fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

const BYTE_ORDER_MARK: char = '\u{feff}';

#[cfg(test)]
mod tests {
    use super::*;

    /// B4: a secret has one value, whatever its source adds to it.
    #[test]
    fn trimmed_removes_surrounding_whitespace_and_byte_order_mark() {
        for text in ["a b", "a b\n", "a b\r\n", "a b\n\n", " a b ", "\ta b\u{a0}", "\u{feff}a b\n"] {
            assert_eq!(trimmed(text), "a b", "{text:?}");
        }
        assert_eq!(trimmed(" \n"), "");
    }

    #[test]
    fn without_line_end_removes_one_line_end_only() {
        assert_eq!(without_line_end("a\n"), "a");
        assert_eq!(without_line_end("a\r\n"), "a");
        assert_eq!(without_line_end("a\n\n"), "a\n");
        assert_eq!(without_line_end(" a "), " a ");
        assert_eq!(without_line_end(""), "");
    }
}
