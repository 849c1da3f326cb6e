//! PostgreSQL: any number of replicas over one database. All SQL for it is in this folder.
//!
//! Every table lives in the schema `myapi` and is named with it, so that no `search_path` matters.
//! What a refresh needs is one statement on one row: no join, sequence, session-level lock or
//! NOTIFY. The twin of `backend::sqlite`: the same functions in the same order.
//!
//! # What waits for the disk
//!
//! What grants or ends access waits for the disk, and for a synchronous standby if there is one. What
//! a crash may undo (rotations, settlements, counts of replays) waits for neither: it goes over
//! connections of its own (`PostgresStore::relaxed`). What other replicas have ended is asked over one
//! more, so that no crowd of requests is waited for; another listens, and has it asked sooner.
//!
//! # Locks
//!
//! Statements run under READ COMMITTED. Whatever takes several locks takes that of a user before
//! those of sessions, and those of sessions in the order of their ids, so that none wait in a circle.

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
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use tokio::time::timeout;

use self::pool::{ASYNC_COMMIT, Pool, SESSION_SETTINGS, Transaction};
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
    /// Opens the database that `options` name, over at most `max_connections` connections (and at
    /// least two): half of them are for what need not wait for the disk. Who follows what other
    /// replicas end has two more, for asking and for being woken.
    ///
    /// # Errors
    ///
    /// When no connection can be made now.
    pub async fn open(options: PgConnectOptions, max_connections: u32) -> Result<Self, sqlx::Error> {
        // What a connection pooler in between may not know is not asked of it at connection.
        let options = options.application_name("sekisho").extra_float_digits(None);
        // Alone, because a pool would go on trying and in the end not say why.
        let first = timeout(CONNECT_TIMEOUT, options.connect()).await;
        first.map_err(|_| sqlx::Error::PoolTimedOut)??.close().await?;
        let renewing = (max_connections / 2).max(1);
        let others = max_connections.saturating_sub(renewing).max(1);
        Ok(Self {
            pool: Pool::new(options.clone(), others, &[SESSION_SETTINGS], Duration::ZERO),
            relaxed: Pool::new(options.clone(), renewing, &[SESSION_SETTINGS, ASYNC_COMMIT], TRUSTED),
            feed: Pool::new(options, 1, &[SESSION_SETTINGS], Duration::ZERO),
        })
    }

    /// A transaction of several statements. Dropped without [`commit`], it is undone.
    async fn write(&self) -> Result<Transaction, StoreError> {
        self.pool.begin().await.map_err(StoreError::unavailable)
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

    async fn close(&self) {
        self.feed.close().await;
        self.relaxed.close().await;
        self.pool.close().await;
    }
}

async fn commit(tx: Transaction) -> Result<(), StoreError> {
    tx.commit().await.map_err(StoreError::unavailable)
}

/// Gives up on a transaction of a few rows that takes too long: the statements within have no limit
/// but the server's, which a connection that was cut silently never hears of. It is undone, unless
/// only the answer to its commit was missing.
async fn with_write_timeout<T>(
    transaction: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(TRANSACTION_TIMEOUT, transaction).await.map_err(StoreError::unavailable)?
}

/// The conflict that a failed insert was about, if it was about one.
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

/// Whether PostgreSQL could hold `text` at all.
fn is_valid_text(text: &str) -> bool {
    !text.contains('\0')
}

/// How long an idle connection for renewals is taken to be alive, since asking would be half of what
/// a renewal costs. A server that goes away costs one of them.
const TRUSTED: Duration = Duration::from_secs(1);

/// sqlx's own table, beside ours.
const MIGRATIONS_TABLE: &str = "myapi._sqlx_migrations";

/// How long a transaction of a few rows may take: longer than the server gives one statement.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(8);

/// How long the first connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
