//! What an upstream gets of a request.

use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Version, request};

use super::error::ProxyError;
use super::forwarded::Forwarded;
use super::header_writer::HeaderWriter;
use super::request_head::RequestHead;
use super::routes::Route;
use super::settings::ProxySettings;
use super::upgrade::Upgrade;
use super::{content_length, hop_by_hop};
use crate::http_headers::{TRACEPARENT, X_REQUEST_ID, has_userinfo};
use crate::identity::Identity;

/// Which headers are there that need a closer look: most requests have hardly any of them, and to look for
/// each by its name takes longer than to pass all names by.
#[derive(Default)]
pub(super) struct HeaderFlags {
    connection: bool,
    te: bool,
    transfer_encoding: bool,
    pub(super) upgrade: bool,
    pub(super) via: bool,
}

impl HeaderFlags {
    pub(super) fn scan(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => seen.connection = true,
                "te" => seen.te = true,
                "transfer-encoding" => seen.transfer_encoding = true,
                "upgrade" => seen.upgrade = true,
                "via" => seen.via = true,
                _ => {}
            }
        }
        seen
    }
}

/// A client's request, made ours: what the client may not say is left out, and what we say is added.
pub(super) struct UpstreamRequest<'r> {
    parts: &'r request::Parts,
    route: &'r Route,
    settings: &'r ProxySettings,
    target: PathAndQuery,
    host: Option<HeaderValue>,
    /// What `Connection` names, besides what an outer layer has added.
    named: Vec<HeaderName>,
    accepts_trailers: bool,
    upgrade: Option<HeaderValue>,
    identity: Option<&'r Identity>,
    /// In the user's name, for this upstream.
    authorization: Option<HeaderValue>,
}

impl<'r> UpstreamRequest<'r> {
    /// For this route, with the protocols to which it may change.
    pub(super) fn new(
        parts: &'r request::Parts,
        route: &'r Route,
        settings: &'r ProxySettings,
        identity: Option<&'r Identity>,
        (seen, upgrade): (&HeaderFlags, Option<&Upgrade>),
    ) -> Result<Self, ProxyError> {
        let (host, target) = (host(parts)?, route.target(&parts.uri)?);
        if seen.transfer_encoding && content_length::has_unsupported_coding(&parts.headers) {
            return Err(ProxyError::CodingUnknown);
        }
        if let Some(identity) = identity {
            route.spec.identity.check(identity)?;
        }
        let mut named = Vec::new();
        if seen.connection {
            named = hop_by_hop::named_by_connection(&parts.headers);
            named.retain(|name| !GATEWAY_HEADERS.contains(name));
        }
        Ok(Self {
            target,
            host: route.requests.edits.value(&HOST).cloned().or(host),
            named,
            accepts_trailers: seen.te && hop_by_hop::accepts_trailers(&parts.headers),
            upgrade: upgrade.and_then(Upgrade::protocols),
            identity,
            authorization: authorization(route, settings, identity),
            parts,
            route,
            settings,
        })
    }

    /// Whether a field of the client's goes on as it is.
    fn is_forwarded(&self, name: &HeaderName) -> bool {
        let passes = match name.as_str() {
            // Written anew, for this connection and this body.
            "content-length" | "cookie" | "host" => false,
            // Whoever reads the client's body answers this; hyper does, when we begin to.
            "expect" => false,
            "authorization" => self.route.spec.pass_authorization && !self.replaces_authorization(),
            name => !hop_by_hop::is_hop_by_hop(name) && !self.route.requests.reserved.contains(name),
        };
        passes && !self.route.requests.edits.affects(name) && !self.named.contains(name)
    }

    fn replaces_authorization(&self) -> bool {
        self.identity.is_some() && self.route.spec.token_audience.is_some()
    }

    fn cookies(&self, to: &mut impl HeaderWriter) {
        let mut lines = self.settings.reserved_cookies.without_reserved(&self.parts.headers);
        if self.parts.version != Version::HTTP_2 {
            lines.for_each(|line| to.copy(&COOKIE, &line));
            return;
        }
        // HTTP/2 splits them for compression's sake; nobody else knows what to make of two (RFC 9113,
        // section 8.2.3).
        let Some(first) = lines.next() else { return };
        let mut joined = first.as_bytes().to_owned();
        for line in lines {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(line.as_bytes());
        }
        to.add(&COOKIE, &joined);
    }
}

