//! What an upstream gets of a request.

use http::header::{AUTHORIZATION, CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, TE};
use http::uri::Authority;
use http::{HeaderValue, Request, Uri, Version, request};

use super::cookies::ReservedCookies;
use super::error::ProxyError;
use super::forwarded::Forwarded;
use super::routes::Route;
use super::via::Via;
use super::{framing, hop_by_hop};
use crate::identity::Identity;

/// Writes the request for the upstream: first everything goes that the client may not say, then
/// what we say is added.
pub(super) fn prepare(
    parts: request::Parts,
    route: &Route,
    reserved: &ReservedCookies,
    via: &Via,
) -> Result<Request<()>, ProxyError> {
    let host = host(&parts)?;
    let target = route.target(&parts.uri)?;
    let request::Parts { method, version, mut headers, extensions, .. } = parts;
    let identity = extensions.get::<Identity>();

    if framing::is_coded(&headers) {
        return Err(ProxyError::CodingUnknown);
    }
    framing::make_plain(&mut headers);
    let trailers = hop_by_hop::accepts_trailers(&headers);
    // What an outer layer has added, as far as we know, a client can't have removed.
    hop_by_hop::remove_but(&OUTER, &mut headers);
    route.requests.reserved.remove_from(&mut headers);
    reserved.remove_from_request(&mut headers);
    if version == Version::HTTP_2 {
        join_cookies(&mut headers);
    }
    // Whoever reads the client's body answers this; hyper does, when we begin to.
    headers.remove(EXPECT);

    if let Some(host) = host {
        headers.insert(HOST, host);
    }

    authorize(&mut headers, route, identity);
    route.requests.edits.apply(&mut headers);
    if let Some(identity) = identity {
        route.spec.identity.add_to(&mut headers, identity)?;
    }
    if let Some(forwarded) = extensions.get::<Forwarded>() {
        forwarded.add_to(&mut headers);
    }
    via.add_to(&mut headers, version);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }

    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(target);
    *request.headers_mut() = headers;
    Ok(request)
}

/// The host that was asked for: in a target of absolute form that is its authority, whatever the
/// header says (RFC 9112, section 3.2.2). It never says where the request goes.
fn host(parts: &request::Parts) -> Result<Option<HeaderValue>, ProxyError> {
    let mut lines = parts.headers.get_all(HOST).iter();
    let host = match (lines.next(), lines.next()) {
        (Some(host), None) => host,
        (None, _) if parts.version < Version::HTTP_11 || parts.uri.authority().is_some() => {
            return Ok(parts
                .uri
                .authority()
                .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()));
        }
        _ => return Err(ProxyError::BadHost),
    };
    let named = match parts.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => Authority::try_from(host.as_bytes()).ok().map(|_| host.clone()),
    };
    let named = named.filter(|named| !named.as_bytes().contains(&b'@'));
    named.map(Some).ok_or(ProxyError::BadHost)
}

/// HTTP/2 splits `Cookie` for compression's sake; nobody else knows what to make of two (RFC 9113,
/// section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let [_, _, ..] = &*lines
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

fn authorize(headers: &mut HeaderMap, route: &Route, identity: Option<&Identity>) {
    let bearer = route.spec.bearer.as_ref().zip(identity);
    if bearer.is_some() || !route.spec.pass_authorization {
        headers.remove(AUTHORIZATION);
    }
    if let Some(ours) = bearer.and_then(|(bearer, identity)| bearer.mint(identity)) {
        headers.insert(AUTHORIZATION, ours);
    }
}

const OUTER: [HeaderName; 2] =
    [HeaderName::from_static("x-request-id"), HeaderName::from_static("traceparent")];

#[cfg(test)]
mod tests {
    use super::*;

    fn host_of(uri: &str, version: Version, hosts: &[&'static str]) -> Option<Option<String>> {
        let mut request = Request::builder().uri(uri).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let host = host(&parts).ok()?;
        Some(host.map(|host| host.to_str().unwrap().to_owned()))
    }

    #[test]
    fn one_valid_host_is_forwarded() {
        let http11 = |uri, hosts: &[&'static str]| host_of(uri, Version::HTTP_11, hosts);
        assert_eq!(http11("/", &["a.example:80"]), Some(Some("a.example:80".to_owned())));
        assert_eq!(http11("http://b.example/", &["a.example"]), Some(Some("b.example".to_owned())));
        for hosts in [&[][..], &["a", "a"], &["a/b"], &["u@a"], &["a b"], &[""]] {
            assert_eq!(http11("/", hosts), None, "{hosts:?}");
        }
        assert_eq!(http11("http://u:p@b.example/", &["b.example"]), None);
        assert_eq!(host_of("/", Version::HTTP_10, &[]), Some(None));
    }

    #[test]
    fn cookies_that_http2_has_split_are_joined() {
        for (lines, joined) in [(&["a=1", "b=2; c", "d"][..], "a=1; b=2; c; d"), (&["a=1"], "a=1")] {
            let mut headers: HeaderMap =
                lines.iter().map(|line| (COOKIE, HeaderValue::from_static(line))).collect();
            join_cookies(&mut headers);
            assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), [joined]);
        }
    }
}
