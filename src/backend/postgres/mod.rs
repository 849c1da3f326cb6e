//! Stores over one PostgreSQL database, shared by any number of replicas. Contains all SQL for PostgreSQL.
//!
//! All tables are in the schema `myapi` and are qualified with it, independent of `search_path`. A
//! refresh is one statement on one row: no join, sequence, session-level lock or NOTIFY. The modules
//! mirror those of `backend::sqlite`, function by function.
//!
//! # Connections and durability
//!
//! Writes that create or terminate access wait for the disk, and for a synchronous standby if there is
//! one: each is a transaction with its own settings (`pool::BEGIN`). Writes that a crash may undo (rotations,
//! confirmed uses, replay counts) wait for neither: they turn `synchronous_commit` off in the statement
//! (`relaxed!`), for the transaction that it is, and use separate connections (`PostgresStore::relaxed`). The
//! revocation poller has its own connection (`PostgresStore::feed`), so that it never waits behind requests,
//! and a further one to listen for notifications.
//!
//! # Poolers and failover
//!
//! No setting is made for a connection, since a pooler may give it to another application. Behind a pooler
//! that pools transactions, each statement runs in a transaction of its own, and none is prepared by name.
//! The feed notices a change of the server, after which all connections are replaced
//! (`ServerChanges`).
//!
//! # Locks
//!
//! Statements run under READ COMMITTED. Transactions that take several locks take the user's before
//! those of sessions, and those of sessions in the order of their ids, so that they cannot deadlock.

mod address;
mod audit;
mod feed;
mod migrations;
mod movies;
mod notify;
mod pool;
mod pooler;
mod remedy;
mod server_changes;
mod sessions;
mod settings;
mod statement;
mod users;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::{AppliedMigration, MigrateError, Migrator};
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
use sqlx::{Connection, Executor, Postgres, Row};
use tokio::time::{Instant, timeout};

pub use self::address::Address;
use self::feed::Feed;
use self::pool::{Pool, StatementMode};
use self::remedy::{describe, is_unreachable};
use self::server_changes::ServerChanges;
use super::database::{Database, WakeFn};
use crate::services::store::StoreError;

/// The stores over one PostgreSQL database.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    pool: Pool,
    relaxed: Pool,
    feed: Arc<Feed>,
    /// The address to listen at for notifications. `None` if that is impossible behind a pooler.
    listen_address: Option<Address>,
    changes: ServerChanges,
}

/// Options of [`PostgresStore::open`].
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// The database.
    pub database: Address,
    /// The address to listen at for notifications, if it is another one.
    pub listen: Option<Address>,
    /// True if a pooler assigns a server connection for each transaction.
    pub transaction_pooling: bool,
    /// Maximum number of connections.
    pub max_connections: u32,
}

/// Error of [`PostgresStore::open`].
#[derive(Debug)]
pub enum OpenError {
    /// No connection can be established.
    Connect {
        /// Description of the cause, with the remedy.
        message: String,
        /// True if the server cannot be reached, or does not accept connections at the moment.
        is_unreachable: bool,
    },
    /// The pooler at the address of this key pools transactions, unexpectedly.
    TransactionPooling(&'static str),
}

impl OpenError {
    fn connect(error: &sqlx::Error, address: &Address) -> Self {
        Self::Connect { message: describe(error, &address.options()), is_unreachable: is_unreachable(error) }
    }
}

impl PostgresStore {
    /// Opens a database with at most `max_connections` connections, and at least two.
    ///
    /// Half of them are for writes that do not wait for the disk. The revocation poller uses two more,
    /// one to poll and one to listen.
    ///
    /// # Errors
    ///
    /// If no connection can be established, or if a pooler pools transactions where it must not.
    pub async fn open(options: PostgresOptions) -> Result<Self, OpenError> {
        let database = connect_address(options.database, options.transaction_pooling);
        // Outside a pool, which would retry and report a timeout instead of the cause.
        let failed = |error| OpenError::connect(&error, &database);
        let mut first = connect(&database).await.map_err(failed)?;
        if !options.transaction_pooling && pools_transactions(&mut first, &database).await.map_err(failed)? {
            return Err(OpenError::TransactionPooling("database.url"));
        }
        let mode = statement_mode(&mut first, options.transaction_pooling).await.map_err(failed)?;
        first.close().await.map_err(failed)?;
        let listen = options.listen.map(|listen| connect_address(listen, false));
        if let Some(listen) = &listen {
            check_listen_address(listen).await?;
        }
        let relaxed = (options.max_connections / 2).max(1);
        let durable = options.max_connections.saturating_sub(relaxed).max(1);
        let changes = ServerChanges::default();
        let pool = |connections, idle_trust| {
            Pool::new(database.clone(), mode, connections, idle_trust, changes.clone())
        };
        Ok(Self {
            pool: pool(durable, Duration::ZERO),
            relaxed: pool(relaxed, IDLE_TRUST),
            feed: Arc::new(Feed::new(database.clone(), mode, changes.clone())),
            listen_address: listen.or_else(|| (!options.transaction_pooling).then(|| database.clone())),
            changes: changes.clone(),
        })
    }

