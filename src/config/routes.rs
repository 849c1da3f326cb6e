//! `[[routes]]`.

use http::Method;

use super::error::{ConfigError, ValueSource};
use super::headers;
use super::path_prefix::PathPrefix;
use super::raw::{RawSettings, first_duplicate};
use super::server::Server;
use super::tokens::Tokens;
use super::upstreams::{self, UpstreamAddr};
use crate::proxy::RouteSpec;
use crate::services::keys::Algorithm;
use crate::services::tokens_builder::{EXPECTED_NAME, is_name};

/// A route of the proxy: a table of `[[routes]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// The position in the file.
    pub place: ValueSource,
    /// The path prefix. The longest matching prefix wins.
    pub path: PathPrefix,
    /// Session requirement.
    pub auth: RouteAuth,
    /// The settings of the proxy.
    pub spec: RouteSpec,
}

/// Session requirement of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAuth {
    /// The session is not checked.
    None,
    /// A request without a session is forwarded as anonymous.
    Optional,
    /// A request without a session gets a 401 response.
    Required,
}

/// Reads all routes and checks them against each other and the other sections.
pub(super) fn read_all(
    tables: &[RawSettings],
    server: &Server,
    tokens: &Tokens,
    warnings: &mut Vec<String>,
) -> Result<Vec<Route>, ConfigError> {
    let mut routes = Vec::<Route>::new();
    for table in tables {
        let route = Route::read(table, server)?;
        route.check_path(table, &routes, server)?;
        route.check_session(table)?;
        route.check_bearer(table, tokens)?;
        for role in route.spec.roles.iter().filter(|role| !ROLES.contains(&role.as_str())) {
            warnings.push(format!(
                "routes.roles of {} contains {role}, a role that no user can have: there are {}",
                route.path,
                ROLES.join(" and ")
            ));
        }
        warnings.extend(route.excessive_limits(server));
        routes.push(route);
    }
    Ok(routes)
}

impl Route {
    fn read(table: &RawSettings, server: &Server) -> Result<Self, ConfigError> {
        let path: PathPrefix = table.required("routes.path", table.parsed("routes.path"))?;
        let upstreams = table.required("routes.upstreams", upstreams::addresses(table))?;
        let auth = table.one_of("routes.auth", &AUTH)?.unwrap_or(RouteAuth::Required);
        let spec = RouteSpec::new(path.as_str(), upstreams.iter().map(UpstreamAddr::as_str));
        let timeout = |key, default| table.duration_or(key, default);
        let edits = |remove, set| headers::read_edits(table, remove, set);
        let spec = RouteSpec {
            upstream_settings: upstreams::read_settings(table, &upstreams, server.limits.in_flight)?,
            roles: table.list("routes.roles", role)?.unwrap_or_default(),
            methods: methods(table)?,
            pass_preflight: table.one_of(PREFLIGHT, &PREFLIGHTS)?.unwrap_or(spec.pass_preflight),
            identity: headers::read_identity(table)?,
            request_headers: edits("routes.remove_request_headers", "routes.set_request_headers")?,
            response_headers: edits("routes.remove_response_headers", "routes.set_response_headers")?,
            strip_prefix: table.boolean("routes.strip_prefix")?.unwrap_or(spec.strip_prefix),
            token_audience: table.text("routes.bearer")?.map(str::to_owned),
            pass_authorization: table
                .boolean("routes.pass_authorization")?
                .unwrap_or(spec.pass_authorization),
            encoded_slash: table
                .one_of("routes.encoded_slash", &PASS_OR_REFUSE)?
                .unwrap_or(spec.encoded_slash),
            get_body: table.one_of("routes.get_body", &PASS_OR_REFUSE)?.unwrap_or(spec.get_body),
            connect_timeout: timeout("routes.connect_timeout", spec.connect_timeout)?,
            first_byte_timeout: timeout("routes.first_byte_timeout", spec.first_byte_timeout)?,
            idle_timeout: timeout("routes.idle_timeout", spec.idle_timeout)?,
            max_body: table.size("routes.max_body", 1..=MAX_BODY, EXPECTED_SIZE)?,
            buffer_request: table
                .size("routes.buffer_request", 0..=MAX_BUFFER, EXPECTED_BUFFER)?
                .unwrap_or(spec.buffer_request),
            upgrades: table.list("routes.upgrades", upgrade)?.unwrap_or_else(|| spec.upgrades.clone()),
            tunnel_idle_timeout: timeout("routes.tunnel_idle_timeout", spec.tunnel_idle_timeout)?,
            ..spec
        };
        let place = table.first_place().cloned().unwrap_or(ValueSource::BuiltIn);
        Ok(Self { place, path, auth, spec })
    }

    fn check_path(&self, table: &RawSettings, others: &[Self], server: &Server) -> Result<(), ConfigError> {
        if others.iter().any(|other| other.path == self.path) {
            return Err(table.invalid("routes.path", "another route has the same path: keep one of them"));
        }
        let covers = |builtin: &PathPrefix| builtin.matches(self.path.as_str());
        let Some(builtin) = server.builtin_paths().into_iter().find(covers) else { return Ok(()) };
        let remedy = if builtin == server.auth_prefix {
            "choose another path, or change server.auth_prefix"
        } else {
            "choose another path, or disable the built-in one in server.builtin"
        };
        Err(table.invalid("routes.path", format!("the built-in {builtin} hides this route: {remedy}")))
    }

