//! Properties of the headers in which proxies report the client.

use std::net::IpAddr;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;

use super::client_address::{ForwardedInfo, TrustedProxies};
use crate::config::ForwardedHeader;
use crate::http_headers::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PREFIX, X_FORWARDED_PROTO};
use crate::proxy::fuzzing::written_headers;
use crate::proxy::{Forwarded, check_path};

/// Checks the client of a request with the header lines of `input`. Lines of other headers are ignored.
///
/// # Panics
///
/// If a property does not hold.
pub fn check_forwarded(input: &[u8]) {
    let headers: HeaderMap = input.split(|byte| *byte == b'\n').filter_map(field).collect();
    for trusted in [&ForwardedHeader::ALL[..]].into_iter().chain(ForwardedHeader::ALL.chunks(1)) {
        let proxies = trusted_proxies(trusted);
        let info = proxies.resolve(Some(CLIENT), &headers);
        let is_empty = info.https.is_none() && info.host.is_none() && info.prefix.is_none();
        assert!(info.client == Some(CLIENT) && is_empty, "a client is believed");
        check_info(&proxies.resolve(Some(PROXY), &headers), &headers);
        check_info(&proxies.resolve(None, &headers), &headers);
    }
    check_appended(&headers);
    check_quoted(input);
}

fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_at(memchr::memchr(b':', line)?);
    let name = HeaderName::from_bytes(name.trim_ascii()).ok()?;
    Some((name, HeaderValue::from_bytes(value[1..].trim_ascii()).ok()?))
}

fn trusted_proxies(headers: &[ForwardedHeader]) -> TrustedProxies {
    let networks = ["10.0.0.0/8", "::1/128"].into_iter().filter_map(|network| network.parse().ok());
    TrustedProxies::new(networks.collect(), headers)
}

/// The client is a proxy or has an address that stands in a header. Upstreams are told valid values, and another
/// gateway reads it as the same.
fn check_info(info: &ForwardedInfo<'_>, headers: &HeaderMap) {
    assert!(info.client.is_none_or(|client| client == PROXY || is_named(client, headers)), "{info:?}");
    if let Some(host) = info.host {
        let authority = Authority::try_from(host).unwrap_or_else(|error| panic!("{host}: {error}"));
        assert!(!authority.as_str().contains('@'));
    }
    // `X-Forwarded-Host` is a list, so that no host with a comma is read again.
    let host = info.host.filter(|host| !host.contains(',')).unwrap_or("app.example");
    let host = HeaderValue::try_from(host);
    let Ok(host) = host else { panic!("{info:?}") };
    let proto = if info.https == Some(true) { "https" } else { "http" };
    let forwarded = Forwarded { client: info.client, proto, host: host.clone(), chain: None };
    let written = written_headers(&forwarded, info.prefix.as_ref());
    if let Some(prefix) = written.get(X_FORWARDED_PREFIX).and_then(|prefix| prefix.to_str().ok()) {
        assert!(check_path(prefix, false) == Ok(()) && !prefix.ends_with('/'), "{prefix}");
    }
    let again = trusted_proxies(&ForwardedHeader::ALL).resolve(Some(PROXY), &written);
    assert_eq!(again.client, Some(info.client.unwrap_or(PROXY)));
    assert_eq!((again.https, again.host), (Some(proto == "https"), host.to_str().ok()));
    assert_eq!(again.prefix.is_some(), info.prefix.is_some());
}

/// Returns `true` if a word of a header is this address, with or without a port.
fn is_named(address: IpAddr, headers: &HeaderMap) -> bool {
    let is_address = |text: &str| text.parse() == Ok(address) || mapped(text) == Some(address);
    let is_separator = |byte: &u8| b",;=\"[] \t".contains(byte);
    let words = headers.values().flat_map(|value| value.as_bytes().split(is_separator));
    words
        .filter_map(|word| str::from_utf8(word).ok())
        .any(|word| is_address(word) || word.rsplit_once(':').is_some_and(|(address, _)| is_address(address)))
}

/// Parses an IPv4-mapped IPv6 address.
fn mapped(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// The element that a trusted proxy appends counts, whatever the client has sent.
fn check_appended(headers: &HeaderMap) {
    for (header, name, element) in [
        (ForwardedHeader::XForwardedFor, X_FORWARDED_FOR, "203.0.113.9"),
        (ForwardedHeader::Forwarded, FORWARDED, "for=203.0.113.9;host=app.example;proto=https"),
        (ForwardedHeader::XForwardedHost, X_FORWARDED_HOST, "app.example"),
        (ForwardedHeader::XForwardedProto, X_FORWARDED_PROTO, "https"),
    ] {
        for headers in [with_line(headers, &name, element), with_element(headers, &name, element)] {
            let proxies = trusted_proxies(&[header]);
            let info = proxies.resolve(Some(PROXY), &headers);
            let has_client = element.contains("203.0.113.9");
            assert_eq!(info.client, Some(if has_client { CLIENT } else { PROXY }), "{headers:?}");
            assert_eq!(info.host, element.contains("app.example").then_some("app.example"), "{headers:?}");
            assert_eq!(info.https, element.contains("https").then_some(true), "{headers:?}");
        }
    }
}

/// A host of the client that a proxy quotes is no parameter.
fn check_quoted(input: &[u8]) {
    let host: Vec<u8> =
        input.iter().copied().filter(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(byte)).collect();
    let host = String::from_utf8_lossy(&host);
    for element in [
        format!("for=203.0.113.9;proto=https;host=\"{host}\""),
        format!("host=\"{host}\";for=203.0.113.9;proto=https"),
    ] {
        let headers =
            HeaderValue::try_from(element).into_iter().map(|element| (FORWARDED, element)).collect();
        let info = trusted_proxies(&[ForwardedHeader::Forwarded]).resolve(Some(PROXY), &headers);
        assert_eq!((info.client, info.https), (Some(CLIENT), Some(true)), "{headers:?}");
    }
}

/// Adds a line, as HAProxy does.
fn with_line(headers: &HeaderMap, name: &HeaderName, element: &'static str) -> HeaderMap {
    let mut headers = headers.clone();
    headers.append(name, HeaderValue::from_static(element));
    headers
}

/// Joins all lines and adds an element, as nginx does.
fn with_element(headers: &HeaderMap, name: &HeaderName, element: &'static str) -> HeaderMap {
    let lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let joined = lines.chain([element.as_bytes()]).collect::<Vec<_>>().join(&b", "[..]);
    HeaderValue::from_bytes(&joined).into_iter().map(|value| (name.clone(), value)).collect()
}

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));
const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
