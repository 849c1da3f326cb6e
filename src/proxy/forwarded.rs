//! Telling upstreams where a request came from.

use std::net::IpAddr;

use http::HeaderValue;
use http::header::{HeaderMap, HeaderName};

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
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        let client = self.client.to_canonical();
        let Ok(address) = HeaderValue::try_from(client.to_string()) else { return };
        let chain = self.chain.clone().unwrap_or_else(|| address.clone());
        headers.insert(X_FORWARDED_FOR, chain);
        headers.insert(X_FORWARDED_HOST, self.host.clone());
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(self.proto));
        if let Some(element) = self.element(client, &address) {
            headers.insert(http::header::FORWARDED, element);
        }
        headers.insert(X_REAL_IP, address);
    }

    /// The one element of `Forwarded` (RFC 7239, section 4). A host that can't be quoted without
    /// escapes is none.
    fn element(&self, client: IpAddr, address: &HeaderValue) -> Option<HeaderValue> {
        let host = self.host.to_str().ok().filter(|host| !host.contains(['"', '\\']))?;
        let (open, close) = if client.is_ipv6() { ("for=\"[", "]\";host=\"") } else { ("for=", ";host=\"") };
        let element = [open, address.to_str().ok()?, close, host, "\";proto=", self.proto].concat();
        HeaderValue::try_from(element).ok()
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(client: &str, chain: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let forwarded = Forwarded {
            client: client.parse().unwrap(),
            proto: "https",
            host: HeaderValue::from_static("app.example:8443"),
            chain: chain.map(HeaderValue::from_static),
        };
        forwarded.add_to(&mut headers);
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
    fn version_6_is_quoted() {
        let headers = sent("2001:db8::1", None);
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
        assert!(headers["forwarded"].to_str().unwrap().starts_with("for=\"[2001:db8::1]\";"));
    }
}
