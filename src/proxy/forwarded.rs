//! The client's address, and the scheme, host and path prefix of its request, for upstreams: `X-Forwarded-*`,
//! `X-Real-IP` and `Forwarded`.

use std::fmt::Write;
use std::net::IpAddr;

use http::HeaderValue;
use http::header::FORWARDED;

use super::header_writer::HeaderWriter;
use super::path;
use crate::http_headers::{
    X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PREFIX, X_FORWARDED_PROTO, X_REAL_IP,
};

/// Verified origin of a request: the client's address, and the scheme and host by which clients reach the gateway.
///
/// An outer layer with the list of trusted proxies inserts it into the request's extensions. Without it the
/// upstream receives none of these headers, since those sent by the client are always removed.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// The client's address, if it is known.
    pub client: Option<IpAddr>,
    /// Scheme of the address that clients use, `http` or `https`.
    pub proto: &'static str,
    /// Host of the address that clients use.
    pub host: HeaderValue,
    /// The whole `X-Forwarded-For` value if the request came through trusted proxies. `None` sends the
    /// client's address alone.
    pub chain: Option<HeaderValue>,
}

impl Forwarded {
    pub(super) fn write_to(&self, writer: &mut impl HeaderWriter) {
        // The address is sliced out of the `Forwarded` element (RFC 7239, section 4), to allocate once.
        let client = self.client.map(|client| client.to_canonical());
        let is_ipv6 = client.is_some_and(|client| client.is_ipv6());
        let (open, close) = if is_ipv6 { ("for=\"[", "]\"") } else { ("for=", "") };
        let mut element = String::with_capacity(ELEMENT_CAPACITY);
        element.push_str(open);
        match client {
            Some(client) => push_address(&mut element, client),
            None => element.push_str("unknown"),
        }
        let address_range = open.len()..element.len();
        element.push_str(close);
        // A host that would need escapes within the quotes is left out.
        let host = self.host.to_str().ok().filter(|host| !host.contains(['"', '\\']));
        for piece in [";host=\"", host.unwrap_or_default(), "\";proto=", self.proto] {
            element.push_str(piece);
        }
        let address = client.map(|_| &element.as_bytes()[address_range]);
        if let Some(list) = self.chain.as_ref().map(HeaderValue::as_bytes).or(address) {
            writer.add(&X_FORWARDED_FOR, list);
        }
        writer.copy(&X_FORWARDED_HOST, &self.host);
        writer.add(&X_FORWARDED_PROTO, self.proto.as_bytes());
        if host.is_some() {
            writer.add(&FORWARDED, element.as_bytes());
        }
        if let Some(address) = address {
            writer.add(&X_REAL_IP, address);
        }
    }
}

/// Path prefix that a trusted proxy has removed from the request's path, such as `/apps`.
///
/// An outer layer inserts it into the request's extensions.
#[derive(Clone, Debug)]
pub struct ForwardedPrefix(HeaderValue);

impl ForwardedPrefix {
    /// Returns the prefix of an `X-Forwarded-Prefix` header, if it is a path in normal form other than `/`.
    ///
    /// Applications put it before the addresses that they link or redirect to: `//other.example` would lead to
    /// another host.
    #[must_use]
    pub fn new(prefix: &str) -> Option<Self> {
        let prefix = prefix.trim_end_matches('/');
        let is_path = prefix.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'<>?#,;".contains(&byte));
        let is_normal = is_path && path::check(prefix, false).is_ok();
        HeaderValue::try_from(prefix).ok().filter(|_| is_normal).map(Self)
    }

    /// Writes `X-Forwarded-Prefix`: the prefix that the client has used, of all that were removed on the way.
    pub(super) fn write(
        outer: Option<&Self>,
        stripped: Option<&HeaderValue>,
        writer: &mut impl HeaderWriter,
    ) {
        match (outer, stripped) {
            (None, None) => {}
            (Some(Self(prefix)), None) | (None, Some(prefix)) => writer.copy(&X_FORWARDED_PREFIX, prefix),
            (Some(Self(outer)), Some(prefix)) => {
                writer.add(&X_FORWARDED_PREFIX, &[outer.as_bytes(), prefix.as_bytes()].concat());
            }
        }
    }
}

/// Appends an address as `Display` formats it, but faster for IPv4: this runs on every request.
fn push_address(text: &mut String, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    text.push('.');
                }
                for (minimum, unit) in [(100, 100), (10, 10), (0, 1)] {
                    if octet >= minimum {
                        text.push(char::from(b'0' + octet / unit % 10));
                    }
                }
            }
        }
        // Writing to a string never fails.
        IpAddr::V6(address) => _ = write!(text, "{address}"),
    }
}

/// Initial capacity of a `Forwarded` element, in bytes. Most elements fit.
const ELEMENT_CAPACITY: usize = 128;

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn written(client: &str, chain: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let forwarded = Forwarded {
            client: client.parse().ok(),
            proto: "https",
            host: HeaderValue::from_static("app.example:8443"),
            chain: chain.map(HeaderValue::from_static),
        };
        forwarded.write_to(&mut headers);
        headers
    }

    #[test]
    fn direct_client_is_the_only_hop() {
        let headers = written("192.0.2.7", None);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-real-ip"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "app.example:8443");
        assert_eq!(headers["forwarded"], "for=192.0.2.7;host=\"app.example:8443\";proto=https");
    }

    #[test]
    fn prefix_is_a_normal_path() {
        for (prefix, expected) in [
            ("/apps", Some("/apps")),
            ("/apps/", Some("/apps")),
            ("/a/b-c", Some("/a/b-c")),
            ("/", None),
            ("", None),
            ("apps", None),
            ("//evil.example", None),
            ("/\\evil.example", None),
            ("/a/../b", None),
            ("/%2f%2fevil.example", None),
            ("/a b", None),
            ("/a\"b", None),
            ("/a?b", None),
            ("/a, /b", None),
            ("https://evil.example", None),
        ] {
            let prefix = ForwardedPrefix::new(prefix);
            assert_eq!(prefix.as_ref().map(|ForwardedPrefix(prefix)| prefix.to_str().unwrap()), expected);
        }
    }

    #[test]
    fn trusted_proxies_stay_in_x_forwarded_for() {
        let headers = written("::ffff:192.0.2.7", Some("192.0.2.7, 10.0.0.1"));
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7, 10.0.0.1");
        assert_eq!(headers["x-real-ip"], "192.0.2.7");
    }

    #[test]
    fn addresses_are_formatted_like_display() {
        for address in ["0.0.0.0", "1.10.100.255", "9.99.199.200", "203.0.113.7", "::1", "2001:db8::7"] {
            assert_eq!(written(address, None)["x-real-ip"], address);
        }
    }

    #[test]
    fn unknown_client_has_no_address() {
        let headers = written("unknown", None);
        assert_eq!(headers["forwarded"], "for=unknown;host=\"app.example:8443\";proto=https");
        assert!(!headers.contains_key("x-forwarded-for") && !headers.contains_key("x-real-ip"));
    }

    #[test]
    fn ipv6_address_is_quoted_in_forwarded() {
        let headers = written("2001:db8::1", None);
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
        assert!(headers["forwarded"].to_str().unwrap().starts_with("for=\"[2001:db8::1]\";"));
    }
}
