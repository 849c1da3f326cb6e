//! The request as it is sent to an upstream.

use http::header::{ACCEPT, AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderValue, Version, request};

use super::empty_body::is_bodiless;
use super::error::ProxyError;
use super::forwarded::{Forwarded, ForwardedPrefix};
use super::header_writer::HeaderWriter;
use super::request_head::{ConnectionReuse, ControlData, RequestHead};
use super::routes::Route;
use super::settings::ProxySettings;
use super::upgrade::Upgrade;
use super::{content_length, hop_by_hop};
use crate::http_headers::{
    TRACEPARENT, X_FORWARDED_PREFIX, X_REQUEST_ID, is_grpc, is_valid_host, media_type, split_list,
};
use crate::identity::Identity;

/// The headers that need special handling and are present in a request.
///
/// Most requests have hardly any of them, and one pass over all names is faster than a lookup of each.
#[derive(Default)]
pub(super) struct HeaderFlags {
    connection: bool,
    forwarded_prefix: bool,
    te: bool,
    transfer_encoding: bool,
    pub(super) upgrade: bool,
    pub(super) via: bool,
}

impl HeaderFlags {
    pub(super) fn scan(headers: &HeaderMap) -> Self {
        let mut flags = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => flags.connection = true,
                "x-forwarded-prefix" => flags.forwarded_prefix = true,
                "te" => flags.te = true,
                "transfer-encoding" => flags.transfer_encoding = true,
                "upgrade" => flags.upgrade = true,
                "via" => flags.via = true,
                _ => {}
            }
        }
        flags
    }
}

/// A client's request, without what the client may not send and with what the gateway adds.
pub(super) struct UpstreamRequest<'r> {
    parts: &'r request::Parts,
    route: &'r Route,
    settings: &'r ProxySettings,
    target: PathAndQuery,
    host: Option<HeaderValue>,
    /// Headers that `Connection` nominates, except those that the gateway itself has added.
    connection_headers: Vec<HeaderName>,
    /// True if the client's `Authorization` is forwarded.
    passes_authorization: bool,
    /// Path prefix that a trusted proxy has removed.
    forwarded_prefix: Option<&'r ForwardedPrefix>,
    accepts_trailers: bool,
    upgrade: Option<HeaderValue>,
    reuse: ConnectionReuse,
    identity: Option<&'r Identity>,
    /// Token in the user's name for this upstream.
    authorization: Option<HeaderValue>,
}

impl<'r> UpstreamRequest<'r> {
    /// Prepares a request for the upstreams of `route`.
    pub(super) fn new(
        parts: &'r request::Parts,
        route: &'r Route,
        settings: &'r ProxySettings,
        identity: Option<&'r Identity>,
        flags: &HeaderFlags,
        upgrade: Option<&Upgrade>,
        has_body: bool,
    ) -> Result<Self, ProxyError> {
        let host = client_host(parts)?;
        let target = route.target(&parts.uri)?;
        if flags.transfer_encoding && content_length::has_unsupported_coding(&parts.headers) {
            return Err(ProxyError::CodingUnknown);
        }
        if let Some(identity) = identity {
            route.spec.identity.check(identity)?;
        }
        let mut connection_headers = Vec::new();
        if flags.connection {
            connection_headers = hop_by_hop::connection_headers(&parts.headers);
            connection_headers.retain(|name| !PROTECTED_FROM_CONNECTION.contains(name));
        }
        // The extension is inserted only for a request with the header.
        let forwarded_prefix =
            if flags.forwarded_prefix { parts.extensions.get::<ForwardedPrefix>() } else { None };
        let replaces_authorization = identity.is_some() && route.spec.token_audience.is_some();
        Ok(Self {
            target,
            passes_authorization: route.spec.pass_authorization
                && !replaces_authorization
                && !has_own_token(&parts.headers, settings),
            forwarded_prefix,
            host: route.request_headers.edits.value(&HOST).cloned().or(host),
            connection_headers,
            accepts_trailers: flags.te && hop_by_hop::accepts_trailers(&parts.headers),
            upgrade: upgrade.and_then(Upgrade::header_value),
            reuse: connection_reuse(parts, route, has_body),
            identity,
            authorization: authorization(route, settings, identity),
            parts,
            route,
            settings,
        })
    }

