//! The listeners: `[server]`, `[admin]` and `[verify]`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::allowed_origin::AllowedOrigin;
use super::error::{ConfigError, ParseError};
use super::limits::{self, Tls};
use super::listen_addr::{ListenAddr, PublicListenAddr};
use super::origin::Origin;
use super::path_prefix::PathPrefix;
use super::raw::{RawSettings, parse_choice};
use crate::routers::forward_auth::OriginalRequestSource;
use crate::server::ServerLimits;

/// The public listener: `[server]`.
#[derive(Clone, Debug)]
pub struct Server {
    /// The address of the listener.
    pub listen: PublicListenAddr,
    /// The mode of the listener's Unix socket.
    pub socket_mode: u32,
    /// True if connections begin with a header of the PROXY protocol, and only trusted proxies may connect.
    pub proxy_protocol: bool,
    /// The origin that browsers use. `None` on a loopback listener with port 0, see
    /// [`public_origin_at`](Self::public_origin_at).
    pub public_origin: Option<Origin>,
    /// Other origins whose pages may send requests.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// Proxies whose [`forwarded_headers`](Self::forwarded_headers) are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Headers about the client that the trusted proxies set.
    pub forwarded_headers: Vec<ForwardedHeader>,
    /// The groups of built-in routes on this listener.
    pub builtin: BTreeSet<BuiltinRoutes>,
    /// The prefix of the routes for sign-in and sign-out.
    pub auth_prefix: PathPrefix,
    /// True if the pages for people are served: [`BuiltinRoutes::Auth`] is enabled, and `pages.sign_in` is not `off`.
    pub serves_pages: bool,
    /// True if `SO_REUSEPORT` is set, so that two processes can share the port.
    pub reuse_port: bool,
    /// The certificate files, if this listener terminates TLS.
    pub tls: Option<Tls>,
    /// True if there is no warning about secret files that other users can read.
    pub allow_readable_secrets: bool,
    /// Number of worker threads; `None` for one per core.
    pub threads: Option<usize>,
    /// Resource limits and timeouts for clients.
    pub limits: ServerLimits,
    /// Time between the shutdown signal and the start of the drain. `/readyz` returns 503 in it.
    pub drain_delay: Duration,
}

/// A header in which a proxy reports the client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `Forwarded` (RFC 7239): address, scheme and host.
    Forwarded,
    /// `X-Forwarded-For`: the client's address.
    XForwardedFor,
    /// `X-Forwarded-Host`: the requested host.
    XForwardedHost,
    /// `X-Forwarded-Prefix`: the path prefix that the proxy has removed.
    XForwardedPrefix,
    /// `X-Forwarded-Proto`: the scheme.
    XForwardedProto,
    /// `X-Real-IP`: the client's address.
    XRealIp,
}

impl ForwardedHeader {
    /// All headers.
    pub const ALL: [Self; 6] = [
        Self::Forwarded,
        Self::XForwardedFor,
        Self::XForwardedHost,
        Self::XForwardedPrefix,
        Self::XForwardedProto,
        Self::XRealIp,
    ];

    /// Returns the name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::XForwardedFor => "x-forwarded-for",
            Self::XForwardedHost => "x-forwarded-host",
            Self::XForwardedPrefix => "x-forwarded-prefix",
            Self::XForwardedProto => "x-forwarded-proto",
            Self::XRealIp => "x-real-ip",
        }
    }
}

/// A group of built-in routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BuiltinRoutes {
    /// Everything below `auth_prefix`, `/.well-known/jwks.json`, and with pages `/.well-known/change-password`.
    Auth,
    /// `/docs` and `/openapi.json`.
    Docs,
    /// `/movies`.
    Movies,
    /// `/token`.
    Token,
}

impl BuiltinRoutes {
    /// Returns the name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Docs => "docs",
            Self::Movies => "movies",
            Self::Token => "token",
        }
    }
}

