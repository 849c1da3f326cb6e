//! SQLite: one file, one machine, nothing to install. All SQL for it is in this folder.
//!
//! One connection writes, a few read. Every write goes through `SqliteStore::write`, which says
//! whether it must be on disk when it returns. The twin of `backend::postgres`: the same functions
//! in the same order.

mod movies;
mod sessions;
mod settings;
mod users;

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migrator};
use sqlx::pool::PoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Sqlite, SqlitePool, Transaction};
use time::OffsetDateTime;

use crate::services::store::{ACQUIRE_TIMEOUT, StoreError};

/// The stores over one SQLite file.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    options: SqliteConnectOptions,
    writer: SqlitePool,
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
        let writer = pool(1).connect_with(options.clone()).await?;
        let readers = pool(READERS).connect_lazy_with(options.clone().read_only(true));
        Ok(Self { options, writer, readers })
    }

    /// The migrations that this program knows.
    #[must_use]
    pub fn migrator() -> Migrator {
        sqlx::migrate!("migrations/sqlite")
    }

    /// The migrations that the database has had. Reads only.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub async fn applied(&self) -> Result<Vec<AppliedMigration>, MigrateError> {
        let table = "SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'";
        let mut reader = self.readers.acquire().await?;
        if sqlx::query_scalar::<_, i64>(table).fetch_one(&mut *reader).await? == 0 {
            return Ok(Vec::new());
        }
        reader.list_applied_migrations(&Self::migrator().table_name).await
    }

    /// Applies the migrations that the database has not had, all or none.
    ///
    /// # Errors
    ///
    /// When one fails, or the database has had one that this program does not know.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        let mut connection = self.options.clone().busy_timeout(PATIENCE).connect().await?;
        // sqlx takes no lock on SQLite: of two processes that migrate at once, this one lets the
        // second wait until the first is done, and then find nothing to do.
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
        apply(&mut tx, &Self::migrator()).await?;
        tx.commit().await?;
        Ok(connection.close().await?)
    }

    /// Empties the write-ahead log into the file and closes all connections, once they are idle.
    pub async fn close(&self) {
        self.readers.close().await;
        // Fails harmlessly while another process reads: the log is then emptied by the last to leave.
        let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.writer).await;
        self.writer.close().await;
    }

    /// A transaction that holds the write lock from its beginning, so that it never fails half-way
    /// because another process has written meanwhile. Dropped without [`commit`], it is undone.
    async fn write(&self, durability: Durability) -> Result<Transaction<'static, Sqlite>, StoreError> {
        match durability {
            // `synchronous` is FULL: a commit returns when it is on disk.
            Durability::Flushed | Durability::Relaxed => {}
        }
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(StoreError::unavailable)
    }
}

/// What must hold when a write returns.
#[derive(Clone, Copy, Debug)]
enum Durability {
    /// It is on disk: it grants or ends access, or nothing could replace it.
    Flushed,
    /// A crash may undo it.
    Relaxed,
}

/// Only this tells whether a write was done: `fetch_optional` outside a transaction says nothing of
/// a commit that failed.
async fn commit(tx: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
    tx.commit().await.map_err(StoreError::unavailable)
}

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
    let deadline = tokio::time::Instant::now() + PATIENCE;
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
const PATIENCE: Duration = Duration::from_secs(30);

// <https://sqlite.org/rescode.html#extrc>
const SQLITE_CONSTRAINT_PRIMARYKEY: u32 = 1555;
const SQLITE_CONSTRAINT_UNIQUE: u32 = 2067;
