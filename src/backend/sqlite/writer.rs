//! The one order of writes: a task that owns the connection that writes.
//!
//! Callers queue here. What waits together is written together: one transaction, in which each write
//! of several statements has a savepoint of its own, so that one that fails undoes nothing of the
//! others. (A single statement needs none, for one that fails undoes itself. Every command, also a
//! savepoint's, is a trip to SQLite's thread and back, and such trips are most of what a renewal costs.)
//! Nobody is answered before the commit.
//!
//! Relaxed writes alone are committed without waiting for the disk. A flushed one among them has the
//! transaction flushed, and with it all that was committed before, for the log is one file
//! (<https://sqlite.org/pragma.html#pragma_synchronous>: NORMAL and FULL under WAL).
//!
//! A write whose caller has gone before its turn is left out; one that has begun runs to its end.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::services::store::{ACQUIRE_TIMEOUT, StoreError};

/// Where writes are handed in. Clones share one queue.
#[derive(Clone, Debug)]
pub(super) struct WriteQueue {
    running: Arc<Mutex<Option<Running>>>,
}

#[derive(Debug)]
struct Running {
    queue: mpsc::Sender<Box<dyn Job>>,
    task: JoinHandle<()>,
}

impl WriteQueue {
    /// Starts the task. It writes over `connection`, or over another one made by `options` should
    /// that one fail.
    pub(super) fn start(options: SqliteConnectOptions, connection: SqliteConnection) -> Self {
        let (queue, jobs) = mpsc::channel(LONGEST_QUEUE);
        let open = WriterConnection { connection, commits: Durability::Flushed };
        let task = tokio::spawn(WriterTask { options, open: Some(open) }.run(jobs));
        Self { running: Arc::new(Mutex::new(Some(Running { queue, task }))) }
    }

    /// Has `work` run in a transaction that no one else writes beside, and returns once that is
    /// committed. An `Err` undoes what the work did.
    pub(super) async fn write<T, F>(&self, durability: Durability, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: WriteFn<T>,
    {
        self.enqueue(durability, WriteScope::Statements, work).await
    }

    /// As [`write`](Self::write), for work that is one statement.
    pub(super) async fn write_one<T, F>(&self, durability: Durability, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: WriteFn<T>,
    {
        self.enqueue(durability, WriteScope::Statement, work).await
    }

    async fn enqueue<T, F>(
        &self,
        durability: Durability,
        extent: WriteScope,
        work: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: WriteFn<T>,
    {
        let queue = self.queue().ok_or(WriteError::Closed)?;
        let (begun, mut has_begun) = oneshot::channel();
        let (answer, mut answered) = oneshot::channel();
        let job = Write { durability, extent, begun: Some(begun), work: Some(work), result: None, answer };
        let waiting = async {
            queue.send(Box::new(job)).await.map_err(|_| WriteError::Closed)?;
            (&mut answered).await.map_err(|_| WriteError::Closed)?
        };
        if let Ok(answer) = timeout(ACQUIRE_TIMEOUT, waiting).await {
            return answer;
        }
        // From here on it can't begin any more. If it has, the answer is worth waiting for.
        has_begun.close();
        has_begun.try_recv().map_err(|_| WriteError::Busy)?;
        answered.await.map_err(|_| WriteError::Closed)?
    }

    /// Lets what is queued be written, and nothing after it; then empties the write-ahead log into
    /// the file and closes the connection.
    pub(super) async fn close(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { queue, task }) = running {
            drop(queue);
            let _ = task.await;
        }
    }

    fn queue(&self) -> Option<mpsc::Sender<Box<dyn Job>>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|running| running.queue.clone())
    }
}

/// Durability of a write at the time it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Durability {
    /// A crash may undo the write. It is repaired by
    /// [`catch_up`](crate::services::store::SessionStore::catch_up) or repeated.
    Relaxed,
    /// The write is on disk. Used for writes that create or terminate access, or that cannot be repeated.
    Flushed,
}

/// How much a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteScope {
    Statement,
    Statements,
}

/// What a caller wants written.
pub(super) trait WriteFn<T>:
    for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static
{
}

impl<T, F> WriteFn<T> for F where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static
{
}

/// Why a write was not done.
#[derive(Clone, Debug, thiserror::Error)]
enum WriteError {
    #[error("too many writes are waiting")]
    Busy,
    #[error("the database is closed")]
    Closed,
    #[error("the write was not committed")]
    Failed(#[source] Arc<sqlx::Error>),
}

impl From<WriteError> for StoreError {
    fn from(error: WriteError) -> Self {
        Self::unavailable(error)
    }
}

/// A write in the queue, whatever it returns.
#[async_trait]
trait Job: Send {
    fn durability(&self) -> Durability;

    fn extent(&self) -> WriteScope;

