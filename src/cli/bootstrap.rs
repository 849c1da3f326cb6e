//! Resources that several commands need: database, keys, certificate, log.

use std::sync::Arc;

use secrecy::ExposeSecret;
use time::OffsetDateTime;

use super::error::CliError;
use crate::app::password_settings;
use crate::backend::db::{self, DatabaseOptions, DbError, Stores};
use crate::clock::{Clock, ContinuedClock};
use crate::config::{Config, KeySource};
use crate::key_store::{self, KeyFileError};
use crate::secret::ReadableSecret;
use crate::server::{Certificate, raise_file_limit};
use crate::services::key_registry;
use crate::services::keys::{Algorithm, KeyMaterial, KeyRing};
use crate::services::password::PasswordHasher;
use crate::services::session_time::{self, TimeStores};
use crate::services::users::Users;

/// Runs an asynchronous command on a new runtime.
pub(super) fn block_on<T>(command: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| CliError::failed("cannot start the runtime", error))?.block_on(command)
}

/// Loads the certificate of the public listener, if it has one.
pub(super) fn certificate(
    config: &Config,
    clock: Arc<dyn Clock>,
) -> Result<Option<Arc<Certificate>>, CliError> {
    let Some(tls) = &config.server.tls else { return Ok(None) };
    let loaded = Certificate::load(&tls.certificate, &tls.key, clock);
    let certificate = loaded.map_err(|fault| tls.invalid(fault.is_key_error(), fault.to_string()))?;
    Ok(Some(Arc::new(certificate)))
}

/// Raises the limit on open files, and warns if it is too low: a connection needs one file descriptor, and a
/// second one while it is proxied.
pub(super) fn check_file_limit(config: &Config) {
    let needed = 2 * config.server.limits.connections as u64 + OTHER_FILES;
    if let Some(limit) = raise_file_limit().filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "the limit on open files is too low for server.max_connections: raise it (LimitNOFILE, ulimit -n)"
        );
    }
}

/// Opens the database and migrates its tables.
pub(super) async fn stores(config: &Config) -> Result<Stores, CliError> {
    let stores = open(config).await?;
    stores.migrate().await?;
    Ok(stores)
}

/// Opens the database without migration.
pub(super) async fn open(config: &Config) -> Result<Stores, CliError> {
    let url = config.database.url.expose_secret();
    if let Some(file) = db::sqlite_path(url) {
        db::check_owner(&file)?;
    }
    let database = &config.database;
    let options = DatabaseOptions {
        transaction_pooling: database.transaction_pooling,
        listen_url: database.listen_url.clone(),
        ..DatabaseOptions::with_max_connections(database.max_connections)
    };
    Ok(db::open(url, &options).await?)
}

/// Returns a clock that shows session time, which is the database's time before the first start of a server.
///
/// Commands date their changes by it. The clock of the operator's machine may be wrong.
pub(super) async fn session_clock(stores: &Stores) -> Result<ContinuedClock, CliError> {
    let settings = Arc::clone(&stores.settings);
    let sessions = Arc::clone(&stores.sessions);
    Ok(ContinuedClock::new(session_time::read(&TimeStores { settings, sessions }).await?))
}

/// Returns the user service.
pub(super) async fn users(config: &Config, stores: &Stores) -> Result<Users, CliError> {
    let passwords = PasswordHasher::new(password_settings(&config.login)).map_err(CliError::misconfigured)?;
    let clock = Arc::new(session_clock(stores).await?);
    Ok(Users::new(Arc::clone(&stores.users), Arc::new(passwords), clock))
}

/// Loads the keys. With an embedded database the first start creates them; with a shared one each replica
/// would create its own.
pub(super) async fn keys(config: &Config, stores: &Stores, now: OffsetDateTime) -> Result<KeyRing, CliError> {
    let ring = match load_keys(config) {
        Err(KeyFileError::Empty(_)) if stores.is_embedded() => {
            make_keys(config, last_key_number(stores).await?, now)?;
            load_keys(config)
        }
        loaded => loaded,
    };
    let ring = ring.map_err(CliError::misconfigured)?;
    check_bearer_algorithm(config, &ring, now)?;
    Ok(ring)
}

