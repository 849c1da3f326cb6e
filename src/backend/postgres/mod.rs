//! A store in one PostgreSQL database, shared by any number of replicas. Contains all SQL for PostgreSQL.
//!
//! All tables are in one schema and are qualified with it, independent of `search_path`. A
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
#[cfg(feature = "server")]
mod database;
mod feed;
mod migrations;
#[cfg(feature = "server")]
mod movies;
mod notify;
mod options;
mod pool;
mod pooler;
mod remedy;
mod server_changes;
mod sessions;
mod settings;
mod statement;
mod statements;
#[cfg(feature = "server")]
mod users;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
use sqlx::{Connection, Executor, Postgres, Row};
use tokio::time::{Instant, timeout};

pub(super) use self::address::Address;
pub use self::address::{CredentialSource, Credentials};
use self::feed::{Feed, FeedSql};
pub use self::options::PostgresOptions;
use self::pool::{Pool, StatementMode};
#[cfg(feature = "server")]
pub(super) use self::remedy::Wording;
use self::remedy::is_unreachable;
use self::server_changes::ServerChanges;
use self::statements::StoreSql;
use super::migrations::{MigrationError, PendingMigration, migrate, pending};
use super::namespace::Tables;
use super::open_error::OpenError;
use crate::services::store::{PersistentStore, StoreError, WakeFn};

/// A store in one PostgreSQL database.
///
/// It has connections of its own: two pools, one connection for the revocation poller and one for notifications.
///
/// ```
/// use sekisho::backend::Namespace;
/// use sekisho::backend::postgres::{PostgresOptions, PostgresStore};
///
/// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
/// let options = PostgresOptions::from_url("postgres://app:secret@db.internal/app?sslmode=verify-full")?
///     .with_namespace(Namespace::new("auth")?)
///     .with_max_connections(8);
/// let store = PostgresStore::open(options).await?;
/// store.migrate().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct PostgresStore {
    pool: Pool,
    relaxed: Pool,
    feed: Arc<Feed>,
    /// The address to listen at for notifications. `None` if that is impossible behind a pooler.
    listen_address: Option<Address>,
    changes: ServerChanges,
    tables: Tables,
    sql: Arc<StoreSql>,
    /// The channel of notifications.
    channel: Arc<str>,
}

impl PostgresStore {
    /// Opens a database. A pool of the application stands for the options of its connections.
    ///
    /// Applies no migrations: see [`pending`](Self::pending) and [`migrate`](Self::migrate).
    ///
    /// # Errors
    ///
    /// If no connection can be established, or if a pooler pools transactions where it must not.
    pub async fn open(options: impl Into<PostgresOptions>) -> Result<Self, OpenError> {
        Self::open_with(options.into()).await
    }

    async fn open_with(options: PostgresOptions) -> Result<Self, OpenError> {
        let PostgresOptions { transaction_pooling, max_connections, .. } = options;
        let database = connect_address(options.database(), transaction_pooling);
        // Outside a pool, which would retry and report a timeout instead of the cause.
        let failed = |error| open_error(&error, &database);
        let mut first = connect(&database).await.map_err(failed)?;
        if !transaction_pooling && pools_transactions(&mut first, &database).await.map_err(failed)? {
            return Err(OpenError::TransactionPooling(database.place()));
        }
        let mode = statement_mode(&mut first, transaction_pooling).await.map_err(failed)?;
        first.close().await.map_err(failed)?;
        let listen = options.listen().map(|listen| connect_address(listen, false));
        if let Some(listen) = &listen {
            check_listen_address(listen).await?;
        }
        let relaxed = (max_connections / 2).max(1);
        let durable = max_connections.saturating_sub(relaxed).max(1);
        let changes = ServerChanges::default();
        let prefix = options.tables.postgres_prefix();
        let sql = StoreSql::new(&prefix);
        let pool = |connections, idle_trust| {
            Pool::new(database.clone(), mode, connections, idle_trust, changes.clone())
        };
        Ok(Self {
            pool: pool(durable, Duration::ZERO),
            relaxed: pool(relaxed, IDLE_TRUST),
            feed: Arc::new(Feed::new(database.clone(), FeedSql::new(&prefix), mode, changes.clone())),
            listen_address: listen.or_else(|| (!transaction_pooling).then(|| database.clone())),
            changes: changes.clone(),
            sql: Arc::new(sql),
            channel: options.tables.channel().into(),
            tables: options.tables,
        })
    }

    /// Returns the migrations not yet applied. Read-only, so it needs no privilege to change tables.
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
    /// They are recorded in a table of their own: those of the application in the same database are independent.
    ///
    /// # Errors
    ///
    /// As [`pending`](Self::pending), and if a migration fails.
    pub async fn migrate(&self) -> Result<Vec<PendingMigration>, MigrationError> {
        migrate(self).await
    }

    /// Waits until the connections are idle and closes them. The store cannot be used afterwards.
    pub async fn close(&self) {
        self.feed.close().await;
        self.relaxed.close().await;
        self.pool.close().await;
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

fn open_error(error: &sqlx::Error, address: &Address) -> OpenError {
    OpenError::Open {
        place: address.place(),
        source: address.describe(error).into(),
        is_unreachable: is_unreachable(error),
    }
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
            let failed = |error| open_error(&error, address);
            let is_pooled = pools_transactions(&mut connection, address).await.map_err(failed)?;
            connection.close().await.map_err(failed)?;
            if is_pooled { Err(OpenError::ListenPooling) } else { Ok(()) }
        }
        Err(error) => {
            let error = address.describe(&error);
            tracing::warn!(error, "cannot connect to the address for notifications");
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
impl PersistentStore for PostgresStore {
    async fn listen(&self, wake: WakeFn) {
        if let Some(address) = &self.listen_address {
            notify::run_listener(address, &self.channel, &self.changes, wake).await;
        }
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

/// Idle time after which a connection for refreshes is checked before use.
///
/// The check would be half of the cost of a refresh. If the server goes away within this time, one
/// refresh fails.
const IDLE_TRUST: Duration = Duration::from_secs(1);

/// Timeout of a transaction of a few rows. Longer than `statement_timeout`.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(8);

/// Timeout of the first connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