/// The listener for health checks and metrics: `[admin]`.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The address of the listener.
    pub listen: ListenAddr,
}

/// The listener for forward auth requests: `[verify]`.
#[derive(Clone, Debug)]
pub struct Verify {
    /// The address of the listener. Only [`Server::trusted_proxies`] may connect.
    pub listen: ListenAddr,
    /// The headers that describe the original request.
    pub source: OriginalRequestSource,
    /// True if navigations without a session are sent to the sign-in page.
    pub redirect: bool,
}

impl Server {
    /// Returns the public origin for a listener bound to `port`, which is `None` for a Unix socket.
    ///
    /// Returns `None` for a Unix socket without a configured origin, which no checked configuration has.
    #[must_use]
    pub fn public_origin_at(&self, port: Option<u16>) -> Option<Origin> {
        let default = || match (&self.listen, port) {
            (PublicListenAddr::Tcp(listen), Some(port)) => Some(listen.origin_at(port, self.tls.is_some())),
            _ => None,
        };
        self.public_origin.clone().or_else(default)
    }

    /// Returns `true` if this group of routes is enabled.
    #[must_use]
    pub fn has(&self, builtin: BuiltinRoutes) -> bool {
        self.builtin.contains(&builtin)
    }

    /// Returns the path prefixes of all enabled groups.
    #[must_use]
    pub fn builtin_paths(&self) -> Vec<PathPrefix> {
        self.builtin.iter().flat_map(|builtin| self.paths_of(*builtin)).collect()
    }

    /// Returns the path prefixes of a group.
    #[must_use]
    pub fn paths_of(&self, builtin: BuiltinRoutes) -> Vec<PathPrefix> {
        let prefix = PathPrefix::from_static;
        match builtin {
            BuiltinRoutes::Auth => {
                let page = self.serves_pages.then(|| prefix("/.well-known/change-password"));
                let paths = [self.auth_prefix.clone(), prefix("/.well-known/jwks.json")];
                paths.into_iter().chain(page).collect()
            }
            BuiltinRoutes::Docs => vec![prefix("/docs"), prefix("/openapi.json")],
            BuiltinRoutes::Movies => vec![prefix("/movies")],
            BuiltinRoutes::Token => vec![prefix("/token")],
        }
    }

    pub(super) fn read(
        settings: &RawSettings,
        has_routes: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        let listen = settings.required("server.listen", settings.parsed("server.listen"))?;
        let words = BUILTINS.map(|builtin| (builtin.as_str(), builtin));
        let builtin = settings.list("server.builtin", |word| parse_choice(word, &words))?;
        let default = if has_routes { &BUILTINS[..1] } else { &BUILTINS[..] };
        let builtin = builtin.unwrap_or_else(|| default.to_vec());
        let has_pages = settings.text("pages.sign_in")? != Some("off");
        let origin = |text: &str| text.parse().map_err(|error: ParseError| error.to_string());
        let tls = Tls::read(settings)?;
        let server = Self {
            public_origin: public_origin(settings, &listen, tls.is_some())?,
            tls,
            allow_readable_secrets: settings.required(ALLOW_READABLE, settings.boolean(ALLOW_READABLE))?,
            socket_mode: socket_mode(settings)?,
            proxy_protocol: settings.required(PROXY_PROTOCOL, settings.boolean(PROXY_PROTOCOL))?,
            threads: settings.integer("server.threads", 1..=1024)?.map(|threads| threads as usize),
            limits: limits::read(settings, warnings)?,
            drain_delay: settings.required(DRAIN_DELAY, settings.duration(DRAIN_DELAY, Duration::ZERO))?,
            listen,
            allowed_origins: settings.list("server.allowed_origins", origin)?.unwrap_or_default(),
            trusted_proxies: settings.list("server.trusted_proxies", network)?.unwrap_or_default(),
            forwarded_headers: settings.list(FORWARDED_HEADERS, forwarded_header)?.unwrap_or_default(),
            serves_pages: has_pages && builtin.contains(&BuiltinRoutes::Auth),
            builtin: builtin.into_iter().collect(),
            auth_prefix: settings.required("server.auth_prefix", settings.parsed("server.auth_prefix"))?,
            reuse_port: settings.required("server.reuse_port", settings.boolean("server.reuse_port"))?,
        };
        server.check_auth_prefix(settings)?;
        server.check_listener(settings)?;
        if server.trusted_proxies.iter().any(|network| network.prefix_len() == 0) {
            let effect = "any client can then forge its address";
            warnings.push(format!("server.trusted_proxies contains every address: {effect}"));
        } else if !server.trusted_proxies.is_empty() && !settings.is_explicit(FORWARDED_HEADERS) {
            warnings.push(UNNAMED_HEADERS.to_owned());
        }
        Ok(server)
    }

