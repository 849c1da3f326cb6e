//! Connection pool.
//!
//! A refresh is one statement on one row, so round trips dominate its cost. sqlx's pool adds two: a ping
//! before it hands out a connection and, without a way to turn it off, another one on release. The second
//! ping has no timeout, so that a connection cut silently in use would occupy its place for as long as
//! TCP retransmits, about 15 minutes.
//!
//! This pool reuses a connection only after its statement or transaction has succeeded. After anything
//! else (an error, a dropped caller) it closes the connection. An idle connection is pinged before use,
//! with a short timeout. If a connection fails in use, the caller gets the error. A statement is retried in
//! one case: an idle connection led to a server that accepts no writes, so that it had no effect. Then all
//! idle connections are suspect, and the retry uses a new one.
//!
//! # Settings
//!
//! No setting is made for a connection: behind a pooler, others use the same server connection. [`BEGIN`]
//! makes those of a transaction. Outside a transaction a statement has the settings of the database.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use sqlx::postgres::{PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Connection, Describe, Either, Execute, Executor, Postgres, Row, SqlStr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::address::Address;
use super::server_changes::ServerChanges;
use super::statement::PreparedQuery;
use crate::services::store::ACQUIRE_TIMEOUT;

/// A pool of connections. Clones share it.
///
/// As an [`Executor`] it runs each statement on one connection and reads the whole result.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: Address,
    mode: StatementMode,
    idle_trust: Duration,
    max_connections: u32,
    permits: Arc<Semaphore>,
    changes: ServerChanges,
    /// A stack, so that unused connections age at the bottom.
    idle: Mutex<Vec<IdleConnection>>,
}

/// Treatment of statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatementMode {
    /// True if each statement runs in a transaction of its own. Behind a pooler that pools transactions, the
    /// messages of one statement could reach several servers otherwise.
    pub(super) wraps_statements: bool,
    /// True if the server keeps prepared statements.
    pub(super) names_statements: bool,
}

#[derive(Debug)]
struct IdleConnection {
    connection: AgedConnection,
    since: Instant,
}

#[derive(Debug)]
struct AgedConnection {
    raw: PgConnection,
    created_at: Instant,
    /// The count of [`ServerChanges`] before it was established.
    changes: u64,
}

/// A connection in use. Closed on drop unless it is released.
#[derive(Debug)]
struct PooledConnection {
    connection: AgedConnection,
    is_new: bool,
    _permit: OwnedSemaphorePermit,
}

/// A transaction. Dropping it closes the connection, which rolls the transaction back.
#[derive(Debug)]
pub(super) struct Transaction {
    pooled: PooledConnection,
    pool: Pool,
}

/// The results of a statement.
type Steps = Vec<Either<PgQueryResult, PgRow>>;

