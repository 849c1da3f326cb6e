//! The client's address, scheme and host, as far as trusted proxies report them.

use std::net::IpAddr;

use http::header::{FORWARDED, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use ipnet::IpNet;

use crate::http_headers::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, split_list};
use crate::proxy::Forwarded;
use crate::server::{Peer, TlsConnection};

/// Returns the client's address, and inserts [`Forwarded`] into the request for upstreams.
///
/// `default_host` is used for an HTTP/1.0 request without `Host`. Returns `None` if the request did not
/// arrive through a listener.
pub(crate) fn resolve_client<B>(
    trusted: &TrustedProxies,
    default_host: Option<&HeaderValue>,
    request: &mut Request<B>,
) -> Option<IpAddr> {
    // Removed, because nothing reads them later and smaller extensions take fewer allocations.
    let Peer(peer) = request.extensions_mut().remove()?;
    let is_tls = request.extensions_mut().remove::<TlsConnection>().is_some();
    let info = trusted.resolve(peer.ip(), request.headers());
    let client = info.client;
    let proto = if info.https.unwrap_or(is_tls) { "https" } else { "http" };
    // RFC 9112, section 3.2.2: the authority of an absolute target overrides `Host`.
    let authority = info.host.or_else(|| request.uri().authority().map(Authority::as_str));
    let host = authority
        .and_then(|host| HeaderValue::try_from(host).ok())
        // A scan is cheaper than hashing: `Host` is nearly always the first header.
        .or_else(|| request.headers().iter().find_map(|(name, host)| (name == HOST).then(|| host.clone())))
        .or_else(|| default_host.cloned());
    if let Some(host) = host {
        request.extensions_mut().insert(Forwarded { client, proto, host, chain: None });
    }
    Some(client)
}

/// The proxies whose `Forwarded` and `X-Forwarded-*` headers are trusted.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedProxies(Vec<IpNet>);

/// The origin of a request, as the connection and trusted proxies report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ForwardedInfo<'h> {
    /// Address of the client: the last one in the chain that is not a trusted proxy's.
    pub(crate) client: IpAddr,
    /// `true` for https, `false` for http, `None` if no trusted proxy reports the scheme.
    pub(crate) https: Option<bool>,
    /// Host that the client requested, if a trusted proxy reports it.
    pub(crate) host: Option<&'h str>,
}

impl TrustedProxies {
    pub(crate) fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Resolves the origin of a request that `peer` sent.
    ///
    /// A proxy sets either `Forwarded` or `X-Forwarded-*` and may pass the other through as the client
    /// sent it. If both are present, they are used only if they agree on the client.
    pub(crate) fn resolve<'h>(&self, peer: IpAddr, headers: &'h HeaderMap) -> ForwardedInfo<'h> {
        let peer = peer.to_canonical();
        let direct = ForwardedInfo { client: peer, https: None, host: None };
        if !self.contains(peer) {
            return direct;
        }
        match (self.resolve_x_forwarded(peer, headers), self.resolve_forwarded(peer, headers)) {
            (Some(x_forwarded), Some(forwarded)) if x_forwarded.client != forwarded.client => direct,
            (x_forwarded, forwarded) => x_forwarded.or(forwarded).unwrap_or(direct),
        }
    }

    /// Reads the `X-Forwarded-*` headers.
    fn resolve_x_forwarded<'h>(&self, peer: IpAddr, headers: &'h HeaderMap) -> Option<ForwardedInfo<'h>> {
        if !headers.contains_key(X_FORWARDED_FOR) {
            return None;
        }
        let addresses = list_elements_rev(headers, X_FORWARDED_FOR).map(node_address);
        let proto = list_elements_rev(headers, X_FORWARDED_PROTO).next();
        Some(ForwardedInfo {
            client: self.rightmost_untrusted(peer, addresses),
            https: proto.and_then(is_https),
            host: list_elements_rev(headers, X_FORWARDED_HOST).next(),
        })
    }

    /// Reads `Forwarded` (RFC 7239).
    fn resolve_forwarded<'h>(&self, peer: IpAddr, headers: &'h HeaderMap) -> Option<ForwardedInfo<'h>> {
        let last = list_elements_rev(headers, FORWARDED).next()?;
        let addresses = list_elements_rev(headers, FORWARDED)
            .map(|element| parameter(element, "for").and_then(node_address));
        Some(ForwardedInfo {
            client: self.rightmost_untrusted(peer, addresses),
            https: parameter(last, "proto").and_then(is_https),
            host: parameter(last, "host"),
        })
    }

    /// Walks the chain back from the peer until the first address that is not a trusted proxy's.
    ///
    /// An unreadable address ends the walk, because no trusted proxy vouches for the ones before it.
    fn rightmost_untrusted(&self, peer: IpAddr, addresses: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut client = peer;
        for address in addresses {
            let Some(address) = address.filter(|_| self.contains(client)) else { break };
            client = address.to_canonical();
        }
        client
    }
}

