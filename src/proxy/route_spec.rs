//! The settings of one route.

use std::time::Duration;

use http::Method;

use super::header_edits::HeaderEdits;
use super::identity_headers::IdentityHeaders;
use super::upstream::UpstreamSettings;

/// What a route is built from.
///
/// ```
/// use sekisho::proxy::{RouteSpec, Routes};
///
/// let api = RouteSpec { strip_prefix: true, ..RouteSpec::new("/api", ["http://127.0.0.1:3000"]) };
/// let routes = Routes::new([api])?;
/// let found = routes.find(&"/api/films?page=2".parse()?)?;
/// assert_eq!(found.as_ref().map(|route| route.path()), Some("/api"));
/// assert!(routes.find(&"/apis".parse()?)?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RouteSpec {
    /// The path prefix, such as `/api`. It covers the path itself and all below it.
    pub path: String,
    /// Where to, `http://host:port` or `https://host:port` each. Of two that are up, a request goes to
    /// the one that has less to do.
    pub upstreams: Vec<String>,
    /// How the upstreams are spoken to, watched and spared.
    pub upstream_settings: UpstreamSettings,
    /// The roles of which the user needs one; empty lets anyone through.
    pub roles: Vec<String>,
    /// The methods that are let through, and no others (not even `OPTIONS`); empty lets all but
    /// `CONNECT` and `TRACE` through.
    pub methods: Vec<Method>,
    /// Whether `path` is taken off what is forwarded.
    pub strip_prefix: bool,
    /// Whether the client's own `Authorization` is forwarded.
    pub pass_authorization: bool,
    /// Whether a `%2f` in the path is let through.
    pub encoded_slash: bool,
    /// By which headers the upstreams learn who the user is. What any route names here is taken off
    /// what clients send on all.
    pub identity: IdentityHeaders,
    /// What changes in the headers of requests, before we add what we say ourselves.
    pub request_headers: HeaderEdits,
    /// What changes in the headers of the upstreams' answers.
    pub response_headers: HeaderEdits,
    /// The audience of the token that upstreams receive in the user's name, instead of the client's own
    /// `Authorization`. See [`UpstreamTokens`](super::UpstreamTokens).
    pub token_audience: Option<String>,
    /// How long connecting may take, name resolution and TLS included, on all the upstreams that are
    /// tried.
    pub connect_timeout: Duration,
    /// How long the answer may take to begin, from when the request has been sent.
    pub first_byte_timeout: Duration,
    /// How long a body may stand still, in either direction.
    pub idle_timeout: Duration,
    /// How large a request's body may be, in bytes.
    pub max_body: Option<u64>,
    /// The protocols to which a request may be upgraded, in any case; none of those that take requests
    /// themselves, such as `h2c`.
    pub upgrades: Vec<String>,
    /// How long a connection of another protocol may be silent in both directions.
    pub tunnel_idle_timeout: Duration,
}

impl RouteSpec {
    /// A route with the default limits, open to anyone.
    #[must_use]
    pub fn new<U: Into<String>>(path: impl Into<String>, upstreams: impl IntoIterator<Item = U>) -> Self {
        Self {
            path: path.into(),
            upstreams: upstreams.into_iter().map(Into::into).collect(),
            upstream_settings: UpstreamSettings::default(),
            roles: Vec::new(),
            methods: Vec::new(),
            strip_prefix: false,
            pass_authorization: false,
            encoded_slash: false,
            identity: IdentityHeaders::default(),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            token_audience: None,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            max_body: None,
            upgrades: vec!["websocket".to_owned()],
            tunnel_idle_timeout: Duration::from_secs(3_600),
        }
    }
}
