//! Values that several sections share, parsed once and then known to be good.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use url::{Host, Url};

/// An address to listen on: an IP address or host name, and a port.
///
/// ```
/// use sekisho::config::Listen;
///
/// let listen: Listen = "[::1]:8080".parse()?;
/// assert_eq!((listen.host(), listen.port()), ("::1", 8080));
/// assert!(listen.is_loopback());
/// assert!("8080".parse::<Listen>().is_err());
/// # Ok::<(), sekisho::config::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddr {
    host: String,
    port: u16,
}

impl ListenAddr {
    /// The host, without the brackets of an IPv6 address: what
    /// [`ToSocketAddrs`](std::net::ToSocketAddrs) takes in a pair with the port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 lets the system pick one.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host as an IP address, unless it is a name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether only this machine can connect.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// The origin under which a browser on this machine sees the listener, once its port is known
    /// to be `port`, and whether it speaks TLS.
    #[must_use]
    pub fn origin_at(&self, port: u16, secure: bool) -> Origin {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let (scheme, usual) = if secure { ("https", 443) } else { ("http", 80) };
        let text =
            if port == usual { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{port}") };
        Origin { text, host, port, secure }
    }

    /// Whether the two can't both be listened on.
    pub(super) fn conflicts_with(&self, other: &Self) -> bool {
        let everywhere = |listen: &Self| listen.ip().is_some_and(|ip| ip.is_unspecified());
        let same_host =
            self.host == other.host || (self.is_loopback() && other.is_loopback() && self.named_or(other));
        self.port == other.port && self.port != 0 && (same_host || everywhere(self) || everywhere(other))
    }

    /// `localhost` may be any loopback address.
    fn named_or(&self, other: &Self) -> bool {
        self.ip().is_none() || other.ip().is_none()
    }
}

impl FromStr for ListenAddr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let expected = ParseError("expected HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080");
        let (host, port) = text.rsplit_once(':').ok_or(expected)?;
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or(expected)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => host.parse::<Ipv6Addr>().ok().map(|ip| ip.to_string()),
            None => host_name(host),
        };
        Ok(Self { host: host.ok_or(expected)?, port })
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// An origin in the form in which browsers write it: `scheme://host[:port]`, in lower case,
/// without the scheme's own port and without a path.
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
    secure: bool,
}

impl Origin {
    /// The origin as browsers write it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host, an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, also where the scheme implies it.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the scheme is `https`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.secure
    }

    /// Whether only browsers on this machine can mean us by it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(self.host.trim_matches(['[', ']']))
    }
}

