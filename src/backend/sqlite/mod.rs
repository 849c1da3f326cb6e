//! A store in one SQLite file, for a single machine. Contains all SQL for SQLite.
//!
//! One connection writes, a few others read. All writes go through the queue in `writer`, each with a
//! `Durability`. The modules mirror those of `backend::postgres`, function by function.

mod audit;
mod create;
#[cfg(feature = "server")]
mod database;
mod file_identity;
mod migrations;
#[cfg(feature = "server")]
mod movies;
mod options;
mod sessions;
mod settings;
mod statements;
#[cfg(feature = "server")]
mod users;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Executor, Sqlite, SqlitePool};
use time::OffsetDateTime;
use time::error::ComponentRange;

use self::file_identity::DatabaseFiles;
pub use self::options::SqliteOptions;
use self::statements::StoreSql;
use self::writer::{Durability, WriteFn, WriteQueue, WriteScope};
use super::migrations::{MigrationError, PendingMigration, migrate, pending};
use super::namespace::Tables;
use super::open_error::OpenError;
use crate::services::store::{ACQUIRE_TIMEOUT, PersistentStore, StoreError};

/// A store in one SQLite file.
///
/// It has connections of its own, since it needs the only one that writes to its tables. The file is switched to
/// write-ahead logging. Other programs may use the file at the same time.
///
/// ```
/// use sekisho::backend::Namespace;
/// use sekisho::backend::sqlite::{SqliteOptions, SqliteStore};
/// use sekisho::services::store::SettingStore;
///
/// # async fn doc(directory: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
/// let options = SqliteOptions::new(directory.join("app.db")).with_namespace(Namespace::new("auth")?);
/// let store = SqliteStore::open(options).await?;
/// store.migrate().await?;
/// assert!(store.list_settings("").await?.is_empty());
/// store.close().await;
/// # Ok(()) }
/// # let directory = tempfile::tempdir().expect("a directory");
/// # let runtime = tokio::runtime::Runtime::new().expect("a runtime");
/// # runtime.block_on(doc(directory.path())).expect("the example to succeed");
/// ```
#[derive(Clone)]
pub struct SqliteStore {
    files: DatabaseFiles,
    options: SqliteConnectOptions,
    tables: Tables,
    sql: Arc<StoreSql>,
    writer: WriteQueue,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the database file, which is created if it is missing. A pool of the application stands for the options
    /// of its connections.
    ///
    /// Applies no migrations: see [`pending`](Self::pending) and [`migrate`](Self::migrate).
    ///
    /// # Errors
    ///
    /// If the file cannot be opened or is not a SQLite database.
    pub async fn open(options: impl Into<SqliteOptions>) -> Result<Self, OpenError> {
        let options = options.into();
        let path = options.file()?;
        create::create(&path).map_err(|error| OpenError::file(&path, error))?;
        Self::connect(options).await.map_err(|error| OpenError::file(&path, error))
    }

