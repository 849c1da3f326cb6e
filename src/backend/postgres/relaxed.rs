//! Connections for writes that a crash may undo: they commit without waiting for the disk, nor for
//! a standby.
//!
//! Renewals come here. Each is one statement on one row, so what surrounds it is what it costs, and
//! sqlx's pool would ask the server twice more: before it hands a connection out and, with no way to
//! turn it off, when it takes one back. Here a connection is taken back only after its statement has
//! ended well; whatever else happened to it (an error, a caller that went away), it is closed. One
//! that has lain idle is asked before its use; one that dies in use is an error to its caller, and
//! nothing is ever sent again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::query::{Query, QueryAs};
use sqlx::{ConnectOptions, Connection, Executor, FromRow, Postgres};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::set_limits;
use crate::services::store::{ACQUIRE_TIMEOUT, StoreError};

/// The connections. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Relaxed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: PgConnectOptions,
    connections: u32,
    permits: Semaphore,
    /// The one used last goes first, so that the others can grow idle and be found out.
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: PgConnection,
    since: Instant,
}

/// A connection in use. Dropped, it is closed.
struct Lane<'a> {
    connection: PgConnection,
    _permit: SemaphorePermit<'a>,
}

impl Relaxed {
    /// At most `connections`, each made when it is first needed.
    pub(super) fn new(options: PgConnectOptions, connections: u32) -> Self {
        let permits = Semaphore::new(connections as usize);
        let shared = Shared { options, connections, permits, idle: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Runs a statement. Returns its one row, if there is one.
    pub(super) async fn fetch_optional<O>(
        &self,
        query: QueryAs<'_, Postgres, O, PgArguments>,
    ) -> Result<Option<O>, StoreError>
    where
        O: Send + Unpin + for<'r> FromRow<'r, PgRow>,
    {
        let mut lane = self.acquire().await?;
        let answer = within(ANSWER_TIMEOUT, query.fetch_optional(&mut lane.connection)).await;
        self.take_back(lane, answer)
    }

    /// Runs a statement that returns no rows.
    pub(super) async fn execute(&self, query: Query<'_, Postgres, PgArguments>) -> Result<(), StoreError> {
        let mut lane = self.acquire().await?;
        let answer = within(ANSWER_TIMEOUT, query.execute(&mut lane.connection)).await;
        self.take_back(lane, answer.map(drop))
    }

    /// Closes the connections, once they are idle.
    pub(super) async fn close(&self) {
        let all = self.shared.permits.acquire_many(self.shared.connections).await;
        self.shared.permits.close();
        drop(all);
        for idle in self.take_idle() {
            let _ = idle.connection.close().await;
        }
    }

    async fn acquire(&self) -> Result<Lane<'_>, StoreError> {
        let lane = within(ACQUIRE_TIMEOUT, async {
            let permit = self.shared.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
            Ok(Lane { connection: self.connection().await?, _permit: permit })
        });
        lane.await.map_err(StoreError::unavailable)
    }

    async fn connection(&self) -> Result<PgConnection, sqlx::Error> {
        while let Some(mut idle) = self.latest() {
            if idle.since.elapsed() < TRUSTED || idle.connection.ping().await.is_ok() {
                return Ok(idle.connection);
            }
        }
        let mut connection = self.shared.options.connect().await?;
        set_limits(&mut connection).await?;
        connection.execute("SET synchronous_commit = off").await?;
        Ok(connection)
    }

    fn take_back<T>(&self, lane: Lane<'_>, answer: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        match answer {
            Ok(answer) => {
                self.idle().push(Idle { connection: lane.connection, since: Instant::now() });
                Ok(answer)
            }
            Err(error) => {
                // Perhaps the server went away, or is the primary no more: then the others are of as
                // little use.
                drop(self.take_idle());
                Err(StoreError::unavailable(error))
            }
        }
    }

    fn latest(&self) -> Option<Idle> {
        self.idle().pop()
    }

    fn take_idle(&self) -> Vec<Idle> {
        std::mem::take(&mut *self.idle())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(limit, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// How long an idle connection is taken to be alive.
const TRUSTED: Duration = Duration::from_secs(1);

/// How long a statement is waited for: the server itself gives up before that, unless it can't be
/// reached any more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