impl RequestHead for UpstreamRequest<'_> {
    fn method(&self) -> &Method {
        &self.parts.method
    }

    fn target(&self) -> &PathAndQuery {
        &self.target
    }

    fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    fn upgrade(&self) -> Option<&HeaderValue> {
        self.upgrade.as_ref()
    }

    fn accepts_trailers(&self) -> bool {
        self.accepts_trailers
    }

    fn write_headers(&self, to: &mut impl HeaderWriter) {
        let edits = &self.route.requests.edits;
        for (name, value) in &self.parts.headers {
            if self.is_forwarded(name) {
                to.copy(name, value);
            }
        }
        if !edits.affects(&COOKIE) && !self.named.contains(&COOKIE) {
            self.cookies(to);
        }
        if let Some(authorization) = &self.authorization {
            to.copy(&AUTHORIZATION, authorization);
        }
        for (name, value) in edits.set.iter().filter(|(name, _)| *name != HOST) {
            to.copy(name, value);
        }
        if let Some(identity) = self.identity {
            self.route.spec.identity.write_to(identity, to);
        }
        if let Some(forwarded) = self.parts.extensions.get::<Forwarded>() {
            forwarded.write_to(to);
        }
        self.settings.via.write_to(self.parts.version, to);
    }
}

fn authorization(
    route: &Route,
    settings: &ProxySettings,
    identity: Option<&Identity>,
) -> Option<HeaderValue> {
    let audience = route.spec.token_audience.as_deref()?;
    settings.upstream_tokens.as_ref()?.authorization(identity?, audience)
}

/// The host that was asked for: in a target of absolute form that is its authority, whatever the
/// header says (RFC 9112, section 3.2.2). It never says where the request goes.
fn host(parts: &request::Parts) -> Result<Option<HeaderValue>, ProxyError> {
    let mut lines = parts.headers.get_all(HOST).iter();
    let is_sound = |authority: &Authority| !has_userinfo(authority);
    match (parts.uri.authority(), lines.next(), lines.next()) {
        (Some(authority), _, None) if is_sound(authority) => {
            HeaderValue::from_str(authority.as_str()).map(Some).map_err(|_| ProxyError::BadHost)
        }
        (None, Some(host), None)
            if Authority::try_from(host.as_bytes()).is_ok_and(|host| is_sound(&host)) =>
        {
            Ok(Some(host.clone()))
        }
        (None, None, _) if parts.version < Version::HTTP_11 => Ok(None),
        _ => Err(ProxyError::BadHost),
    }
}

/// What an outer layer has added, as far as we know: a client can't have it removed.
const GATEWAY_HEADERS: [HeaderName; 2] = [X_REQUEST_ID, TRACEPARENT];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::cookies::ReservedCookies;
    use crate::proxy::long_lived::LongLivedStreams;
    use crate::proxy::via::Via;

    fn host_of(uri: &str, version: Version, hosts: &[&'static str]) -> Option<Option<String>> {
        let mut request = http::Request::builder().uri(uri).version(version);
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
        for hosts in [&[][..], &["a", "a"], &["a/b"], &["u@a"], &["a b"], &[""], &["a:1:2"]] {
            assert_eq!(http11("/", hosts), None, "{hosts:?}");
        }
        assert_eq!(http11("http://u:p@b.example/", &["b.example"]), None);
        assert_eq!(http11("http://u:p@b.example/", &[]), None);
        assert_eq!(http11("http://b.example/", &["a", "b"]), None);
        assert_eq!(http11("http://b.example/", &[]), Some(Some("b.example".to_owned())));
        assert_eq!(host_of("/", Version::HTTP_10, &[]), Some(None));
    }

    #[test]
    fn cookies_that_http2_has_split_are_joined() {
        let routes = crate::proxy::Routes::new([crate::proxy::RouteSpec::new("/", ["http://a"])]).unwrap();
        let route = routes.find(&"/".parse().unwrap()).unwrap().unwrap();
        let settings = ProxySettings {
            reserved_cookies: ReservedCookies { names: vec!["b".to_owned()] },
            streams: LongLivedStreams::default(),
            upstream_tokens: None,
            via: Via::new(),
        };
        for (lines, joined) in [(&["a=1", "b=2; c", "d"][..], "a=1; c; d"), (&["a=1"], "a=1"), (&["b=1"], "")]
        {
            let mut request = http::Request::get("/").version(Version::HTTP_2).header(HOST, "a");
            for line in lines {
                request = request.header(COOKIE, *line);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let mut headers = HeaderMap::new();
            let seen = HeaderFlags::scan(&parts.headers);
            let outgoing =
                UpstreamRequest::new(&parts, route.route(), &settings, None, (&seen, None)).unwrap();
            outgoing.write_headers(&mut headers);
            let sent: Vec<_> = headers.get_all(COOKIE).iter().map(|line| line.to_str().unwrap()).collect();
            assert_eq!(sent, Vec::from_iter(Some(joined).filter(|joined| !joined.is_empty())));
        }
    }
}
