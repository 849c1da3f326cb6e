//! `/auth/verify`: forward auth for another proxy in front of an application.
//!
//! nginx, Caddy, Traefik, Envoy or HAProxy sends an auth request here for each request, and forwards the
//! original request after a 200 response. An auth request takes these steps, which `app/forward_auth.rs`
//! puts together:
//!
//! 1. [`restore_original_request`] turns it into the browser's request: method, URI and host. They are only
//!    read from the headers that the front proxy is known to set ([`OriginalRequestSource`]); a browser can
//!    send the others itself.
//! 2. The layers of the public listener check the restored request for CSRF and for a session, and refresh
//!    the session if needed.
//! 3. [`respond`] names the user in headers that the front proxy copies to the application.
//! 4. [`expose_cookies_as_headers`] copies each cookie to a header of its own, because nginx reads only the
//!    first of several `Set-Cookie` fields. Scripts could read these headers, so browsers must not be able
//!    to reach this listener directly.

use axum::body::Body;
use axum::extract::Query;
use http::header::{CACHE_CONTROL, COOKIE, HOST, HeaderMap, SET_COOKIE};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use serde::Deserialize;

use super::ApiError;
use crate::http_headers::{
    PRIVATE_NO_STORE, X_FORWARDED_HOST, X_SET_ACCESS_COOKIE, X_SET_REFRESH_COOKIE, is_valid_host,
};
use crate::identity::{Identity, Roles};
use crate::layer::CookiePolicy;
use crate::problem::Problem;

/// Headers that describe the original request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginalRequestSource {
    /// Envoy: the auth request has the original method and `Host`, and the original path below its own.
    Envoy,
    /// Caddy and Traefik: `X-Forwarded-Method`, `X-Forwarded-Uri` and `X-Forwarded-Host`.
    XForwarded,
    /// nginx and HAProxy: `X-Original-Method`, `X-Original-URI` and the original `Host`.
    XOriginal,
}

/// Roles of which the user must have at least one; `None` allows all users.
#[derive(Clone, Debug, Default)]
struct RequiredRoles(Option<Roles>);

/// Turns an auth request at or below `path` into the original request. On an error it stays as it is.
///
/// # Errors
///
/// - [`ApiError::NotFound`] for another path.
/// - [`ApiError::InvalidRequest`] if the method or URI is missing or repeated, if the host is invalid, or if the
///   query is anything but one `roles` parameter. With Envoy the query belongs to the original request, and the roles are in
///   `X-Sekisho-Roles`.
pub fn restore_original_request<B>(
    source: OriginalRequestSource,
    path: &str,
    request: &mut Request<B>,
) -> Result<(), ApiError> {
    let headers = request.headers();
    let suffix = strip_path(path, request.uri())?;
    let (method, target, required_roles) = match source {
        OriginalRequestSource::Envoy => (request.method().clone(), suffix, roles_from_header(headers)?),
        OriginalRequestSource::XForwarded => (
            method_header(headers, &X_FORWARDED_METHOD)?,
            target_header(headers, &X_FORWARDED_URI)?,
            roles_from_query(request.uri())?,
        ),
        OriginalRequestSource::XOriginal => (
            method_header(headers, &X_ORIGINAL_METHOD)?,
            target_header(headers, &X_ORIGINAL_URI)?,
            roles_from_query(request.uri())?,
        ),
    };
    if source == OriginalRequestSource::XForwarded {
        let host = at_most_one(headers, &X_FORWARDED_HOST)?.cloned();
        if host.as_ref().is_some_and(|host| !is_valid_host(host.as_bytes())) {
            return Err(invalid(format!("{X_FORWARDED_HOST} is not a host with an optional port.")));
        }
        request.headers_mut().remove(HOST);
        request.headers_mut().extend(host.map(|host| (HOST, host)));
    }
    *request.method_mut() = method;
    *request.uri_mut() = target.into();
    request.extensions_mut().insert(required_roles);
    Ok(())
}

