//! Where a request really comes from, believing trusted proxies alone.

use std::net::IpAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::http_headers::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, split_list};

/// The proxies whose `Forwarded` and `X-Forwarded-*` headers are believed.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedProxies(Vec<IpNet>);

/// What is known of where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ForwardedInfo<'h> {
    /// The client's address: the nearest one that no trusted proxy stands at.
    pub(crate) client: IpAddr,
    /// Whether the client used https, if a trusted proxy says so.
    pub(crate) https: Option<bool>,
    /// The host that the client asked for, if a trusted proxy says so.
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

    /// Where the request of `peer` comes from.
    ///
    /// Which of the two families a proxy writes isn't known here, and it may pass on the other one as
    /// the client sent it. So where both are there, they are believed only if they agree.
    pub(crate) fn resolve<'h>(&self, peer: IpAddr, headers: &'h HeaderMap) -> ForwardedInfo<'h> {
        let peer = peer.to_canonical();
        let nobody_says = ForwardedInfo { client: peer, https: None, host: None };
        if !self.contains(peer) {
            return nobody_says;
        }
        match (self.by_x_forwarded(peer, headers), self.by_forwarded(peer, headers)) {
            (Some(one), Some(other)) if one.client != other.client => nobody_says,
            (one, other) => one.or(other).unwrap_or(nobody_says),
        }
    }

    fn by_x_forwarded<'h>(&self, peer: IpAddr, headers: &'h HeaderMap) -> Option<ForwardedInfo<'h>> {
        let addresses = list_elements_rev(headers, X_FORWARDED_FOR).map(node_address);
        let proto = list_elements_rev(headers, X_FORWARDED_PROTO).next();
        let host = list_elements_rev(headers, X_FORWARDED_HOST).next();
        headers.contains_key(X_FORWARDED_FOR).then(|| ForwardedInfo {
            client: self.rightmost_untrusted(peer, addresses),
            https: proto.and_then(is_https),
            host,
        })
    }

    fn by_forwarded<'h>(&self, peer: IpAddr, headers: &'h HeaderMap) -> Option<ForwardedInfo<'h>> {
        let element = list_elements_rev(headers, FORWARDED).next()?;
        let addresses = list_elements_rev(headers, FORWARDED)
            .map(|element| parameter(element, "for").and_then(node_address));
        Some(ForwardedInfo {
            client: self.rightmost_untrusted(peer, addresses),
            https: parameter(element, "proto").and_then(is_https),
            host: parameter(element, "host"),
        })
    }

    /// Walks back from the peer while the addresses are those of trusted proxies. What can't be
    /// read ends the walk: nobody vouches for what stands before it.
    fn rightmost_untrusted(&self, peer: IpAddr, addresses: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut client = peer;
        for address in addresses {
            if !self.contains(client) {
                break;
            }
            match address {
                Some(address) => client = address.to_canonical(),
                None => break,
            }
        }
        client
    }
}

/// The elements of a list header, the last first: each proxy appends its own.
fn list_elements_rev(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).iter().rev().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| split_list(line.as_bytes()).rev())
        .filter_map(|element| str::from_utf8(element).ok())
        .filter(|element| !element.is_empty())
}

/// A parameter of a `Forwarded` element (RFC 7239, section 4).
fn parameter<'h>(element: &'h str, name: &str) -> Option<&'h str> {
    element.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// A node of RFC 7239, section 6, or what proxies write into `X-Forwarded-For`: an address, perhaps
/// with a port, IPv6 then in brackets.
fn node_address(node: &str) -> Option<IpAddr> {
    if let Some(bracketed) = node.strip_prefix('[') {
        return bracketed.split_once(']')?.0.parse().ok();
    }
    node.parse().ok().or_else(|| node.rsplit_once(':')?.0.parse().ok())
}

fn is_https(proto: &str) -> Option<bool> {
    ["http", "https"].iter().position(|known| proto.eq_ignore_ascii_case(known)).map(|at| at == 1)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn trusted() -> TrustedProxies {
        TrustedProxies::new(vec![
            "10.0.0.0/8".parse().expect("a network"),
            "::1/128".parse().expect("a network"),
        ])
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
    fn an_untrusted_peer_is_believed_nothing() {
        let lies = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=1.1.1.1;proto=https"),
        ]);
        let origin = trusted().resolve("192.0.2.7".parse().expect("an address"), &lies);
        let truth =
            ForwardedInfo { client: "192.0.2.7".parse().expect("an address"), https: None, host: None };
        assert_eq!(origin, truth);
    }

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
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
    fn several_lines_are_one_list() {
        let lines = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "192.0.2.7, 10.0.0.2")];
        assert_eq!(client("10.0.0.1", &lines), "192.0.2.7");
    }

    #[test]
    fn forwarded_is_read_where_the_other_is_absent() {
        let value = r#"for=1.1.1.1, for="[2001:db8::7]:4711";proto=https;host=app.example"#;
        let headers = headers(&[("forwarded", value)]);
        let origin = trusted().resolve("::1".parse().expect("an address"), &headers);
        assert_eq!(origin.client.to_string(), "2001:db8::7");
        assert_eq!((origin.https, origin.host), (Some(true), Some("app.example")));
    }

    #[test]
    fn families_that_contradict_each_other_are_not_believed() {
        let lie = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=192.0.2.7")];
        assert_eq!(client("10.0.0.1", &lie), "10.0.0.1");
        let both = [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.7;proto=https")];
        assert_eq!(client("10.0.0.1", &both), "192.0.2.7");
    }

    #[test]
    fn an_ipv4_peer_on_an_ipv6_socket_is_the_same_peer() {
        assert_eq!(client("::ffff:10.0.0.1", &[("x-forwarded-for", "192.0.2.7")]), "192.0.2.7");
    }
}
