//! Trailer fields (RFC 9110, section 6.5).

use http::header::HeaderMap;

use super::hop_by_hop;
use super::reserved_headers::{
    ReservedHeaders, eq_cgi_name, remove_matching, remove_reserved_response_headers,
};
use crate::http_headers::is_token;

/// Removes the fields that a trailer section must not contain.
///
/// Some servers merge trailers into the headers, so every field that is removed from the headers is removed
/// here too.
pub(super) fn sanitize(trailers: &mut HeaderMap, reserved: &ReservedHeaders) {
    hop_by_hop::remove(trailers);
    reserved.remove_from(trailers);
    remove_reserved_response_headers(trailers);
    remove_matching(trailers, |name| {
        !is_token(name) || FORBIDDEN.iter().any(|field| eq_cgi_name(field, name.as_str()))
    });
}

/// Fields that are not allowed in trailers, because they control framing, routing, authentication or the
/// processing of the message (RFC 9110, section 6.5.1), or because only the gateway sets them.
const FORBIDDEN: [&str; 32] = [
    "age",
    "alt-svc",
    "authorization",
    "cache-control",
    "clear-site-data",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "set-cookie",
    "traceparent",
    "trailer",
    "vary",
    "via",
    "www-authenticate",
    "x-http-method-override",
    "x-request-id",
];
