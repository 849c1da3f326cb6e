//! Connections that are shared.
//!
//! A renewal is one statement on one row, so what surrounds it is what it costs, and sqlx's pool
//! would ask the server twice more: before it hands a connection out and, with no way to turn it off,
//! when it takes one back. That second question it asks without a limit: each connection that was cut
//! silently in use would be a place lost for as long as TCP goes on trying, a quarter of an hour.
//!
//! Here a connection is taken back only after its statement or transaction has ended well; whatever
//! else happened to it (an error, a caller that went away), it is closed. One that has lain idle is
//! asked before its use, for a moment only; one that dies in use is an error to its caller, and
//! nothing is ever sent again.

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

/// The connections. Clones share them.
///
/// As an executor it runs each statement on one of them, and reads the whole answer.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: PgConnectOptions,
    settings: &'static [&'static str],
    trusted: Duration,
    connections: u32,
    permits: Arc<Semaphore>,
    /// The one used last goes first, so that the others can grow idle and be found out.
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: AgedConnection,
    since: Instant,
}

#[derive(Debug)]
struct AgedConnection {
    raw: PgConnection,
    at: Instant,
}

/// A connection in use. Dropped, it is closed.
#[derive(Debug)]
struct PooledConnection {
    connection: AgedConnection,
    _permit: OwnedSemaphorePermit,
}

/// A transaction. Dropped, it is undone, for its connection is closed.
#[derive(Debug)]
pub(super) struct Transaction {
    lane: PooledConnection,
    pool: Pool,
}

impl Pool {
    /// At most `connections`, each made when it is first needed, and set up with these statements.
    /// One that has lain idle for no longer than `trusted` is taken to be alive: should it not be, its
    /// caller gets an error.
    pub(super) fn new(
        options: PgConnectOptions,
        connections: u32,
        settings: &'static [&'static str],
        trusted: Duration,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(connections as usize));
        let shared = Shared { options, settings, trusted, connections, permits, idle: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// What the connections are made with.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.shared.options
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        let mut lane = self.acquire().await?;
        match with_timeout(ANSWER_TIMEOUT, lane.connection.raw.execute("BEGIN")).await {
            Ok(_) => Ok(Transaction { lane, pool: self.clone() }),
            Err(error) => self.release(lane, Err(error)),
        }
    }

    /// Closes the connections, once they are idle.
    pub(super) async fn close(&self) {
        let all = self.shared.permits.acquire_many(self.shared.connections).await;
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
            let lives = idle.since.elapsed() < self.shared.trusted
                || with_timeout(PING_TIMEOUT, idle.connection.raw.ping()).await.is_ok();
            if lives {
                return Ok(idle.connection);
            }
            // The others have lain there for longer. Were they asked one after the other, each that was
            // cut silently would cost a caller its patience.
            drop(self.take_idle());
        }
        let mut raw = self.shared.options.connect().await?;
        for statement in self.shared.settings {
            raw.execute(*statement).await?;
        }
        Ok(AgedConnection { raw, at: Instant::now() })
    }

    fn release<T>(&self, lane: PooledConnection, answer: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        match &answer {
            Ok(_) if lane.connection.at.elapsed() < LIFETIME => {
                self.idle().push(Idle { connection: lane.connection, since: Instant::now() });
            }
            Ok(_) => {}
            // The server is there, and only this statement is refused.
            Err(sqlx::Error::Database(error)) if !is_connection_error(error.code().as_deref()) => {}
            // Perhaps the server went away, or is the primary no more: then the others are of as
            // little use.
            Err(_) => drop(self.take_idle()),
        }
        answer
    }

    fn pop_idle(&self) -> Option<Idle> {
        self.idle().pop()
    }

    fn take_idle(&self) -> Vec<Idle> {
        std::mem::take(&mut *self.idle())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
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
        let answer = async move {
            let mut lane = pool.acquire().await?;
            let steps = lane.connection.raw.fetch_many(query).try_collect::<Vec<_>>();
            let steps = with_timeout(ANSWER_TIMEOUT, steps).await;
            let steps = pool.release(lane, steps)?;
            Ok::<_, sqlx::Error>(stream::iter(steps.into_iter().map(Ok)))
        };
        stream::once(answer).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        Box::pin(async move {
            let mut lane = pool.acquire().await?;
            let row = with_timeout(ANSWER_TIMEOUT, lane.connection.raw.fetch_optional(query)).await;
            pool.release(lane, row)
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
            let mut lane = pool.acquire().await?;
            let statement =
                with_timeout(ANSWER_TIMEOUT, lane.connection.raw.prepare_with(sql, parameters)).await;
            pool.release(lane, statement)
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move {
            let mut lane = pool.acquire().await?;
            let described = with_timeout(ANSWER_TIMEOUT, lane.connection.raw.describe(sql)).await;
            pool.release(lane, described)
        })
    }
}

impl Transaction {
    /// Commits. After an error it is not known whether it was committed.
    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        let done = with_timeout(ANSWER_TIMEOUT, self.lane.connection.raw.execute("COMMIT")).await;
        self.pool.release(self.lane, done.map(drop))
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.lane.connection.raw
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.lane.connection.raw
    }
}

/// Whether an error is about the server and not the statement: it shuts down, the connection is broken,
/// or it may only be read from. <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn is_connection_error(code: Option<&str>) -> bool {
    code.is_none_or(|code| code.starts_with("57P") || code.starts_with("08") || code == "25006")
}

async fn with_timeout<T>(
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

/// How long an idle connection has to show that it is alive: so long that the caller's patience is
/// enough for making another one.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a statement is waited for: the server itself gives up before that, unless it can't be
/// reached any more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);

/// How long a connection is used, for the server's share of it grows with time.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
