//! Connection pool.
//!
//! A refresh is one statement on one row, so round trips dominate its cost. sqlx's pool adds two: a ping
//! before it hands out a connection and, without a way to turn it off, another one on release. The second
//! ping has no timeout, so that a connection cut silently in use would occupy its place for as long as
//! TCP retransmits, about 15 minutes.
//!
//! This pool reuses a connection only after its statement or transaction has succeeded. After anything
//! else (an error, a dropped caller) it closes the connection. An idle connection is pinged before use,
//! with a short timeout. If a connection fails in use, the caller gets the error; statements are never
//! retried.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{ConnectOptions, Connection, Describe, Either, Execute, Executor, Postgres, SqlStr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

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
    options: PgConnectOptions,
    settings: &'static [&'static str],
    idle_trust: Duration,
    max_connections: u32,
    permits: Arc<Semaphore>,
    /// A stack, so that unused connections age at the bottom.
    idle: Mutex<Vec<IdleConnection>>,
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
}

/// A connection in use. Closed on drop unless it is released.
#[derive(Debug)]
struct PooledConnection {
    connection: AgedConnection,
    _permit: OwnedSemaphorePermit,
}

/// A transaction. Dropping it closes the connection, which rolls the transaction back.
#[derive(Debug)]
pub(super) struct Transaction {
    pooled: PooledConnection,
    pool: Pool,
}

impl Pool {
    /// Creates a pool of at most `max_connections` connections, established on demand.
    ///
    /// Each connection runs the statements `settings` first. A connection idle for less than `idle_trust`
    /// is used without a ping; if it is broken, the caller gets an error.
    pub(super) fn new(
        options: PgConnectOptions,
        max_connections: u32,
        settings: &'static [&'static str],
        idle_trust: Duration,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(max_connections as usize));
        let idle = Mutex::default();
        Self { shared: Arc::new(Shared { options, settings, idle_trust, max_connections, permits, idle }) }
    }

    /// Returns the connect options.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.shared.options
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        let mut pooled = self.acquire().await?;
        match with_timeout(RESPONSE_TIMEOUT, pooled.connection.raw.execute("BEGIN")).await {
            Ok(_) => Ok(Transaction { pooled, pool: self.clone() }),
            Err(error) => self.release(pooled, Err(error)),
        }
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
            Ok(PooledConnection { connection: self.connection().await?, _permit: permit })
        })
        .await
    }

    async fn connection(&self) -> Result<AgedConnection, sqlx::Error> {
        if let Some(mut idle) = self.pop_idle() {
            let is_alive = idle.since.elapsed() < self.shared.idle_trust
                || with_timeout(PING_TIMEOUT, idle.connection.raw.ping()).await.is_ok();
            if is_alive {
                return Ok(idle.connection);
            }
            // The other connections have been idle for longer. Pinging them one by one could cost a
            // caller one timeout for each.
            drop(self.take_idle());
        }
        let mut raw = self.shared.options.connect().await?;
        for statement in self.shared.settings {
            raw.execute(*statement).await?;
        }
        Ok(AgedConnection { raw, created_at: Instant::now() })
    }

    /// Returns the connection to the pool if `result` is `Ok`, otherwise closes it.
    fn release<T>(&self, pooled: PooledConnection, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        match &result {
            Ok(_) if pooled.connection.created_at.elapsed() < MAX_LIFETIME => {
                self.idle().push(IdleConnection { connection: pooled.connection, since: Instant::now() });
            }
            Ok(_) => {}
            // The server is available and refused only this statement.
            Err(sqlx::Error::Database(error)) if !is_connection_error(error.code().as_deref()) => {}
            // The server may be gone or no longer be the primary, so the idle connections are suspect.
            Err(_) => drop(self.take_idle()),
        }
        result
    }

    fn pop_idle(&self) -> Option<IdleConnection> {
        self.idle().pop()
    }

    fn take_idle(&self) -> Vec<IdleConnection> {
        std::mem::take(&mut *self.idle())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<IdleConnection>> {
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner)
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
        let results = async move {
            let mut pooled = pool.acquire().await?;
            let steps = pooled.connection.raw.fetch_many(query).try_collect::<Vec<_>>();
            let steps = with_timeout(RESPONSE_TIMEOUT, steps).await;
            let steps = pool.release(pooled, steps)?;
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
        Box::pin(async move {
            let mut pooled = pool.acquire().await?;
            let row = with_timeout(RESPONSE_TIMEOUT, pooled.connection.raw.fetch_optional(query)).await;
            pool.release(pooled, row)
        })
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
    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        let done = with_timeout(RESPONSE_TIMEOUT, self.pooled.connection.raw.execute("COMMIT")).await;
        self.pool.release(self.pooled, done.map(drop))
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.pooled.connection.raw
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.pooled.connection.raw
    }
}

/// Returns `true` if an error concerns the server and not the statement: a shutdown, a broken connection
/// or a read-only server. <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn is_connection_error(code: Option<&str>) -> bool {
    code.is_none_or(|code| code.starts_with("57P") || code.starts_with("08") || code == "25006")
}

/// Runs `work`, which fails with [`sqlx::Error::PoolTimedOut`] after `limit`.
pub(super) async fn with_timeout<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(limit, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Session settings of every connection.
///
/// They are set by `SET`, because connection poolers refuse start-up parameters. `synchronous_commit` is
/// left as the server has it unless it is `off`.
pub(super) const SESSION_SETTINGS: &str = "SET statement_timeout = '5s'; \
    SET idle_in_transaction_session_timeout = '10s'; \
    SET default_transaction_isolation = 'read committed'; \
    SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') = 'off'";

/// Additional setting of connections whose writes a crash may undo.
pub(super) const ASYNC_COMMIT: &str = "SET synchronous_commit = off";

/// Timeout of the ping of an idle connection. Leaves time within [`ACQUIRE_TIMEOUT`] to connect anew.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// Timeout of a statement. Longer than the server's `statement_timeout`, so that it only applies when the
/// server is unreachable.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(6);

/// Maximum age of a connection. Server processes use more memory over time.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);
