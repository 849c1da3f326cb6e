//! Resources that several commands need: database, keys, certificate, log.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use time::OffsetDateTime;

use super::error::{CliError, display_chain};
use super::output;
use crate::app::{self, password_settings};
use crate::backend::db::{self, DatabaseOptions, DbError, Stores};
use crate::clock::{Clock, ContinuedClock, SystemClock};
use crate::config::{Config, KeySource};
use crate::duration_format::format_duration;
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
    let certificate = loaded.map_err(|fault| tls.invalid(fault.is_key_error(), display_chain(&fault)))?;
    Ok(Some(Arc::new(certificate)))
}

/// Raises the limit on open files, and warns if it is too low: a connection needs one file descriptor, and a
/// second one while it is proxied.
pub(super) fn check_file_limit(config: &Config) {
    let per_connection = 1 + u64::from(!config.routes.is_empty()) + u64::from(config.verify.is_some());
    let needed = per_connection * config.server.limits.connections as u64;
    if let Some(limit) = raise_file_limit().filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "the limit on open files is too low for server.max_connections: raise it (LimitNOFILE, ulimit -n)"
        );
    }
}

/// Checks everything that can be checked without the database: routes, pages, certificate and keys.
pub(super) fn check(config: &Config) -> Result<(), CliError> {
    let mut errors = Vec::from_iter(route_errors(config));
    errors.extend(app::check_pages(config).err().map(CliError::misconfigured));
    errors.extend(certificate(config, Arc::new(SystemClock)).err());
    errors.extend(check_keys(config, SystemClock.now()).err());
    CliError::check_none(errors)
}

/// Returns the error of each invalid route.
pub(super) fn route_errors(config: &Config) -> impl Iterator<Item = CliError> {
    app::check_routes(config).into_iter().map(CliError::misconfigured)
}

/// Returns the file of a SQLite database that does not exist.
pub(super) fn missing_file(config: &Config) -> Option<PathBuf> {
    db::sqlite_path(config.database.url.expose_secret()).filter(|file| !file.exists())
}

/// Opens a database that exists, and migrates its tables. For commands that only read.
pub(super) async fn existing_stores(config: &Config) -> Result<Stores, CliError> {
    match missing_file(config) {
        None => stores(config).await,
        Some(file) => Err(CliError::Refused(format!(
            "the database {} does not exist: run the command where the server runs, with its configuration \
             (database.url, --config)",
            file.display()
        ))),
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
        url_file: database.url_file.clone(),
        listen_url_file: database.listen_url_file.clone(),
        ..DatabaseOptions::with_max_connections(database.max_connections)
    };
    let deadline = Instant::now() + database.wait;
    let mut is_waiting = false;
    loop {
        match db::open(url, &options).await {
            Err(error) if error.is_unreachable() && Instant::now() < deadline => {
                if !std::mem::replace(&mut is_waiting, true) {
                    report_wait(&error, database.wait);
                }
                tokio::time::sleep(DATABASE_RETRY_INTERVAL).await;
            }
            opened => return Ok(opened?),
        }
    }
}

/// Reports the wait for the database, in the log if there is one.
fn report_wait(error: &DbError, wait: Duration) {
    let wait = format_duration(wait);
    if tracing::dispatcher::has_been_set() {
        tracing::warn!(%error, wait, "waiting for the database");
    } else {
        output::print_warning(&format!("{error}; waiting for {wait}"));
    }
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
    let remedy = match ring.pending(now) {
        Some((key, signs_from)) if key.algorithm() != Algorithm::Hs256 => format!(
            "key {}, for {}, signs from {} UTC: start again then, or without bearer now",
            key.number(),
            key.algorithm().as_str(),
            output::second(signs_from)
        ),
        _ => "set tokens.algorithm and run `sekisho key rotate`".to_owned(),
    };
    Err(CliError::misconfigured(format!(
        "the route {} has bearer, which requires ES256 or EdDSA, but the signing key is for HS256: {remedy}",
        route.path.as_str()
    )))
}

/// Interval between two attempts to reach the database.
const DATABASE_RETRY_INTERVAL: Duration = Duration::from_millis(500);

impl From<DbError> for CliError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Url(_)
            | DbError::ListenUrl(_)
            | DbError::NotBuilt(_)
            | DbError::TransactionPooling(_)
            | DbError::ListenPooling => Self::misconfigured(error),
            other => Self::Database(other),
        }
    }
}