    async fn connect(SqliteOptions { connect, tables }: SqliteOptions) -> Result<Self, sqlx::Error> {
        let options = connect
            // Sessions outlive their users, so the schema has no foreign keys.
            .foreign_keys(false)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(ACQUIRE_TIMEOUT);
        enter_wal(&options).await?;
        let mut anchor = options.connect().await?;
        anchor.execute("SELECT count(*) FROM sqlite_schema").await?;
        let files = DatabaseFiles::read(options.get_filename()).map_err(sqlx::Error::Io)?;
        let writer = WriteQueue::start(files.clone(), options.clone(), options.connect().await?, anchor);
        let opened = files.clone();
        let readers = SqlitePoolOptions::new()
            .max_connections(READ_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Idle connections to a local file cost nothing.
            .idle_timeout(None)
            .max_lifetime(None)
            // All connections must use the same files.
            .after_connect(move |_, _| {
                let checked = opened.check().map_err(|error| sqlx::Error::Io(std::io::Error::other(error)));
                Box::pin(std::future::ready(checked))
            })
            .connect_lazy_with(options.clone().read_only(true));
        let sql = StoreSql::new(&tables.sqlite_prefix());
        Ok(Self { files, options, tables, sql: Arc::new(sql), writer, readers })
    }

    /// Returns the migrations not yet applied. Read-only.
    ///
    /// # Errors
    ///
    /// [`MigrationError::Newer`] if an applied migration is unknown to this version, [`MigrationError::Changed`]
    /// if one has another checksum, [`MigrationError::Failed`] if the database is unavailable.
    pub async fn pending(&self) -> Result<Vec<PendingMigration>, MigrationError> {
        pending(self).await
    }

    /// Applies the pending migrations and returns them. Safe to call from several processes at once.
    ///
    /// They are recorded in a table of their own: those of the application in the same file are independent.
    ///
    /// # Errors
    ///
    /// As [`pending`](Self::pending), and if a migration fails.
    pub async fn migrate(&self) -> Result<Vec<PendingMigration>, MigrationError> {
        migrate(self).await
    }

    /// Finishes the queued writes, checkpoints the write-ahead log and closes all connections. The store cannot be
    /// used afterwards.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Runs `work` in a transaction, which an `Err` rolls back.
    async fn write<T, F>(&self, durability: Durability, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: WriteFn<T>,
    {
        self.writer.write(durability, WriteScope::Statements, work).await
    }

    /// Runs a write of one statement. Returns the number of changed rows.
    async fn execute(&self, durability: Durability, statement: Statement) -> Result<u64, StoreError> {
        let done = self.writer.write(durability, WriteScope::Statement, |tx| {
            Box::pin(async move { Ok(statement.execute(tx).await?.rows_affected()) })
        });
        done.await
    }
}

impl PersistentStore for SqliteStore {}

/// Omits the pragmas, one of which may be the key of an encrypted file.
impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SqliteStore");
        debug.field("path", &self.options.get_filename()).field("tables", &self.tables);
        debug.finish_non_exhaustive()
    }
}

/// A statement with its parameters.
type Statement = Query<'static, Sqlite, SqliteArguments>;

/// Switches the file to write-ahead logging, which is persistent.
async fn enter_wal(options: &SqliteConnectOptions) -> Result<(), sqlx::Error> {
    let options = options.clone().journal_mode(SqliteJournalMode::Wal);
    let deadline = tokio::time::Instant::now() + SETUP_TIMEOUT;
    loop {
        match options.connect().await {
            Ok(connection) => return connection.close().await,
            // The busy timeout does not apply to this lock.
            Err(error) if is_busy(&error) && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    // The low byte is the primary result code; 5 is SQLITE_BUSY.
    extended_code(error).is_some_and(|code| code & 0xff == 5)
}

/// Converts the error of a failed insert. A violated constraint becomes [`StoreError::Conflict`].
fn conflict(error: sqlx::Error, unique: &'static str) -> StoreError {
    match extended_code(&error) {
        Some(SQLITE_CONSTRAINT_PRIMARYKEY) => StoreError::Conflict("id"),
        Some(SQLITE_CONSTRAINT_UNIQUE) => StoreError::Conflict(unique),
        _ => error.into(),
    }
}

fn extended_code(error: &sqlx::Error) -> Option<u32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// Converts a time to whole microseconds since the Unix epoch, the unit of the columns.
fn micros(at: OffsetDateTime) -> i64 {
    // Years are within ±9999, which fits into i64 in microseconds.
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX)
}

/// A column with a time as [`micros`].
#[derive(sqlx::Type)]
#[sqlx(transparent)]
struct Micros(i64);

impl TryFrom<Micros> for OffsetDateTime {
    type Error = ComponentRange;

    fn try_from(Micros(micros): Micros) -> Result<Self, ComponentRange> {
        Self::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
    }
}

/// Number of read connections, in addition to the one that writes.
const READ_CONNECTIONS: u32 = 4;

/// Timeout for opening and migrating while another process does the same.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);

// <https://sqlite.org/rescode.html#extrc>
const SQLITE_CONSTRAINT_PRIMARYKEY: u32 = 1555;
const SQLITE_CONSTRAINT_UNIQUE: u32 = 2067;
