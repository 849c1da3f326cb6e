//! Addresses of Unix sockets.

use std::fmt;
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;

/// The address of a Unix socket, `unix:` and an absolute path.
///
/// ```
/// use sekisho::unix_socket::UnixSocketAddr;
///
/// let address: UnixSocketAddr = "unix:/run/app.sock".parse()?;
/// assert_eq!(address.path().to_str(), Some("/run/app.sock"));
/// assert_eq!("unix:///run/app.sock".parse(), Ok(address));
/// assert!("unix:app.sock".parse::<UnixSocketAddr>().is_err());
/// # Ok::<(), sekisho::unix_socket::InvalidUnixSocketAddr>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnixSocketAddr(String);

/// The text is no address of a Unix socket. The message is what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected unix: and the absolute path of a socket, of at most 107 bytes, such as unix:/run/app.sock")]
pub struct InvalidUnixSocketAddr;

impl UnixSocketAddr {
    /// Returns `true` if `text` is meant as the address of a Unix socket.
    #[must_use]
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// Returns the address as text, such as `unix:/run/app.sock`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new(&self.0[SCHEME.len()..])
    }
}

impl FromStr for UnixSocketAddr {
    type Err = InvalidUnixSocketAddr;

    fn from_str(text: &str) -> Result<Self, InvalidUnixSocketAddr> {
        let path = text.strip_prefix(SCHEME).ok_or(InvalidUnixSocketAddr)?;
        // As in a URL with an empty host.
        let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
        let is_absolute = path.starts_with('/') && !path.starts_with("//");
        // nginx writes the path of a request behind a colon.
        let is_file = !path.ends_with('/') && !path.ends_with(':') && !path.contains(":/");
        let is_valid = is_absolute && is_file && !path.contains(char::is_control);
        if is_valid && SocketAddr::from_pathname(path).is_ok() {
            Ok(Self(format!("{SCHEME}{path}")))
        } else {
            Err(InvalidUnixSocketAddr)
        }
    }
}

impl fmt::Display for UnixSocketAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const SCHEME: &str = "unix:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_an_absolute_path() {
        let longest = format!("unix:/{}", "x".repeat(106));
        for good in ["unix:/a", "unix:/run/my app.sock", "unix:/run/a:b", &longest] {
            assert_eq!(good.parse::<UnixSocketAddr>().as_ref().map(UnixSocketAddr::as_str), Ok(good));
        }
        let too_long = format!("{longest}x");
        for bad in [
            "",
            "/run/a",
            "unix:",
            "unix:/",
            "unix:a",
            "unix:./a",
            "unix://run/a",
            "unix:////run/a",
            "unix:/run/",
            "unix:/run/a:",
            "unix:/run/a:/path",
            "unix:/run/a\n",
            "unix:/run/a\0",
            "unix:@a",
            "UNIX:/a",
            &too_long,
        ] {
            assert!(bad.parse::<UnixSocketAddr>().is_err(), "{bad:?}");
        }
    }
}
