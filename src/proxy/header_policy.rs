//! What a route holds its requests and answers to, checked once.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, HeaderName, SET_COOKIE};
use http::uri::Authority;
use http::{HeaderValue, Method};

use super::error::ProxyError;
use super::header_edits::HeaderEdits;
use super::hop_by_hop;
use super::reserved_headers::{RESERVED_RESPONSE_HEADERS, ReservedHeaders, eq_cgi_name};
use super::route_error::RouteError;
use super::route_spec::RouteSpec;

/// The methods that a route lets through.
#[derive(Debug)]
pub(super) struct AllowedMethods {
    /// None means all but `CONNECT` and `TRACE`, which nothing lets through.
    listed: Vec<Method>,
    allow: HeaderValue,
}

impl AllowedMethods {
    pub(super) fn new(spec: &RouteSpec) -> Result<Self, RouteError> {
        let listed = spec.methods.clone();
        if let Some(method) = listed.iter().find(|method| never_allowed(method)) {
            return Err(RouteError::Method { path: spec.path.clone(), method: method.clone() });
        }
        let names: Vec<&str> = listed.iter().map(Method::as_str).collect();
        // The characters of a method are among those of a header's value.
        let allow = HeaderValue::try_from(names.join(", ")).ok().filter(|_| !names.is_empty());
        Ok(Self { listed, allow: allow.unwrap_or(HeaderValue::from_static(USUAL)) })
    }

    pub(super) fn check(&self, method: &Method) -> Result<(), ProxyError> {
        let listed = self.listed.is_empty() || self.listed.contains(method);
        if listed && !never_allowed(method) {
            return Ok(());
        }
        Err(ProxyError::MethodNotAllowed { allow: self.allow.clone() })
    }
}

fn never_allowed(method: &Method) -> bool {
    matches!(*method, Method::CONNECT | Method::TRACE)
}

const USUAL: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What becomes of the headers of a route's requests, and of their trailers.
#[derive(Debug)]
pub(super) struct RequestHeaderPolicy {
    /// What clients may not say.
    pub(super) reserved: Arc<ReservedHeaders>,
    /// What the operator wants changed.
    pub(super) edits: HeaderEdits,
}

/// The names that are reserved because routes tell their upstreams by them who the user is.
pub(super) fn reserved(specs: &[RouteSpec]) -> ReservedHeaders {
    let always = ReservedHeaders::default();
    let named = specs.iter().flat_map(|spec| spec.identity.names());
    ReservedHeaders::new(named.filter(|name| !always.contains(name.as_str())).cloned().collect())
}

/// Refuses names that are ours to write, or with which a message would mean something else on its way.
pub(super) fn check_headers(spec: &RouteSpec, reserved: &ReservedHeaders) -> Result<(), RouteError> {
    let (to, back) = (&spec.request_headers, &spec.response_headers);
    let told = spec.identity.names().map(|name| ("identity", name, check_identity_header(spec, name)));
    let removed = to
        .remove
        .iter()
        .map(|name| ("remove_request_headers", name, check_request_header(spec, reserved, name)));
    let set = to.set.iter().map(|(name, value)| {
        let fault = if *name == HOST { host(value) } else { check_request_header(spec, reserved, name) };
        ("set_request_headers", name, fault.or_else(|| check_duplicate(to.set_names(), name)))
    });
    let cleared =
        back.remove.iter().map(|name| ("remove_response_headers", name, check_response_header(name)));
    let answers = back.set_names().map(|name| {
        let cookie = is_one_of(name, &[SET_COOKIE.as_str()]).then_some("cookies are for applications to set");
        let fault =
            check_response_header(name).or(cookie).or_else(|| check_duplicate(back.set_names(), name));
        ("set_response_headers", name, fault)
    });
    for (key, name, fault) in told.chain(removed).chain(set).chain(cleared).chain(answers) {
        if let Some(reason) = fault {
            return Err(RouteError::Header { path: spec.path.clone(), key, name: name.clone(), reason });
        }
    }
    Ok(())
}