/// Checks the keys as [`keys`] does, but creates none. The first start may still create them.
pub(super) fn check_keys(config: &Config, now: OffsetDateTime) -> Result<(), CliError> {
    match load_keys(config) {
        Ok(ring) => check_bearer_algorithm(config, &ring, now),
        Err(KeyFileError::Empty(_)) => Ok(()),
        Err(error) => Err(CliError::misconfigured(error)),
    }
}

/// Returns a warning for each key file that other users can read.
pub(super) fn key_warnings(config: &Config) -> Result<Vec<String>, CliError> {
    let KeySource::Dir(dir) = &config.tokens.keys else { return Ok(Vec::new()) };
    if config.server.allow_readable_secrets {
        return Ok(Vec::new());
    }
    let readable = key_store::readable_by_others(dir).map_err(CliError::misconfigured)?;
    Ok(readable.iter().map(ReadableSecret::to_string).collect())
}

fn load_keys(config: &Config) -> Result<KeyRing, KeyFileError> {
    match &config.tokens.keys {
        KeySource::Secret(secret) => {
            let key = KeyMaterial::from_secret(secret).and_then(|key| KeyRing::from_material(&key));
            key.map_err(KeyFileError::Secret)
        }
        KeySource::Dir(dir) => key_store::load(dir, config.tokens.key_activation),
    }
}

/// Returns the key directory.
pub(super) fn key_dir(config: &Config) -> Result<&std::path::Path, CliError> {
    match &config.tokens.keys {
        KeySource::Dir(dir) => Ok(dir),
        KeySource::Secret(_) => Err(CliError::Refused(
            "the keys come from tokens.secret: remove it from the configuration to use tokens.key_dir"
                .to_owned(),
        )),
    }
}

/// Returns the highest number of a key that the database knows, or 0.
pub(super) async fn last_key_number(stores: &Stores) -> Result<u8, CliError> {
    Ok(key_registry::last_number(&*stores.settings, &*stores.sessions).await?)
}

fn make_keys(config: &Config, last_known: u8, now: OffsetDateTime) -> Result<(), CliError> {
    let dir = key_dir(config)?;
    match key_store::init(dir, config.tokens.algorithm, last_known, now) {
        Ok(number) => {
            tracing::info!(dir = %dir.display(), number, "created a signing key");
            Ok(())
        }
        // Another process created it first.
        Err(KeyFileError::Exists(_)) => Ok(()),
        Err(error) => Err(CliError::misconfigured(error)),
    }
}

/// Refuses HS256 for upstream tokens: an upstream that verifies HS256 holds the key and could issue sessions.
pub(super) fn check_bearer_algorithm(
    config: &Config,
    ring: &KeyRing,
    now: OffsetDateTime,
) -> Result<(), CliError> {
    let Some(route) = config.routes.iter().find(|route| route.spec.token_audience.is_some()) else {
        return Ok(());
    };
    if ring.signing(now).algorithm() != Algorithm::Hs256 {
        return Ok(());
    }
    Err(CliError::misconfigured(format!(
        "the route {} has bearer, which requires ES256 or EdDSA, but the signing key is for HS256: set \
         tokens.algorithm and run `sekisho key rotate`",
        route.path.as_str()
    )))
}

/// Allowance for files other than connections: database, logs, key files.
const OTHER_FILES: u64 = 100;

impl From<DbError> for CliError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Scheme
            | DbError::NoFile
            | DbError::NotBuilt(_)
            | DbError::Address
            | DbError::ListenAddress
            | DbError::TransactionPooling(_)
            | DbError::ListenPooling => Self::misconfigured(error),
            other => Self::Database(other),
        }
    }
}
