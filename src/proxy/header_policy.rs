//! Methods and headers that a route may configure, checked when the route is built.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, HeaderName, SET_COOKIE, VIA};
use http::{HeaderValue, Method};

use super::error::ProxyError;
use super::header_edits::HeaderEdits;
use super::hop_by_hop;
use super::reserved_headers::{RESERVED_RESPONSE_HEADERS, ReservedHeaders, eq_cgi_name};
use super::route_error::RouteError;
use super::route_spec::RouteSpec;
use crate::http_headers::{X_FORWARDED_PREFIX, is_valid_host};

/// The methods that a route allows.
#[derive(Debug)]
pub(super) struct AllowedMethods {
    /// Configured methods. Empty allows all except `CONNECT` and `TRACE`.
    methods: Vec<Method>,
    /// Value of the `Allow` header in a 405 response.
    allow: HeaderValue,
}

impl AllowedMethods {
    pub(super) fn new(spec: &RouteSpec) -> Result<Self, RouteError> {
        let methods = spec.methods.clone();
        if let Some(method) = methods.iter().find(|method| is_never_allowed(method)) {
            return Err(RouteError::Method { path: spec.path.clone(), method: method.clone() });
        }
        let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
        // Every method is a valid header value, so the conversion does not fail.
        let allow = HeaderValue::try_from(names.join(", ")).ok().filter(|_| !names.is_empty());
        Ok(Self { methods, allow: allow.unwrap_or(HeaderValue::from_static(DEFAULT_ALLOW)) })
    }

    pub(super) fn check(&self, method: &Method) -> Result<(), ProxyError> {
        let is_listed = self.methods.is_empty() || self.methods.contains(method);
        if is_listed && !is_never_allowed(method) {
            Ok(())
        } else {
            Err(ProxyError::MethodNotAllowed { allow: self.allow.clone() })
        }
    }
}

fn is_never_allowed(method: &Method) -> bool {
    matches!(*method, Method::CONNECT | Method::TRACE)
}

/// `Allow` value of a route without configured methods.
const DEFAULT_ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Changes to the headers and trailers of a route's requests.
#[derive(Debug)]
pub(super) struct RequestHeaderPolicy {
    /// Headers that are removed because only the gateway may send them.
    pub(super) reserved: Arc<ReservedHeaders>,
    /// Changes configured by the operator.
    pub(super) edits: HeaderEdits,
    /// True if the gateway adds itself to `Via`.
    pub(super) sends_via: bool,
}

impl RequestHeaderPolicy {
    pub(super) fn new(spec: &RouteSpec, reserved: &ReservedSets) -> Self {
        let edits = spec.request_headers.clone();
        let sends_via = !edits.affects(&VIA);
        Self { reserved: Arc::clone(reserved.for_route(spec)), edits, sends_via }
    }
}

/// Changes to the headers and trailers of a route's responses.
#[derive(Debug)]
pub(super) struct ResponseHeaderPolicy {
    /// Changes configured by the operator; `None` if there are none.
    pub(super) edits: Option<Arc<HeaderEdits>>,
    /// True if the gateway adds itself to `Via`.
    pub(super) sends_via: bool,
}

impl ResponseHeaderPolicy {
    pub(super) fn new(spec: &RouteSpec) -> Self {
        let edits = &spec.response_headers;
        Self { edits: (!edits.is_empty()).then(|| Arc::new(edits.clone())), sends_via: !edits.affects(&VIA) }
    }
}

/// The reserved request headers of a route table.
pub(super) struct ReservedSets {
    /// Names of the identity headers of all routes.
    identity: Vec<HeaderName>,
    common: Arc<ReservedHeaders>,
    /// For routes that limit the methods.
    with_method_overrides: Arc<ReservedHeaders>,
}

impl ReservedSets {
    /// Reserves the identity headers of all routes.
    pub(super) fn new(specs: &[RouteSpec]) -> Self {
        let builtin = ReservedHeaders::default();
        let identity: Vec<_> = specs.iter().flat_map(|spec| spec.identity.names()).cloned().collect();
        let custom = identity.iter().filter(|name| !builtin.contains(name.as_str())).cloned();
        let common = ReservedHeaders::new(custom.collect());
        let with_method_overrides = Arc::new(common.with_method_overrides());
        Self { identity, common: Arc::new(common), with_method_overrides }
    }

    fn for_route(&self, spec: &RouteSpec) -> &Arc<ReservedHeaders> {
        if spec.methods.is_empty() { &self.common } else { &self.with_method_overrides }
    }
}

