//! `[server]`, `[admin]` and `[verify]`: the three listeners.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::error::ConfigError;
use super::limits::{self, Tls};
use super::settings::{Settings, parse_choice};
use super::types::{ListenAddr, Origin, PathPrefix};
use crate::routers::forward_auth::OriginalRequestSource;
use crate::server::ServerLimits;

/// The public listener: `[server]`.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where to listen.
    pub listen: ListenAddr,
    /// What browsers see. `None` on a loopback listener whose port the system picks: see
    /// [`public_origin_at`](Self::public_origin_at).
    pub public_origin: Option<Origin>,
    /// Further origins whose pages may call.
    pub allowed_origins: Vec<Origin>,
    /// The proxies whose `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Which of our own paths are on this listener.
    pub builtin: BTreeSet<BuiltinRoutes>,
    /// Where the paths for signing in and out begin.
    pub auth_prefix: PathPrefix,
    /// Whether two processes may share the port.
    pub reuse_port: bool,
    /// The certificate, if this listener speaks TLS itself.
    pub tls: Option<Tls>,
    /// How many threads serve; `None` for one on each core.
    pub threads: Option<usize>,
    /// What clients may cost.
    pub limits: ServerLimits,
    /// How long everything is still served once it was told to stop, while `/readyz` says so.
    pub drain_delay: Duration,
}

/// A group of our own paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BuiltinRoutes {
    /// Everything below `auth_prefix`, and `/.well-known/jwks.json`.
    Auth,
    /// `/docs` and `/openapi.json`.
    Docs,
    /// `/movies`.
    Movies,
    /// `/token`.
    Token,
}

impl BuiltinRoutes {
    /// What the configuration calls it.
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

/// The operators' listener: `[admin]`.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where to listen.
    pub listen: ListenAddr,
}

/// The listener for other proxies: `[verify]`.
#[derive(Clone, Debug)]
pub struct Verify {
    /// Where to listen. Only [`Server::trusted_proxies`] may connect.
    pub listen: ListenAddr,
    /// Which headers tell of the original request.
    pub source: OriginalRequestSource,
}

impl Server {
    /// The public origin, once the listener's address is known.
    #[must_use]
    pub fn public_origin_at(&self, bound: SocketAddr) -> Origin {
        let known = self.public_origin.clone();
        known.unwrap_or_else(|| self.listen.origin_at(bound.port(), self.tls.is_some()))
    }

    /// Whether this group of paths is on the listener.
    #[must_use]
    pub fn has(&self, builtin: BuiltinRoutes) -> bool {
        self.builtin.contains(&builtin)
    }

    /// The paths at or below which the enabled groups answer.
    #[must_use]
    pub fn builtin_paths(&self) -> Vec<PathPrefix> {
        self.builtin.iter().flat_map(|builtin| self.paths_of(*builtin)).collect()
    }

    /// The paths at or below which this group answers.
    #[must_use]
    pub fn paths_of(&self, builtin: BuiltinRoutes) -> Vec<PathPrefix> {
        let path = PathPrefix::from_static;
        match builtin {
            BuiltinRoutes::Auth => vec![self.auth_prefix.clone(), path("/.well-known/jwks.json")],
            BuiltinRoutes::Docs => vec![path("/docs"), path("/openapi.json")],
            BuiltinRoutes::Movies => vec![path("/movies")],
            BuiltinRoutes::Token => vec![path("/token")],
        }
    }

    pub(super) fn read(
        settings: &Settings,
        has_routes: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        let listen = settings.required("server.listen", settings.parsed("server.listen"))?;
        let builtin = settings.list("server.builtin", |word| parse_choice(word, &BUILTINS))?;
        let default = if has_routes { &BUILTINS[..1] } else { &BUILTINS[..] };
        let builtin = builtin.unwrap_or_else(|| default.iter().map(|(_, builtin)| *builtin).collect());
        let tls = Tls::read(settings)?;
        let server = Self {
            public_origin: public_origin(settings, &listen, tls.is_some())?,
            tls,
            threads: settings.integer("server.threads", 1..=1024)?.map(|threads| threads as usize),
            limits: limits::read(settings, warnings)?,
            drain_delay: settings.required(DRAIN_DELAY, settings.duration(DRAIN_DELAY, Duration::ZERO))?,
            listen,
            allowed_origins: settings.parsed_list("server.allowed_origins")?.unwrap_or_default(),
            trusted_proxies: settings.list("server.trusted_proxies", network)?.unwrap_or_default(),
            builtin: builtin.into_iter().collect(),
            auth_prefix: settings.required("server.auth_prefix", settings.parsed("server.auth_prefix"))?,
            reuse_port: settings.required("server.reuse_port", settings.boolean("server.reuse_port"))?,
        };
        server.check_auth_prefix(settings)?;
        if server.trusted_proxies.iter().any(|network| network.prefix_len() == 0) {
            let advice = "anybody may then say which address they come from: name your proxies";
            warnings.push(format!("server.trusted_proxies holds every address: {advice}"));
        }
        Ok(server)
    }

