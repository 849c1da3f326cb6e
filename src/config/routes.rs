//! `[[routes]]`: what is forwarded where.

use std::time::Duration;

use http::Method;

use super::error::{ConfigError, ValueSource};
use super::headers::{HeaderEdits, RouteIdentity};
use super::server::Server;
use super::settings::Settings;
use super::tokens::{EXPECTED_NAME, Tokens, is_name};
use super::types::PathPrefix;
use super::upstreams::{self, Upstreams};
use crate::services::keys::Algorithm;

/// One route: a table of `[[routes]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where it stands in the file.
    pub place: ValueSource,
    /// What it matches, at segment boundaries; the longest route wins.
    pub path: PathPrefix,
    /// Where it goes.
    pub upstreams: Upstreams,
    /// Whether a session is asked for.
    pub auth: RouteAuth,
    /// The roles of which a user must have one; empty means any user.
    pub roles: Vec<String>,
    /// The methods that it lets through; empty means all but `CONNECT` and `TRACE`.
    pub methods: Vec<Method>,
    /// By which headers upstreams learn who the user is.
    pub identity: RouteIdentity,
    /// What changes in requests.
    pub request_headers: HeaderEdits,
    /// What changes in answers.
    pub response_headers: HeaderEdits,
    /// Whether `path` is taken off before forwarding.
    pub strip_prefix: bool,
    /// The audience of the token that is minted for the upstream, if it wants one.
    pub bearer: Option<String>,
    /// Whether the client's own `Authorization` goes on.
    pub pass_authorization: bool,
    /// What becomes of `%2f` in paths.
    pub encoded_slash: EncodedSlash,
    /// How long connecting to the upstream may take.
    pub connect_timeout: Duration,
    /// How long the upstream may take to begin its answer.
    pub first_byte_timeout: Duration,
    /// How long either side may be silent within a body.
    pub idle_timeout: Duration,
    /// How long a request's body may be, in bytes; `None` for no limit.
    pub max_body: Option<u64>,
    /// To which protocols a request may be upgraded, in lower case.
    pub upgrades: Vec<String>,
    /// How long both sides of a connection of another protocol may be silent.
    pub tunnel_idle_timeout: Duration,
}

/// Whether a route asks for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAuth {
    /// It doesn't look.
    None,
    /// It looks, and goes on without.
    Optional,
    /// It answers 401 without one.
    Required,
}

/// What becomes of an encoded slash in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodedSlash {
    /// It is forwarded as it is.
    Pass,
    /// It is answered with 400.
    Refuse,
}

/// Reads all routes, and checks them against each other and the rest.
pub(super) fn read_all(
    tables: &[Settings],
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
            warnings.push(format!("routes.roles of {} names {role}, a role that no user has", route.path));
        }
        routes.push(route);
    }
    Ok(routes)
}

