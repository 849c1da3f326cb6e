//! Opens the database at `database.url` and applies migrations.

mod error;
mod file;
#[cfg(feature = "postgres")]
mod url_file;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::error::DbError;
pub use self::file::{check_owner, sqlite_path};
use super::database::Database;
use super::instrumented::InstrumentedStore;
use super::migrations;
pub use super::migrations::PendingMigration;
use crate::database_url::{DatabaseUrl, PostgresUrl};
use crate::services::memory::MemoryStore;
use crate::services::readiness::Readiness;
use crate::services::store::{MovieStore, SessionStore, SettingStore, StoreError, UserStore};
use secrecy::{ExposeSecret, SecretString};

/// Opens the database at `url`: `sqlite://PATH`, created if it is missing, or `postgres://…`.
///
/// Applies no migrations: see [`Stores::pending`] and [`Stores::migrate`].
///
/// ```
/// # use sekisho::backend::db::{self, DatabaseOptions, DbError};
/// # async fn doc(directory: &std::path::Path) -> Result<(), DbError> {
/// let url = format!("sqlite://{}/sekisho.db", directory.display());
/// let stores = db::open(&url, &DatabaseOptions::default()).await?;
/// if !stores.pending().await?.is_empty() {
///     stores.migrate().await?;
/// }
/// assert!(stores.users.list_users().await.is_ok_and(|users| users.is_empty()));
/// stores.close().await;
/// # Ok(()) }
/// # let directory = tempfile::tempdir().expect("a directory");
/// # let runtime = tokio::runtime::Runtime::new().expect("a runtime");
/// # runtime.block_on(doc(directory.path())).expect("the example to succeed");
/// ```
///
/// # Errors
///
/// If the URL has another scheme, or the database cannot be opened.
pub async fn open(url: &str, options: &DatabaseOptions) -> Result<Stores, DbError> {
    match DatabaseUrl::parse(url).map_err(DbError::Url)? {
        DatabaseUrl::Sqlite(path) => open_sqlite(&path).await,
        DatabaseUrl::Postgres(url) => open_postgres(&url, options).await,
    }
}

/// Options of [`open`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DatabaseOptions {
    /// Maximum number of connections to PostgreSQL; at least two are used.
    ///
    /// Half of them serve reads and writes that wait for the disk, the other half session refreshes.
    /// The revocation poller uses two more. SQLite ignores this value.
    pub max_connections: u32,
    /// True if a connection pooler assigns a server connection to PostgreSQL for each transaction.
    ///
    /// Each statement then runs in a transaction of its own. SQLite ignores this value.
    pub transaction_pooling: bool,
    /// URL at which to listen for PostgreSQL's notifications, without such a pooler.
    ///
    /// By default the database's own, or with [`transaction_pooling`](Self::transaction_pooling) none: then
    /// terminations by other replicas are found by polling alone.
    pub listen_url: Option<SecretString>,
    /// The file that contains the URL of PostgreSQL. It is read anew when the server refuses the password.
    pub url_file: Option<PathBuf>,
    /// The file that contains [`listen_url`](Self::listen_url), likewise.
    pub listen_url_file: Option<PathBuf>,
}

impl DatabaseOptions {
    /// Creates options with a maximum number of connections to PostgreSQL.
    #[must_use]
    pub fn with_max_connections(max_connections: u32) -> Self {
        Self { max_connections, ..Self::default() }
    }
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        Self {
            max_connections: 12,
            transaction_pooling: false,
            listen_url: None,
            url_file: None,
            listen_url_file: None,
        }
    }
}

/// The stores of one database.
#[derive(Clone)]
pub struct Stores {
    /// Sessions.
    pub sessions: Arc<dyn SessionStore>,
    /// Users.
    pub users: Arc<dyn UserStore>,
    /// Movies.
    pub movies: Arc<dyn MovieStore>,
    /// Settings.
    pub settings: Arc<dyn SettingStore>,
    readiness: Readiness,
    database: Arc<dyn Database>,
}