    fn check_listener(&self, settings: &RawSettings) -> Result<(), ConfigError> {
        let is_unix = self.listen.unix_socket().is_some();
        if is_unix && self.reuse_port {
            return Err(
                settings.invalid("server.reuse_port", "a Unix socket cannot be shared: remove the key")
            );
        }
        if self.proxy_protocol && !is_unix && self.trusted_proxies.is_empty() {
            let problem =
                "only server.trusted_proxies may connect, and the list is empty: add your load balancer";
            return Err(settings.invalid(PROXY_PROTOCOL, problem));
        }
        Ok(())
    }

    fn check_auth_prefix(&self, settings: &RawSettings) -> Result<(), ConfigError> {
        let prefix = self.auth_prefix.as_str();
        if prefix == "/" {
            return Err(settings.invalid("server.auth_prefix", "expected a path below /, such as /auth"));
        }
        for path in [
            "/.well-known/jwks.json",
            "/.well-known/change-password",
            "/docs",
            "/openapi.json",
            "/movies",
            "/token",
        ] {
            if PathPrefix::from_static(path).matches(prefix) || self.auth_prefix.matches(path) {
                return Err(
                    settings.invalid("server.auth_prefix", format!("it overlaps with the built-in {path}"))
                );
            }
        }
        Ok(())
    }
}

impl Admin {
    pub(super) fn read(settings: &RawSettings, server: &Server) -> Result<Self, ConfigError> {
        let listen: ListenAddr = settings.required("admin.listen", settings.parsed("admin.listen"))?;
        if listen.conflicts_with_public(&server.listen) {
            return Err(settings.invalid("admin.listen", conflict("server.listen", &server.listen)));
        }
        Ok(Self { listen })
    }
}

impl Verify {
    pub(super) fn read(
        settings: &RawSettings,
        server: &Server,
        admin: &Admin,
    ) -> Result<Option<Self>, ConfigError> {
        let source = settings.one_of("verify.source", &VERIFY_SOURCES)?;
        let redirect = settings.required(REDIRECT, settings.boolean(REDIRECT))?;
        if matches!(settings.text("verify.listen")?, None | Some("off")) {
            return Ok(None);
        }
        let listen: ListenAddr = settings.required("verify.listen", settings.parsed("verify.listen"))?;
        if listen.conflicts_with_public(&server.listen) {
            return Err(settings.invalid("verify.listen", conflict("server.listen", &server.listen)));
        }
        if listen.conflicts_with(&admin.listen) {
            return Err(settings.invalid("verify.listen", conflict("admin.listen", &admin.listen)));
        }
        if server.trusted_proxies.is_empty() {
            let problem = "only server.trusted_proxies may connect, and the list is empty: add your proxy";
            return Err(settings.invalid("verify.listen", problem));
        }
        let source = source.ok_or_else(|| ConfigError::Missing {
            key: "verify.source".to_owned(),
            remedy: "set it to x-original (nginx, HAProxy), x-forwarded (Caddy, Traefik) or envoy".to_owned(),
        })?;
        Ok(Some(Self { listen, source, redirect }))
    }
}

