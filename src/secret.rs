//! Secrets that come from files, as container platforms hand them out.

use std::fs;
use std::io;
use std::path::Path;

use secrecy::SecretString;
use zeroize::Zeroize;

/// Reads the secret in the file `path`, without the line end that editors and `echo` add.
///
/// # Errors
///
/// If the file can't be read, or isn't text (then the error is of the kind
/// [`InvalidData`](io::ErrorKind::InvalidData)).
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

/// `text` less one line end.
#[must_use]
pub fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_goes_and_nothing_else() {
        assert_eq!(without_line_end("a\n"), "a");
        assert_eq!(without_line_end("a\r\n"), "a");
        assert_eq!(without_line_end("a\n\n"), "a\n");
        assert_eq!(without_line_end(" a "), " a ");
        assert_eq!(without_line_end(""), "");
    }
}