type HeaderProblem = Option<&'static str>;

/// What is wrong with a name by which the user is to be told.
fn check_identity_header(spec: &RouteSpec, name: &HeaderName) -> HeaderProblem {
    let taken = is_one_of(name, &NON_IDENTITY_HEADERS).then_some("it tells something else");
    check_connection_header(name).or(taken).or_else(|| check_duplicate(spec.identity.names(), name))
}

/// What is wrong with a name that is changed in requests.
fn check_request_header(spec: &RouteSpec, reserved: &ReservedHeaders, name: &HeaderName) -> HeaderProblem {
    let minted = spec.token_audience.is_some() && is_one_of(name, &[AUTHORIZATION.as_str()]);
    let told = reserved.contains(name.as_str()).then_some("it tells who or where the client is, which we do");
    check_connection_header(name)
        .or(told)
        .or_else(|| is_one_of(name, &[HOST.as_str()]).then_some("every request needs it"))
        .or_else(|| minted.then_some("the route's bearer goes there"))
}

/// What is wrong with a name that is changed in answers.
fn check_response_header(name: &HeaderName) -> HeaderProblem {
    let ours = RESERVED_RESPONSE_HEADERS.iter().any(|ours| eq_cgi_name(ours.as_str(), name.as_str()));
    check_connection_header(name).or(ours.then_some(RESERVED_REASON))
}

fn check_connection_header(name: &HeaderName) -> HeaderProblem {
    let of_connection = hop_by_hop::HOP_BY_HOP.iter().any(|hop| eq_cgi_name(hop, name.as_str()));
    (of_connection.then_some("it concerns one connection alone"))
        .or_else(|| is_one_of(name, &FRAMING).then_some("it says how a message is sent, which is our part"))
        .or_else(|| is_one_of(name, &GATEWAY_HEADERS).then_some(RESERVED_REASON))
}

fn host(value: &HeaderValue) -> HeaderProblem {
    let host = Authority::try_from(value.as_bytes()).ok().filter(|host| !host.as_str().contains('@'));
    host.is_none().then_some("its value must be a host such as app.internal:8080")
}

fn check_duplicate<'a>(mut names: impl Iterator<Item = &'a HeaderName>, name: &HeaderName) -> HeaderProblem {
    let mut same = names.by_ref().filter(|other| eq_cgi_name(other.as_str(), name.as_str()));
    same.nth(1).map(|_| "it is there twice")
}

fn is_one_of(name: &HeaderName, names: &[&str]) -> bool {
    names.iter().any(|other| eq_cgi_name(other, name.as_str()))
}

