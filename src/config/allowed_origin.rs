//! Origins of `server.allowed_origins`.

use std::fmt;
use std::str::FromStr;

use super::error::ParseError;
use super::origin::Origin;

/// An origin whose pages may send requests with cookies: a web origin, or that of an app in a web view or of a browser
/// extension, which has a scheme of its own.
///
/// ```
/// use sekisho::config::AllowedOrigin;
///
/// let origin: AllowedOrigin = "HTTPS://App.Example.com:443".parse()?;
/// assert_eq!(origin.as_str(), "https://app.example.com");
/// let origin: AllowedOrigin = "capacitor://localhost".parse()?;
/// assert!(origin.is_app());
/// assert!("file://".parse::<AllowedOrigin>().is_err());
/// # Ok::<(), sekisho::config::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AllowedOrigin {
    text: String,
    is_app: bool,
}

impl AllowedOrigin {
    /// Returns the origin as browsers send it in `Origin`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns `true` for a scheme other than `http` and `https`.
    #[must_use]
    pub fn is_app(&self) -> bool {
        self.is_app
    }
}

impl From<Origin> for AllowedOrigin {
    fn from(origin: Origin) -> Self {
        Self { text: origin.as_str().to_owned(), is_app: false }
    }
}

impl FromStr for AllowedOrigin {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if is_app_origin(text) {
            return Ok(Self { text: text.to_owned(), is_app: true });
        }
        text.parse::<Origin>().map(Self::from).map_err(|error| {
            let expected =
                "expected an origin such as https://app.example.com or capacitor://localhost, without a path";
            // The error of an international host name has its ASCII form.
            if text.is_ascii() { ParseError::new(expected) } else { error }
        })
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns `true` for `scheme://host[:port]` with the scheme of an app, as a browser sends it.
///
/// The host of such an origin may have capital letters: it is compared byte for byte.
fn is_app_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
    };
    is_app_scheme(scheme)
        && (1..=MAX_HOST_LEN).contains(&host.len())
        && host.bytes().all(is_host)
        && port.is_none_or(is_port)
}

/// Returns `true` for a scheme (RFC 3986 section 3.1) in lower case whose pages have an origin of their own.
fn is_app_scheme(scheme: &str) -> bool {
    let is_rest =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.');
    scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(is_rest)
        && !OTHER_SCHEMES.contains(&scheme)
}

/// Schemes of web origins, which are checked as such, and schemes without an origin of their own.
const OTHER_SCHEMES: [&str; 11] =
    ["about", "blob", "data", "file", "filesystem", "ftp", "http", "https", "javascript", "ws", "wss"];

/// Maximum length of a host in bytes.
const MAX_HOST_LEN: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_of_apps_are_kept_byte_for_byte() {
        for text in [
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "app://obsidian.md",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "moz-extension://c2c003ee-bd69-42a2-b0e9-6f34222cb046",
            "safari-web-extension://0B1A2C3D-0000-4000-8000-00000000ABCD",
            "capacitor://localhost:3000",
        ] {
            let origin: AllowedOrigin = text.parse().unwrap();
            assert_eq!((origin.as_str(), origin.is_app()), (text, true));
        }
        let web: AllowedOrigin = "HTTP://LOCALHOST:80/".parse().unwrap();
        assert_eq!((web.as_str(), web.is_app()), ("http://localhost", false));
    }

    #[test]
    fn texts_that_no_browser_sends_are_rejected() {
        for text in [
            "",
            "null",
            "*",
            "capacitor://",
            "capacitor:localhost",
            "capacitor:/localhost",
            "capacitor://localhost/",
            "capacitor:///localhost",
            "capacitor://*",
            "capacitor://user@localhost",
            "capacitor://localhost?x",
            "capacitor://localhost#x",
            "capacitor://localhost:",
            "capacitor://localhost:0",
            "capacitor://localhost:+1",
            "capacitor://localhost:65536",
            "capacitor://localhost:1:2",
            "Capacitor://localhost",
            "1app://localhost",
            "-app://localhost",
            " capacitor://localhost",
            "capacitor://loc alhost",
            "capacitor://\u{e9}",
            "chrome-extension://*",
            "file://",
            "file://localhost",
            "ftp://a.example",
            "ws://a.example",
            "data://a",
            "https://app.example.com/path",
            "https://*.example.com",
        ] {
            assert!(text.parse::<AllowedOrigin>().is_err(), "{text:?}");
        }
    }
}