/// Responds to a request that has passed the session layer, with the user in headers.
///
/// The `Cookie` of the response holds the cookies without the session's, to replace those of the original
/// request. Every header is present even if it is empty, because it must also replace one sent by the browser.
///
/// # Errors
///
/// [`ApiError::Forbidden`] if the user has none of the required roles.
pub fn respond<B>(request: &Request<B>) -> Result<Response<Body>, ApiError> {
    let extensions = request.extensions();
    let (Some(identity), Some(RequiredRoles(roles))) = (extensions.get::<Identity>(), extensions.get())
    else {
        return Err(ApiError::internal(MissingExtensions));
    };
    if roles.as_ref().is_some_and(|roles| !roles.iter().any(|role| identity.roles.contains(role))) {
        return Err(ApiError::Forbidden(Problem::FORBIDDEN));
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

/// Copies each session cookie that a response sets or clears to a header of its own.
pub fn expose_cookies_as_headers<B>(cookies: &CookiePolicy, mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    for (cookie, name) in cookies.names().into_iter().zip([X_SET_ACCESS_COOKIE, X_SET_REFRESH_COOKIE]) {
        let sets_cookie = |line: &&HeaderValue| {
            line.as_bytes().strip_prefix(cookie.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
        };
        if let Some(line) = headers.get_all(SET_COOKIE).iter().find(sets_cookie).cloned() {
            headers.insert(name, line);
        }
    }
    response
}

/// Returns the path and query of `uri` after the prefix `path`.
fn strip_path(path: &str, uri: &Uri) -> Result<PathAndQuery, ApiError> {
    let not_found = || ApiError::NotFound("There is nothing at this address.");
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    match target.strip_prefix(path).ok_or_else(not_found)? {
        "" => Ok(PathAndQuery::from_static("/")),
        rest if rest.starts_with('/') => rest.parse().map_err(|_| not_found()),
        rest if rest.starts_with('?') => format!("/{rest}").parse().map_err(|_| not_found()),
        _ => Err(not_found()),
    }
}

fn method_header(headers: &HeaderMap, name: &HeaderName) -> Result<Method, ApiError> {
    let value = exactly_one(headers, name)?;
    Method::from_bytes(value.as_bytes()).map_err(|_| invalid(format!("{name} is not a method.")))
}

fn target_header(headers: &HeaderMap, name: &HeaderName) -> Result<PathAndQuery, ApiError> {
    let value = exactly_one(headers, name)?;
    let target = Some(value.as_bytes()).filter(|target| target.starts_with(b"/"));
    let target = target.and_then(|target| PathAndQuery::try_from(target).ok());
    target.ok_or_else(|| invalid(format!("{name} is not a path with an optional query.")))
}

fn exactly_one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h HeaderValue, ApiError> {
    at_most_one(headers, name)?
        .ok_or_else(|| invalid(format!("{name} is missing. The front proxy must set it; see verify.source.")))
}

fn at_most_one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, ApiError> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (line, None) => Ok(line),
        _ => Err(invalid(format!("{name} is repeated."))),
    }
}

/// Rejects all other parameters, which would be those of the original request, forwarded by mistake.
fn roles_from_query(uri: &Uri) -> Result<RequiredRoles, ApiError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct AuthRequestQuery {
        roles: Option<String>,
    }

    let query = Query::<AuthRequestQuery>::try_from_uri(uri)
        .map_err(|_| invalid("The only query parameter is `roles`, which must not be repeated."))?;
    parse_roles(query.0.roles.as_deref())
}

fn roles_from_header(headers: &HeaderMap) -> Result<RequiredRoles, ApiError> {
    let value = at_most_one(headers, &X_SEKISHO_ROLES)?;
    parse_roles(value.map(|value| value.to_str().unwrap_or_default()))
}

/// Parses a list of roles. An empty list is rejected, because it would not restrict access.
fn parse_roles(list: Option<&str>) -> Result<RequiredRoles, ApiError> {
    let Some(list) = list else { return Ok(RequiredRoles(None)) };
    let roles = Roles::from_list(list).ok().filter(|roles| !roles.is_empty());
    let roles = roles.ok_or_else(|| invalid("The roles must be a comma-separated list of names."))?;
    Ok(RequiredRoles(Some(roles)))
}

fn invalid(detail: impl Into<String>) -> ApiError {
    ApiError::InvalidRequest(detail.into())
}

/// Error of [`respond`] for a request that has not passed [`restore_original_request`] or the session layer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("missing request extensions")]
struct MissingExtensions;

const X_FORWARDED_USER: HeaderName = HeaderName::from_static("x-forwarded-user");
const X_FORWARDED_EMAIL: HeaderName = HeaderName::from_static("x-forwarded-email");
const X_FORWARDED_GROUPS: HeaderName = HeaderName::from_static("x-forwarded-groups");

const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const X_SEKISHO_ROLES: HeaderName = HeaderName::from_static("x-sekisho-roles");
