//! The configuration.
//!
//! Settings come from these sources, of which an earlier one overrides the later ones:
//!
//! 1. the command line,
//! 2. the environment, where `server.listen` is `SEKISHO_SERVER__LISTEN`,
//! 3. a `.env` file in the current directory,
//! 4. the configuration file, which alone can hold `[[routes]]`,
//! 5. the built-in defaults, `config/default.toml`, which documents every key.
//!
//! All values are checked when they are loaded, also against each other. An unknown key is an error:
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
//! To add a key:
//!
//! 1. Document it in `config/default.toml` of the repository, which makes it known, and write `docs/configuration.md`
//!    anew: `SEKISHO_WRITE_DOCS=1 cargo test --test it documentation`.
//! 2. If its value can be a table, add it to `TABLE_KEYS` (`keys.rs`); if it is secret, to `SECRET_KEYS` (`value.rs`), so
//!    that error messages do not contain the value; and if it names a file with a secret, to `secret_files.rs`.
//! 3. Read and check it in the file of its section (`admin` and `verify`: `server.rs`).
//! 4. Unless it is a key of routes, list it in `reload.rs`, as reloadable or as needing a restart.
//! 5. Pass the value on in `src/app/`.
//!
//! Tests read every documented key, and compare the keys with the lists of step 4.

mod all_errors;
mod allowed_origin;
mod audit;
mod cookies;
mod database;
mod dot_env;
mod error;
mod headers;
mod keys;
mod limit_checks;
mod limits;
mod listen_addr;
mod log;
mod login;
mod origin;
mod otlp;
mod pages;
mod path_prefix;
mod pem_files;
mod raw;
mod reload;
mod routes;
mod secret_files;
mod server;
mod session;
mod sources;
mod suggest;
mod tokens;
mod toml;
mod upstreams;
mod value;

use std::path::PathBuf;

pub use self::allowed_origin::AllowedOrigin;
pub use self::audit::Audit;
pub use self::cookies::Cookies;
pub use self::database::{Database, DatabaseKind};
pub use self::error::{ConfigError, ParseError, ValueSource};
pub use self::keys::{KEYS, ROUTE_KEYS};
pub use self::limits::Tls;
pub use self::listen_addr::{ListenAddr, PublicListenAddr};
pub use self::log::Log;
pub use self::login::Login;
pub use self::origin::Origin;
pub use self::otlp::Otlp;
pub use self::path_prefix::PathPrefix;
pub use self::reload::RELOADED;
pub use self::routes::{Route, RouteAuth};
pub use self::server::{Admin, BuiltinRoutes, ForwardedHeader, Server, Verify};
pub use self::session::Session;
use self::sources::RawConfig;
pub use self::sources::{ContentHash, Sources};
pub(crate) use self::suggest::nearest;
pub use self::tokens::{KeySource, Tokens};
use crate::pages::PagesSettings;

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The public listener.
    pub server: Server,
    /// The listener for health checks and metrics.
    pub admin: Admin,
    /// The listener for forward auth requests, if enabled.
    pub verify: Option<Verify>,
    /// The database.
    pub database: Database,
    /// Access tokens and signing keys.
    pub tokens: Tokens,
    /// Lifetime and limits of sessions.
    pub session: Session,
    /// The audit log.
    pub audit: Audit,
    /// The session cookies.
    pub cookies: Cookies,
    /// Sign-in and registration.
    pub login: Login,
    /// The pages for people.
    pub pages: PagesSettings,
    /// The log on standard error.
    pub log: Log,
    /// Export of traces, if enabled.
    pub otlp: Option<Otlp>,
    /// The routes of the proxy, in the order of the file.
    pub routes: Vec<Route>,
}

/// A configuration and the warnings about it.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    /// One line for each setting that is valid but probably unintended.
    pub warnings: Vec<String>,
    /// The configuration file, if one was read.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    ///
    /// Returns the error, with the key, its value unless that is secret, its source, and what is expected. Several
    /// errors are [one](ConfigError::Several).
    pub fn load(sources: &Sources) -> Result<LoadedConfig, ConfigError> {
        all_errors::collect(sources.read()?, |raw| Self::read(raw, sources))
    }

    /// Reads the configuration until the first error.
    fn read(raw: &RawConfig, sources: &Sources) -> Result<LoadedConfig, ConfigError> {
        let RawConfig { settings, routes: tables, file, .. } = raw;
        settings.deny_unknown(&KEYS)?;
        for table in tables {
            table.deny_unknown(&ROUTE_KEYS)?;
        }
        let mut warnings = Vec::new();
        for (name, correct_name) in sources.misnamed_variables(&KEYS) {
            warnings.push(format!("{name} is ignored: did you mean {correct_name}?"));
        }
        let server = Server::read(settings, !tables.is_empty(), &mut warnings)?;
        let admin = Admin::read(settings, &server)?;
        let verify = Verify::read(settings, &server, &admin)?;
        let database = Database::read(settings, &mut warnings)?;
        let tokens = Tokens::read(settings, &mut warnings)?;
        let config = Self {
            session: Session::read(settings, &tokens, &mut warnings)?,
            audit: Audit::read(settings)?,
            cookies: Cookies::read(settings, &server)?,
            login: Login::read(settings, &server, &mut warnings)?,
            pages: pages::read(settings, &server)?,
            log: Log::read(settings)?,
            otlp: Otlp::read(settings)?,
            routes: routes::read_all(tables, &server, &tokens, &mut warnings)?,
            server,
            admin,
            verify,
            database,
            tokens,
        };
        let allow_readable = config.server.allow_readable_secrets;
        secret_files::check(settings, tables, &config.database, allow_readable, &mut warnings)?;
        Ok(LoadedConfig { config, warnings, file: file.clone() })
    }
}