    /// Whether its caller still waits for it. From here on the caller waits for the answer.
    fn begin(&mut self) -> bool;

    /// Does the work; `false` if it must be undone.
    async fn run(&mut self, tx: &mut SqliteConnection) -> bool;

    /// Tells the caller what it came to.
    fn answer(self: Box<Self>, committed: Result<(), WriteError>);
}

impl std::fmt::Debug for dyn Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("durability", &self.durability()).finish_non_exhaustive()
    }
}

struct Write<T, F> {
    durability: Durability,
    extent: WriteScope,
    begun: Option<oneshot::Sender<()>>,
    work: Option<F>,
    result: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

#[async_trait]
impl<T: Send, F: WriteFn<T>> Job for Write<T, F> {
    fn durability(&self) -> Durability {
        self.durability
    }

    fn extent(&self) -> WriteScope {
        self.extent
    }

    fn begin(&mut self) -> bool {
        self.begun.take().is_some_and(|begun| begun.send(()).is_ok())
    }

    async fn run(&mut self, tx: &mut SqliteConnection) -> bool {
        let Some(work) = self.work.take() else { return false };
        let result = work(tx).await;
        self.result.insert(result).is_ok()
    }

    fn answer(self: Box<Self>, committed: Result<(), WriteError>) {
        let Self { result, answer, .. } = *self;
        let result = match committed {
            Ok(()) => result,
            Err(error) => Some(Err(error.into())),
        };
        if let Some(result) = result {
            // The caller may have gone.
            let _ = answer.send(result);
        }
    }
}

/// The task.
struct WriterTask {
    options: SqliteConnectOptions,
    open: Option<WriterConnection>,
}

struct WriterConnection {
    connection: SqliteConnection,
    /// What its `synchronous` says.
    commits: Durability,
}

impl WriterTask {
    async fn run(mut self, mut queue: mpsc::Receiver<Box<dyn Job>>) {
        let mut jobs = Vec::with_capacity(MOST_TOGETHER);
        while queue.recv_many(&mut jobs, MOST_TOGETHER).await > 0 {
            self.write(std::mem::take(&mut jobs)).await;
        }
        self.close().await;
    }

    async fn write(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let written = AssertUnwindSafe(self.try_write(&mut jobs)).catch_unwind().await;
        let Ok(written) = written else {
            // A panic in one of them. What was begun is undone with the connection; the callers see
            // that there is no answer.
            self.open = None;
            return;
        };
        let written = written.map_err(|error| WriteError::Failed(Arc::new(error)));
        if written.is_err() {
            // In whatever state it is, the next one is fresh.
            self.open = None;
        }
        for job in jobs {
            job.answer(written.clone());
        }
    }

    async fn try_write(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), sqlx::Error> {
        let durability = jobs.iter().map(|job| job.durability()).max().unwrap_or(Durability::Flushed);
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(WriterConnection::new(&self.options).await?),
        };
        open.commit_as(durability).await?;
        // The write lock from the beginning: else it could fail half-way, because another process
        // has written meanwhile.
        let mut tx = open.connection.begin_with("BEGIN IMMEDIATE").await?;
        for job in jobs {
            if !job.begin() {
                continue;
            }
            if job.extent() == WriteScope::Statement {
                job.run(&mut tx).await;
                continue;
            }
            let mut savepoint = tx.begin().await?;
            if job.run(&mut savepoint).await {
                savepoint.commit().await?;
            } else {
                savepoint.rollback().await?;
            }
        }
        // Only this tells whether a write was done.
        tx.commit().await
    }

    async fn close(self) {
        let Some(WriterConnection { mut connection, .. }) = self.open else { return };
        // Fails harmlessly while another process reads: the log is then emptied by the last to leave.
        let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await;
        let _ = connection.close().await;
    }
}

impl WriterConnection {
    async fn new(options: &SqliteConnectOptions) -> Result<Self, sqlx::Error> {
        Ok(Self { connection: options.connect().await?, commits: Durability::Flushed })
    }

    /// Sets how the next transactions are committed. Within one, SQLite would refuse to.
    async fn commit_as(&mut self, durability: Durability) -> Result<(), sqlx::Error> {
        if self.commits != durability {
            let pragma = match durability {
                Durability::Flushed => "PRAGMA synchronous = FULL",
                Durability::Relaxed => "PRAGMA synchronous = NORMAL",
            };
            sqlx::query(pragma).execute(&mut self.connection).await?;
            self.commits = durability;
        }
        Ok(())
    }
}

/// How many writes share a transaction at most.
const MOST_TOGETHER: usize = 64;

/// How many writes may wait; more of them wait in vain, and fail in time.
const LONGEST_QUEUE: usize = 1024;

#[cfg(test)]
mod tests;
