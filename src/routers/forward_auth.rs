//! `/auth/verify`: who is asking, for another proxy in front of an application.
//!
//! nginx, Caddy, Traefik, Envoy or HAProxy holds a request back, asks here about it, and passes it on
//! after a 200. A question goes through here as follows; the application puts the parts together.
//!
//! 1. [`restore_original_request`] makes it the request that the browser sent: its method, its URI, the host it asked
//!    for. One family of headers tells them ([`OriginalRequestSource`]), which the front proxy writes itself; others
//!    the browser may have written.
//! 2. What guards the public listener guards that request: against other sites' pages, and by its
//!    session, which is renewed on the way.
//! 3. [`respond`] names the user, for the front proxy to tell its application.
//! 4. [`expose_cookies_as_headers`] repeats each cookie in a header of its own, for nginx, which reads but the first of
//!    several `Set-Cookie`. A script could read such headers, so browsers must never reach this.

use axum::body::Body;
use axum::extract::Query;
use http::header::{CACHE_CONTROL, COOKIE, HOST, HeaderMap, SET_COOKIE};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use serde::Deserialize;

use super::ApiError;
use crate::http_headers::{PRIVATE_NO_STORE, X_FORWARDED_HOST, X_SET_ACCESS_COOKIE, X_SET_REFRESH_COOKIE};
use crate::identity::{Identity, Roles};
use crate::layer::CookiePolicy;

/// Who tells of the original request, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginalRequestSource {
    /// Envoy: the question has the request's own method, its path below ours, and its `Host`.
    Envoy,
    /// Caddy and Traefik: `X-Forwarded-Method`, `-Uri` and `-Host`.
    XForwarded,
    /// nginx and HAProxy: `X-Original-Method` and `X-Original-URI`, and the request's `Host`.
    XOriginal,
}

/// The roles of which the user must have one; any user will do if there are none.
#[derive(Clone, Debug, Default)]
struct RequiredRoles(Option<Roles>);

/// Makes a question that was asked at `path`, or below it, the request that it is about.
///
/// # Errors
///
/// [`ApiError::NotFound`] for another path, [`ApiError::InvalidRequest`] where method or URI are
/// missing or repeated, and for a query that isn't `roles=` once. (Envoy's query is the browser's, so
/// there the roles come in `X-Sekisho-Roles`, and the query isn't looked at.)
pub fn restore_original_request<B>(
    source: OriginalRequestSource,
    path: &str,
    mut request: Request<B>,
) -> Result<Request<B>, ApiError> {
    let headers = request.headers();
    let below = below(path, request.uri())?;
    let (method, target, demanded) = match source {
        OriginalRequestSource::Envoy => (request.method().clone(), below, roles_of_header(headers)?),
        OriginalRequestSource::XForwarded => (
            method(headers, &X_FORWARDED_METHOD)?,
            target(headers, &X_FORWARDED_URI)?,
            roles_of_query(request.uri())?,
        ),
        OriginalRequestSource::XOriginal => (
            method(headers, &X_ORIGINAL_METHOD)?,
            target(headers, &X_ORIGINAL_URI)?,
            roles_of_query(request.uri())?,
        ),
    };
    if source == OriginalRequestSource::XForwarded {
        let host = at_most_one(headers, &X_FORWARDED_HOST)?.cloned();
        request.headers_mut().remove(HOST);
        request.headers_mut().extend(host.map(|host| (HOST, host)));
    }
    *request.method_mut() = method;
    *request.uri_mut() = target.into();
    request.extensions_mut().insert(demanded);
    Ok(request)
}

/// Names the user of a request that has passed the session layer, if he may make it.
///
/// What the request's `Cookie` still holds is in the answer's: the front proxy puts it in place of the
/// browser's. Each header is there even if it is empty, and replaces what the browser sent by that name.
///
/// # Errors
///
/// [`ApiError::Forbidden`] for a user with none of the roles that the question names.
pub fn respond<B>(request: &Request<B>) -> Result<Response<Body>, ApiError> {
    let extensions = request.extensions();
    let (Some(identity), Some(RequiredRoles(roles))) = (extensions.get::<Identity>(), extensions.get())
    else {
        return Err(ApiError::internal(MissingExtensions));
    };
    if roles.as_ref().is_some_and(|roles| !roles.iter().any(|role| identity.roles.contains(role))) {
        return Err(ApiError::Forbidden("Your account may not use this path."));
    }
    let cookies: Vec<&[u8]> = request.headers().get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    for (name, value) in [
        (X_FORWARDED_USER, identity.subject.as_bytes()),
        (X_FORWARDED_EMAIL, identity.email.as_bytes()),
        (X_FORWARDED_GROUPS, identity.roles.as_str().as_bytes()),
        (COOKIE, &cookies.join(&b"; "[..])),
    ] {
        headers.insert(name, HeaderValue::from_bytes(value).map_err(ApiError::internal)?);
    }
    headers.insert(CACHE_CONTROL, PRIVATE_NO_STORE);
    Ok(response)
}