const RESERVED_REASON: &str = "only we may say that";
const GATEWAY_HEADERS: [&str; 3] = ["traceparent", "via", "x-request-id"];
const FRAMING: [&str; 3] = ["content-length", "expect", "trailer"];
/// What else upstreams learn by headers.
const NON_IDENTITY_HEADERS: [&str; 10] = [
    "authorization",
    "cookie",
    "forwarded",
    "host",
    "proxy",
    "x-forwarded-for",
    "x-forwarded-host",
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
        Routes::new([spec]).map(drop).expect_err("refused").to_string()
    }

    #[test]
    fn what_is_ours_in_requests_is_refused_with_the_reason() {
        for (text, part) in [
            ("Connection", "one connection"),
            ("transfer_encoding", "one connection"),
            ("Upgrade", "one connection"),
            ("Content-Length", "how a message is sent"),
            ("Via", "only we"),
            ("X-Request-Id", "only we"),
            ("X-Forwarded-For", "where the client is"),
            ("X_Forwarded_User", "where the client is"),
            ("Remote-User", "where the client is"),
        ] {
            for (key, request_headers) in
                [("set_request_headers", set(&[text])), ("remove_request_headers", remove(text))]
            {
                let error = error(RouteSpec { request_headers, ..spec() });
                assert!(error.starts_with(&format!("route `/a`: {key} ")) && error.contains(part), "{error}");
                assert!(!error.contains("hunter2"), "{error}");
            }
        }
        assert!(error(RouteSpec { request_headers: remove("host"), ..spec() }).contains("every request"));
        assert!(error(RouteSpec { request_headers: set(&["X-A", "x_a"]), ..spec() }).contains("twice"));
        let token_audience = Some("films".to_owned());
        let minting = RouteSpec { token_audience, request_headers: set(&["Authorization"]), ..spec() };
        assert!(error(minting).contains("bearer goes there"));
        for allowed in ["Authorization", "X-Api-Key", "Accept", "Cookie"] {
            Routes::new([RouteSpec { request_headers: set(&[allowed]), ..spec() }]).unwrap();
        }
    }

    #[test]
    fn what_is_ours_in_answers_is_refused_with_the_reason() {
        for (text, part) in [
            ("Transfer-Encoding", "one connection"),
            ("content_length", "how a message is sent"),
            ("X-Session-Event", "only we"),
            ("X-Set-Access-Cookie", "only we"),
            ("Via", "only we"),
        ] {
            for (key, response_headers) in
                [("set_response_headers", set(&[text])), ("remove_response_headers", remove(text))]
            {
                let error = error(RouteSpec { response_headers, ..spec() });
                assert!(error.starts_with(&format!("route `/a`: {key} ")) && error.contains(part), "{error}");
            }
        }
        assert!(error(RouteSpec { response_headers: set(&["Set-Cookie"]), ..spec() }).contains("cookies"));
        Routes::new([RouteSpec { response_headers: remove("set-cookie"), ..spec() }]).unwrap();
    }

    #[test]
    fn a_host_that_is_set_must_be_one() {
        for (value, good) in [("app.internal:8080", true), ("u@a", false), ("a b", false), ("", false)] {
            let value = HeaderValue::from_static(value);
            let set = vec![(HOST, value.clone())];
            let request_headers = HeaderEdits { set, ..HeaderEdits::default() };
            assert_eq!(Routes::new([RouteSpec { request_headers, ..spec() }]).is_ok(), good, "{value:?}");
        }
    }

    #[test]
    fn a_user_is_told_by_names_that_tell_nothing_else() {
        let identity = |user: &str, email: &str| IdentityHeaders {
            user: Some(name(user)),
            email: Some(name(email)),
            ..IdentityHeaders::NONE
        };
        for (user, part) in [
            ("Authorization", "something else"),
            ("X_Forwarded_For", "something else"),
            ("Cookie", "something else"),
            ("Connection", "one connection"),
            ("X_Mail", "twice"),
        ] {
            let error = error(RouteSpec { identity: identity(user, "X-Mail"), ..spec() });
            assert!(error.contains("identity can't name `") && error.contains(part), "{error}");
        }
        Routes::new([RouteSpec { identity: identity("X-User", "X-Mail"), ..spec() }]).unwrap();
        // What one route tells by a name of its own, no other can set.
        let other = RouteSpec { request_headers: set(&["x_user"]), ..RouteSpec::new("/b", ["http://a"]) };
        let both = [RouteSpec { identity: identity("X-User", "X-Mail"), ..spec() }, other];
        assert!(Routes::new(both).unwrap_err().to_string().contains("route `/b`: set_request_headers"));
    }

    #[test]
    fn methods_that_no_route_lets_through_are_no_list() {
        for method in [Method::CONNECT, Method::TRACE] {
            let error = error(RouteSpec { methods: vec![Method::GET, method.clone()], ..spec() });
            assert!(error.contains(method.as_str()), "{error}");
        }
        let listed =
            AllowedMethods::new(&RouteSpec { methods: vec![Method::GET, Method::HEAD], ..spec() }).unwrap();
        assert!(listed.check(&Method::HEAD).is_ok());
        let refused = listed.check(&Method::POST).unwrap_err().into_response();
        assert_eq!(refused.headers()["allow"], "GET, HEAD");
        assert!(AllowedMethods::new(&spec()).unwrap().check(&"PROPFIND".parse().unwrap()).is_ok());
    }
}
