//! Web origins.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::Url;

use super::error::ParseError;

/// A web origin as browsers serialize it (RFC 6454): `scheme://host[:port]` in lower case, without the
/// default port of the scheme.
///
/// ```
/// use sekisho::config::Origin;
///
/// let origin: Origin = "HTTPS://App.Example.com:443".parse()?;
/// assert_eq!(origin.as_str(), "https://app.example.com");
/// assert!("https://app.example.com/path".parse::<Origin>().is_err());
/// # Ok::<(), sekisho::config::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    text: String,
    host: String,
    port: u16,
    is_https: bool,
}

impl Origin {
    pub(super) fn from_parts(host: String, port: u16, is_https: bool) -> Self {
        let (scheme, default_port) = if is_https { ("https", 443) } else { ("http", 80) };
        let suffix = if port == default_port { String::new() } else { format!(":{port}") };
        Self { text: format!("{scheme}://{host}{suffix}"), host, port, is_https }
    }

    /// Returns the serialized origin.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the host, an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, explicit or implied by the scheme.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns `true` if the scheme is `https`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// Returns `true` if the host is a loopback address or below `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(self.host.trim_matches(['[', ']']))
    }
}

impl FromStr for Origin {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let expected =
            || ParseError::new("expected an origin such as https://app.example.com, without a path");
        let url = Url::parse(text).ok().ok_or_else(expected)?;
        let is_http = matches!(url.scheme(), "http" | "https");
        let has_path = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
        let has_userinfo = text.contains('@');
        let is_legal =
            text.chars().all(|c| !c.is_ascii() || c.is_ascii_graphic() && !matches!(c, '\\' | '*'));
        // The URL parser reads `http:host` and `http:///host` as `http://host`.
        let after_scheme = text.get(url.scheme().len()..).and_then(|rest| rest.strip_prefix("://"));
        let has_two_slashes = after_scheme.is_some_and(|rest| !rest.starts_with('/'));
        if !is_http || has_path || has_userinfo || !is_legal || !has_two_slashes {
            return Err(expected());
        }
        let ascii = url.origin().ascii_serialization();
        if !text.is_ascii() {
            let problem = format!("expected a host name in ASCII, as browsers send it: write {ascii}");
            return Err(ParseError::new(problem));
        }
        let host = url.host().ok_or_else(expected)?;
        Ok(Self {
            text: ascii,
            host: host.to_string(),
            port: url.port_or_known_default().filter(|port| *port != 0).ok_or_else(expected)?,
            is_https: url.scheme() == "https",
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns `true` if `host`, without brackets, is a loopback address or a name below `localhost`.
pub(super) fn is_loopback(host: &str) -> bool {
    let is_localhost = host == "localhost" || host.ends_with(".localhost");
    is_localhost || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_seed::proptest_config;

    #[test]
    fn origin_parses_to_canonical_form() {
        for (text, canonical) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTP://LOCALHOST:80/", "http://localhost"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("https://app.example.com:8443", "https://app.example.com:8443"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().as_str(), canonical);
        }
        for bad in [
            "",
            "null",
            "*",
            "app.example.com",
            "https://",
            "https:app.example.com",
            "https:///app.example.com",
            "https://app.example.com/path",
            "https://app.example.com?query",
            "https://app.example.com#",
            "https://user@app.example.com",
            "https://@app.example.com",
            "https://*.example.com",
            "https:\\\\app.example.com",
            "ftp://app.example.com",
            "https://app.example.com:0",
            " https://app.example.com",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    /// D8: the message has the form that browsers send.
    #[test]
    fn international_host_names_are_refused_with_their_ascii_form() {
        for (text, ascii) in [
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("http://日本語.jp:8080", "http://xn--wgv71a119e.jp:8080"),
        ] {
            let error = text.parse::<Origin>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("write {ascii}")), "{error}");
            assert!(ascii.parse::<Origin>().is_ok());
        }
        assert!("http://[::ffff:127.0.0.1]:8080".parse::<Origin>().unwrap().is_loopback());
    }

    proptest::proptest! {
        #![proptest_config(proptest_config())]

        #[test]
        fn serialized_origin_parses_to_itself(text in "https?://[a-zA-Z0-9.:_-]{1,24}|http://\\[[0-9a-f:]{2,12}\\](:[0-9]{1,5})?") {
            if let Ok(origin) = text.parse::<Origin>() {
                proptest::prop_assert_eq!(origin.as_str().parse(), Ok(origin.clone()));
            }
        }
    }
}
