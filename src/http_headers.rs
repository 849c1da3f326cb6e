//! Header names used by more than one module, and parsers of list and cookie headers.

#![cfg_attr(not(feature = "server"), allow(dead_code, reason = "the layer alone needs only some of these"))]

use std::net::Ipv6Addr;

use http::HeaderValue;
use http::header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderName};

/// The response header that carries the [`SessionEvent`](crate::session_event::SessionEvent).
pub const SESSION_EVENT_HEADER: HeaderName = HeaderName::from_static("x-session-event");

/// The id of a request, in the request, its response and the log.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The position of a request in a trace (W3C Trace Context).
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// A copy of the `Set-Cookie` of the access token, in responses to forward auth requests.
pub(crate) const X_SET_ACCESS_COOKIE: HeaderName = HeaderName::from_static("x-set-access-cookie");

/// A copy of the `Set-Cookie` of the refresh token, in responses to forward auth requests.
pub(crate) const X_SET_REFRESH_COOKIE: HeaderName = HeaderName::from_static("x-set-refresh-cookie");

/// The address of the sign-in page, in 401 responses to forward auth requests.
pub(crate) const X_SIGN_IN_URL: HeaderName = HeaderName::from_static("x-sign-in-url");

/// The `Cache-Control` of responses that no cache may store.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The `Cache-Control` of responses that depend on a session.
pub(crate) const PRIVATE_NO_STORE: HeaderValue = HeaderValue::from_static("private, no-store");

/// Returns the elements of a comma-separated field on all its lines.
pub(crate) fn list_elements<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl DoubleEndedIterator<Item = &'h [u8]> + use<'h> {
    headers.get_all(name).iter().flat_map(|line| split_list(line.as_bytes()))
}

/// Returns `true` if a comma-separated field has `element`, compared without regard to case.
pub(crate) fn list_contains(headers: &HeaderMap, name: &HeaderName, element: &str) -> bool {
    list_elements(headers, name).any(|listed| listed.eq_ignore_ascii_case(element.as_bytes()))
}

/// Splits one line of a comma-separated field (RFC 9110 section 5.6.1).
///
/// Elements are trimmed. Empty ones are included.
pub(crate) fn split_list(line: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Returns the name-value pairs of all `Cookie` lines, as [`split_pairs`] does.
pub(crate) fn cookie_pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(COOKIE).iter().flat_map(|line| split_pairs(line.as_bytes()))
}

/// Splits a `Cookie` line, or the value of a `Set-Cookie`, at its semicolons.
///
/// Pairs are not trimmed. `memchr` compares many bytes at once, which pays because a line is mostly one
/// long token.
pub(crate) fn split_pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let Some(end) = memchr::memchr(b';', line) else { return rest.take() };
        rest = Some(&line[end + 1..]);
        Some(&line[..end])
    })
}

/// Returns the name of a cookie pair: all up to the first `=`, trimmed (RFC 6265bis section 5.6).
pub(crate) fn cookie_name(pair: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'=', pair).unwrap_or(pair.len());
    pair[..end].trim_ascii()
}

/// Returns the trimmed value of a cookie pair if its name is `name`, which must not contain `=`.
///
/// Cheaper than [`cookie_name`], which has to search for the `=`.
pub(crate) fn cookie_value<'h>(pair: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let rest = pair.trim_ascii_start().strip_prefix(name.as_bytes())?;
    Some(rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii())
}

/// Returns `true` for a host with an optional port, without userinfo (RFC 9110 section 7.2, RFC 3986 section 3.2).
///
/// A port must be one of TCP. An empty host is valid in RFC 3986, but not for `http` and `https`.
pub(crate) fn is_valid_host(host: &[u8]) -> bool {
    let name_len = match host {
        [b'[', literal @ ..] => ip_literal_len(literal).map_or(0, |len| len + 2),
        _ => registered_name_len(host),
    };
    name_len > 0 && is_port_suffix(&host[name_len..])
}

/// Returns the length of the address before the closing bracket.
fn ip_literal_len(literal: &[u8]) -> Option<usize> {
    let len = memchr::memchr(b']', literal)?;
    let address = str::from_utf8(&literal[..len]).ok()?;
    (address.parse::<Ipv6Addr>().is_ok() || is_future_address(address)).then_some(len)
}

/// Returns `true` for an address of a version after IPv6 (`IPvFuture`).
fn is_future_address(address: &str) -> bool {
    let Some((version, address)) = address.strip_prefix(['v', 'V']).and_then(|rest| rest.split_once('.'))
    else {
        return false;
    };
    let is_filled = !version.is_empty() && !address.is_empty();
    is_filled
        && version.bytes().all(|byte| byte.is_ascii_hexdigit())
        && address.bytes().all(|byte| byte == b':' || is_name_byte(byte))
}

