//! Detection of empty request bodies, which are forwarded as no body.
//!
//! An HTTP/1.1 upstream may ignore a body without a meaning, and read its bytes as the next request
//! (RFC 9110, section 9.3.1).

use std::time::Duration;

use axum_core::body::Body;
use http::Method;
use http_body::Body as _;

use super::error::ProxyError;
use super::prefixed_body::{PrefixedBody, next_frame};

/// Returns `true` for a method whose requests have no body as a rule: its meaning is not defined.
pub(super) fn is_bodiless(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS)
}

/// Returns `true` if only its first frame can tell that a body is not empty.
///
/// An HTTP/2 body that was announced as empty ends with a frame of its own, or is not empty.
pub(super) fn may_be_empty(body: &Body, method: &Method) -> bool {
    match body.size_hint().exact() {
        _ if body.is_end_stream() => false,
        Some(length) => length == 0,
        None => is_bodiless(method),
    }
}

/// Waits for the first data of a body. If there is none, returns a body that has ended.
pub(super) async fn resolve(mut body: Body, idle_timeout: Duration) -> Result<Body, ProxyError> {
    let is_announced_empty = body.size_hint().exact() == Some(0);
    loop {
        match next_frame(&mut body, idle_timeout).await? {
            None => return Ok(Body::empty()),
            Some(frame) if frame.is_trailers() => return Ok(Body::empty()),
            Some(frame) if frame.data_ref().is_some_and(|data| data.is_empty()) => {}
            Some(_) if is_announced_empty => {
                return Err(ProxyError::BodyIncomplete("body exceeds its announced length".into()));
            }
            Some(frame) => return Ok(Body::new(PrefixedBody::new(vec![frame], Some(body)))),
        }
    }
}