/// Rejects headers that only the gateway may write, and headers that would change the meaning of a message.
pub(super) fn check_headers(spec: &RouteSpec, reserved: &ReservedSets) -> Result<(), RouteError> {
    let request = &spec.request_headers;
    let response = &spec.response_headers;
    let check = |key, name: &HeaderName, result: Result<(), Reason>| {
        let path = spec.path.clone();
        result.map_err(|reason| RouteError::Header { path, key, name: name.clone(), reason })
    };
    for name in spec.identity.names() {
        check("identity", name, check_identity_header(spec, name))?;
    }
    for name in &request.remove {
        let result = if is_via(name) { Ok(()) } else { check_request_header(spec, reserved, name) };
        check("remove_request_headers", name, result)?;
    }
    for (name, value) in &request.set {
        let result = match name {
            name if *name == HOST => check_host(value),
            name if is_unused_forwarded_header(spec, reserved, name) => Ok(()),
            name => check_request_header(spec, reserved, name),
        };
        let result = result.and_then(|()| check_unique(request.set_names(), name));
        check("set_request_headers", name, result)?;
    }
    for name in &response.remove {
        let result = if is_via(name) { Ok(()) } else { check_response_header(name) };
        check("remove_response_headers", name, result)?;
    }
    for name in response.set_names() {
        let result = check_response_header(name)
            .and_then(|()| reject_if(matches_any(name, &[SET_COOKIE.as_str()]), COOKIE_REASON))
            .and_then(|()| check_unique(response.set_names(), name));
        check("set_response_headers", name, result)?;
    }
    Ok(())
}

/// The reason for which a header is rejected.
type Reason = &'static str;

/// Checks the name of an identity header.
fn check_identity_header(spec: &RouteSpec, name: &HeaderName) -> Result<(), Reason> {
    check_any_header(name)?;
    reject_if(matches_any(name, &NON_IDENTITY_HEADERS), "it has another meaning")?;
    check_unique(spec.identity.names(), name)
}

/// Checks the name of a header that is changed in requests.
fn check_request_header(spec: &RouteSpec, reserved: &ReservedSets, name: &HeaderName) -> Result<(), Reason> {
    check_any_header(name)?;
    let is_reserved = reserved.common.contains(name.as_str());
    reject_if(is_reserved, "the gateway sets it to the user or the client's address")?;
    reject_if(matches_any(name, &[HOST.as_str()]), "every request needs it")?;
    let is_token = spec.token_audience.is_some() && matches_any(name, &[AUTHORIZATION.as_str()]);
    reject_if(is_token, "the route's `bearer` sets it")
}

/// Returns `true` for `Via`, which a route may remove but not set.
fn is_via(name: &HeaderName) -> bool {
    matches_any(name, &[VIA.as_str()])
}

/// Returns `true` for a header of the `X-Forwarded-` family that the gateway does not send to the route's upstreams.
///
/// It is removed from what clients send all the same.
fn is_unused_forwarded_header(spec: &RouteSpec, reserved: &ReservedSets, name: &HeaderName) -> bool {
    let start = name.as_str().get(..X_FORWARDED.len());
    let sends_prefix = spec.strip_prefix && matches_any(name, &[X_FORWARDED_PREFIX.as_str()]);
    start.is_some_and(|start| eq_cgi_name(start, X_FORWARDED))
        && !sends_prefix
        && !matches_any(name, &SENT_FORWARDED_HEADERS)
        && !reserved.identity.iter().any(|identity| eq_cgi_name(identity.as_str(), name.as_str()))
}

/// Checks the name of a header that is changed in responses.
fn check_response_header(name: &HeaderName) -> Result<(), Reason> {
    check_any_header(name)?;
    let is_reserved =
        RESERVED_RESPONSE_HEADERS.iter().any(|reserved| eq_cgi_name(reserved.as_str(), name.as_str()));
    reject_if(is_reserved, RESERVED_REASON)
}

/// Rejects the headers that no route may change in either direction.
fn check_any_header(name: &HeaderName) -> Result<(), Reason> {
    reject_if(matches_any(name, &hop_by_hop::HOP_BY_HOP), "it applies to a single connection")?;
    reject_if(matches_any(name, &FRAMING_HEADERS), "it controls how a message is sent")?;
    reject_if(matches_any(name, &NOT_CONFIGURABLE), RESERVED_REASON)
}

fn check_host(value: &HeaderValue) -> Result<(), Reason> {
    reject_if(!is_valid_host(value.as_bytes()), "its value must be a host such as app.internal:8080")
}

