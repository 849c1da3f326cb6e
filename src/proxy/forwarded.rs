//! Telling upstreams where a request came from.

use std::fmt::Write;
use std::net::IpAddr;

use http::HeaderValue;
use http::header::{FORWARDED, HeaderName};

use super::header_writer::HeaderWriter;
use crate::http_headers::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};

/// Where a request came from, and what it asked for, as far as that can be believed.
///
/// Outer layers that know which proxies to trust put one into the request's extensions; without
/// it upstreams are told nothing, for what the client itself said is always taken off.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// The client's address.
    pub client: IpAddr,
    /// `http` or `https`: what the client spoke.
    pub proto: &'static str,
    /// The `Host` that the client asked for.
    pub host: HeaderValue,
    /// The whole `X-Forwarded-For` to send, if trusted proxies stand before us; otherwise it is
    /// the client's address alone.
    pub chain: Option<HeaderValue>,
}

impl Forwarded {
    pub(super) fn write_to(&self, to: &mut impl HeaderWriter) {
        // One text for all: the element of `Forwarded` (RFC 7239, section 4) has the address in it.
        let client = self.client.to_canonical();
        let (open, close) = if client.is_ipv6() { ("for=\"[", "]\"") } else { ("for=", "") };
        let mut element = String::with_capacity(LONG);
        element.push_str(open);
        push_address(&mut element, client);
        let address = open.len()..element.len();
        element.push_str(close);
        // One that can't be quoted without escapes is left out.
        let host =
            self.host.to_str().ok().filter(|host| !host.bytes().any(|byte| matches!(byte, b'"' | b'\\')));
        for piece in [";host=\"", host.unwrap_or_default(), "\";proto=", self.proto] {
            element.push_str(piece);
        }
        let address = &element.as_bytes()[address];
        to.add(&X_FORWARDED_FOR, self.chain.as_ref().map_or(address, HeaderValue::as_bytes));
        to.copy(&X_FORWARDED_HOST, &self.host);
        to.add(&X_FORWARDED_PROTO, self.proto.as_bytes());
        if host.is_some() {
            to.add(&FORWARDED, element.as_bytes());
        }
        to.add(&X_REAL_IP, address);
    }
}

/// What `Display` writes. Most are of version 4, and come with every request.
fn push_address(to: &mut String, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    to.push('.');
                }
                for (least, unit) in [(100, 100), (10, 10), (0, 1)] {
                    if octet >= least {
                        to.push(char::from(b'0' + octet / unit % 10));
                    }
                }
            }
        }
        // Writing to a string doesn't fail.
        IpAddr::V6(address) => _ = write!(to, "{address}"),
    }
}

/// Room for most elements, in bytes.
const LONG: usize = 128;

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn sent(client: &str, chain: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let forwarded = Forwarded {
            client: client.parse().unwrap(),
            proto: "https",
            host: HeaderValue::from_static("app.example:8443"),
            chain: chain.map(HeaderValue::from_static),
        };
        forwarded.write_to(&mut headers);
        headers
    }

    #[test]
    fn a_direct_client_is_the_whole_chain() {
        let headers = sent("192.0.2.7", None);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-real-ip"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "app.example:8443");
        assert_eq!(headers["forwarded"], "for=192.0.2.7;host=\"app.example:8443\";proto=https");
    }

    #[test]
    fn trusted_proxies_stay_in_the_chain() {
        let headers = sent("::ffff:192.0.2.7", Some("192.0.2.7, 10.0.0.1"));
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7, 10.0.0.1");
        assert_eq!(headers["x-real-ip"], "192.0.2.7");
    }

    #[test]
    fn addresses_are_written_as_usual() {
        for address in ["0.0.0.0", "1.10.100.255", "9.99.199.200", "203.0.113.7", "::1", "2001:db8::7"] {
            assert_eq!(sent(address, None)["x-real-ip"], address);
        }
    }

    #[test]
    fn version_6_is_quoted() {
        let headers = sent("2001:db8::1", None);
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
        assert!(headers["forwarded"].to_str().unwrap().starts_with("for=\"[2001:db8::1]\";"));
    }
}