impl Pool {
    /// Creates a pool of at most `max_connections` connections, established on demand.
    ///
    /// A connection idle for less than `idle_trust` is used without a ping; if it is broken, the caller gets
    /// an error. After one of `changes` all connections are replaced.
    pub(super) fn new(
        address: Address,
        mode: StatementMode,
        max_connections: u32,
        idle_trust: Duration,
        changes: ServerChanges,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(max_connections as usize));
        let idle = Mutex::default();
        Self {
            shared: Arc::new(Shared { address, mode, idle_trust, max_connections, permits, changes, idle }),
        }
    }

    /// Returns the address of the database.
    pub(super) fn address(&self) -> &Address {
        &self.shared.address
    }

    /// Begins a transaction on a server that accepts writes, with the settings of [`BEGIN`].
    pub(super) async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        let pooled = self.acquire().await?;
        let is_new = pooled.is_new;
        match self.begin_on(pooled).await {
            Err(error) if !is_new && is_read_only(&error) => self.begin_on(self.acquire().await?).await,
            result => result,
        }
    }

    async fn begin_on(&self, mut pooled: PooledConnection) -> Result<Transaction, sqlx::Error> {
        match with_timeout(RESPONSE_TIMEOUT, begin(&mut pooled.connection.raw)).await {
            Ok(()) => Ok(Transaction { pooled, pool: self.clone() }),
            Err(error) => self.release(pooled, Err(error)),
        }
    }

    /// Runs a statement and reads the whole result.
    async fn run(&self, query: PreparedQuery) -> Result<Steps, sqlx::Error> {
        if self.shared.mode.wraps_statements {
            let mut tx = self.begin().await?;
            let steps = with_timeout(RESPONSE_TIMEOUT, tx.fetch_many(query).try_collect()).await?;
            tx.commit().await?;
            return Ok(steps);
        }
        let pooled = self.acquire().await?;
        if pooled.is_new {
            return self.run_on(pooled, query).await;
        }
        match self.run_on(pooled, query.clone()).await {
            Err(error) if is_read_only(&error) => self.run_on(self.acquire().await?, query).await,
            result => result,
        }
    }

    async fn run_on(&self, mut pooled: PooledConnection, query: PreparedQuery) -> Result<Steps, sqlx::Error> {
        let steps = pooled.connection.raw.fetch_many(query).try_collect();
        let steps = with_timeout(RESPONSE_TIMEOUT, steps).await;
        self.release(pooled, steps)
    }

    /// Waits until all connections are idle and closes them.
    pub(super) async fn close(&self) {
        let all = self.shared.permits.acquire_many(self.shared.max_connections).await;
        self.shared.permits.close();
        drop(all);
        for idle in self.take_idle() {
            let _ = idle.connection.raw.close().await;
        }
    }

    async fn acquire(&self) -> Result<PooledConnection, sqlx::Error> {
        with_timeout(ACQUIRE_TIMEOUT, async {
            let permits = Arc::clone(&self.shared.permits);
            let permit = permits.acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            let idle = self.idle_connection().await;
            let is_new = idle.is_none();
            let connection = match idle {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            Ok(PooledConnection { connection, is_new, _permit: permit })
        })
        .await
    }

    /// Returns a live idle connection.
    async fn idle_connection(&self) -> Option<AgedConnection> {
        let mut idle = self.pop_idle()?;
        let is_alive = idle.since.elapsed() < self.shared.idle_trust
            || with_timeout(PING_TIMEOUT, idle.connection.raw.ping()).await.is_ok();
        if is_alive {
            return Some(idle.connection);
        }
        // The other connections have been idle for longer. Pinging them one by one could cost a caller one
        // timeout for each.
        drop(self.take_idle());
        None
    }

    async fn connect(&self) -> Result<AgedConnection, sqlx::Error> {
        // Read first: a connection that is established during a change is suspect.
        let changes = self.shared.changes.count();
        let raw = self.shared.address.connect().await?;
        Ok(AgedConnection { raw, created_at: Instant::now(), changes })
    }

    /// Returns the connection to the pool if `result` is `Ok`, otherwise closes it.
    fn release<T>(&self, pooled: PooledConnection, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        let connection = pooled.connection;
        match &result {
            Ok(_) if connection.created_at.elapsed() < MAX_LIFETIME && self.is_current(&connection) => {
                self.shared.idle.lock().push(IdleConnection { connection, since: Instant::now() });
            }
            Ok(_) => {}
            // Connections of the other pools lead to the same server.
            Err(error) if is_read_only(error) => self.shared.changes.record(),
            // The server is available and refused only this statement.
            Err(sqlx::Error::Database(error)) if !is_connection_error(error.code().as_deref()) => {}
            // The server may be gone, so the idle connections are suspect.
            Err(_) => drop(self.take_idle()),
        }
        result
    }

    fn is_current(&self, connection: &AgedConnection) -> bool {
        connection.changes == self.shared.changes.count()
    }

    fn pop_idle(&self) -> Option<IdleConnection> {
        let idle = self.shared.idle.lock().pop()?;
        if self.is_current(&idle.connection) {
            return Some(idle);
        }
        // The others are older.
        drop(self.take_idle());
        None
    }

    fn take_idle(&self) -> Vec<IdleConnection> {
        std::mem::take(&mut *self.shared.idle.lock())
    }

    fn prepare_query<'q>(&self, query: impl Execute<'q, Postgres>) -> Result<PreparedQuery, sqlx::Error> {
        PreparedQuery::new(query, self.shared.mode.names_statements)
    }
}

