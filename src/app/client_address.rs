//! The client's address, scheme and host, as far as trusted proxies report them.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{FORWARDED, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use ipnet::IpNet;

use crate::config::{ForwardedHeader, Origin};
use crate::http_headers::{
    X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PREFIX, X_FORWARDED_PROTO, X_REAL_IP, is_valid_host,
    list_elements,
};
use crate::proxy::{Forwarded, ForwardedPrefix};
use crate::server::{Peer, TlsConnection, UnixPeer};

/// The origin by which browsers reach the gateway, which upstreams are told.
#[derive(Clone, Debug)]
pub(crate) struct PublicAuthority {
    scheme: &'static str,
    /// As in a `Host` header, without the default port.
    host: HeaderValue,
    /// The host with the default port; `None` if the origin has another port.
    host_with_port: Option<Box<str>>,
}

/// The client of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// `None` if the peer of a Unix socket names none.
    pub(crate) address: Option<IpAddr>,
    /// True if the client is known to use TLS.
    pub(crate) is_https: bool,
    /// True if a trusted proxy reports the host that the client requested.
    pub(crate) is_host_reported: bool,
}

impl PublicAuthority {
    /// Returns `None` if the origin's host is no valid header value, which no parsed origin has.
    pub(crate) fn new(origin: &Origin) -> Option<Self> {
        let (_, host) = origin.as_str().split_once("://")?;
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Some(Self {
            scheme: if origin.is_https() { "https" } else { "http" },
            host: HeaderValue::try_from(host).ok()?,
            host_with_port: (!has_port).then(|| format!("{host}:{}", origin.port()).into()),
        })
    }

    /// Returns a copy that shares no reference count, for another thread.
    pub(crate) fn unshared(&self) -> Self {
        let host = HeaderValue::from_bytes(self.host.as_bytes()).unwrap_or_else(|_| self.host.clone());
        Self { host, ..self.clone() }
    }

    fn matches(&self, host: &[u8]) -> bool {
        let matches = |own: &[u8]| own.eq_ignore_ascii_case(host);
        // The first comparison suffices for most requests.
        self.host == *host
            || matches(self.host.as_bytes())
            || self.host_with_port.as_ref().is_some_and(|own| matches(own.as_bytes()))
    }

    /// Returns the request's own host if it is this one, and this one otherwise.
    fn host_for<B>(&self, request: &Request<B>) -> HeaderValue {
        // RFC 9112, section 3.2.2: the authority of an absolute target overrides `Host`.
        if let Some(authority) = request.uri().authority().map(Authority::as_str) {
            let own = HeaderValue::try_from(authority).ok().filter(|host| self.matches(host.as_bytes()));
            return own.unwrap_or_else(|| self.host.clone());
        }
        // A scan is cheaper than hashing: `Host` is nearly always the first header.
        let host = request.headers().iter().find_map(|(name, host)| (name == HOST).then_some(host));
        host.filter(|host| self.matches(host.as_bytes())).unwrap_or(&self.host).clone()
    }
}

/// Returns the client, and inserts [`Forwarded`] and [`ForwardedPrefix`] into the request for upstreams.
///
/// Upstreams are told the scheme and host of `public`, unless a trusted proxy reports others: `Host` is the client's,
/// and the connection may be that of a proxy. Returns `None` if the request did not arrive through a listener.
pub(crate) fn resolve_client<B>(
    trusted: &TrustedProxies,
    public: Option<&PublicAuthority>,
    request: &mut Request<B>,
) -> Option<Client> {
    // Removed, because nothing reads them later and smaller extensions take fewer allocations.
    let peer = request.extensions_mut().remove().map(|Peer(peer)| peer.ip());
    if peer.is_none() {
        request.extensions().get::<UnixPeer>()?;
    }
    let is_tls = request.extensions_mut().remove::<TlsConnection>().is_some();
    let info = trusted.resolve(peer, request.headers());
    let client = Client {
        address: info.client,
        is_https: info.https.unwrap_or(is_tls),
        is_host_reported: info.host.is_some(),
    };
    let public_scheme = public.map_or("http", |public| public.scheme);
    let proto = info.https.map_or(public_scheme, |is_https| if is_https { "https" } else { "http" });
    let host = info.host.and_then(|host| HeaderValue::try_from(host).ok());
    let prefix = info.prefix;
    if let Some(host) = host.or_else(|| Some(public?.host_for(request))) {
        let forwarded = Forwarded { client: client.address, proto, host, chain: None };
        request.extensions_mut().insert(forwarded);
    }
    if let Some(prefix) = prefix {
        request.extensions_mut().insert(prefix);
    }
    Some(client)
}