/// Iterates over the elements of a list header in reverse: each proxy appends its own.
fn list_elements_rev(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).iter().rev().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| split_list(line.as_bytes()).rev())
        .filter_map(|element| str::from_utf8(element).ok())
        .filter(|element| !element.is_empty())
}

/// Returns a parameter of a `Forwarded` element (RFC 7239, section 4).
fn parameter<'h>(element: &'h str, name: &str) -> Option<&'h str> {
    element.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// Parses a node (RFC 7239, section 6) or an element of `X-Forwarded-For`: an address with an optional port,
/// IPv6 with a port in brackets.
fn node_address(node: &str) -> Option<IpAddr> {
    if let Some(bracketed) = node.strip_prefix('[') {
        return bracketed.split_once(']')?.0.parse().ok();
    }
    node.parse().ok().or_else(|| node.rsplit_once(':')?.0.parse().ok())
}

fn is_https(proto: &str) -> Option<bool> {
    if proto.eq_ignore_ascii_case("https") {
        Some(true)
    } else if proto.eq_ignore_ascii_case("http") {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn trusted() -> TrustedProxies {
        let networks = ["10.0.0.0/8", "::1/128"];
        TrustedProxies::new(networks.map(|network| network.parse().expect("a network")).to_vec())
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn client(peer: &str, pairs: &[(&'static str, &'static str)]) -> String {
        trusted().resolve(peer.parse().expect("an address"), &headers(pairs)).client.to_string()
    }

    #[test]
    fn headers_of_an_untrusted_peer_are_ignored() {
        let spoofed = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=1.1.1.1;proto=https"),
        ]);
        let peer = IpAddr::from([192, 0, 2, 7]);
        let expected = ForwardedInfo { client: peer, https: None, host: None };
        assert_eq!(trusted().resolve(peer, &spoofed), expected);
    }

    #[test]
    fn client_is_the_rightmost_untrusted_address() {
        for (list, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("1.1.1.1, 192.0.2.7", "192.0.2.7"),
            ("1.1.1.1, 192.0.2.7, 10.0.0.2", "192.0.2.7"),
            ("1.1.1.1, 192.0.2.7:4711, 10.0.0.2:80", "192.0.2.7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("1.1.1.1, unknown, 10.0.0.2", "10.0.0.2"),
            ("garbage", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", list)]), expected, "{list}");
        }
    }

    #[test]
    fn header_lines_form_one_list() {
        let lines = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "192.0.2.7, 10.0.0.2")];
        assert_eq!(client("10.0.0.1", &lines), "192.0.2.7");
    }

    #[test]
    fn forwarded_is_used_without_x_forwarded_for() {
        let value = r#"for=1.1.1.1, for="[2001:db8::7]:4711";proto=https;host=app.example"#;
        let headers = headers(&[("forwarded", value)]);
        let info = trusted().resolve("::1".parse().expect("an address"), &headers);
        assert_eq!(info.client.to_string(), "2001:db8::7");
        assert_eq!((info.https, info.host), (Some(true), Some("app.example")));
    }

    #[test]
    fn conflicting_headers_are_ignored() {
        let conflicting = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=192.0.2.7")];
        assert_eq!(client("10.0.0.1", &conflicting), "10.0.0.1");
        let agreeing = [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.7;proto=https")];
        assert_eq!(client("10.0.0.1", &agreeing), "192.0.2.7");
    }

    #[test]
    fn ipv4_mapped_peer_matches_ipv4_network() {
        assert_eq!(client("::ffff:10.0.0.1", &[("x-forwarded-for", "192.0.2.7")]), "192.0.2.7");
    }
}
