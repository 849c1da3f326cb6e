//! Builders of requests, and responses with their bodies.

use axum::body::Body;
use axum::http::request::Builder;
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::Value;
use url::form_urlencoded;

use super::browser::SetCookie;

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct TestResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl TestResponse {
    /// Returns the value of a header, which must occur at most once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next().map(|value| value.to_str().expect("visible ASCII"));
        assert!(values.next().is_none(), "`{name}` occurs twice");
        value
    }

    /// Returns the value of `X-Session-Event`.
    pub(crate) fn event(&self) -> Option<&str> {
        self.header("x-session-event")
    }

    /// Returns the cookies that it sets or deletes, in order.
    pub(crate) fn set_cookies(&self) -> Vec<SetCookie> {
        let lines = self.headers.get_all("set-cookie").iter();
        lines.map(|line| SetCookie::parse(line.to_str().expect("visible ASCII"))).collect()
    }

    /// Parses the body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Asserts that it is a problem document with this status and code, and returns its `detail`.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["title"], self.status.canonical_reason().expect("a registered status"));
        assert_eq!(problem["status"], status);
        assert_eq!(problem["code"], code);
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

/// Builds a request without a body.
pub(crate) fn bare(method: &str, path: &str) -> Request<Body> {
    finish(Request::builder().method(method).uri(path), "")
}

pub(crate) fn get(path: &str) -> Request<Body> {
    bare("GET", path)
}

/// Builds a `POST` with a JSON body, or without one for `null`.
pub(crate) fn post(path: &str, body: &Value) -> Request<Body> {
    if body.is_null() {
        return bare("POST", path);
    }
    with_body("POST", path, "application/json", &body.to_string())
}

/// Builds a `POST` with a form as its body.
pub(crate) fn form(path: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    with_body("POST", path, "application/x-www-form-urlencoded", &body)
}

pub(crate) fn with_body(method: &str, path: &str, content_type: &str, body: &str) -> Request<Body> {
    finish(Request::builder().method(method).uri(path).header("content-type", content_type), body)
}

/// Appends a header to a request.
pub(crate) fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().append(name, value.parse().expect("a valid value"));
    request
}

fn finish(request: Builder, body: &str) -> Request<Body> {
    request.body(Body::from(body.to_owned())).expect("a request")
}

/// Decodes a path as a lenient application would: percent-decoding once, backslashes and repeated slashes
/// as slashes, path parameters dropped, dot segments resolved.
pub(crate) fn decode_leniently(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let escape = (*first == b'%').then(|| after.get(..2)).flatten();
        let escape = escape.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(escape.unwrap_or(*first));
        rest = if escape.is_some() { &after[2..] } else { after };
    }
    let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
    let text = text.split('\0').next().unwrap_or_default();
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default().trim() {
            "" | "." => {}
            ".." => _ = segments.pop(),
            name => segments.push(name),
        }
    }
    format!("/{}", segments.join("/"))
}