/// The proxies in front, and those of their headers that are trusted.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedProxies {
    networks: Vec<IpNet>,
    headers: Arc<[ForwardedHeader]>,
}

/// The origin of a request, as trusted proxies report it.
#[derive(Clone, Debug)]
pub(crate) struct ForwardedInfo<'h> {
    /// Address of the client: the last one in the chain that is not a trusted proxy's. `None` if the peer of a Unix
    /// socket names none.
    pub(crate) client: Option<IpAddr>,
    /// `true` for https, `false` for http, `None` if no trusted proxy reports the scheme.
    pub(crate) https: Option<bool>,
    /// Host that the client requested, if a trusted proxy reports it.
    pub(crate) host: Option<&'h str>,
    /// Path prefix that trusted proxies have removed.
    pub(crate) prefix: Option<ForwardedPrefix>,
}

impl TrustedProxies {
    pub(crate) fn new(networks: Vec<IpNet>, headers: &[ForwardedHeader]) -> Self {
        Self { networks, headers: headers.into() }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Resolves the origin of a request that `peer` sent. The peer of a Unix socket (`None`) is trusted: permissions of
    /// the file decide who can connect.
    ///
    /// A proxy may pass a header on as the client sent it. Only those are read that the proxies are configured to set.
    /// If two of them name different clients, all are ignored.
    pub(crate) fn resolve<'h>(&self, peer: Option<IpAddr>, headers: &'h HeaderMap) -> ForwardedInfo<'h> {
        let peer = peer.map(|peer| peer.to_canonical());
        let direct = ForwardedInfo { client: peer, https: None, host: None, prefix: None };
        if !peer.is_none_or(|peer| self.contains(peer)) {
            return direct;
        }
        let mut clients = [
            self.client_of_x_forwarded_for(peer, headers),
            self.client_of_forwarded(peer, headers),
            self.client_of_x_real_ip(headers),
        ]
        .into_iter()
        .flatten();
        let client = clients.next().or(peer);
        if clients.any(|other| Some(other) != client) {
            return direct;
        }
        let https = [self.last(headers, ForwardedHeader::XForwardedProto), self.parameter(headers, "proto")];
        let host = [self.last(headers, ForwardedHeader::XForwardedHost), self.parameter(headers, "host")];
        ForwardedInfo {
            client,
            https: agreed(https.map(|proto| proto.and_then(is_https))),
            host: agreed(host).filter(|host| is_valid_host(host.as_bytes())),
            prefix: self.prefix(headers),
        }
    }

    fn client_of_x_forwarded_for(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let mut addresses =
            self.list_rev(headers, ForwardedHeader::XForwardedFor).map(node_address).peekable();
        addresses.peek()?;
        self.rightmost_untrusted(peer, addresses)
    }

    /// Reads `Forwarded` (RFC 7239). An element without `for` names no client.
    fn client_of_forwarded(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let elements = self.list_rev(headers, ForwardedHeader::Forwarded);
        let mut addresses =
            elements.filter_map(|element| parameter(element, "for")).map(node_address).peekable();
        addresses.peek()?;
        self.rightmost_untrusted(peer, addresses)
    }

    fn client_of_x_real_ip(&self, headers: &HeaderMap) -> Option<IpAddr> {
        Some(node_address(self.last(headers, ForwardedHeader::XRealIp)?)?.to_canonical())
    }

    /// Joins the prefixes that proxies have appended, each to those of the proxies before it.
    fn prefix(&self, headers: &HeaderMap) -> Option<ForwardedPrefix> {
        if !self.headers.contains(&ForwardedHeader::XForwardedPrefix) {
            return None;
        }
        let prefixes = list_elements(headers, &X_FORWARDED_PREFIX).map(readable);
        let joined: String = prefixes.map(|prefix| prefix.trim_end_matches('/')).collect();
        ForwardedPrefix::new(&joined)
    }

    /// Returns a parameter of the last element of `Forwarded`.
    fn parameter<'h>(&self, headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
        parameter(self.last(headers, ForwardedHeader::Forwarded)?, name)
    }

    fn last<'h>(&self, headers: &'h HeaderMap, header: ForwardedHeader) -> Option<&'h str> {
        self.list_rev(headers, header).next()
    }

    /// Iterates over the elements of a list header in reverse, because each proxy appends its own. There are none if
    /// the header is not trusted.
    fn list_rev<'h>(&self, headers: &'h HeaderMap, header: ForwardedHeader) -> impl Iterator<Item = &'h str> {
        let name = Some(name_of(header)).filter(|_| self.headers.contains(&header));
        name.into_iter().flat_map(|name| list_elements_rev(headers, name))
    }

    /// Walks the chain back from the peer until the first address that is not a trusted proxy's.
    ///
    /// An unreadable address ends the walk, because no trusted proxy vouches for the ones before it.
    fn rightmost_untrusted(
        &self,
        peer: Option<IpAddr>,
        addresses: impl Iterator<Item = Option<IpAddr>>,
    ) -> Option<IpAddr> {
        let mut client = peer;
        for address in addresses {
            let is_trusted = client.is_none_or(|client| self.contains(client));
            let Some(address) = address.filter(|_| is_trusted) else { break };
            client = Some(address.to_canonical());
        }
        client
    }
}

