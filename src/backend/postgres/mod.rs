//! Stores over one PostgreSQL database, shared by any number of replicas. Contains all SQL for PostgreSQL.
//!
//! All tables are in the schema `myapi` and are qualified with it, independent of `search_path`. A
//! refresh is one statement on one row: no join, sequence, session-level lock or NOTIFY. The modules
//! mirror those of `backend::sqlite`, function by function.
//!
//! # Connections and durability
//!
//! Writes that create or terminate access wait for the disk, and for a synchronous standby if there is
//! one. Writes that a crash may undo (rotations, confirmed uses, replay counts) wait for neither: they
//! use separate connections with `synchronous_commit = off` (`PostgresStore::relaxed`). The revocation
//! poller has its own connection (`PostgresStore::feed`), so that it never waits behind requests, and a
//! further one to listen for notifications.
//!
//! # Locks
//!
//! Statements run under READ COMMITTED. Transactions that take several locks take the user's before
//! those of sessions, and those of sessions in the order of their ids, so that they cannot deadlock.

mod audit;
mod movies;
mod notify;
mod pool;
mod sessions;
mod settings;
mod users;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migrator};
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions};
use sqlx::query::Query;
use sqlx::{ConnectOptions, Connection, Executor, Postgres};
use tokio::time::timeout;

use self::pool::{ASYNC_COMMIT, Pool, SESSION_SETTINGS};
use super::database::{Database, WakeFn};
use crate::services::store::StoreError;

/// The stores over one PostgreSQL database.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    pool: Pool,
    relaxed: Pool,
    feed: Pool,
}

impl PostgresStore {
    /// Opens a database with at most `max_connections` connections, and at least two.
    ///
    /// Half of them are for writes that do not wait for the disk. The revocation poller uses two more,
    /// one to poll and one to listen.
    ///
    /// # Errors
    ///
    /// If no connection can be established.
    pub async fn open(options: PgConnectOptions, max_connections: u32) -> Result<Self, sqlx::Error> {
        // Connection poolers may refuse this start-up parameter, which sqlx sets by default.
        let options = options.application_name("sekisho").extra_float_digits(None);
        // Outside a pool, which would retry and report a timeout instead of the cause.
        let first = timeout(CONNECT_TIMEOUT, options.connect()).await;
        first.map_err(|_| sqlx::Error::PoolTimedOut)??.close().await?;
        let relaxed = (max_connections / 2).max(1);
        let durable = max_connections.saturating_sub(relaxed).max(1);
        Ok(Self {
            pool: Pool::new(options.clone(), durable, &[SESSION_SETTINGS], Duration::ZERO),
            relaxed: Pool::new(options.clone(), relaxed, &[SESSION_SETTINGS, ASYNC_COMMIT], IDLE_TRUST),
            feed: Pool::new(options, 1, &[SESSION_SETTINGS], Duration::ZERO),
        })
    }

    /// Runs a write of one statement. Returns the number of changed rows.
    async fn execute(&self, statement: Statement<'_>) -> Result<u64, StoreError> {
        Ok(statement.execute(&self.pool).await?.rows_affected())
    }
}

#[async_trait]
impl Database for PostgresStore {
    fn is_embedded(&self) -> bool {
        false
    }

    fn migrator(&self) -> Migrator {
        let mut migrator = sqlx::migrate!("migrations/postgres");
        migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
        migrator
    }

    async fn applied(&self) -> Result<Vec<AppliedMigration>, MigrateError> {
        let table = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(MIGRATIONS_TABLE);
        if !table.fetch_one(&self.pool).await? {
            return Ok(Vec::new());
        }
        let mut tx = self.pool.begin().await?;
        let applied = tx.list_applied_migrations(MIGRATIONS_TABLE).await?;
        tx.commit().await?;
        Ok(applied)
    }

    async fn migrate(&self) -> Result<(), MigrateError> {
        let mut migrator = self.migrator();
        let schema = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'myapi')";
        if !sqlx::query_scalar(schema).fetch_one(&self.pool).await? {
            // Only if the schema is missing: CREATE SCHEMA IF NOT EXISTS requires the privilege to
            // create one even when it exists.
            migrator.create_schema("myapi");
        }
        // A separate connection without `statement_timeout`, because sqlx's advisory lock and the
        // creation of an index may take long. Closing it releases the lock even after a failure.
        let options = self.pool.options().clone();
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
        let result = migrator.run(&pool).await;
        pool.close().await;
        result
    }

    async fn listen_for_revocations(&self, wake: WakeFn) {
        notify::run_listener(self.pool.options(), wake).await;
    }

    async fn check_write(&self) -> Result<(), StoreError> {
        with_write_timeout(async {
            let mut tx = self.pool.begin().await?;
            (*tx).execute(CHECK_WRITE).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    async fn close(&self) {
        self.feed.close().await;
        self.relaxed.close().await;
        self.pool.close().await;
    }
}

/// A statement with its parameters.
type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Applies [`TRANSACTION_TIMEOUT`] to a transaction of a few rows.
///
/// Statements within a transaction have only the server's timeout, which has no effect on a connection
/// that was cut silently. A transaction that times out is rolled back, unless only the response to its
/// commit was lost.
async fn with_write_timeout<T>(
    transaction: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(TRANSACTION_TIMEOUT, transaction).await.map_err(StoreError::unavailable)?
}

/// Converts the error of a failed insert. A violated constraint becomes [`StoreError::Conflict`].
fn conflict(error: sqlx::Error, unique: &'static str) -> StoreError {
    match error.as_database_error() {
        Some(cause) if !cause.is_unique_violation() => StoreError::unavailable(error),
        Some(cause) if cause.constraint().is_some_and(|name| name.ends_with("_pkey")) => {
            StoreError::Conflict("id")
        }
        Some(_) => StoreError::Conflict(unique),
        None => StoreError::unavailable(error),
    }
}

/// Returns `true` if PostgreSQL can store `text`, which must not contain NUL.
fn is_valid_text(text: &str) -> bool {
    !text.contains('\0')
}

/// Changes no row of the tables of sessions, but waits for their locks as a sign-in does. The setting is random, so
/// that it takes up its size of 64 KiB also compressed.
const CHECK_WRITE: &str = "UPDATE myapi.sessions SET end_reason = end_reason WHERE FALSE; \
    INSERT INTO myapi.audit (at, event) SELECT now(), '' WHERE FALSE; \
    INSERT INTO myapi.settings (name, value) \
    SELECT 'write_check', string_agg(md5(random()::text), '') FROM generate_series(1, 2048) \
    ON CONFLICT (name) DO UPDATE SET value = excluded.value; \
    DELETE FROM myapi.settings WHERE name = 'write_check'";

/// Idle time after which a connection for refreshes is checked before use.
///
/// The check would be half of the cost of a refresh. If the server goes away within this time, one
/// refresh fails.
const IDLE_TRUST: Duration = Duration::from_secs(1);

/// The table in which sqlx records applied migrations.
const MIGRATIONS_TABLE: &str = "myapi._sqlx_migrations";

/// Timeout of a transaction of a few rows. Longer than `statement_timeout`.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(8);

/// Timeout of the first connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
