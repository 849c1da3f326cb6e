//! Addresses of listeners.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use url::Host;

use super::error::ParseError;
use super::origin::{Origin, is_loopback};
use crate::unix_socket::UnixSocketAddr;

/// The address of the public listener: an IP address or host name with a port, or a Unix socket.
///
/// ```
/// use sekisho::config::PublicListenAddr;
///
/// let listen: PublicListenAddr = "unix:/run/sekisho/sekisho.sock".parse()?;
/// assert!(listen.unix_socket().is_some());
/// let listen: PublicListenAddr = "127.0.0.1:8080".parse()?;
/// assert_eq!(listen.port(), Some(8080));
/// # Ok::<(), sekisho::config::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicListenAddr {
    /// A TCP port.
    Tcp(ListenAddr),
    /// A Unix socket.
    Unix(UnixSocketAddr),
}

impl PublicListenAddr {
    /// Returns the port; `None` for a Unix socket.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(listen) => Some(listen.port()),
            Self::Unix(_) => None,
        }
    }

    /// Returns the Unix socket, if it is one.
    #[must_use]
    pub fn unix_socket(&self) -> Option<&UnixSocketAddr> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(socket) => Some(socket),
        }
    }

    /// Returns `true` if only this machine can connect.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp(listen) => listen.is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for PublicListenAddr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let expected = "expected HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080, or the path of a Unix socket of at most \
                        107 bytes, such as unix:/run/sekisho/sekisho.sock";
        let address = if UnixSocketAddr::is_meant_by(text) {
            text.parse().ok().map(Self::Unix)
        } else {
            text.parse().ok().map(Self::Tcp)
        };
        address.ok_or_else(|| ParseError::new(expected))
    }
}

impl fmt::Display for PublicListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listen) => listen.fmt(f),
            Self::Unix(socket) => socket.fmt(f),
        }
    }
}

/// The address of a listener: an IP address or host name, and a port.
///
/// ```
/// use sekisho::config::ListenAddr;
///
/// let listen: ListenAddr = "[::1]:8080".parse()?;
/// assert_eq!((listen.host(), listen.port()), ("::1", 8080));
/// assert!(listen.is_loopback());
/// assert!("8080".parse::<ListenAddr>().is_err());
/// # Ok::<(), sekisho::config::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddr {
    host: String,
    port: u16,
}

impl ListenAddr {
    /// Returns the host, an IPv6 address without brackets, as
    /// [`ToSocketAddrs`](std::net::ToSocketAddrs) expects it.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port. With 0 the system picks one.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the IP address; `None` if the host is a name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Returns `true` if only this machine can connect.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Returns the origin of the listener for a browser on this machine. `port` is the port that is bound.
    #[must_use]
    pub fn origin_at(&self, port: u16, is_https: bool) -> Origin {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        Origin::from_parts(host, port, is_https)
    }

    /// Returns `true` if this address and that of the public listener cannot be bound at the same time.
    pub(super) fn conflicts_with_public(&self, public: &PublicListenAddr) -> bool {
        matches!(public, PublicListenAddr::Tcp(listen) if self.conflicts_with(listen))
    }

    /// Returns `true` if the two addresses cannot be bound at the same time.
    pub(super) fn conflicts_with(&self, other: &Self) -> bool {
        if self.port != other.port || self.port == 0 {
            return false;
        }
        let is_unspecified = |listen: &Self| listen.ip().is_some_and(|ip| ip.is_unspecified());
        // A name such as `localhost` may stand for any loopback address.
        let is_name = self.ip().is_none() || other.ip().is_none();
        self.host == other.host
            || is_unspecified(self)
            || is_unspecified(other)
            || (is_name && self.is_loopback() && other.is_loopback())
    }
}

impl FromStr for ListenAddr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let expected = || ParseError::new("expected HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080");
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(expected)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            // An IPv4-mapped address is that of an IPv4 listener.
            Some(host) => host.parse::<Ipv6Addr>().ok().map(|ip| ip.to_canonical().to_string()),
            None => host_name(host),
        };
        Ok(Self { host: host.ok_or_else(expected)?, port })
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

fn host_name(host: &str) -> Option<String> {
    // A host of digits and dots only is an IPv4 address, or a misspelt one.
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return host.parse::<Ipv4Addr>().ok().map(|ip| ip.to_string());
    }
    let legal = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    (legal && Host::parse(host).is_ok()).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str) -> ListenAddr {
        text.parse().unwrap()
    }

    #[test]
    fn listen_addr_parses_host_and_port() {
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
        // D6: an IPv4-mapped address.
        assert_eq!(listen("[::ffff:127.0.0.1]:80").to_string(), "127.0.0.1:80");
        assert!(listen("[::ffff:7f00:1]:80").is_loopback());
        assert!(listen("127.1.2.3:1").is_loopback() && listen("LOCALHOST:1").is_loopback());
        assert!(!listen("0.0.0.0:1").is_loopback() && !listen("localhost.example:1").is_loopback());
    }

    #[test]
    fn conflicts_with_finds_addresses_that_overlap() {
        for (one, other, conflict) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("localhost:1", "127.0.0.1:1", true),
            ("[::]:1", "10.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "[::1]:1", false),
        ] {
            assert_eq!(listen(one).conflicts_with(&listen(other)), conflict, "{one} {other}");
            assert_eq!(listen(other).conflicts_with(&listen(one)), conflict, "{other} {one}");
        }
    }

    #[test]
    fn origin_at_omits_the_default_port() {
        let origin = |text: &str| listen(text).origin_at(8080, false);
        assert_eq!(origin("localhost:0"), "http://localhost:8080".parse().unwrap());
        assert_eq!(origin("[::1]:1"), "http://[::1]:8080".parse().unwrap());
        assert_eq!(listen("127.0.0.1:80").origin_at(80, false), "http://127.0.0.1".parse().unwrap());
        assert_eq!(listen("127.0.0.1:443").origin_at(443, true), "https://127.0.0.1".parse().unwrap());
        assert_eq!(listen("localhost:80").origin_at(80, true), "https://localhost:80".parse().unwrap());
    }
}