impl Stores {
    /// Creates stores that keep everything in memory, for trials and tests.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(MemoryStore::default())
    }

    /// Wraps the stores so that each call is recorded in `sekisho_store_duration_seconds`, and failed writes
    /// are reported to [`readiness`](Self::readiness).
    #[must_use]
    pub fn measured(self) -> Self {
        let readiness = || self.readiness.clone();
        Self {
            sessions: Arc::new(InstrumentedStore { inner: self.sessions, readiness: readiness() }),
            users: Arc::new(InstrumentedStore { inner: self.users, readiness: readiness() }),
            movies: Arc::new(InstrumentedStore { inner: self.movies, readiness: readiness() }),
            ..self
        }
    }

    /// Returns `true` if the database belongs to this process and no other replica shares it.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.database.is_embedded()
    }

    /// Returns the reasons for which a process that serves from these stores is not ready.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Checks that the file of an embedded database was neither removed nor replaced since it was opened.
    ///
    /// Without the file at its path, writes fail: they would be lost by the next start. It does no I/O with
    /// PostgreSQL.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] with the path.
    pub fn check_identity(&self) -> Result<(), StoreError> {
        self.database.check_identity()
    }

    /// Checks that the database accepts the writes of requests, with a write of 64 KiB that leaves no trace.
    ///
    /// A small one may succeed on a full disk, within space that is already allocated.
    ///
    /// # Errors
    ///
    /// If the write fails.
    pub async fn check_write(&self) -> Result<(), StoreError> {
        self.database.check_write().await
    }

    /// Returns the migrations not yet applied. Read-only, so it needs no privilege to change tables.
    ///
    /// # Errors
    ///
    /// [`DbError::Newer`] if an applied migration is unknown to this program, [`DbError::Changed`] if one
    /// has another checksum, [`DbError::Migrate`] if the database is unavailable.
    pub async fn pending(&self) -> Result<Vec<PendingMigration>, DbError> {
        Ok(migrations::pending(&*self.database).await?)
    }

    /// Applies the pending migrations and returns them. Safe to call from several processes at once.
    ///
    /// # Errors
    ///
    /// As [`pending`](Self::pending), and if a migration fails.
    pub async fn migrate(&self) -> Result<Vec<PendingMigration>, DbError> {
        Ok(migrations::migrate(&*self.database).await?)
    }

    /// Calls `wake` whenever another process may have terminated sessions.
    ///
    /// Never returns with PostgreSQL; returns at once with the other databases. Notifications are best
    /// effort; callers must also poll.
    pub async fn listen_for_revocations(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.database.listen(Box::new(wake)).await;
    }

    /// Waits until the database is idle and closes it. The stores cannot be used afterwards.
    pub async fn close(&self) {
        self.database.close().await;
    }

    fn new<S>(store: S) -> Self
    where
        S: SessionStore + UserStore + MovieStore + SettingStore + Database,
    {
        let store = Arc::new(store);
        Self {
            sessions: store.clone(),
            users: store.clone(),
            movies: store.clone(),
            settings: store.clone(),
            readiness: Readiness::default(),
            database: store,
        }
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("embedded", &self.is_embedded()).finish_non_exhaustive()
    }
}

#[cfg(feature = "sqlite")]
async fn open_sqlite(path: &Path) -> Result<Stores, DbError> {
    use super::sqlite::{SqliteOptions, SqliteStore};

    Ok(Stores::new(SqliteStore::open(SqliteOptions::gateway(path)).await?))
}

#[cfg(not(feature = "sqlite"))]
async fn open_sqlite(_path: &Path) -> Result<Stores, DbError> {
    Err(DbError::NotBuilt("sqlite"))
}

#[cfg(feature = "postgres")]
async fn open_postgres(url: &PostgresUrl, options: &DatabaseOptions) -> Result<Stores, DbError> {
    use super::postgres::{PostgresOptions, PostgresStore};

    let database = url_file::address(url, options.url_file.clone()).map_err(DbError::Url)?;
    let listen = options.listen_url.as_ref().map(|url| listen_address(url, options)).transpose()?;
    let options = PostgresOptions::gateway(database, listen)
        .with_max_connections(options.max_connections)
        .with_transaction_pooling(options.transaction_pooling);
    Ok(Stores::new(PostgresStore::open(options).await?))
}

/// Returns the address to listen at.
#[cfg(feature = "postgres")]
fn listen_address(
    url: &SecretString,
    options: &DatabaseOptions,
) -> Result<super::postgres::Address, DbError> {
    use crate::database_url::DatabaseUrlError;

    let url = DatabaseUrl::parse(url.expose_secret()).map_err(DbError::ListenUrl)?;
    let url = url.as_postgres().ok_or(DbError::ListenUrl(DatabaseUrlError::Postgres))?;
    url_file::address(url, options.listen_url_file.clone()).map_err(DbError::ListenUrl)
}

#[cfg(not(feature = "postgres"))]
async fn open_postgres(_url: &PostgresUrl, _options: &DatabaseOptions) -> Result<Stores, DbError> {
    Err(DbError::NotBuilt("postgres"))
}