/// Returns the length of the host name or IPv4 address at the start of `host`.
///
/// Percent-encoding is not accepted: `http` has no authorities with it.
fn registered_name_len(host: &[u8]) -> usize {
    host.iter().position(|&byte| !is_name_byte(byte)).unwrap_or(host.len())
}

/// Returns `true` for the characters that RFC 3986 calls `unreserved` and `sub-delims`.
fn is_name_byte(byte: u8) -> bool {
    NAME_BYTES[usize::from(byte)]
}

/// The bytes of host names. A table, since each byte of the host of every request is looked up.
const NAME_BYTES: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        bytes[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'..=b',' | b';' | b'=');
        byte += 1;
    }
    bytes
};

/// Returns `true` for nothing, or a colon with a port or without one.
fn is_port_suffix(suffix: &[u8]) -> bool {
    let Some((b':', port)) = suffix.split_first() else { return suffix.is_empty() };
    let number = port.iter().try_fold(0, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u32::from(byte - b'0'))?;
        Some(number * 10 + digit).filter(|number| *number <= u32::from(u16::MAX))
    });
    number.is_some()
}

/// Returns `true` for a character of a token, such as the name of a header or a cookie (RFC 9110 section 5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns the media type of a field value, without its parameters.
pub(crate) fn media_type(value: &[u8]) -> &[u8] {
    value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii()
}

/// Returns `true` for the content type of gRPC or gRPC-Web, whose messages may be streams.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Returns `true` if all characters of a header name are those of a token (RFC 9110 section 5.6.2).
///
/// The names that [`HeaderName`] takes from HTTP/2 may contain a quote too.
pub(crate) fn is_token(name: &HeaderName) -> bool {
    memchr::memchr(b'"', name.as_str().as_bytes()).is_none()
}

#[cfg(test)]
mod tests {
    use http::header::VARY;
    use http::uri::Authority;

    use super::*;

    #[test]
    fn list_spans_lines_and_keeps_empty_elements() {
        let mut headers = HeaderMap::new();
        headers.append(VARY, HeaderValue::from_static("a , b,"));
        headers.append(VARY, HeaderValue::from_bytes(b"\xff,C").unwrap());
        let elements: Vec<&[u8]> = list_elements(&headers, &VARY).collect();
        assert_eq!(elements, [b"a".as_slice(), b"b", b"", b"\xff", b"C"]);
        assert!(list_contains(&headers, &VARY, "c"));
        assert!(!list_contains(&headers, &VARY, "d"));
    }

    #[test]
    fn pairs_span_lines_and_keep_their_bytes() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; b=\"2\";;"));
        headers.append(COOKIE, HeaderValue::from_bytes(b" c=\xff").unwrap());
        let pairs: Vec<&[u8]> = cookie_pairs(&headers).collect();
        assert_eq!(pairs, [b"a=1".as_slice(), b" b=\"2\"", b"", b"", b" c=\xff"]);
    }

    #[test]
    fn name_ends_at_first_equals_sign() {
        assert_eq!(cookie_name(b" a = b=c "), b"a");
        assert_eq!(cookie_name(b"a"), b"a");
        assert_eq!(cookie_value(b" a = b=c ", "a"), Some(b"b=c".as_slice()));
        assert_eq!(cookie_value(b"ab=1", "a"), None);
        assert_eq!(cookie_value(b"a", "a"), None);
    }

    /// C20: hosts that RFC 3986 does not allow.
    #[test]
    fn host_follows_the_grammar() {
        let names = ["localhost", "a", "127.0.0.1", "APP.example.", "a_b", "a-b", "-.", "a!$&'()*+,;=~b"];
        let literals = ["[::1]", "[2001:db8::192.0.2.1]", "[v1.a:b]", "[VF.~]"];
        for name in names.iter().chain(&literals) {
            for port in ["", ":", ":0", ":80", ":00080", ":65535"] {
                let host = format!("{name}{port}");
                assert!(is_valid_host(host.as_bytes()) && Authority::try_from(&*host).is_ok(), "{host}");
            }
            for port in
                [":x", ":65536", ":99999", ":-1", ":+1", ": 80", ":80 ", ":80:80", "x]", "/", "?", "#", "@a"]
            {
                if port != "x]" || name.starts_with('[') {
                    assert!(!is_valid_host(format!("{name}{port}").as_bytes()), "{name}{port}");
                }
            }
        }
        let invalid = [
            "",
            ":80",
            "[",
            "[]",
            "[]:80",
            "[zz]",
            "[::1",
            "::1",
            "[::1%25eth0]",
            "[127.0.0.1]",
            "[v.a]",
            "[v1.]",
        ];
        for host in invalid
            .into_iter()
            .chain(["u@h", "a b", "a/b", "a%2", "a%2Db", "%", "é", "a\\b", "a\"b", "<a>", "a,b@c", "a]"])
        {
            assert!(!is_valid_host(host.as_bytes()), "{host}");
        }
    }
}
