//! Checks that hyper leaves to the server, and the normalization of HTTP/2 request heads.

use http::header::{COOKIE, HOST, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Request, Version};

use super::limits::ServerLimits;
use super::reject::RejectReason;
use crate::http_headers::has_userinfo;

/// Checks the target length, the number of HTTP/2 header fields, and the host; normalizes HTTP/2 heads.
pub(super) fn check_and_normalize<B>(
    request: &mut Request<B>,
    limits: &ServerLimits,
) -> Result<(), RejectReason> {
    if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > limits.uri_bytes) {
        return Err(RejectReason::UriTooLong);
    }
    if request.version() == Version::HTTP_2 {
        if request.headers().len() > limits.header_fields {
            return Err(RejectReason::TooManyFields);
        }
        return normalize_http2(request);
    }
    if has_valid_host(request) { Ok(()) } else { Err(RejectReason::BadHost) }
}

/// Gives an HTTP/2 request head the form of HTTP/1.1: `:authority` becomes `Host` (RFC 9113 section
/// 8.3.1), and cookies are joined into one field (section 8.2.3).
fn normalize_http2<B>(request: &mut Request<B>) -> Result<(), RejectReason> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (request.uri().authority(), hosts.next(), hosts.next()) {
        (Some(authority), None, _) if !has_userinfo(authority) => {
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| RejectReason::BadHost)?;
            request.headers_mut().insert(HOST, host);
        }
        (Some(authority), Some(host), None)
            if !has_userinfo(authority)
                && host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {}
        (None, Some(host), None) if is_host(host) => {}
        _ => return Err(RejectReason::BadHost),
    }
    join_cookies(request.headers_mut());
    Ok(())
}

/// Joins the `Cookie` fields, of which HTTP/2 clients send one for each cookie to compress them better.
fn join_cookies(headers: &mut HeaderMap) {
    let fields: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if fields.len() < 2 {
        return;
    }
    if let Ok(cookies) = HeaderValue::from_bytes(&fields.join(&b"; "[..])) {
        headers.insert(COOKIE, cookies);
    }
}

/// Returns `true` if the request has exactly one valid host (RFC 9112 section 3.2).
///
/// HTTP/1.0 requests may omit it.
fn has_valid_host<B>(request: &Request<B>) -> bool {
    if request.uri().authority().is_some_and(has_userinfo) {
        return false;
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_host(host),
        (None, _) => request.version() < Version::HTTP_11,
        (Some(_), Some(_)) => false,
    }
}

fn is_host(value: &HeaderValue) -> bool {
    let host = value.as_bytes();
    is_plain_host(host) || Authority::try_from(host).is_ok_and(|host| !has_userinfo(&host))
}

/// Returns `true` for a host name or IPv4 address with an optional port.
///
/// Nearly all hosts match, and every match is a valid [`Authority`], which is slower to parse.
fn is_plain_host(host: &[u8]) -> bool {
    let is_plain = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-');
    let name_end = host.iter().position(|octet| !is_plain(octet)).unwrap_or(host.len());
    let is_port = |rest: &[u8]| rest[0] == b':' && rest[1..].iter().all(u8::is_ascii_digit);
    name_end > 0 && (name_end == host.len() || is_port(&host[name_end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_host_is_valid_authority() {
        for host in ["localhost", "a", "127.0.0.1", "app.example:8443", "APP.example.:", "a-b:0", "-.:99999"]
        {
            assert!(is_plain_host(host.as_bytes()), "{host}");
            assert!(Authority::try_from(host).is_ok_and(|host| !has_userinfo(&host)), "{host}");
        }
        for other in ["", ":80", "a:b", "a:1:2", "[::1]", "[::1]:80", "u@h", "a b", "a/b", "a_b", "é", "a%20"]
        {
            assert!(!is_plain_host(other.as_bytes()), "{other}");
        }
    }
}
