//! The configuration: read from flags, the environment, `.env`, a file and the built-in defaults
//! (`config/default.toml`, which lists and explains every key), checked, and parsed into values
//! that are known to be good.
//!
//! Of two values for a key the earlier in that list wins. In the environment a key such as
//! `server.listen` is called `SEKISHO_SERVER__LISTEN`; names without `__` are not ours. Lists are
//! TOML arrays in the value, `[[routes]]` comes from the file alone, and a key that doesn't exist is
//! an error that names the one that was probably meant.
//!
//! ```
//! use sekisho::config::{Config, Sources};
//!
//! let mut sources = Sources::default();
//! sources.env.push(("SEKISHO_SERVER__LISEN".into(), "127.0.0.1:80".into()));
//! assert_eq!(
//!     Config::load(&sources).err().map(|error| error.to_string()).as_deref(),
//!     Some("unknown key server.lisen from SEKISHO_SERVER__LISEN: did you mean server.listen?"),
//! );
//! ```
//!
//! This is plain data: the composition root turns it into what the other parts take. To add a key:
//! name it in [`KEYS`], explain it in `config/default.toml`, read and check it in its section.

mod audit;
mod cookies;
mod database;
mod error;
mod file;
mod headers;
mod limits;
mod log;
mod login;
mod otlp;
mod reload;
mod routes;
mod server;
mod session;
mod settings;
mod sources;
mod tokens;
mod types;
mod upstreams;

use std::path::PathBuf;

pub use self::audit::Audit;
pub use self::cookies::Cookies;
pub use self::database::{Database, DatabaseKind};
pub(crate) use self::error::nearest;
pub use self::error::{ConfigError, ValueSource};
pub use self::headers::{HeaderEdits, IdentityPreset, RouteIdentity};
pub use self::limits::Tls;
pub use self::log::Log;
pub use self::login::Login;
pub use self::otlp::Otlp;
pub use self::reload::RELOADED;
pub use self::routes::{EncodedSlash, Route, RouteAuth};
pub use self::server::{Admin, BuiltinRoutes, Server, Verify};
pub use self::session::Session;
pub use self::sources::{ContentHash, Sources};
pub use self::tokens::{KeySource, Tokens};
pub use self::types::{ListenAddr, Origin, ParseError, PathPrefix};
pub use self::upstreams::{UpstreamHttp, Upstreams};

/// All settings, each of them good by itself and beside the others.
#[derive(Clone, Debug)]
pub struct Config {
    /// The public listener.
    pub server: Server,
    /// The operators' listener.
    pub admin: Admin,
    /// The listener for other proxies, if there is one.
    pub verify: Option<Verify>,
    /// The database.
    pub database: Database,
    /// Tokens and their keys.
    pub tokens: Tokens,
    /// How long sessions live.
    pub session: Session,
    /// What is kept of what happened.
    pub audit: Audit,
    /// The two cookies.
    pub cookies: Cookies,
    /// Signing in.
    pub login: Login,
    /// The log.
    pub log: Log,
    /// Where traces go, if anywhere.
    pub otlp: Option<Otlp>,
    /// What is forwarded where, in the file's order.
    pub routes: Vec<Route>,
}

/// A configuration and what there is to say about it.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    /// What is allowed but probably not meant, one line each, with the key at fault.
    pub warnings: Vec<String>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, in one line that names the key, its value (unless that is
    /// secret), where it was given, and what is expected.
    pub fn load(sources: &Sources) -> Result<LoadedConfig, ConfigError> {
        let sources::RawConfig { settings, routes: tables, file } = sources.read()?;
        settings.deny_unknown(KEYS)?;
        for table in &tables {
            table.deny_unknown(ROUTE_KEYS)?;
        }
        let mut warnings = Vec::new();
        for (name, meant) in sources.misnamed_variables(KEYS) {
            warnings.push(format!("{name} is not read: the variable is called {meant}"));
        }
        let server = Server::read(&settings, !tables.is_empty(), &mut warnings)?;
        let admin = Admin::read(&settings, &server)?;
        let verify = Verify::read(&settings, &server, &admin)?;
        let database = Database::read(&settings)?;
        let tokens = Tokens::read(&settings, &mut warnings)?;
        let session = Session::read(&settings, &tokens, &mut warnings)?;
        let audit = Audit::read(&settings)?;
        let cookies = Cookies::read(&settings, &server)?;
        let login = Login::read(&settings, &server, &mut warnings)?;
        let log = Log::read(&settings)?;
        let otlp = Otlp::read(&settings)?;
        let routes = routes::read_all(&tables, &server, &tokens, &mut warnings)?;
        let config = Self {
            server,
            admin,
            verify,
            database,
            tokens,
            session,
            audit,
            cookies,
            login,
            log,
            otlp,
            routes,
        };
        Ok(LoadedConfig { config, warnings, file })
    }
}

/// Every key but those of routes.
pub const KEYS: &[&str] = &[
    "server.listen",
    "server.public_origin",
    "server.allowed_origins",
    "server.trusted_proxies",
    "server.builtin",
    "server.auth_prefix",
    "server.reuse_port",
    "server.tls_certificate",
    "server.tls_key",
    "server.threads",
    "server.max_connections",
    "server.max_streams",
    "server.max_in_flight",
    "server.max_header_bytes",
    "server.max_header_fields",
    "server.max_uri",
    "server.header_timeout",
    "server.keep_alive",
    "server.write_timeout",
    "server.drain_delay",
    "server.drain",
    "admin.listen",
    "verify.listen",
    "verify.source",
    "database.url",
    "database.url_file",
    "database.max_connections",
    "tokens.algorithm",
    "tokens.issuer",
    "tokens.audience",
    "tokens.key_dir",
    "tokens.secret",
    "tokens.secret_file",
    "tokens.key_activation",
    "tokens.access_ttl",
    "tokens.access_ttl_jitter",
    "tokens.leeway",
    "session.idle_ttl",
    "session.absolute_ttl",
    "session.grace",
    "session.max_per_user",
    "session.on_store_loss",
    "session.keep_ended",
    "audit.keep",
    "cookies.access_name",
    "cookies.refresh_name",
    "cookies.same_site",
    "cookies.secure",
    "login.bcrypt_cost",
    "login.registration",
    "login.password_min_length",
    "log.format",
    "log.access",
    "otlp.endpoint",
    "otlp.sample",
];

/// Every key of a route.
pub const ROUTE_KEYS: &[&str] = &[
    "routes.path",
    "routes.upstreams",
    "routes.auth",
    "routes.roles",
    "routes.methods",
    "routes.strip_prefix",
    "routes.identity",
    "routes.set_request_headers",
    "routes.remove_request_headers",
    "routes.set_response_headers",
    "routes.remove_response_headers",
    "routes.bearer",
    "routes.pass_authorization",
    "routes.encoded_slash",
    "routes.connect_timeout",
    "routes.first_byte_timeout",
    "routes.idle_timeout",
    "routes.max_body",
    "routes.upgrades",
    "routes.tunnel_idle_timeout",
    "routes.upstream_http",
    "routes.upstream_ca",
    "routes.health_path",
    "routes.health_interval",
    "routes.eject_after",
    "routes.eject_for",
    "routes.slow_start",
    "routes.max_in_flight",
    "routes.max_queued",
    "routes.queue_timeout",
];

/// The keys of a route whose values are tables, or may be.
const TABLE_KEYS: &[&str] = &["routes.identity", "routes.set_request_headers", "routes.set_response_headers"];