impl Route {
    fn read(table: &Settings) -> Result<Self, ConfigError> {
        let timeout = |key, default| {
            let given = table.duration(key, Duration::from_millis(1))?;
            Ok(given.unwrap_or(Duration::from_secs(default)))
        };
        let edits = |remove, set| HeaderEdits::read(table, remove, set);
        Ok(Self {
            place: table.any_place().cloned().unwrap_or(ValueSource::BuiltIn),
            path: required(table, "routes.path", table.parsed("routes.path"))?,
            upstreams: Upstreams::read(
                table,
                required(table, "routes.upstreams", upstreams::origins(table))?,
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
            max_body: table.size("routes.max_body")?,
            upgrades: table.list("routes.upgrades", upgrade)?.unwrap_or_else(|| vec!["websocket".to_owned()]),
            tunnel_idle_timeout: timeout("routes.tunnel_idle_timeout", 3_600)?,
        })
    }

    fn check_path(&self, table: &Settings, others: &[Self], server: &Server) -> Result<(), ConfigError> {
        if others.iter().any(|other| other.path == self.path) {
            return Err(table.invalid("routes.path", "another route has that path: keep one of them"));
        }
        let covers = |own: &PathPrefix| own.matches(self.path.as_str());
        let Some(own) = server.builtin_paths().into_iter().find(covers) else { return Ok(()) };
        let remedy = if own == server.auth_prefix {
            "choose another path, or move ours with server.auth_prefix"
        } else {
            "choose another path, or take ours out of server.builtin"
        };
        Err(table.invalid(
            "routes.path",
            format!("{} is ours, so the route would never be reached: {remedy}", own.as_str()),
        ))
    }

    fn check_session(&self, table: &Settings) -> Result<(), ConfigError> {
        if !self.roles.is_empty() && self.auth != RouteAuth::Required {
            return Err(table.invalid("routes.roles", r#"roles need a user: set auth = "required""#));
        }
        if self.bearer.is_some() && self.auth == RouteAuth::None {
            let problem = r#"with auth = "none" there is no user to make a token for"#;
            return Err(table.invalid("routes.bearer", problem));
        }
        if self.bearer.is_some() && self.pass_authorization {
            let problem = "bearer takes the place of the client's own Authorization: keep one of them";
            return Err(table.invalid("routes.pass_authorization", problem));
        }
        Ok(())
    }

    fn check_bearer(&self, table: &Settings, tokens: &Tokens) -> Result<(), ConfigError> {
        let Some(audience) = &self.bearer else { return Ok(()) };
        if !is_name(audience) {
            return Err(table.invalid("routes.bearer", EXPECTED_NAME));
        }
        if *audience == tokens.audience {
            let problem = "that is tokens.audience: an upstream could use its token as a session with us";
            return Err(table.invalid("routes.bearer", format!("{problem}; name another audience")));
        }
        if tokens.algorithm == Algorithm::Hs256 {
            let problem = "an upstream that held our HS256 key could mint sessions";
            let remedy = "set tokens.algorithm to ES256 or EdDSA";
            return Err(table.invalid("routes.bearer", format!("{problem}: {remedy}")));
        }
        Ok(())
    }
}

fn required<T>(table: &Settings, key: &str, value: Result<Option<T>, ConfigError>) -> Result<T, ConfigError> {
    value?.ok_or_else(|| {
        let remedy = match table.any_place() {
            Some(place) => format!("the route {place} has none"),
            None => "a route is empty".to_owned(),
        };
        ConfigError::Missing { key: key.to_owned(), remedy }
    })
}

/// A name that fits into a comma-separated header.
fn role(text: &str) -> Result<String, String> {
    let legal = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    if legal { Ok(text.to_owned()) } else { Err("expected a role such as admin".to_owned()) }
}

fn methods(table: &Settings) -> Result<Vec<Method>, ConfigError> {
    let key = "routes.methods";
    let method = |text: &str| match text.parse::<Method>() {
        Ok(Method::CONNECT | Method::TRACE) => Err("is never forwarded".to_owned()),
        Ok(method) if !text.bytes().any(|byte| byte.is_ascii_lowercase()) => Ok(method),
        _ => Err("expected a method, in capitals, such as GET".to_owned()),
    };
    let Some(methods) = table.list(key, method)? else { return Ok(Vec::new()) };
    let twice = methods.iter().enumerate().find(|(index, method)| methods[..*index].contains(method));
    match twice {
        Some((_, method)) => Err(table.invalid(key, format!("{method} comes twice"))),
        None if methods.is_empty() => Err(table.invalid(key, "name at least one, or leave it out for all")),
        None => Ok(methods),
    }
}

/// A protocol that `Upgrade` may name (RFC 9110, section 7.8). One that takes requests would let a client
/// ask the upstream for anything, in anybody's name.
fn upgrade(text: &str) -> Result<String, String> {
    let protocol = text.to_ascii_lowercase();
    let name = protocol.split('/').next().unwrap_or_default();
    if ["h2c", "http", "tls"].contains(&name) {
        return Err("takes requests, which nobody would check: leave it out".to_owned());
    }
    let legal =
        !name.is_empty() && protocol.bytes().all(|b| b.is_ascii_graphic() && !br#",;"()"#.contains(&b));
    if legal { Ok(protocol) } else { Err("expected a protocol such as websocket".to_owned()) }
}

const AUTH: [(&str, RouteAuth); 3] =
    [("required", RouteAuth::Required), ("optional", RouteAuth::Optional), ("none", RouteAuth::None)];

const SLASH: [(&str, EncodedSlash); 2] = [("pass", EncodedSlash::Pass), ("refuse", EncodedSlash::Refuse)];

/// The roles that users have.
const ROLES: [&str; 2] = ["admin", "user"];