/// Repeats the cookies that an answer sets or clears, each in a header of its own.
pub fn expose_cookies_as_headers<B>(cookies: &CookiePolicy, mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    for (cookie, name) in cookies.names().into_iter().zip([X_SET_ACCESS_COOKIE, X_SET_REFRESH_COOKIE]) {
        let sets = |line: &&HeaderValue| {
            line.as_bytes().strip_prefix(cookie.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
        };
        if let Some(line) = headers.get_all(SET_COOKIE).iter().find(sets).cloned() {
            headers.insert(name, line);
        }
    }
    response
}

/// What a question's URI has below `path`, with its query.
fn below(path: &str, uri: &Uri) -> Result<PathAndQuery, ApiError> {
    let nothing = || ApiError::NotFound("There is nothing at this address.");
    let asked = uri.path_and_query().map_or("", PathAndQuery::as_str);
    match asked.strip_prefix(path).ok_or_else(nothing)? {
        "" => Ok(PathAndQuery::from_static("/")),
        rest if rest.starts_with('/') => rest.parse().map_err(|_| nothing()),
        rest if rest.starts_with('?') => format!("/{rest}").parse().map_err(|_| nothing()),
        _ => Err(nothing()),
    }
}

fn method(headers: &HeaderMap, name: &HeaderName) -> Result<Method, ApiError> {
    let value = exactly_one(headers, name)?;
    Method::from_bytes(value.as_bytes())
        .map_err(|_| ApiError::InvalidRequest(format!("{name} is not a method.")))
}

fn target(headers: &HeaderMap, name: &HeaderName) -> Result<PathAndQuery, ApiError> {
    let value = exactly_one(headers, name)?;
    let target = Some(value.as_bytes()).filter(|target| target.starts_with(b"/"));
    let target = target.and_then(|target| PathAndQuery::try_from(target).ok());
    target.ok_or_else(|| ApiError::InvalidRequest(format!("{name} is not a path with its query.")))
}

fn exactly_one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h HeaderValue, ApiError> {
    at_most_one(headers, name)?.ok_or_else(|| {
        let remedy = "let the proxy in front set it, or see verify.source";
        ApiError::InvalidRequest(format!("{name} is missing: {remedy}."))
    })
}

fn at_most_one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, ApiError> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (line, None) => Ok(line),
        _ => Err(ApiError::InvalidRequest(format!("{name} comes twice."))),
    }
}

/// Nothing else may stand in the query: it would be the browser's, which a proxy has passed on.
fn roles_of_query(uri: &Uri) -> Result<RequiredRoles, ApiError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        roles: Option<String>,
    }

    let asked = Query::<Asked>::try_from_uri(uri).map_err(|_| {
        let expected = "The query of this address may hold `roles`, once, and nothing else.";
        ApiError::InvalidRequest(expected.to_owned())
    })?;
    parse_roles(asked.0.roles.as_deref())
}

fn roles_of_header(headers: &HeaderMap) -> Result<RequiredRoles, ApiError> {
    let value = at_most_one(headers, &X_SEKISHO_ROLES)?;
    parse_roles(value.map(|value| value.to_str().unwrap_or_default()))
}

/// An empty list is a mistake, and must not let everybody through.
fn parse_roles(list: Option<&str>) -> Result<RequiredRoles, ApiError> {
    let Some(list) = list else { return Ok(RequiredRoles(None)) };
    let roles = Roles::from_list(list).filter(|roles| !roles.as_str().is_empty());
    let expected = || ApiError::InvalidRequest("The roles must be names with commas between.".to_owned());
    roles.map(|roles| RequiredRoles(Some(roles))).ok_or_else(expected)
}

/// A request got to [`respond`] past [`restore_original_request`] or past the session layer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a question was answered without having been prepared")]
struct MissingExtensions;

const X_FORWARDED_USER: HeaderName = HeaderName::from_static("x-forwarded-user");
const X_FORWARDED_EMAIL: HeaderName = HeaderName::from_static("x-forwarded-email");
const X_FORWARDED_GROUPS: HeaderName = HeaderName::from_static("x-forwarded-groups");

const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const X_SEKISHO_ROLES: HeaderName = HeaderName::from_static("x-sekisho-roles");
