//! The settings of a route.

use std::time::Duration;

use http::Method;

use super::header_edits::HeaderEdits;
use super::identity_headers::IdentityHeaders;
use super::upstream::UpstreamSettings;

/// Settings of a route.
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
#[derive(Clone, Debug)]
pub struct RouteSpec {
    /// Path prefix, such as `/api`. It matches the path itself and all paths below it.
    pub path: String,
    /// Upstream URLs: `http://host:port`, `https://host:port`, or `unix:/path` for a Unix socket. Requests are balanced
    /// by load (power of two choices).
    pub upstreams: Vec<String>,
    /// Protocol, health checks and limits of the upstreams.
    pub upstream_settings: UpstreamSettings,
    /// Roles with access. The user needs one of them; empty allows every request.
    pub roles: Vec<String>,
    /// Allowed methods. Empty allows all except `CONNECT` and `TRACE`. `OPTIONS` must be listed too.
    pub methods: Vec<Method>,
    /// True if CORS preflights are forwarded without a session, whatever `roles` and `methods` require.
    pub pass_preflight: bool,
    /// True if `path` is removed from the forwarded path.
    pub strip_prefix: bool,
    /// True if the client's `Authorization` header is forwarded.
    pub pass_authorization: bool,
    /// True if paths may contain an encoded slash (`%2f`).
    pub encoded_slash: bool,
    /// True if `GET`, `HEAD`, `DELETE` and `OPTIONS` requests may have a body. Each one has an HTTP/1.1 connection of
    /// its own, since an upstream that ignores the body could read it as the next request.
    pub get_body: bool,
    /// Headers that carry the user's identity to the upstreams. Those of any route are removed from client
    /// requests on all routes.
    pub identity: IdentityHeaders,
    /// Changes to request headers, made before the gateway adds its own.
    pub request_headers: HeaderEdits,
    /// Changes to response headers.
    pub response_headers: HeaderEdits,
    /// Audience of the token that the upstreams receive as the user's `Authorization` header, in place of
    /// the client's. See [`UpstreamTokens`](super::UpstreamTokens).
    pub token_audience: Option<String>,
    /// Timeout for a connection, including name resolution and TLS. It covers all the upstreams that a
    /// request tries.
    pub connect_timeout: Duration,
    /// Timeout for the response head, counted from the end of the request.
    pub first_byte_timeout: Duration,
    /// Timeout for the next data of a body, in either direction.
    pub idle_timeout: Duration,
    /// Maximum size of a request body, in bytes. `None` means no limit.
    pub max_body: Option<u64>,
    /// Maximum size of a request body that is read whole before an upstream is taken, in bytes. 0 streams all bodies.
    pub buffer_request: u64,
    /// Protocols to which a request may be upgraded, case-insensitive. HTTP itself (`h2c`) is rejected.
    pub upgrades: Vec<String>,
    /// Timeout for an upgraded connection on which neither side sends data.
    pub tunnel_idle_timeout: Duration,
}

impl RouteSpec {
    /// Creates a route with default limits that is open to everyone.
    #[must_use]
    pub fn new<U: Into<String>>(path: impl Into<String>, upstreams: impl IntoIterator<Item = U>) -> Self {
        Self {
            path: path.into(),
            upstreams: upstreams.into_iter().map(Into::into).collect(),
            upstream_settings: UpstreamSettings::default(),
            roles: Vec::new(),
            methods: Vec::new(),
            pass_preflight: false,
            strip_prefix: false,
            pass_authorization: false,
            encoded_slash: false,
            get_body: true,
            identity: IdentityHeaders::default(),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            token_audience: None,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            max_body: None,
            buffer_request: 0,
            upgrades: vec!["websocket".to_owned()],
            tunnel_idle_timeout: Duration::from_secs(3_600),
        }
    }
}