fn name_of(header: ForwardedHeader) -> HeaderName {
    match header {
        ForwardedHeader::Forwarded => FORWARDED,
        ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
        ForwardedHeader::XForwardedHost => X_FORWARDED_HOST,
        ForwardedHeader::XForwardedPrefix => X_FORWARDED_PREFIX,
        ForwardedHeader::XForwardedProto => X_FORWARDED_PROTO,
        ForwardedHeader::XRealIp => X_REAL_IP,
    }
}

/// Returns the value that two headers report, or that of the only one. `None` if they differ.
fn agreed<T: PartialEq>([first, second]: [Option<T>; 2]) -> Option<T> {
    match (first, second) {
        (Some(first), Some(second)) => (first == second).then_some(first),
        (first, second) => first.or(second),
    }
}

fn list_elements_rev(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let has_quotes = name == FORWARDED;
    let lines = headers.get_all(name).iter().rev();
    let elements = lines.flat_map(move |line| split_rev(line.as_bytes(), b',', has_quotes));
    elements.map(readable).filter(|element| !element.is_empty())
}

/// Splits at separators outside quoted strings (RFC 9110, section 5.6.4), beginning with the last part. Parts are
/// trimmed.
///
/// The last element is that of a trusted proxy. It may quote text of the client, such as the host. The client may have
/// sent the elements before it, with quotes that are not closed.
fn split_rev(text: &[u8], separator: u8, has_quotes: bool) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut is_quoted = false;
        let is_separator = |at: &usize| {
            is_quoted ^= has_quotes && text[*at] == b'"' && !is_escaped(text, *at);
            text[*at] == separator && !is_quoted
        };
        let at = (0..text.len()).rev().find(is_separator);
        rest = at.map(|at| &text[..at]);
        Some(text[at.map_or(0, |at| at + 1)..].trim_ascii())
    })
}

