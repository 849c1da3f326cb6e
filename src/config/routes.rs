//! `[[routes]]`.

use std::time::Duration;

use http::Method;

use super::error::{ConfigError, ValueSource};
use super::headers::{HeaderEdits, RouteIdentity};
use super::path_prefix::PathPrefix;
use super::raw::{RawSettings, first_duplicate};
use super::server::Server;
use super::tokens::{EXPECTED_NAME, Tokens, is_name};
use super::upstreams::{self, Upstreams};
use crate::services::keys::Algorithm;

/// A route of the proxy: a table of `[[routes]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// The position in the file.
    pub place: ValueSource,
    /// The path prefix. The longest matching prefix wins.
    pub path: PathPrefix,
    /// The upstreams and their settings.
    pub upstreams: Upstreams,
    /// Whether a session is required.
    pub auth: RouteAuth,
    /// Roles of which the user needs one; empty accepts any user.
    pub roles: Vec<String>,
    /// Allowed methods; empty allows all except `CONNECT` and `TRACE`.
    pub methods: Vec<Method>,
    /// Headers that carry the identity of the user to the upstream.
    pub identity: RouteIdentity,
    /// Header edits of requests.
    pub request_headers: HeaderEdits,
    /// Header edits of responses.
    pub response_headers: HeaderEdits,
    /// Whether `path` is removed before forwarding.
    pub strip_prefix: bool,
    /// Audience of the access token issued for the upstream; `None` sends none.
    pub bearer: Option<String>,
    /// Whether the client's `Authorization` header is forwarded.
    pub pass_authorization: bool,
    /// Handling of `%2f` in paths.
    pub encoded_slash: EncodedSlash,
    /// Timeout for connecting to an upstream.
    pub connect_timeout: Duration,
    /// Timeout for the response head.
    pub first_byte_timeout: Duration,
    /// Idle timeout of a body, in either direction.
    pub idle_timeout: Duration,
    /// Maximum length of a request body in bytes; `None` is unlimited.
    pub max_body: Option<u64>,
    /// Protocols accepted in `Upgrade`, in lower case.
    pub upgrades: Vec<String>,
    /// Idle timeout of an upgraded connection.
    pub tunnel_idle_timeout: Duration,
}

/// Whether a route requires a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAuth {
    /// The session is not checked.
    None,
    /// A request without a session is forwarded as anonymous.
    Optional,
    /// A request without a session gets a 401 response.
    Required,
}

/// Handling of an encoded slash in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodedSlash {
    /// It is forwarded unchanged.
    Pass,
    /// The request gets a 400 response.
    Refuse,
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
        let route = Route::read(table)?;
        route.check_path(table, &routes, server)?;
        route.check_session(table)?;
        route.check_bearer(table, tokens)?;
        for role in route.roles.iter().filter(|role| !ROLES.contains(&role.as_str())) {
            warnings.push(format!(
                "routes.roles of {} contains {role}, a role that no user can have",
                route.path
            ));
        }
        routes.push(route);
    }
    Ok(routes)
}

impl Route {
    fn read(table: &RawSettings) -> Result<Self, ConfigError> {
        let timeout = |key, default| {
            let timeout = table.duration(key, Duration::from_millis(1))?;
            Ok(timeout.unwrap_or(Duration::from_secs(default)))
        };
        let edits = |remove, set| HeaderEdits::read(table, remove, set);
        Ok(Self {
            place: table.first_place().cloned().unwrap_or(ValueSource::BuiltIn),
            path: table.required("routes.path", table.parsed("routes.path"))?,
            upstreams: Upstreams::read(
                table,
                table.required("routes.upstreams", upstreams::origins(table))?,
            )?,
            auth: table.one_of("routes.auth", &AUTH)?.unwrap_or(RouteAuth::Required),
            roles: table.list("routes.roles", role)?.unwrap_or_default(),
            methods: methods(table)?,
            identity: RouteIdentity::read(table)?,
            request_headers: edits("routes.remove_request_headers", "routes.set_request_headers")?,
            response_headers: edits("routes.remove_response_headers", "routes.set_response_headers")?,
            strip_prefix: table.boolean("routes.strip_prefix")?.unwrap_or(false),
            bearer: table.text("routes.bearer")?.map(str::to_owned),
            pass_authorization: table.boolean("routes.pass_authorization")?.unwrap_or(false),
            encoded_slash: table.one_of("routes.encoded_slash", &SLASH)?.unwrap_or(EncodedSlash::Refuse),
            connect_timeout: timeout("routes.connect_timeout", 5)?,
            first_byte_timeout: timeout("routes.first_byte_timeout", 60)?,
            idle_timeout: timeout("routes.idle_timeout", 60)?,
            max_body: table.size("routes.max_body", 1..=MAX_BODY, EXPECTED_SIZE)?,
            upgrades: table.list("routes.upgrades", upgrade)?.unwrap_or_else(|| vec!["websocket".to_owned()]),
            tunnel_idle_timeout: timeout("routes.tunnel_idle_timeout", 3_600)?,
        })
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

    fn check_session(&self, table: &RawSettings) -> Result<(), ConfigError> {
        if !self.roles.is_empty() && self.auth != RouteAuth::Required {
            return Err(table.invalid("routes.roles", r#"roles require a user: set auth = "required""#));
        }
        if self.bearer.is_some() && self.auth == RouteAuth::None {
            let problem = r#"with auth = "none" there is no user to issue a token for"#;
            return Err(table.invalid("routes.bearer", problem));
        }
        if self.bearer.is_some() && self.pass_authorization {
            let problem = "bearer replaces the client's Authorization: keep one of them";
            return Err(table.invalid("routes.pass_authorization", problem));
        }
        Ok(())
    }

    fn check_bearer(&self, table: &RawSettings, tokens: &Tokens) -> Result<(), ConfigError> {
        let Some(audience) = &self.bearer else { return Ok(()) };
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

const SLASH: [(&str, EncodedSlash); 2] = [("pass", EncodedSlash::Pass), ("refuse", EncodedSlash::Refuse)];

const EXPECTED_SIZE: &str = "expected a size such as 512KiB or 2MiB; remove the key for no limit";

/// `bytesize` saturates beyond 63 bits.
const MAX_BODY: u64 = i64::MAX.unsigned_abs();

/// The roles that users can have.
const ROLES: [&str; 2] = ["admin", "user"];
