//! Responses to HTTP/1.1 request heads that hyper cannot parse.
//!
//! hyper responds to such a head itself, without a body, and closes the connection. The service does not learn of it.
//! [`MonitoredIo`](super::io::MonitoredIo) withholds what hyper writes, and the response of this module is sent in its
//! place.

use axum::body::{Body, to_bytes};
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderName, HeaderValue, STRICT_TRANSPORT_SECURITY,
};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Version};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use tower::ServiceExt;

use super::extensions::insert_connection;
use super::http_service::HttpService;
use super::reject::{RejectReason, Rejected};
use super::service::{ConnectionService, HSTS};

/// Returns `true` if these bytes may be hyper's response to a head that it cannot parse.
///
/// A response of a service may look the same.
pub(super) fn is_error_response(written: &[u8]) -> bool {
    written.len() <= MAX_RESPONSE_LEN
        && written.starts_with(b"HTTP/1.")
        && written.ends_with(b"\r\n\r\n")
        && reason_for(written).is_some()
}

fn reason_for(written: &[u8]) -> Option<RejectReason> {
    match written.get(9..12)? {
        b"400" => Some(RejectReason::MalformedHead),
        b"414" => Some(RejectReason::UriTooLong),
        b"431" => Some(RejectReason::HeadTooLarge),
        _ => None,
    }
}

/// Returns the bytes of the response that replaces hyper's `original`, to a request with this head.
pub(super) async fn response<S: HttpService>(
    service: ConnectionService<S>,
    original: &[u8],
    head: &[u8],
) -> Vec<u8> {
    let mut request = parse_leniently(head);
    let is_head = request.method() == Method::HEAD;
    let reason = reason_for(original).unwrap_or(RejectReason::MalformedHead);
    let ConnectionService { inner, context } = service;
    let response = if context.passes_rejections {
        insert_connection(request.extensions_mut(), &context);
        request.extensions_mut().insert(Rejected(reason));
        let Ok(response) = inner.oneshot(request).await;
        response
    } else {
        reason.response()
    };
    let (parts, body) = response.into_parts();
    // The body is that of an error of the gateway, and in memory.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let mut headers = parts.headers;
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_LENGTH, body.len().into());
    headers.extend(date_of(original).map(|date| (DATE, date)));
    if context.is_tls {
        headers.insert(STRICT_TRANSPORT_SECURITY, HSTS);
    }
    let mut bytes = encode_head(parts.status, &headers);
    if !is_head {
        bytes.extend_from_slice(&body);
    }
    bytes
}

fn encode_head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Returns the `Date` of hyper's response.
fn date_of(original: &[u8]) -> Option<HeaderValue> {
    let date = original.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"date: "))?;
    HeaderValue::from_bytes(date.trim_ascii()).ok()
}

/// Reads what is legible of a head, for the access log and the choice of the response.
fn parse_leniently(head: &[u8]) -> Request<Body> {
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words =
        lines.next().unwrap_or_default().split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let mut request = Request::new(Body::empty());
    *request.method_mut() = parse_method(words.next().unwrap_or_default());
    if let Some(target) = parse_target(words.next().unwrap_or_default()) {
        *request.uri_mut() = target.into();
    }
    if words.next() == Some(b"HTTP/1.0") {
        *request.version_mut() = Version::HTTP_10;
    }
    let fields = lines.take_while(|line| !line.is_empty()).take(MAX_FIELDS).filter_map(parse_field);
    request.headers_mut().extend(fields);
    request
}

fn parse_method(word: &[u8]) -> Method {
    let method = Method::from_bytes(word).ok().filter(|_| word.len() <= MAX_METHOD_LEN);
    method.or_else(|| Method::from_bytes(ILLEGIBLE_METHOD).ok()).unwrap_or_default()
}

/// Parses the path and query of a target. Characters that a URI cannot have are percent-encoded.
fn parse_target(word: &[u8]) -> Option<PathAndQuery> {
    let word = &word[..word.len().min(MAX_TARGET_LEN)];
    // An absolute target contains the host.
    let path = match memchr::memmem::find(word, b"://") {
        Some(scheme) if !word.starts_with(b"/") => {
            let after_scheme = &word[scheme + 3..];
            &after_scheme[memchr::memchr(b'/', after_scheme)?..]
        }
        _ => word,
    };
    let encoded = percent_encode(path, ILLEGAL_IN_TARGET).to_string();
    let separator = if encoded.starts_with('/') { "" } else { "/" };
    PathAndQuery::try_from(format!("{separator}{encoded}")).ok()
}

fn parse_field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = memchr::memchr(b':', line)?;
    let name = HeaderName::from_bytes(line[..colon].trim_ascii()).ok()?;
    Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
}

/// Method in the access log of a request line that has none.
const ILLEGIBLE_METHOD: &[u8] = b"-";

const ILLEGAL_IN_TARGET: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`');

/// Longer than hyper's response in any version of HTTP.
const MAX_RESPONSE_LEN: usize = 192;
const MAX_METHOD_LEN: usize = 32;
const MAX_TARGET_LEN: usize = 1024;
const MAX_FIELDS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bare_error_responses_are_recognized() {
        let bare =
            |status: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        for (status, is_error) in [
            ("400 Bad Request", true),
            ("414 URI Too Long", true),
            ("431 Request Header Fields Too Large", true),
            ("404 Not Found", false),
            ("200 OK", false),
        ] {
            assert_eq!(is_error_response(bare(status).as_bytes()), is_error, "{status}");
        }
        assert!(!is_error_response(format!("{}body", bare("400 Bad Request")).as_bytes()));
    }

    #[test]
    fn legible_parts_of_a_head_are_read() {
        let head = b"GET /a\\b?c HTTP/1.0\r\nHost: a\r\nBad Name: x\r\nOrigin : https://a\r\n\r\nX: y\r\n";
        let request = parse_leniently(head);
        assert_eq!((request.method(), request.uri().path()), (&Method::GET, "/a%5Cb"));
        assert_eq!(request.version(), Version::HTTP_10);
        assert_eq!(request.headers()["origin"], "https://a");
        assert_eq!(request.headers().len(), 2);
        for (head, method, path) in [
            (&b"\x16\x03\x01\x02\x00"[..], "-", "/"),
            (b"", "-", "/"),
            (b"GET", "GET", "/"),
            (b"GET x HTTP/1.1", "GET", "/x"),
            (b"POST http://a/b c", "POST", "/b"),
            (b"GET /a?b=http://c/d", "GET", "/a"),
        ] {
            let request = parse_leniently(head);
            assert_eq!((request.method().as_str(), request.uri().path()), (method, path), "{head:?}");
        }
    }
}
