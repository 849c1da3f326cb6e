//! Opening the database that `database.url` names, and bringing its tables up to date.

mod file;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::migrate::{AppliedMigration, MigrateError, Migrator};

pub use self::file::{check_owner, sqlite_path};
use super::database::Database;
use super::instrumented::InstrumentedStore;
use crate::services::memory::MemoryStore;
use crate::services::store::{MovieStore, SessionStore, SettingStore, UserStore};

/// Opens the database at `url`: `sqlite://PATH`, which is made if it is missing, or `postgres://…`.
/// Its tables are left as they are: see [`Stores::pending`] and [`Stores::migrate`].
///
/// ```
/// # use sekisho::backend::db::{self, DbError, Options};
/// # async fn doc(directory: &std::path::Path) -> Result<(), DbError> {
/// let url = format!("sqlite://{}/sekisho.db", directory.display());
/// let stores = db::open(&url, &Options::default()).await?;
/// if !stores.pending().await?.is_empty() {
///     stores.migrate().await?;
/// }
/// assert!(stores.users.list_users().await.is_ok_and(|users| users.is_empty()));
/// stores.close().await;
/// # Ok(()) }
/// # let directory = tempfile::tempdir().expect("a directory");
/// # let runtime = tokio::runtime::Runtime::new().expect("a runtime");
/// # runtime.block_on(doc(directory.path())).expect("an answer");
/// ```
///
/// # Errors
///
/// When the address is none of these, or the database can't be opened.
pub async fn open(url: &str, options: &DatabaseOptions) -> Result<Stores, DbError> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("sqlite") => open_sqlite(url).await,
        Some("postgres" | "postgresql") => open_postgres(url, options).await,
        _ => Err(DbError::Scheme),
    }
}

/// How to use the database.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DatabaseOptions {
    /// How many connections to PostgreSQL at most, and at least two: half of them for what waits for
    /// the disk and for reading, half for renewals. Who follows what other replicas end has two more.
    /// (SQLite has one to write and a few to read.)
    pub max_connections: u32,
}

impl DatabaseOptions {
    /// With at most so many connections to PostgreSQL.
    #[must_use]
    pub fn with_max_connections(max_connections: u32) -> Self {
        Self { max_connections }
    }
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        Self { max_connections: 12 }
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
    database: Arc<dyn Database>,
}

impl Stores {
    /// Stores that last as long as this process, for trials and tests.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::over(MemoryStore::default())
    }

    /// The same stores, with the time that each call takes in `sekisho_store_duration_seconds`.
    #[must_use]
    pub fn measured(self) -> Self {
        Self {
            sessions: Arc::new(InstrumentedStore(self.sessions)),
            users: Arc::new(InstrumentedStore(self.users)),
            movies: Arc::new(InstrumentedStore(self.movies)),
            ..self
        }
    }

    /// Whether the database is part of this process, so that no other replica shares it.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.database.is_embedded()
    }

    /// The migrations that the database has not had yet. Reads only, so it needs no right to change
    /// tables.
    ///
    /// # Errors
    ///
    /// [`DbError::Newer`] if the database has had migrations that this program does not know,
    /// [`DbError::Changed`] if one was another then, [`DbError::Migrate`] if it does not answer.
    pub async fn pending(&self) -> Result<Vec<PendingMigration>, DbError> {
        let applied = self.database.applied().await.map_err(|error| self.failed(error))?;
        compare(&self.database.migrator(), &applied)
    }

    /// Applies the migrations that the database has not had yet, and returns them. Harmless when
    /// there are none, and when several processes do it at once.
    ///
    /// # Errors
    ///
    /// As [`pending`](Self::pending), and when a migration fails.
    pub async fn migrate(&self) -> Result<Vec<PendingMigration>, DbError> {
        let pending = self.pending().await?;
        if !pending.is_empty() {
            self.database.migrate().await.map_err(|error| self.failed(error))?;
        }
        Ok(pending)
    }

    /// Calls `wake` when another process has ended sessions, for ever; where no database tells, it
    /// returns at once. A call may come late or never: whoever must know asks.
    pub async fn listen_for_revocations(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.database.listen_for_revocations(Box::new(wake)).await;
    }

    /// Closes the database once nothing uses it any more. The stores are of no use afterwards.
    pub async fn close(&self) {
        self.database.close().await;
    }

    fn over<S>(store: S) -> Self
    where
        S: SessionStore + UserStore + MovieStore + SettingStore + Database,
    {
        let store = Arc::new(store);
        Self {
            sessions: store.clone(),
            users: store.clone(),
            movies: store.clone(),
            settings: store.clone(),
            database: store,
        }
    }

    fn failed(&self, error: MigrateError) -> DbError {
        match error {
            // Another process, of a newer program, was here since we looked.
            MigrateError::VersionMissing(found) => newer(&self.database.migrator(), found),
            error => DbError::Migrate(error),
        }
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("embedded", &self.is_embedded()).finish_non_exhaustive()
    }
}

