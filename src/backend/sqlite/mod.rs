//! SQLite: one file, one machine, nothing to install. All SQL for it is in this folder.
//!
//! One connection writes, a few read. Every write says whether it must be on disk when it returns, and
//! goes through the one queue of `writer`. The twin of
//! `backend::postgres`: the same functions in the same order.

mod audit;
mod movies;
mod sessions;
mod settings;
mod users;
mod writer;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migrator};
use sqlx::pool::PoolOptions;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Sqlite, SqlitePool};
use time::OffsetDateTime;

use self::writer::{Durability, WriteFn, WriteQueue};
use super::database::Database;
use crate::services::store::{ACQUIRE_TIMEOUT, StoreError};

/// The stores over one SQLite file.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    options: SqliteConnectOptions,
    writer: WriteQueue,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the database in the file at `path`, which must be there (it may be empty).
    ///
    /// # Errors
    ///
    /// When the file can't be opened, or is no database.
    pub async fn open(path: &Path) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            // Sessions outlive their users: there is no foreign key to enforce.
            .foreign_keys(false)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(ACQUIRE_TIMEOUT);
        enter_wal(&options).await?;
        let writer = WriteQueue::start(options.clone(), options.connect().await?);
        let readers = pool(READERS).connect_lazy_with(options.clone().read_only(true));
        Ok(Self { options, writer, readers })
    }

    /// Does `work` in a transaction. An `Err` undoes it.
    async fn write<T, F>(&self, durability: Durability, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: WriteFn<T>,
    {
        self.writer.write(durability, work).await
    }

    /// A write of one statement. Returns how many rows it changed.
    async fn execute(&self, durability: Durability, statement: Statement) -> Result<u64, StoreError> {
        let done = self.writer.write_one(durability, |tx| {
            Box::pin(async move { statement.execute(tx).await.map_err(StoreError::unavailable) })
        });
        Ok(done.await?.rows_affected())
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

    /// Finishes the queued writes, checkpoints the write-ahead log and closes all connections.
    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// A statement with its values.
type Statement = Query<'static, Sqlite, SqliteArguments>;

async fn apply(tx: &mut SqliteConnection, migrator: &Migrator) -> Result<(), MigrateError> {
    tx.ensure_migrations_table(&migrator.table_name).await?;
    let applied = tx.list_applied_migrations(&migrator.table_name).await?;
    if let Some(unknown) = applied.iter().find(|done| !migrator.version_exists(done.version)) {
        return Err(MigrateError::VersionMissing(unknown.version));
    }
    for migration in migrator.iter() {
        if !applied.iter().any(|done| done.version == migration.version) {
            tx.apply(&migrator.table_name, migration).await?;
        }
    }
    Ok(())
}

/// Makes the file a write-ahead-log database, which it then stays.
async fn enter_wal(options: &SqliteConnectOptions) -> Result<(), sqlx::Error> {
    let options = options.clone().journal_mode(SqliteJournalMode::Wal);
    let deadline = tokio::time::Instant::now() + SETUP_TIMEOUT;
    loop {
        match options.connect().await {
            Ok(connection) => return connection.close().await,
            // SQLite does not wait for this lock, whatever the busy timeout.
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

/// The conflict that a failed insert was about, if it was about one.
fn conflict(error: sqlx::Error, unique: &'static str) -> StoreError {
    match extended_code(&error) {
        Some(SQLITE_CONSTRAINT_PRIMARYKEY) => StoreError::Conflict("id"),
        Some(SQLITE_CONSTRAINT_UNIQUE) => StoreError::Conflict(unique),
        _ => StoreError::unavailable(error),
    }
}

fn extended_code(error: &sqlx::Error) -> Option<u32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// A time as the database holds it: whole microseconds since 1970.
fn micros(at: OffsetDateTime) -> i64 {
    // Years are within ±9999, which i64 holds in microseconds.
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX)
}

fn from_micros(at: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000).ok()
}

fn pool(connections: u32) -> PoolOptions<Sqlite> {
    PoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // They cost nothing to keep.
        .idle_timeout(None)
        .max_lifetime(None)
}

/// Connections that read, side by side with the one that writes.
const READERS: u32 = 4;

/// How long opening and migrating wait for another process that is doing the same.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);

// <https://sqlite.org/rescode.html#extrc>
const SQLITE_CONSTRAINT_PRIMARYKEY: u32 = 1555;
const SQLITE_CONSTRAINT_UNIQUE: u32 = 2067;