impl<'p> Executor<'p> for &Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        let query = self.prepare_query(query);
        let results = async move {
            let steps = pool.run(query?).await?;
            Ok::<_, sqlx::Error>(stream::iter(steps.into_iter().map(Ok)))
        };
        stream::once(results).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        let query = self.prepare_query(query);
        Box::pin(async move { Ok(pool.run(query?).await?.into_iter().find_map(Either::right)) })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move {
            let mut pooled = pool.acquire().await?;
            let statement =
                with_timeout(RESPONSE_TIMEOUT, pooled.connection.raw.prepare_with(sql, parameters)).await;
            pool.release(pooled, statement)
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move {
            let mut pooled = pool.acquire().await?;
            let described = with_timeout(RESPONSE_TIMEOUT, pooled.connection.raw.describe(sql)).await;
            pool.release(pooled, described)
        })
    }
}

impl Transaction {
    /// Commits. After an error the outcome is unknown.
    ///
    /// Does not wait for a server that is no longer the primary: without its synchronous standby, it may never
    /// respond.
    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        let AgedConnection { raw, changes, .. } = &mut self.pooled.connection;
        let done = tokio::select! {
            done = with_timeout(RESPONSE_TIMEOUT, commit(raw)) => done,
            () = self.pool.shared.changes.more_than(*changes) => {
                Err(sqlx::Error::Io(io::Error::other("the database server changed during the commit")))
            }
        };
        self.pool.release(self.pooled, done)
    }
}

impl<'t> Executor<'t> for &'t mut Transaction {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        't: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.pool.prepare_query(query) {
            Ok(query) => self.pooled.connection.raw.fetch_many(query),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        't: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.pool.prepare_query(query) {
            Ok(query) => self.pooled.connection.raw.fetch_optional(query),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        't: 'e,
    {
        self.pooled.connection.raw.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        't: 'e,
    {
        self.pooled.connection.raw.describe(sql)
    }
}

/// Begins a transaction in one round trip. Fails if the server accepts no writes.
pub(super) async fn begin(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let rows = connection.fetch_all(BEGIN).await?;
    let read_only = rows.last().ok_or(sqlx::Error::RowNotFound)?.try_get::<&str, _>(0)?;
    if read_only == "on" { Err(read_only_error()) } else { Ok(()) }
}

/// Commits the transaction of a connection.
///
/// `statement_timeout` does not apply to the wait for a synchronous standby.
pub(super) async fn commit(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute("COMMIT").await.map(drop)
}

/// Returns the error of a server that accepts no writes.
pub(super) fn read_only_error() -> sqlx::Error {
    let message = "the server accepts no writes: it is a standby, or default_transaction_read_only is on";
    sqlx::Error::Io(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, message))
}

fn is_read_only(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::ReadOnlyFilesystem,
        // read_only_sql_transaction
        sqlx::Error::Database(error) => error.code().as_deref() == Some("25006"),
        _ => false,
    }
}

/// Returns `true` if an error concerns the server and not the statement: a shutdown or a broken connection.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn is_connection_error(code: Option<&str>) -> bool {
    code.is_none_or(|code| code.starts_with("57P") || code.starts_with("08"))
}

/// Runs `work`, which fails with [`sqlx::Error::PoolTimedOut`] after `limit`.
pub(super) async fn with_timeout<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(limit, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Begins a transaction and makes its settings, in one message. The last row is `on` if it is read-only.
///
/// `synchronous_commit` is left as the server has it unless it is `off`.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; \
    SET LOCAL statement_timeout = '5s'; \
    SET LOCAL idle_in_transaction_session_timeout = '10s'; \
    SELECT set_config('synchronous_commit', 'on', true) \
    WHERE current_setting('synchronous_commit') = 'off'; \
    SELECT current_setting('transaction_read_only')";

/// Timeout of the ping of an idle connection. Leaves time within [`ACQUIRE_TIMEOUT`] to connect anew.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// Timeout of a statement. Longer than `statement_timeout` in a transaction, where it only applies when the
/// server is unreachable.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(6);

/// Maximum age of a connection. Server processes use more memory over time.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);
