//! Secrets in files, such as those mounted by container platforms.

use std::fs;
use std::io;
use std::path::Path;

use secrecy::SecretString;
use zeroize::Zeroize;

/// Reads a secret from a file, without the line end that editors and `echo` add.
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
    let secret = without_line_end(&text).into();
    text.zeroize();
    Ok(secret)
}

/// Returns `text` without one trailing line end.
#[must_use]
pub fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_line_end_removes_one_line_end_only() {
        assert_eq!(without_line_end("a\n"), "a");
        assert_eq!(without_line_end("a\r\n"), "a");
        assert_eq!(without_line_end("a\n\n"), "a\n");
        assert_eq!(without_line_end(" a "), " a ");
        assert_eq!(without_line_end(""), "");
    }
}