    /// Returns `true` if a header of the client is forwarded unchanged.
    fn is_forwarded(&self, name: &HeaderName) -> bool {
        let is_end_to_end = match name.as_str() {
            // Generated for the upstream connection.
            "cookie" | "host" => false,
            // hyper sends `100 Continue` itself when the body is read.
            "expect" => false,
            "authorization" => self.passes_authorization,
            name => !hop_by_hop::is_framing(name) && !self.route.request_headers.reserved.contains(name),
        };
        is_end_to_end
            && !self.route.request_headers.edits.affects(name)
            && !self.connection_headers.contains(name)
    }

    fn write_cookies(&self, writer: &mut impl HeaderWriter) {
        let mut lines = self.settings.reserved_cookies.without_reserved(&self.parts.headers);
        if self.parts.version != Version::HTTP_2 {
            lines.for_each(|line| writer.copy(&COOKIE, &line));
            return;
        }
        // HTTP/2 clients split `Cookie` for better compression. Outside of HTTP/2 it must be a single line
        // (RFC 9113, section 8.2.3).
        let Some(first) = lines.next() else { return };
        let mut joined = first.as_bytes().to_owned();
        for line in lines {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(line.as_bytes());
        }
        writer.add(&COOKIE, &joined);
    }
}

impl RequestHead for UpstreamRequest<'_> {
    fn control_data(&self) -> ControlData<'_> {
        ControlData {
            method: &self.parts.method,
            target: &self.target,
            host: self.host.as_ref(),
            upgrade: self.upgrade.as_ref(),
            accepts_trailers: self.accepts_trailers,
            reuse: self.reuse,
        }
    }

    /// Recognizes `EventSource` (HTML, section 9.2) and gRPC.
    fn expects_stream(&self) -> bool {
        let headers = &self.parts.headers;
        headers.get_all(ACCEPT).iter().any(accepts_events) || is_grpc(headers)
    }

    fn write_headers(&self, writer: &mut impl HeaderWriter) {
        let edits = &self.route.request_headers.edits;
        for (name, value) in &self.parts.headers {
            if self.is_forwarded(name) {
                writer.copy(name, value);
            }
        }
        if !edits.affects(&COOKIE) && !self.connection_headers.contains(&COOKIE) {
            self.write_cookies(writer);
        }
        if let Some(authorization) = &self.authorization {
            writer.copy(&AUTHORIZATION, authorization);
        }
        for (name, value) in edits.set.iter().filter(|(name, _)| *name != HOST) {
            writer.copy(name, value);
        }
        if let Some(identity) = self.identity {
            self.route.spec.identity.write_to(identity, writer);
        }
        if let Some(forwarded) = self.parts.extensions.get::<Forwarded>() {
            forwarded.write_to(writer);
        }
        let stripped_prefix = self.route.stripped_prefix.as_ref();
        let outer_prefix = self.forwarded_prefix.filter(|_| !edits.affects(&X_FORWARDED_PREFIX));
        ForwardedPrefix::write(outer_prefix, stripped_prefix, writer);
        if self.route.request_headers.sends_via {
            self.settings.via.write_to(self.parts.version, writer);
        }
    }
}

/// Decides with which other requests a request may share its connection.
fn connection_reuse(parts: &request::Parts, route: &Route, has_body: bool) -> ConnectionReuse {
    let authenticates =
        |headers: &HeaderMap| headers.get_all(AUTHORIZATION).iter().any(authenticates_connection);
    if route.spec.pass_authorization && authenticates(&parts.headers) {
        ConnectionReuse::None
    } else if has_body && is_bodiless(&parts.method) {
        ConnectionReuse::Http2
    } else {
        ConnectionReuse::Any
    }
}

/// Returns `true` for credentials that authenticate the connection, and so all later requests on it
/// (RFC 4559, section 6).
fn authenticates_connection(credentials: &HeaderValue) -> bool {
    let scheme = credentials.as_bytes().trim_ascii_start().split(|byte| !byte.is_ascii_alphanumeric()).next();
    CONNECTION_AUTH_SCHEMES.iter().any(|name| scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(name)))
}