impl FromStr for Origin {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let expected = ParseError("expected an origin such as https://app.example.com, without a path");
        let url = Url::parse(text).ok().ok_or(expected)?;
        let http = matches!(url.scheme(), "http" | "https");
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none() && !text.contains('@');
        let literal = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'*'));
        // `http:host` and `http:///host` are read as `http://host`: say what you mean.
        let slashes = text
            .get(url.scheme().len()..)
            .is_some_and(|rest| rest.strip_prefix("://").is_some_and(|rest| !rest.starts_with('/')));
        let host = url.host().filter(|_| http && bare && anonymous && literal && slashes).ok_or(expected)?;
        Ok(Self {
            text: url.origin().ascii_serialization(),
            host: host.to_string(),
            port: url.port_or_known_default().filter(|port| *port != 0).ok_or(expected)?,
            secure: url.scheme() == "https",
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A path that decides by prefix, at segment boundaries: normal, and without a slash at its end
/// (but for `/` itself).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// One of the program's own paths.
    pub(super) fn from_static(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path` is this one or below it.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let rest = path.strip_prefix(self.0.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for PathPrefix {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let expected = ParseError(
            "expected a path such as /api: it begins with a slash, doesn't end with one, and is normal \
             (no //, dot segments, encoded slashes, query or characters that a URL can't hold)",
        );
        let rest = text.strip_prefix('/').ok_or(expected)?;
        let normal = rest.is_empty() || rest.split('/').all(is_normal_segment);
        normal.then(|| Self(text.to_owned())).ok_or(expected)
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that isn't a value of its kind; says what is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(&'static str);

fn host_name(host: &str) -> Option<String> {
    // A host of digits and dots alone is an address, or a mistyped one.
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return host.parse::<Ipv4Addr>().ok().map(|ip| ip.to_string());
    }
    let legal = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    (legal && Host::parse(host).is_ok()).then(|| host.to_ascii_lowercase())
}

fn is_loopback(host: &str) -> bool {
    let name = host == "localhost" || host.ends_with(".localhost");
    name || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// RFC 3986 `pchar`s, less what servers read in more than one way.
fn is_normal_segment(segment: &str) -> bool {
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let legal = match byte {
            b'%' => match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
                (Some(high), Some(low)) => !matches!(high << 4 | low, b'/' | b'\\' | b'.' | 0..0x20 | 0x7f),
                _ => false,
            },
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte),
        };
        if !legal {
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
    use crate::test_seed::proptest_config;

    fn listen(text: &str) -> ListenAddr {
        text.parse().unwrap()
    }

    #[test]
    fn listeners() {
        for good in ["127.0.0.1:8080", "localhost:8080", "[::]:0", "0.0.0.0:65535", "my-host.example:1"] {
            assert_eq!(listen(good).to_string(), good);
        }
        for bad in
            ["", "8080", ":8080", "host", "host:", "host:65536", "host:-1", "host:+1", "::1:80", "[x]:80"]
        {
            assert!(bad.parse::<ListenAddr>().is_err(), "{bad}");
        }
        assert!("127.0.0.256:80".parse::<ListenAddr>().is_err());
        assert!("a b:80".parse::<ListenAddr>().is_err());
        assert!(listen("127.1.2.3:1").is_loopback() && listen("LOCALHOST:1").is_loopback());
        assert!(!listen("0.0.0.0:1").is_loopback() && !listen("localhost.example:1").is_loopback());
    }

    #[test]
    fn listeners_that_clash() {
        for (one, other) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::]:1", "10.0.0.1:1"),
        ] {
            assert!(listen(one).conflicts_with(&listen(other)), "{one} {other}");
            assert!(listen(other).conflicts_with(&listen(one)), "{other} {one}");
        }
        for (one, other) in [
            ("127.0.0.1:1", "127.0.0.1:2"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1:1", "127.0.0.2:1"),
            ("127.0.0.1:1", "[::1]:1"),
        ] {
            assert!(!listen(one).conflicts_with(&listen(other)), "{one} {other}");
        }
    }

    #[test]
    fn origins_are_canonical() {
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

    proptest::proptest! {
        #![proptest_config(proptest_config())]

        #[test]
        fn an_origin_reads_back_as_itself(text in "https?://[a-zA-Z0-9.:_-]{1,24}|http://\\[[0-9a-f:]{2,12}\\](:[0-9]{1,5})?") {
            if let Ok(origin) = text.parse::<Origin>() {
                proptest::prop_assert_eq!(origin.as_str().parse(), Ok(origin.clone()));
            }
        }
    }

    #[test]
    fn path_prefixes() {
        for good in ["/", "/api", "/api/v1", "/a%20b", "/~u/@x", "/a.b", "/.well-known"] {
            assert_eq!(good.parse::<PathPrefix>().unwrap().as_str(), good);
        }
        for bad in [
            "", "api", "/api/", "//", "/a//b", "/.", "/a/../b", "/a%2fb", "/a%5Cb", "/%2e", "/%00", "/a%",
            "/a%2", "/a%zz", "/a?b", "/a#b", "/a b", "/a\\b", "/{a}", "/ä", "/a\n",
        ] {
            assert!(bad.parse::<PathPrefix>().is_err(), "{bad}");
        }
        let prefix: PathPrefix = "/api".parse().unwrap();
        assert!(
            prefix.matches("/api")
                && prefix.matches("/api/v1")
                && !prefix.matches("/apis")
                && !prefix.matches("/")
        );
        let root: PathPrefix = "/".parse().unwrap();
        assert!(root.matches("/") && root.matches("/api"));
    }

    #[test]
    fn a_listener_s_origin() {
        let origin = |text: &str| listen(text).origin_at(8080, false);
        assert_eq!(origin("localhost:0"), "http://localhost:8080".parse().unwrap());
        assert_eq!(origin("[::1]:1"), "http://[::1]:8080".parse().unwrap());
        assert_eq!(listen("127.0.0.1:80").origin_at(80, false), "http://127.0.0.1".parse().unwrap());
        assert_eq!(listen("127.0.0.1:443").origin_at(443, true), "https://127.0.0.1".parse().unwrap());
        assert_eq!(listen("localhost:80").origin_at(80, true), "https://localhost:80".parse().unwrap());
    }
}
