//! What the client gets of an upstream's answer.

use axum_core::body::Body;
use http::header::{HeaderMap, HeaderName};
use http::{Response, Version};
use hyper::body::Incoming;

use super::body::{Download, UploadProgress};
use super::cookies::ReservedCookies;
use super::hop_by_hop;
use super::routes::Route;
use super::via::Via;

/// Makes the upstream's answer ours: its bytes, less what it may not say.
pub(super) fn finish(
    response: Response<Incoming>,
    route: &Route,
    reserved: &ReservedCookies,
    via: &Via,
    upload: UploadProgress,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    hop_by_hop::remove(&mut parts.headers);
    remove_reserved(&mut parts.headers);
    reserved.remove_from_response(&mut parts.headers);
    via.add_to(&mut parts.headers, parts.version);
    // The version is that of each connection, not of the message.
    parts.version = Version::HTTP_11;
    Response::from_parts(parts, Body::new(Download::new(body, route, upload)))
}

/// Removes the headers that only we may send.
pub(super) fn remove_reserved(headers: &mut HeaderMap) {
    for name in RESERVED {
        headers.remove(name);
    }
}

const RESERVED: [HeaderName; 3] = [
    HeaderName::from_static("x-session-event"),
    HeaderName::from_static("x-set-access-cookie"),
    HeaderName::from_static("x-set-refresh-cookie"),
];