/// Returns `true` if `Authorization` contains a token of the gateway, with any scheme.
///
/// An upstream that received the token could use it in the user's name, at the gateway or at another upstream.
fn has_own_token(headers: &HeaderMap, settings: &ProxySettings) -> bool {
    let Some(tokens) = &settings.upstream_tokens else { return false };
    // The characters of `token68` (RFC 9110, section 11.2).
    let is_separator = |byte: &u8| !byte.is_ascii_alphanumeric() && !b"-._~+/=".contains(byte);
    let is_own_token = |word: &[u8]| str::from_utf8(word).is_ok_and(|word| tokens.is_own_token(word));
    let mut words =
        headers.get_all(AUTHORIZATION).iter().flat_map(|line| line.as_bytes().split(is_separator));
    words.any(is_own_token)
}

const CONNECTION_AUTH_SCHEMES: [&[u8]; 4] = [b"kerberos", b"nego2", b"negotiate", b"ntlm"];

fn accepts_events(accept: &HeaderValue) -> bool {
    let mut media_types = split_list(accept.as_bytes());
    media_types.any(|range| media_type(range).eq_ignore_ascii_case(b"text/event-stream"))
}

/// Issues the token of the route's audience, if the route has one and the user is signed in.
fn authorization(route: &Route, settings: &ProxySettings, user: Option<&Identity>) -> Option<HeaderValue> {
    let audience = route.spec.token_audience.as_deref()?;
    settings.upstream_tokens.as_ref()?.authorization(user?, audience)
}

/// Returns the host of the client's request. It does not select the upstream.
///
/// The authority of an absolute-form target takes precedence over `Host` (RFC 9112, section 3.2.2).
fn client_host(parts: &request::Parts) -> Result<Option<HeaderValue>, ProxyError> {
    let mut lines = parts.headers.get_all(HOST).iter();
    match (parts.uri.authority(), lines.next(), lines.next()) {
        (Some(authority), _, None) if is_valid_host(authority.as_str().as_bytes()) => {
            HeaderValue::from_str(authority.as_str()).map(Some).map_err(|_| ProxyError::BadHost)
        }
        (None, Some(host), None) if is_valid_host(host.as_bytes()) => Ok(Some(host.clone())),
        (None, None, _) if parts.version < Version::HTTP_11 => Ok(None),
        _ => Err(ProxyError::BadHost),
    }
}

/// Headers that outer layers add to the request. `Connection` cannot remove them.
const PROTECTED_FROM_CONNECTION: [HeaderName; 2] = [X_REQUEST_ID, TRACEPARENT];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::long_lived_streams::LongLivedStreams;
    use crate::proxy::cookies::ReservedCookies;
    use crate::proxy::session_use::SessionUses;
    use crate::proxy::via::Via;

    fn host_of(uri: &str, version: Version, hosts: &[&'static str]) -> Option<Option<String>> {
        let mut request = http::Request::builder().uri(uri).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let host = client_host(&parts).ok()?;
        Some(host.map(|host| host.to_str().unwrap().to_owned()))
    }

    #[test]
    fn single_valid_host_is_forwarded() {
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
    fn http2_cookie_lines_are_joined() {
        let routes = crate::proxy::Routes::new([crate::proxy::RouteSpec::new("/", ["http://a"])]).unwrap();
        let route = routes.find(&"/".parse().unwrap()).unwrap().unwrap();
        let settings = ProxySettings {
            reserved_cookies: ReservedCookies { names: vec!["b".to_owned()] },
            streams: LongLivedStreams::default(),
            session_uses: SessionUses::default(),
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
            let flags = HeaderFlags::scan(&parts.headers);
            let request =
                UpstreamRequest::new(&parts, route.route(), &settings, None, &flags, None, false).unwrap();
            request.write_headers(&mut headers);
            let sent: Vec<_> = headers.get_all(COOKIE).iter().map(|line| line.to_str().unwrap()).collect();
            assert_eq!(sent, Vec::from_iter(Some(joined).filter(|joined| !joined.is_empty())));
        }
    }
}