/// A migration that the database has not had yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingMigration {
    /// Its number.
    pub number: i64,
    /// What it is about.
    pub name: String,
}

impl fmt::Display for PendingMigration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04} {}", self.number, self.name)
    }
}

/// Why a database can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// Not an address of a database that this program can use.
    #[error("database.url must begin with sqlite:// or postgres://")]
    Scheme,
    /// A SQLite address that doesn't name a plain file.
    #[error("database.url must name a file, as in sqlite://data/sekisho.db, without ?, # or %")]
    NoFile,
    /// This program was built without the support.
    #[error("database.url: this program was built without the feature {0}")]
    NotBuilt(&'static str),
    /// A PostgreSQL address that isn't well formed. (What is wrong may hold the password.)
    #[error("database.url is not a valid address: postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Address,
    /// The file or server can't be reached or used.
    #[error("can't open the database {place}: {source}")]
    Open {
        /// The file, or host, port and name.
        place: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is another user's.
    #[error("{path} belongs to {}: run this command as that user, with {}", owner(.uid, .name), remedy(.uid, .name))]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// The owner's name, if it has one here.
        name: Option<String>,
    },
    /// The database is ahead of this program.
    #[error(
        "the database was made by a newer sekisho (migration {found}); this one knows up to {known}: upgrade \
         the program"
    )]
    Newer {
        /// The migration that is not known here.
        found: i64,
        /// The last that is.
        known: i64,
    },
    /// A migration was edited after the database had it.
    #[error("migration {0} is not the one that the database has had: use the program that made the database")]
    Changed(i64),
    /// A migration failed.
    #[error("can't bring the database up to date: {0}")]
    Migrate(#[source] MigrateError),
}

impl DbError {
    fn open(place: impl AsRef<Path>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Open { place: place.as_ref().display().to_string(), source: Box::new(source) }
    }
}

#[cfg(feature = "sqlite")]
async fn open_sqlite(url: &str) -> Result<Stores, DbError> {
    let path = sqlite_path(url).ok_or(DbError::NoFile)?;
    file::make(&path).map_err(|error| DbError::open(&path, error))?;
    let store = super::sqlite::SqliteStore::open(&path).await;
    store.map(Stores::over).map_err(|error| DbError::open(&path, error))
}

#[cfg(not(feature = "sqlite"))]
async fn open_sqlite(_url: &str) -> Result<Stores, DbError> {
    Err(DbError::NotBuilt("sqlite"))
}

#[cfg(feature = "postgres")]
async fn open_postgres(url: &str, options: &DatabaseOptions) -> Result<Stores, DbError> {
    use sqlx::postgres::PgConnectOptions;

    let address: PgConnectOptions = url.parse().map_err(|_: sqlx::Error| DbError::Address)?;
    let (host, port) = (address.get_host(), address.get_port());
    let place = format!("{host}:{port}/{}", address.get_database().unwrap_or_default());
    let store = super::postgres::PostgresStore::open(address, options.max_connections).await;
    store.map(Stores::over).map_err(|error| match error {
        // In its own words: sqlx adds a line number, of the server's source code.
        sqlx::Error::Database(error) => DbError::Open { place, source: error.message().to_owned().into() },
        error => DbError::open(place, error),
    })
}

#[cfg(not(feature = "postgres"))]
async fn open_postgres(_url: &str, _options: &DatabaseOptions) -> Result<Stores, DbError> {
    Err(DbError::NotBuilt("postgres"))
}

fn compare(known: &Migrator, applied: &[AppliedMigration]) -> Result<Vec<PendingMigration>, DbError> {
    for done in applied {
        let ours = known.iter().find(|migration| migration.version == done.version);
        let ours = ours.ok_or_else(|| newer(known, done.version))?;
        if ours.checksum != done.checksum {
            return Err(DbError::Changed(done.version));
        }
    }
    let had = |number| applied.iter().any(|done| done.version == number);
    let pending = known.iter().filter(|migration| !had(migration.version));
    Ok(pending
        .map(|step| PendingMigration { number: step.version, name: step.description.to_string() })
        .collect())
}

fn newer(known: &Migrator, found: i64) -> DbError {
    DbError::Newer { found, known: known.iter().map(|migration| migration.version).max().unwrap_or(0) }
}

fn owner(uid: &u32, name: &Option<String>) -> String {
    name.clone().unwrap_or_else(|| format!("the user with the id {uid}"))
}

fn remedy(uid: &u32, name: &Option<String>) -> String {
    let user = name.clone().unwrap_or_else(|| format!("'#{uid}'"));
    format!("`sudo -u {user} …` (in a container, `--user {uid}`)")
}