fn public_origin(
    settings: &RawSettings,
    listen: &PublicListenAddr,
    is_tls: bool,
) -> Result<Option<Origin>, ConfigError> {
    if let Some(origin) = settings.parsed::<Origin>("server.public_origin")? {
        if is_tls && !origin.is_https() {
            let problem = "server.tls_certificate is set: expected an https:// origin";
            return Err(settings.invalid("server.public_origin", problem));
        }
        return Ok(Some(origin));
    }
    match listen {
        PublicListenAddr::Tcp(listen) if listen.is_loopback() => {
            Ok((listen.port() != 0).then(|| listen.origin_at(listen.port(), is_tls)))
        }
        _ => Err(ConfigError::Missing {
            key: "server.public_origin".to_owned(),
            remedy: format!(
                "server.listen = {listen} is not a loopback address: set it to the origin that browsers use, such \
                 as https://app.example.com"
            ),
        }),
    }
}

/// Reads the mode of the Unix socket, in octal digits.
fn socket_mode(settings: &RawSettings) -> Result<u32, ConfigError> {
    let text = settings.required(SOCKET_MODE, settings.text(SOCKET_MODE))?;
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    mode.ok_or_else(|| settings.invalid(SOCKET_MODE, "expected the mode of a file in octal, such as 0660"))
}

/// Parses a network or an address. One of IPv4-mapped addresses becomes the IPv4 network: the addresses of peers are
/// compared in that form.
fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let network = network.ok_or("expected a network such as 10.0.0.0/8 or an IP address")?;
    let Some(mapped) = (match network.addr() {
        IpAddr::V6(address) => address.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    }) else {
        return Ok(network);
    };
    let prefix = network.prefix_len().checked_sub(IPV4_MAPPED_PREFIX);
    let ipv4 = prefix.and_then(|prefix| Ipv4Net::new(mapped, prefix).ok());
    ipv4.map(IpNet::V4).ok_or_else(|| format!("expected an IPv4 network, such as {mapped}/32"))
}

fn forwarded_header(text: &str) -> Result<ForwardedHeader, String> {
    let words = ForwardedHeader::ALL.map(|header| (header.as_str(), header));
    parse_choice(&text.to_ascii_lowercase(), &words)
}

fn conflict(key: &str, other: &impl std::fmt::Display) -> String {
    format!("conflicts with {key} = {other}: choose another port")
}

/// The first one is the default if there are routes.
const BUILTINS: [BuiltinRoutes; 4] =
    [BuiltinRoutes::Auth, BuiltinRoutes::Token, BuiltinRoutes::Movies, BuiltinRoutes::Docs];

const VERIFY_SOURCES: [(&str, OriginalRequestSource); 3] = [
    ("x-original", OriginalRequestSource::XOriginal),
    ("x-forwarded", OriginalRequestSource::XForwarded),
    ("envoy", OriginalRequestSource::Envoy),
];

/// Length of the prefix `::ffff:0:0/96` (RFC 4291 section 2.5.5.2).
const IPV4_MAPPED_PREFIX: u8 = 96;

/// Warning about trusted proxies whose headers are not named.
const UNNAMED_HEADERS: &str = "server.trusted_proxies is set, and server.forwarded_headers is not: only X-Forwarded-For \
     is read; list Forwarded and each other header that the proxies set, or set it to [\"x-forwarded-for\"]";

const FORWARDED_HEADERS: &str = "server.forwarded_headers";
const SOCKET_MODE: &str = "server.socket_mode";
const PROXY_PROTOCOL: &str = "server.proxy_protocol";
const REDIRECT: &str = "verify.redirect";
const ALLOW_READABLE: &str = "server.allow_readable_secrets";
const DRAIN_DELAY: &str = "server.drain_delay";