/// Returns `true` if an odd number of backslashes precedes the byte.
fn is_escaped(text: &[u8], at: usize) -> bool {
    text[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Returns the text of a list element, or one that means nothing if the element is not ASCII.
fn readable(element: &[u8]) -> &str {
    str::from_utf8(element).ok().filter(|element| element.is_ascii()).unwrap_or("?")
}

/// Returns a parameter of a `Forwarded` element (RFC 7239, section 4).
fn parameter<'h>(element: &'h str, name: &str) -> Option<&'h str> {
    split_rev(element.as_bytes(), b';', true).find_map(|pair| {
        let (key, value) = str::from_utf8(pair).ok()?.split_once('=')?;
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
    use super::*;

    fn trusted(headers: &[ForwardedHeader]) -> TrustedProxies {
        let networks = ["10.0.0.0/8", "::1/128"];
        TrustedProxies::new(networks.map(|network| network.parse().expect("a network")).to_vec(), headers)
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn client(peer: &str, pairs: &[(&'static str, &'static str)]) -> String {
        let info = trusted(&ForwardedHeader::ALL);
        info.resolve(peer.parse().ok(), &headers(pairs)).client.expect("an address").to_string()
    }

    #[test]
    fn headers_of_an_untrusted_peer_are_ignored() {
        let spoofed = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-prefix", "/evil"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1;proto=https"),
        ]);
        let peer = IpAddr::from([192, 0, 2, 7]);
        let info = trusted(&ForwardedHeader::ALL).resolve(Some(peer), &spoofed);
        assert_eq!((info.client, info.https, info.host), (Some(peer), None, None));
        assert!(info.prefix.is_none());
    }

    /// C9: headers that a browser sent were believed where the proxy sets another one.
    #[test]
    fn only_the_configured_headers_are_read() {
        let sent = headers(&[
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-prefix", "/evil"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1;proto=https;host=evil.example"),
        ]);
        let peer = IpAddr::from([10, 0, 0, 1]);
        for (header, client) in [
            (ForwardedHeader::XForwardedFor, "192.0.2.7"),
            (ForwardedHeader::XRealIp, "1.1.1.1"),
            (ForwardedHeader::Forwarded, "1.1.1.1"),
            (ForwardedHeader::XForwardedHost, "10.0.0.1"),
            (ForwardedHeader::XForwardedPrefix, "10.0.0.1"),
            (ForwardedHeader::XForwardedProto, "10.0.0.1"),
        ] {
            let proxies = trusted(&[header]);
            let info = proxies.resolve(Some(peer), &sent);
            assert_eq!(info.client.expect("an address").to_string(), client, "{header:?}");
            let reports = |headers: &[ForwardedHeader]| headers.contains(&header);
            let reports_scheme = reports(&[ForwardedHeader::Forwarded, ForwardedHeader::XForwardedProto]);
            let reports_host = reports(&[ForwardedHeader::Forwarded, ForwardedHeader::XForwardedHost]);
            assert_eq!(info.https, reports_scheme.then_some(true), "{header:?}");
            assert_eq!(info.host, reports_host.then_some("evil.example"), "{header:?}");
            assert_eq!(info.prefix.is_some(), reports(&[ForwardedHeader::XForwardedPrefix]), "{header:?}");
        }
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
        let proxies = trusted(&ForwardedHeader::ALL);
        let info = proxies.resolve("::1".parse().ok(), &headers);
        assert_eq!(info.client.expect("an address").to_string(), "2001:db8::7");
        assert_eq!((info.https, info.host), (Some(true), Some("app.example")));
    }

    #[test]
    fn conflicting_headers_are_ignored() {
        let conflicting = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=192.0.2.7")];
        assert_eq!(client("10.0.0.1", &conflicting), "10.0.0.1");
        let agreeing = [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.7;proto=https")];
        assert_eq!(client("10.0.0.1", &agreeing), "192.0.2.7");
        let conflicting = [("x-forwarded-for", "192.0.2.7"), ("x-real-ip", "1.1.1.1")];
        assert_eq!(client("10.0.0.1", &conflicting), "10.0.0.1");
        let agreeing = [("x-forwarded-for", "1.1.1.1, 192.0.2.7"), ("x-real-ip", "192.0.2.7")];
        assert_eq!(client("10.0.0.1", &agreeing), "192.0.2.7");
        let schemes = headers(&[("x-forwarded-proto", "https"), ("forwarded", "proto=http;host=a")]);
        let proxies = trusted(&ForwardedHeader::ALL);
        let info = proxies.resolve("10.0.0.1".parse().ok(), &schemes);
        assert_eq!(
            (info.client.expect("an address").to_string().as_str(), info.https, info.host),
            ("10.0.0.1", None, Some("a"))
        );
    }

    /// A client hid its address behind that of the proxy with a byte that is not ASCII.
    #[test]
    fn unreadable_elements_do_not_hide_those_after_them() {
        let proxies = trusted(&ForwardedHeader::ALL);
        let peer = "10.0.0.1".parse().expect("an address");
        for (name, value, expected) in [
            ("x-forwarded-for", &b"1.1.1.1, \xff, 192.0.2.7"[..], "192.0.2.7"),
            ("x-forwarded-for", b"1.1.1.1, \xff, 10.0.0.2", "10.0.0.2"),
            ("x-forwarded-for", b"1.1.1.1, \xff", "10.0.0.1"),
            ("forwarded", b"for=1.1.1.1, for=\xc2\xa0, for=192.0.2.7", "192.0.2.7"),
            ("forwarded", b"for=\"1.1.1.1, for=192.0.2.7", "192.0.2.7"),
        ] {
            let value = HeaderValue::from_bytes(value).expect("a value");
            let mut headers = headers(&[(name, "2.2.2.2")]);
            headers.append(name, value);
            let info = proxies.resolve(Some(peer), &headers);
            assert_eq!(info.client.expect("an address").to_string(), expected, "{name}");
        }
        let prefix = HeaderValue::from_bytes(b"/a, /\xff, /b").expect("a value");
        let headers = [(X_FORWARDED_PREFIX, prefix)].into_iter().collect();
        assert!(proxies.resolve(Some(peer), &headers).prefix.is_none());
    }

    /// Text of the client within a quoted string was read as parameters, among them another address.
    #[test]
    fn quoted_strings_of_a_proxy_have_no_parameters() {
        let hosts = [
            "a;for=1.1.1.1",
            "a,for=1.1.1.1",
            "a;for=1.1.1.1;x",
            "a\\\",for=1.1.1.1",
            "a\\\";for=1.1.1.1;b=\\\"",
        ];
        for host in hosts {
            for element in [
                format!("host=\"{host}\"; for=192.0.2.7;proto=https"),
                format!("for=192.0.2.7;proto=https;host=\"{host}\""),
            ] {
                let value =
                    HeaderValue::try_from(format!("for=2.2.2.2;host=\"b, {element}")).expect("a value");
                let headers = [(FORWARDED, value)].into_iter().collect();
                let info = trusted(&ForwardedHeader::ALL).resolve("10.0.0.1".parse().ok(), &headers);
                assert_eq!(info.client.expect("an address").to_string(), "192.0.2.7", "{element}");
                assert_eq!(info.https, Some(true), "{element}");
            }
        }
    }

    /// C20: a host from a trusted proxy was not checked.
    #[test]
    fn invalid_host_is_ignored() {
        let proxies = trusted(&ForwardedHeader::ALL);
        let peer = "10.0.0.1".parse().expect("an address");
        for host in ["localhost:x", ":80", "[]", "[zz]", "a:99999", "u@a", "a b", "a/b", "a\\b", "<a>"] {
            let x_forwarded = HeaderValue::try_from(host).expect("a value");
            let forwarded = HeaderValue::try_from(format!("host=\"{host}\"")).expect("a value");
            for (name, value) in [("x-forwarded-host", x_forwarded), ("forwarded", forwarded)] {
                let headers = [(HeaderName::from_static(name), value)].into_iter().collect();
                assert_eq!(proxies.resolve(Some(peer), &headers).host, None, "{name} {host}");
            }
        }
    }

    #[test]
    fn peer_of_a_unix_socket_is_trusted() {
        for (list, expected) in [
            ("192.0.2.7", Some("192.0.2.7")),
            ("1.1.1.1, 192.0.2.7, 10.0.0.2", Some("192.0.2.7")),
            ("10.0.0.2", Some("10.0.0.2")),
            ("1.1.1.1, unknown", None),
        ] {
            let headers = headers(&[("x-forwarded-for", list)]);
            let info = trusted(&ForwardedHeader::ALL).resolve(None, &headers);
            assert_eq!(info.client.map(|client| client.to_string()).as_deref(), expected, "{list}");
        }
        let info = trusted(&ForwardedHeader::ALL);
        assert_eq!(info.resolve(None, &HeaderMap::new()).client, None);
    }

    #[test]
    fn ipv4_mapped_peer_matches_ipv4_network() {
        assert_eq!(client("::ffff:10.0.0.1", &[("x-forwarded-for", "192.0.2.7")]), "192.0.2.7");
    }

    #[test]
    fn public_host_is_recognized_in_any_spelling() {
        for (origin, host, matches) in [
            ("https://app.example", "app.example", true),
            ("https://app.example", "APP.example", true),
            ("https://app.example", "app.example:443", true),
            ("https://app.example", "app.example:80", false),
            ("https://app.example", "app.example.", false),
            ("http://app.example:8080", "app.example:8080", true),
            ("http://app.example:8080", "app.example", false),
            ("http://[::1]:8080", "[::1]:8080", true),
            ("http://[::1]", "[::1]:80", true),
        ] {
            let origin = origin.parse().expect("an origin");
            let public = PublicAuthority::new(&origin).expect("a host");
            assert_eq!(public.matches(host.as_bytes()), matches, "{origin} {host}");
        }
    }
}