    fn check_auth_prefix(&self, settings: &Settings) -> Result<(), ConfigError> {
        let prefix = self.auth_prefix.as_str();
        if prefix == "/" {
            return Err(settings.invalid("server.auth_prefix", "expected a path of its own, such as /auth"));
        }
        // The router would take such a segment for a pattern.
        if prefix.contains("/:") || prefix.contains("/*") {
            return Err(settings.invalid("server.auth_prefix", "expected no segment that begins with : or *"));
        }
        let others = ["/.well-known/jwks.json", "/docs", "/openapi.json", "/movies", "/token"];
        let taken = others.into_iter().find(|path| {
            let path_covers = path.parse::<PathPrefix>().is_ok_and(|path| path.matches(prefix));
            path_covers || self.auth_prefix.matches(path)
        });
        match taken {
            Some(path) => {
                Err(settings.invalid("server.auth_prefix", format!("{path} is another of our paths")))
            }
            None => Ok(()),
        }
    }
}

impl Admin {
    pub(super) fn read(settings: &Settings, server: &Server) -> Result<Self, ConfigError> {
        let listen: ListenAddr = settings.required("admin.listen", settings.parsed("admin.listen"))?;
        if listen.conflicts_with(&server.listen) {
            return Err(settings.invalid("admin.listen", clash("server.listen", &server.listen)));
        }
        Ok(Self { listen })
    }
}

impl Verify {
    pub(super) fn read(
        settings: &Settings,
        server: &Server,
        admin: &Admin,
    ) -> Result<Option<Self>, ConfigError> {
        let source = settings.one_of("verify.source", &SOURCES)?;
        if matches!(settings.text("verify.listen")?, None | Some("off")) {
            return Ok(None);
        }
        let listen: ListenAddr = settings.required("verify.listen", settings.parsed("verify.listen"))?;
        for (key, other) in [("server.listen", &server.listen), ("admin.listen", &admin.listen)] {
            if listen.conflicts_with(other) {
                return Err(settings.invalid("verify.listen", clash(key, other)));
            }
        }
        if server.trusted_proxies.is_empty() {
            let problem =
                "only server.trusted_proxies may connect, and there are none: name your proxy there";
            return Err(settings.invalid("verify.listen", problem));
        }
        let source = source.ok_or_else(|| ConfigError::Missing {
            key: "verify.source".to_owned(),
            remedy: "say whose headers tell of the original request: x-original (nginx), x-forwarded \
                     (Caddy, Traefik) or envoy"
                .to_owned(),
        })?;
        Ok(Some(Self { listen, source }))
    }
}

fn public_origin(
    settings: &Settings,
    listen: &ListenAddr,
    secured: bool,
) -> Result<Option<Origin>, ConfigError> {
    if let Some(origin) = settings.parsed::<Origin>("server.public_origin")? {
        if secured && !origin.is_https() {
            let problem = "with server.tls_certificate browsers come over TLS: say https://";
            return Err(settings.invalid("server.public_origin", problem));
        }
        return Ok(Some(origin));
    }
    if !listen.is_loopback() {
        return Err(ConfigError::Missing {
            key: "server.public_origin".to_owned(),
            remedy: format!(
                "server.listen = {listen} isn't a loopback address, so say what browsers see, such as \
                 https://app.example.com"
            ),
        });
    }
    Ok((listen.port() != 0).then(|| listen.origin_at(listen.port(), secured)))
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.ok_or_else(|| "expected a network such as 10.0.0.0/8, or an address".to_owned())
}

fn clash(key: &str, other: &ListenAddr) -> String {
    format!("{key} = {other} listens there already: choose another port")
}

/// The first one stays when there are routes.
const BUILTINS: [(&str, BuiltinRoutes); 4] = [
    (BuiltinRoutes::Auth.as_str(), BuiltinRoutes::Auth),
    (BuiltinRoutes::Token.as_str(), BuiltinRoutes::Token),
    (BuiltinRoutes::Movies.as_str(), BuiltinRoutes::Movies),
    (BuiltinRoutes::Docs.as_str(), BuiltinRoutes::Docs),
];

const SOURCES: [(&str, OriginalRequestSource); 3] = [
    ("x-original", OriginalRequestSource::XOriginal),
    ("x-forwarded", OriginalRequestSource::XForwarded),
    ("envoy", OriginalRequestSource::Envoy),
];

const DRAIN_DELAY: &str = "server.drain_delay";