fn check_unique<'a>(names: impl Iterator<Item = &'a HeaderName>, name: &HeaderName) -> Result<(), Reason> {
    let count = names.filter(|other| eq_cgi_name(other.as_str(), name.as_str())).count();
    reject_if(count > 1, "it is repeated")
}

fn reject_if(condition: bool, reason: Reason) -> Result<(), Reason> {
    if condition { Err(reason) } else { Ok(()) }
}

/// Returns `true` if `name` is, in any spelling, one of `names`.
fn matches_any(name: &HeaderName, names: &[&str]) -> bool {
    names.iter().any(|other| eq_cgi_name(other, name.as_str()))
}

const RESERVED_REASON: &str = "only the gateway may set it";
const COOKIE_REASON: &str = "cookies are set by applications";
const X_FORWARDED: &str = "x-forwarded-";
/// Headers of this family that the gateway sends with each request, or that identify the user.
const SENT_FORWARDED_HEADERS: [&str; 6] = [
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
];
/// Headers that the gateway sets and no route may change.
const NOT_CONFIGURABLE: [&str; 3] = ["traceparent", "via", "x-request-id"];
/// Headers that belong to the framing of a message.
const FRAMING_HEADERS: [&str; 3] = ["content-length", "expect", "trailer"];
/// Headers that carry something else than the user's identity to upstreams.
const NON_IDENTITY_HEADERS: [&str; 11] = [
    "authorization",
    "cookie",
    "forwarded",
    "host",
    "proxy",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-original-url",
    "x-real-ip",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{IdentityHeaders, Routes};

    fn spec() -> RouteSpec {
        RouteSpec::new("/a", ["http://127.0.0.1:1"])
    }

    fn name(name: &str) -> HeaderName {
        name.parse().unwrap()
    }

    fn set(names: &[&str]) -> HeaderEdits {
        let set = names.iter().map(|text| (name(text), HeaderValue::from_static("hunter2"))).collect();
        HeaderEdits { set, ..HeaderEdits::default() }
    }

    fn remove(text: &str) -> HeaderEdits {
        HeaderEdits { remove: vec![name(text)], ..HeaderEdits::default() }
    }

    fn error(spec: RouteSpec) -> String {
        Routes::new([spec]).map(drop).expect_err("route error").to_string()
    }

    fn assert_rejected(spec: RouteSpec, key: &str, part: &str) {
        let error = error(spec);
        assert!(error.starts_with(&format!("route `/a`: {key} ")) && error.contains(part), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn reserved_request_headers_cannot_be_changed() {
        for (text, part) in [
            ("Connection", "single connection"),
            ("transfer_encoding", "single connection"),
            ("Upgrade", "single connection"),
            ("Content-Length", "how a message is sent"),
            ("X-Request-Id", "only the gateway"),
            ("X-Forwarded-For", "the client's address"),
            ("X_Forwarded_Host", "the client's address"),
            ("X_Forwarded_User", "the client's address"),
            ("Remote-User", "the client's address"),
        ] {
            let setting = RouteSpec { request_headers: set(&[text]), ..spec() };
            assert_rejected(setting, "set_request_headers", part);
            let removing = RouteSpec { request_headers: remove(text), ..spec() };
            assert_rejected(removing, "remove_request_headers", part);
        }
        assert!(error(RouteSpec { request_headers: remove("host"), ..spec() }).contains("every request"));
        assert!(error(RouteSpec { request_headers: set(&["X-A", "x_a"]), ..spec() }).contains("repeated"));
        let token_audience = Some("films".to_owned());
        let route = RouteSpec { token_audience, request_headers: set(&["Authorization"]), ..spec() };
        assert!(error(route).contains("`bearer` sets it"));
        for allowed in ["Authorization", "X-Api-Key", "Accept", "Cookie"] {
            Routes::new([RouteSpec { request_headers: set(&[allowed]), ..spec() }]).unwrap();
        }
    }

    #[test]
    fn reserved_response_headers_cannot_be_changed() {
        for (text, part) in [
            ("Transfer-Encoding", "single connection"),
            ("content_length", "how a message is sent"),
            ("X-Session-Event", "only the gateway"),
            ("X-Set-Access-Cookie", "only the gateway"),
        ] {
            let setting = RouteSpec { response_headers: set(&[text]), ..spec() };
            assert_rejected(setting, "set_response_headers", part);
            let removing = RouteSpec { response_headers: remove(text), ..spec() };
            assert_rejected(removing, "remove_response_headers", part);
        }
        assert!(error(RouteSpec { response_headers: set(&["Set-Cookie"]), ..spec() }).contains("cookies"));
        Routes::new([RouteSpec { response_headers: remove("set-cookie"), ..spec() }]).unwrap();
    }

    /// C8: headers that the gateway does not send could not be set either.
    #[test]
    fn forwarded_headers_that_are_not_sent_can_be_set() {
        for text in ["X-Forwarded-Port", "X_Forwarded_Ssl", "X-Forwarded-Scheme", "X-Forwarded-Prefix"] {
            Routes::new([RouteSpec { request_headers: set(&[text]), ..spec() }]).unwrap();
        }
        let strip = RouteSpec { strip_prefix: true, ..spec() };
        let prefix = RouteSpec { request_headers: set(&["X_Forwarded_Prefix"]), ..strip };
        assert_rejected(prefix, "set_request_headers", "the client's address");
        let user = Some(name("X-Forwarded-Login"));
        let other = RouteSpec {
            identity: IdentityHeaders { user, ..IdentityHeaders::NONE },
            ..RouteSpec::new("/b", ["http://a"])
        };
        let login = RouteSpec { request_headers: set(&["X-Forwarded-Login"]), ..spec() };
        assert!(Routes::new([login, other]).unwrap_err().to_string().contains("set_request_headers"));
    }

    /// C11: `Via` could not be removed.
    #[test]
    fn via_can_be_removed_but_not_set() {
        for text in ["Via", "via"] {
            Routes::new([RouteSpec { request_headers: remove(text), ..spec() }]).unwrap();
            Routes::new([RouteSpec { response_headers: remove(text), ..spec() }]).unwrap();
            let request = RouteSpec { request_headers: set(&[text]), ..spec() };
            assert_rejected(request, "set_request_headers", "only the gateway");
            let response = RouteSpec { response_headers: set(&[text]), ..spec() };
            assert_rejected(response, "set_response_headers", "only the gateway");
        }
    }

    #[test]
    fn configured_host_must_be_valid() {
        for (value, is_valid) in [("app.internal:8080", true), ("u@a", false), ("a b", false), ("", false)] {
            let value = HeaderValue::from_static(value);
            let set = vec![(HOST, value.clone())];
            let request_headers = HeaderEdits { set, ..HeaderEdits::default() };
            assert_eq!(Routes::new([RouteSpec { request_headers, ..spec() }]).is_ok(), is_valid, "{value:?}");
        }
    }

    #[test]
    fn identity_headers_cannot_have_another_meaning() {
        let identity = |user: &str, email: &str| IdentityHeaders {
            user: Some(name(user)),
            email: Some(name(email)),
            ..IdentityHeaders::NONE
        };
        for (user, part) in [
            ("Authorization", "another meaning"),
            ("X_Forwarded_For", "another meaning"),
            ("Cookie", "another meaning"),
            ("Connection", "single connection"),
            ("X_Mail", "repeated"),
        ] {
            let error = error(RouteSpec { identity: identity(user, "X-Mail"), ..spec() });
            assert!(error.contains("identity cannot contain `") && error.contains(part), "{error}");
        }
        Routes::new([RouteSpec { identity: identity("X-User", "X-Mail"), ..spec() }]).unwrap();
        // The identity header of one route cannot be set by another.
        let other = RouteSpec { request_headers: set(&["x_user"]), ..RouteSpec::new("/b", ["http://a"]) };
        let both = [RouteSpec { identity: identity("X-User", "X-Mail"), ..spec() }, other];
        assert!(Routes::new(both).unwrap_err().to_string().contains("route `/b`: set_request_headers"));
    }

    #[test]
    fn connect_and_trace_cannot_be_allowed() {
        for method in [Method::CONNECT, Method::TRACE] {
            let error = error(RouteSpec { methods: vec![Method::GET, method.clone()], ..spec() });
            assert!(error.contains(method.as_str()), "{error}");
        }
        let allowed =
            AllowedMethods::new(&RouteSpec { methods: vec![Method::GET, Method::HEAD], ..spec() }).unwrap();
        assert!(allowed.check(&Method::HEAD).is_ok());
        let response = allowed.check(&Method::POST).unwrap_err().into_response();
        assert_eq!(response.headers()["allow"], "GET, HEAD");
        assert!(AllowedMethods::new(&spec()).unwrap().check(&"PROPFIND".parse().unwrap()).is_ok());
    }
}
