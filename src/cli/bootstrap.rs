//! What commands need before they can begin: the database and the keys.

use std::sync::Arc;

use secrecy::ExposeSecret;
use time::OffsetDateTime;

use super::error::CliError;
use crate::app::password_settings;
use crate::backend::db::{self, DatabaseOptions, DbError, Stores};
use crate::clock::Clock;
use crate::config::{self, Config, KeySource};
use crate::key_store::{self, KeyFileError};
use crate::server::{Certificate, raise_file_limit};
use crate::services::keys::{Algorithm, KeyMaterial, KeyRing};
use crate::services::password::PasswordHasher;
use crate::services::users::Users;
use crate::telemetry::{ExporterHandle, LogGuard, SpanSender};

/// Runs a command that waits for things.
pub(super) fn block_on<T>(command: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| CliError::failed("can't start the runtime", error))?.block_on(command)
}

/// Reads the certificate of the public listener, if it speaks TLS.
pub(super) fn certificate(
    config: &Config,
    clock: Arc<dyn Clock>,
) -> Result<Option<Arc<Certificate>>, CliError> {
    let Some(tls) = &config.server.tls else { return Ok(None) };
    let loaded = Certificate::load(&tls.certificate, &tls.key, clock);
    let certificate = loaded.map_err(|fault| tls.invalid(fault.is_key_error(), fault.to_string()))?;
    Ok(Some(Arc::new(certificate)))
}

/// Every connection needs a descriptor, and what is forwarded another one.
pub(super) fn check_file_limit(config: &Config) {
    let needed = 2 * config.server.limits.connections as u64 + OTHER_FILES;
    if let Some(limit) = raise_file_limit().filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "this process may open too few files for server.max_connections: raise its limit (LimitNOFILE, ulimit -n)"
        );
    }
}

/// Begins to log. What waits is written when the log is dropped.
pub(super) fn log(config: &Config) -> LogGuard {
    LogGuard::to_stderr(config.log.format)
}

/// Begins to export spans, where that is configured.
pub(super) fn spans(config: &Config) -> Result<Option<(SpanSender, ExporterHandle)>, CliError> {
    let start = |otlp: &config::Otlp| SpanSender::start(otlp.endpoint.as_str(), otlp.sample);
    config.otlp.as_ref().map(start).transpose().map_err(CliError::misconfigured)
}

/// Opens the database, with its tables up to date.
pub(super) async fn stores(config: &Config) -> Result<Stores, CliError> {
    let stores = open(config).await?;
    stores.migrate().await?;
    Ok(stores)
}

/// Opens the database as it is.
pub(super) async fn open(config: &Config) -> Result<Stores, CliError> {
    let url = config.database.url.expose_secret();
    if let Some(file) = db::sqlite_path(url) {
        db::check_owner(&file)?;
    }
    let options = DatabaseOptions::with_max_connections(config.database.max_connections);
    Ok(db::open(url, &options).await?)
}

/// The users, for commands that change them.
pub(super) fn users(config: &Config, stores: &Stores) -> Result<Users, CliError> {
    let passwords = PasswordHasher::new(password_settings(&config.login)).map_err(CliError::misconfigured)?;
    Ok(Users::new(Arc::clone(&stores.users), Arc::new(passwords), Arc::new(crate::clock::SystemClock)))
}

/// Reads the keys. An embedded database's first start makes them; with a shared one each replica
/// would make its own.
pub(super) fn keys(config: &Config, embedded: bool, now: OffsetDateTime) -> Result<KeyRing, CliError> {
    let tokens = &config.tokens;
    let ring = match &tokens.keys {
        KeySource::Secret(secret) => {
            let key = KeyMaterial::from_secret(secret).and_then(|key| KeyRing::from_material(&key));
            key.map_err(CliError::misconfigured)?
        }
        KeySource::Dir(dir) => match key_store::load(dir, tokens.key_activation) {
            Err(KeyFileError::Empty(_)) if embedded => {
                make_keys(config, now)?;
                key_store::load(dir, tokens.key_activation).map_err(CliError::misconfigured)?
            }
            loaded => loaded.map_err(CliError::misconfigured)?,
        },
    };
    check_bearer_algorithm(config, &ring, now)?;
    Ok(ring)
}

/// The folder of the keys, for commands that change it.
pub(super) fn key_dir(config: &Config) -> Result<&std::path::Path, CliError> {
    match &config.tokens.keys {
        KeySource::Dir(dir) => Ok(dir),
        KeySource::Secret(_) => Err(CliError::Refused(
            "the keys come from tokens.secret: to have a key folder, take tokens.secret out of the configuration"
                .to_owned(),
        )),
    }
}

fn make_keys(config: &Config, now: OffsetDateTime) -> Result<(), CliError> {
    let dir = key_dir(config)?;
    match key_store::init(dir, config.tokens.algorithm, now) {
        Ok(_) => {
            tracing::info!(dir = %dir.display(), "made the first signing key");
            Ok(())
        }
        // Another process was faster.
        Err(KeyFileError::Exists(_)) => Ok(()),
        Err(error) => Err(CliError::misconfigured(error)),
    }
}

/// An upstream that checks HS256 holds the key itself, and could make sessions with it.
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
    Err(CliError::Misconfigured(
        format!(
            "the route {} has bearer, which needs tokens signed with ES256 or EdDSA, but the key that signs is for \
             HS256: set tokens.algorithm and run `sekisho key rotate`",
            route.path.as_str()
        )
        .into(),
    ))
}

/// What the process has open besides connections: the database, logs, key files.
const OTHER_FILES: u64 = 100;

impl From<DbError> for CliError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Scheme | DbError::NoFile | DbError::NotBuilt(_) | DbError::Address => {
                Self::misconfigured(error)
            }
            other => Self::Database(other),
        }
    }
}
