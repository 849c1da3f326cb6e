//! Checks that hyper leaves to the server, and the normalization of HTTP/2 request heads.

use http::header::{COOKIE, HOST, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Request, Version};

use super::limits::ServerLimits;
use super::reject::RejectReason;
use crate::http_headers::{is_token, is_valid_host};

/// Checks the target length, the host, and the number and names of HTTP/2 header fields; normalizes HTTP/2 heads.
pub(super) fn check_and_normalize<B>(
    request: &mut Request<B>,
    limits: &ServerLimits,
) -> Result<(), RejectReason> {
    if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > limits.uri_bytes) {
        return Err(RejectReason::UriTooLong);
    }
    if request.version() != Version::HTTP_2 {
        return if has_valid_host(request) { Ok(()) } else { Err(RejectReason::BadHost) };
    }
    join_cookies(request.headers_mut());
    if header_list_size(request) > limits.header_bytes {
        return Err(RejectReason::HeadTooLarge);
    }
    if request.headers().len() > limits.header_fields {
        return Err(RejectReason::TooManyFields);
    }
    if !request.headers().keys().all(is_token) {
        return Err(RejectReason::BadFieldName);
    }
    normalize_host(request)
}

/// Returns the size of the fields of an HTTP/2 request as its limit counts it (RFC 9113 section 10.5.1): that of names
/// and values, and 32 bytes for each field.
fn header_list_size<B>(request: &Request<B>) -> usize {
    let authority = request.uri().authority().map_or(0, |authority| authority.as_str().len());
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let fields = request.headers().iter();
    let sizes = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    sizes.sum::<usize>() + authority + target + PSEUDO_FIELDS_OVERHEAD
}

/// Makes `Host` of the `:authority` of an HTTP/2 request (RFC 9113 section 8.3.1).
fn normalize_host<B>(request: &mut Request<B>) -> Result<(), RejectReason> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (request.uri().authority(), hosts.next(), hosts.next()) {
        (Some(authority), None, _) if is_valid_authority(authority) => {
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| RejectReason::BadHost)?;
            request.headers_mut().insert(HOST, host);
        }
        (Some(authority), Some(host), None)
            if is_valid_authority(authority)
                && host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {}
        (None, Some(host), None) if is_valid_host(host.as_bytes()) => {}
        _ => return Err(RejectReason::BadHost),
    }
    Ok(())
}

/// Joins the `Cookie` fields, of which HTTP/2 clients send one for each cookie to compress them better (RFC 9113
/// section 8.2.3).
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
    if !request.uri().authority().is_none_or(is_valid_authority) {
        return false;
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_valid_host(host.as_bytes()),
        (None, _) => request.version() < Version::HTTP_11,
        (Some(_), Some(_)) => false,
    }
}

fn is_valid_authority(authority: &Authority) -> bool {
    is_valid_host(authority.as_str().as_bytes())
}

const FIELD_OVERHEAD: usize = 32;

/// The names of the four pseudo-fields, the usual method and scheme, and the overhead of the fields.
const PSEUDO_FIELDS_OVERHEAD: usize = 4 * (FIELD_OVERHEAD + 8) + 8;
