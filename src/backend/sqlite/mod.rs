//! Stores over one SQLite file, for a single machine. Contains all SQL for SQLite.
//!
//! One connection writes, a few others read. All writes go through the queue in `writer`, each with a
//! `Durability`. The modules mirror those of `backend::postgres`, function by function.

mod audit;
mod file_identity;
mod movies;
mod sessions;
mod settings;
mod users;
mod writer;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migrator};
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Executor, Sqlite, SqlitePool};
use time::OffsetDateTime;
use time::error::ComponentRange;

use self::file_identity::DatabaseFiles;
use self::writer::{Durability, WriteFn, WriteQueue, WriteScope};
use super::database::Database;
use crate::services::store::{ACQUIRE_TIMEOUT, SettingStore, StoreError};

/// The stores over one SQLite file.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    files: DatabaseFiles,
    options: SqliteConnectOptions,
    writer: WriteQueue,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the database file at `path`, which must exist and may be empty.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened or is not a SQLite database.
    pub async fn open(path: &Path) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            // Sessions outlive their users, so the schema has no foreign keys.
            .foreign_keys(false)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(ACQUIRE_TIMEOUT);
        enter_wal(&options).await?;
        let mut anchor = options.connect().await?;
        anchor.execute("SELECT count(*) FROM sqlite_schema").await?;
        let files = DatabaseFiles::read(path).map_err(sqlx::Error::Io)?;
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
        Ok(Self { files, options, writer, readers })
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

#[async_trait]
impl Database for SqliteStore {
    fn is_embedded(&self) -> bool {
        true
    }

    fn migrator(&self) -> Migrator {
        sqlx::migrate!("migrations/sqlite")
    }

    async fn applied(&self) -> Result<Vec<AppliedMigration>, MigrateError> {
        let table = "SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'";
        let mut reader = self.readers.acquire().await?;
        if sqlx::query_scalar::<_, i64>(table).fetch_one(&mut *reader).await? == 0 {
            return Ok(Vec::new());
        }
        reader.list_applied_migrations(&self.migrator().table_name).await
    }

    /// Applies all pending migrations in one transaction.
    async fn migrate(&self) -> Result<(), MigrateError> {
        let mut connection = self.options.clone().busy_timeout(SETUP_TIMEOUT).connect().await?;
        // sqlx takes no migration lock on SQLite. The immediate transaction serializes processes that
        // migrate at the same time; the second one then finds nothing to do.
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
        apply(&mut tx, &self.migrator()).await?;
        tx.commit().await?;
        Ok(connection.close().await?)
    }

    fn check_identity(&self) -> Result<(), StoreError> {
        self.files.check().map_err(StoreError::unavailable)
    }

    async fn check_write(&self) -> Result<(), StoreError> {
        // Two transactions: pages that are allocated and freed within one are not written.
        self.set_setting(WRITE_CHECK, &"-".repeat(WRITE_CHECK_BYTES)).await?;
        self.delete_setting(WRITE_CHECK).await.map(drop)
    }

    /// Finishes the queued writes, checkpoints the write-ahead log and closes all connections.
    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// A statement with its parameters.
type Statement = Query<'static, Sqlite, SqliteArguments>;

async fn apply(tx: &mut SqliteConnection, migrator: &Migrator) -> Result<(), MigrateError> {
    tx.ensure_migrations_table(&migrator.table_name).await?;
    let applied = tx.list_applied_migrations(&migrator.table_name).await?;
    if let Some(unknown) = applied.iter().find(|known| !migrator.version_exists(known.version)) {
        return Err(MigrateError::VersionMissing(unknown.version));
    }
    for migration in migrator.iter() {
        if !applied.iter().any(|applied| applied.version == migration.version) {
            tx.apply(&migrator.table_name, migration).await?;
        }
    }
    Ok(())
}

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

/// Name of the setting that [`Database::check_write`] writes and deletes.
const WRITE_CHECK: &str = "write_check";

/// Size of that setting: more than the pages that a sign-in changes.
const WRITE_CHECK_BYTES: usize = 64 * 1024;

/// Number of read connections, in addition to the one that writes.
const READ_CONNECTIONS: u32 = 4;

/// Timeout for opening and migrating while another process does the same.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);

// <https://sqlite.org/rescode.html#extrc>
const SQLITE_CONSTRAINT_PRIMARYKEY: u32 = 1555;
const SQLITE_CONSTRAINT_UNIQUE: u32 = 2067;