    /// Returns the start of a statement that begins now, for [`check_primary`](Self::check_primary).
    fn statement_start(&self) -> StatementStart {
        StatementStart { changes: self.changes.count(), time: Instant::now() }
    }

    /// Returns an error unless the host name still leads to the server that responded to a statement.
    ///
    /// Right after a failover, a connection may lead to the former primary, which lacks the sessions that began since.
    /// Such a session would count as ended for a refresh, and a sign-out would have no effect.
    async fn check_primary(&self, start: StatementStart) -> Result<(), StoreError> {
        self.feed.check_since(start.time).await?;
        let is_unchanged = self.changes.count() == start.changes;
        is_unchanged.then_some(()).ok_or_else(|| StoreError::unavailable(ServerChanged))
    }

    /// Runs a write of one statement in a transaction. Returns the number of changed rows.
    async fn execute(&self, statement: Statement<'_>) -> Result<u64, StoreError> {
        with_write_timeout(async {
            let mut tx = self.pool.begin().await?;
            let done = statement.execute(&mut tx).await?;
            tx.commit().await?;
            Ok(done.rows_affected())
        })
        .await
    }
}

/// Returns the address of all connections. Connection poolers may refuse the start-up parameter
/// `extra_float_digits`, which sqlx sets by default, and track the others.
fn connect_address(address: Address, transaction_pooling: bool) -> Address {
    address.with_options(|options| {
        let options = options.application_name("sekisho").extra_float_digits(None);
        if transaction_pooling { options.statement_cache_capacity(0) } else { options }
    })
}

async fn connect(address: &Address) -> Result<PgConnection, sqlx::Error> {
    timeout(CONNECT_TIMEOUT, address.connect()).await.map_err(|_| sqlx::Error::PoolTimedOut)?
}

async fn pools_transactions(connection: &mut PgConnection, address: &Address) -> Result<bool, sqlx::Error> {
    pool::with_timeout(CONNECT_TIMEOUT, pooler::pools_transactions(connection, address)).await
}

/// Checks the address to listen at. A server that is unreachable now may be reachable later: without
/// notifications, polling finds terminations.
async fn check_listen_address(address: &Address) -> Result<(), OpenError> {
    match connect(address).await {
        Ok(mut connection) => {
            let failed = |error| OpenError::connect(&error, address);
            let is_pooled = pools_transactions(&mut connection, address).await.map_err(failed)?;
            connection.close().await.map_err(failed)?;
            if is_pooled { Err(OpenError::TransactionPooling("database.listen_url")) } else { Ok(()) }
        }
        Err(error) => {
            let error = describe(&error, &address.options());
            tracing::warn!(error, "cannot connect to database.listen_url");
            Ok(())
        }
    }
}

/// Statements run alone only if they are READ COMMITTED without a setting, and keep their connection.
async fn statement_mode(
    connection: &mut PgConnection,
    transaction_pooling: bool,
) -> Result<StatementMode, sqlx::Error> {
    let isolation = "SELECT current_setting('default_transaction_isolation')";
    let isolation: String = connection.fetch_one(isolation).await?.try_get(0)?;
    let wraps_statements = transaction_pooling || isolation != "read committed";
    Ok(StatementMode { wraps_statements, names_statements: !transaction_pooling })
}

#[async_trait]
impl Database for PostgresStore {
    fn is_embedded(&self) -> bool {
        false
    }

    fn migrator(&self) -> Migrator {
        let mut migrator = sqlx::migrate!("migrations/postgres");
        migrator.dangerous_set_table_name(migrations::TABLE);
        migrator
    }

    async fn applied(&self) -> Result<Vec<AppliedMigration>, MigrateError> {
        migrations::applied(&self.pool).await
    }

    async fn migrate(&self) -> Result<(), MigrateError> {
        migrations::run(self.pool.address(), &self.migrator()).await
    }

    fn describe(&self, error: &sqlx::Error) -> String {
        describe(error, &self.pool.address().options())
    }

    async fn listen_for_revocations(&self, wake: WakeFn) {
        if let Some(address) = &self.listen_address {
            notify::run_listener(address, &self.changes, wake).await;
        }
    }

    async fn check_write(&self) -> Result<(), StoreError> {
        with_write_timeout(async {
            let mut tx = self.pool.begin().await?;
            tx.execute(CHECK_WRITE).await?;
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

/// The start of a statement.
#[derive(Clone, Copy, Debug)]
struct StatementStart {
    /// The count of [`ServerChanges`].
    changes: u64,
    time: Instant,
}

#[derive(Debug, thiserror::Error)]
#[error("the database server changed during the statement")]
struct ServerChanged;

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
        Some(cause) if !cause.is_unique_violation() => error.into(),
        Some(cause) if cause.constraint().is_some_and(|name| name.ends_with("_pkey")) => {
            StoreError::Conflict("id")
        }
        Some(_) => StoreError::Conflict(unique),
        None => error.into(),
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

/// Timeout of a transaction of a few rows. Longer than `statement_timeout`.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(8);

/// Timeout of the first connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