    /// Returns a warning if the upstreams of this route can take the places of all other requests.
    fn excessive_limits(&self, server: &Server) -> Option<String> {
        let limit = server.limits.in_flight;
        let total =
            upstreams::excessive_total(&self.spec.upstream_settings, self.spec.upstreams.len(), limit)?;
        Some(format!(
            "routes.max_in_flight of {}: its upstreams and their queues may hold {total} requests, more than half of \
             server.max_in_flight = {limit}; if they hang, other requests get a 503 response",
            self.path
        ))
    }

    fn check_session(&self, table: &RawSettings) -> Result<(), ConfigError> {
        if !self.spec.roles.is_empty() && self.auth != RouteAuth::Required {
            return Err(table.invalid("routes.roles", r#"roles require a user: set auth = "required""#));
        }
        if self.spec.token_audience.is_some() && self.auth == RouteAuth::None {
            let problem = r#"with auth = "none" there is no user to issue a token for"#;
            return Err(table.invalid("routes.bearer", problem));
        }
        if self.spec.pass_preflight && self.auth == RouteAuth::None {
            let problem =
                r#"with auth = "none" all requests are forwarded without a session: remove the key"#;
            return Err(table.invalid(PREFLIGHT, problem));
        }
        if self.spec.token_audience.is_some() && self.spec.pass_authorization {
            let problem = "bearer replaces the client's Authorization: keep one of them";
            return Err(table.invalid("routes.pass_authorization", problem));
        }
        Ok(())
    }

    fn check_bearer(&self, table: &RawSettings, tokens: &Tokens) -> Result<(), ConfigError> {
        let Some(audience) = &self.spec.token_audience else { return Ok(()) };
        if !is_name(audience) {
            return Err(table.invalid("routes.bearer", EXPECTED_NAME));
        }
        if *audience == tokens.audience {
            let problem = "it equals tokens.audience, so an upstream could use its token as a session";
            return Err(table.invalid("routes.bearer", format!("{problem}: choose another audience")));
        }
        if tokens.algorithm == Algorithm::Hs256 {
            let problem = "an upstream that holds the HS256 key could issue sessions";
            let remedy = "set tokens.algorithm to ES256 or EdDSA";
            return Err(table.invalid("routes.bearer", format!("{problem}: {remedy}")));
        }
        Ok(())
    }
}

/// Parses a role, which must fit into a comma-separated header.
fn role(text: &str) -> Result<String, String> {
    let is_valid = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    if is_valid { Ok(text.to_owned()) } else { Err("expected a role such as admin".to_owned()) }
}

fn methods(table: &RawSettings) -> Result<Vec<Method>, ConfigError> {
    let key = "routes.methods";
    let method = |text: &str| match text.parse::<Method>() {
        Ok(Method::CONNECT | Method::TRACE) => Err("this method is never forwarded".to_owned()),
        Ok(method) if !text.bytes().any(|byte| byte.is_ascii_lowercase()) => Ok(method),
        _ => Err("expected a method in capitals, such as GET".to_owned()),
    };
    let Some(methods) = table.list(key, method)? else { return Ok(Vec::new()) };
    if methods.is_empty() {
        return Err(table.invalid(key, "expected at least one method; remove the key to allow all"));
    }
    if let Some(method) = first_duplicate(&methods) {
        return Err(table.invalid(key, format!("{method} is listed twice")));
    }
    Ok(methods)
}

/// Parses a protocol for `Upgrade` (RFC 9110 section 7.8).
///
/// Protocols that carry requests are refused: requests inside the upgraded connection would bypass all
/// checks.
fn upgrade(text: &str) -> Result<String, String> {
    let protocol = text.to_ascii_lowercase();
    let name = protocol.split('/').next().unwrap_or_default();
    if ["h2c", "http", "tls"].contains(&name) {
        return Err("requests inside this protocol would bypass all checks: remove it".to_owned());
    }
    let is_valid =
        !name.is_empty() && protocol.bytes().all(|b| b.is_ascii_graphic() && !br#",;"()"#.contains(&b));
    if is_valid { Ok(protocol) } else { Err("expected a protocol such as websocket".to_owned()) }
}

const AUTH: [(&str, RouteAuth); 3] =
    [("required", RouteAuth::Required), ("optional", RouteAuth::Optional), ("none", RouteAuth::None)];

const PREFLIGHT: &str = "routes.preflight";
const PREFLIGHTS: [(&str, bool); 2] = [("session", false), ("pass", true)];

/// Policies for `%2f` in paths, and for bodies that have no meaning.
const PASS_OR_REFUSE: [(&str, bool); 2] = [("pass", true), ("refuse", false)];

const EXPECTED_SIZE: &str = "expected a size such as 512KiB or 2MiB; remove the key for no limit";

/// `bytesize` saturates beyond 63 bits.
const MAX_BODY: u64 = i64::MAX.unsigned_abs();

const EXPECTED_BUFFER: &str = "expected a size up to 1MiB, such as 64KiB, or 0 to stream all bodies";

/// Limit of `buffer_request`: a client may have a thousand requests, whose bodies are in memory.
const MAX_BUFFER: u64 = 1024 * 1024;

/// The roles that users can have.
const ROLES: [&str; 2] = ["admin", "user"];
