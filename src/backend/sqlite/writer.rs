//! Write queue: a task that owns the write connection and commits queued writes in groups.
//!
//! Writes that wait at the same time share one transaction (group commit). A write of several
//! statements runs in a savepoint of its own, so that its failure does not roll back the others. A write
//! of a single statement needs none, because a failed statement undoes itself; every command is a round
//! trip to SQLite's thread, and these round trips are most of the cost of a refresh. Callers get their
//! results after the commit.
//!
//! A transaction of relaxed writes commits without waiting for the disk. One flushed write makes the
//! whole transaction flush, together with all earlier ones, because the write-ahead log is one file
//! (<https://sqlite.org/pragma.html#pragma_synchronous>: NORMAL and FULL under WAL).
//!
//! A write whose caller is dropped before its turn is skipped. One that has started runs to completion.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::file_identity::{DatabaseFiles, FileIdentityError};
use crate::services::store::{ACQUIRE_TIMEOUT, StoreError};

/// Handle to the write queue. Clones share one queue.
#[derive(Clone, Debug)]
pub(super) struct WriteQueue {
    running: Arc<Mutex<Option<Running>>>,
}

#[derive(Debug)]
struct Running {
    queue: mpsc::Sender<QueuedWrite>,
    task: JoinHandle<()>,
}

impl WriteQueue {
    /// Starts the writer task on `connection`. The task reconnects with `options` after a failure. `anchor`
    /// stays open as long as the task runs.
    pub(super) fn start(
        files: DatabaseFiles,
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        anchor: SqliteConnection,
    ) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_CAPACITY);
        let connection = WriterConnection { raw: connection, durability: Durability::Flushed };
        let task =
            tokio::spawn(WriterTask { files, options, connection: Some(connection), anchor }.run(jobs));
        Self { running: Arc::new(Mutex::new(Some(Running { queue, task }))) }
    }

    /// Runs `work` in a transaction and returns after its commit. An `Err` rolls back this write.
    pub(super) async fn write<T, F>(
        &self,
        durability: Durability,
        scope: WriteScope,
        work: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: WriteFn<T>,
    {
        let queue = self.queue().ok_or(WriteError::Closed)?;
        let (start_sender, mut start_receiver) = oneshot::channel();
        let (result_sender, mut result_receiver) = oneshot::channel();
        let start_sender = Some(start_sender);
        let job = Write { start_sender, work: Some(work), result: None, result_sender };
        let write = QueuedWrite { durability, scope, job: Box::new(job) };
        let wait = async {
            queue.send(write).await.map_err(|_| WriteError::Closed)?;
            (&mut result_receiver).await.map_err(|_| WriteError::Closed)?
        };
        if let Ok(result) = timeout(ACQUIRE_TIMEOUT, wait).await {
            return result;
        }
        // Closing the channel keeps the write from starting. If it has started, wait for its result.
        start_receiver.close();
        start_receiver.try_recv().map_err(|_| WriteError::Busy)?;
        result_receiver.await.map_err(|_| WriteError::Closed)?
    }

    /// Finishes the queued writes and refuses new ones, then checkpoints the write-ahead log and closes
    /// the connection.
    pub(super) async fn close(&self) {
        let running = self.running.lock().take();
        if let Some(Running { queue, task }) = running {
            drop(queue);
            let _ = task.await;
        }
    }

    fn queue(&self) -> Option<mpsc::Sender<QueuedWrite>> {
        let running = self.running.lock();
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

/// Extent of a write, which decides whether it needs a savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteScope {
    /// One statement.
    Statement,
    /// Several statements.
    Statements,
}

/// A closure that runs the statements of a write.
pub(super) trait WriteFn<T>:
    for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static
{
}

impl<T, F> WriteFn<T> for F where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static
{
}

/// Error of the write queue.
#[derive(Clone, Debug, thiserror::Error)]
enum WriteError {
    #[error("too many writes are waiting")]
    Busy,
    #[error("the database is closed")]
    Closed,
    #[error("a file of the database is gone")]
    FileGone(#[source] Arc<FileIdentityError>),
    #[error("the write was not committed")]
    Failed(#[source] Arc<sqlx::Error>),
}

impl From<WriteError> for StoreError {
    fn from(error: WriteError) -> Self {
        Self::unavailable(error)
    }
}

/// A write in the queue.
struct QueuedWrite {
    durability: Durability,
    scope: WriteScope,
    job: Box<dyn Job>,
}

/// A [`Write`] with its types erased.
#[async_trait]
trait Job: Send {
    /// Marks the write as started. Returns `false` if its caller has stopped waiting.
    fn start(&mut self) -> bool;

    /// Runs the statements. Returns `false` if they must be rolled back.
    async fn run(&mut self, tx: &mut SqliteConnection) -> bool;

    /// Sends the result to the caller.
    fn complete(self: Box<Self>, committed: Result<(), WriteError>);
}

struct Write<T, F> {
    start_sender: Option<oneshot::Sender<()>>,
    work: Option<F>,
    result: Option<Result<T, StoreError>>,
    result_sender: oneshot::Sender<Result<T, StoreError>>,
}

#[async_trait]
impl<T: Send, F: WriteFn<T>> Job for Write<T, F> {
    fn start(&mut self) -> bool {
        self.start_sender.take().is_some_and(|sender| sender.send(()).is_ok())
    }

    async fn run(&mut self, tx: &mut SqliteConnection) -> bool {
        let Some(work) = self.work.take() else { return false };
        let result = work(tx).await;
        self.result.insert(result).is_ok()
    }

    fn complete(self: Box<Self>, committed: Result<(), WriteError>) {
        let Self { result, result_sender, .. } = *self;
        let result = match committed {
            Ok(()) => result,
            Err(error) => Some(Err(error.into())),
        };
        if let Some(result) = result {
            // Fails if the caller was dropped.
            let _ = result_sender.send(result);
        }
    }
}

/// The state of the writer task.
struct WriterTask {
    files: DatabaseFiles,
    options: SqliteConnectOptions,
    connection: Option<WriterConnection>,
    /// Keeps SQLite from removing the write-ahead log while there is no other connection.
    anchor: SqliteConnection,
}

struct WriterConnection {
    raw: SqliteConnection,
    /// The durability that its `synchronous` pragma is set to.
    durability: Durability,
}

impl WriterTask {
    async fn run(mut self, mut queue: mpsc::Receiver<QueuedWrite>) {
        let mut writes = Vec::with_capacity(MAX_BATCH);
        while queue.recv_many(&mut writes, MAX_BATCH).await > 0 {
            self.write(std::mem::take(&mut writes)).await;
        }
        self.close().await;
    }

    async fn write(&mut self, mut writes: Vec<QueuedWrite>) {
        // A write to a file that is no longer at its path would be lost by the next start.
        if let Err(error) = self.files.check() {
            return complete(writes, Err(WriteError::FileGone(Arc::new(error))));
        }
        let outcome = AssertUnwindSafe(self.try_write(&mut writes)).catch_unwind().await;
        let Ok(result) = outcome else {
            // A job panicked. Dropping the connection rolls back the transaction; dropping the jobs
            // closes the channels of their callers.
            self.connection = None;
            return;
        };
        let committed = result.map_err(|error| WriteError::Failed(Arc::new(error)));
        if committed.is_err() {
            // The state of the connection is unknown: the next write opens a new one.
            self.connection = None;
        }
        complete(writes, committed);
    }

    async fn try_write(&mut self, writes: &mut [QueuedWrite]) -> Result<(), sqlx::Error> {
        let durability = writes.iter().map(|write| write.durability).max().unwrap_or(Durability::Flushed);
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(WriterConnection::new(&self.options).await?),
        };
        connection.set_durability(durability).await?;
        // IMMEDIATE takes the write lock at once. A deferred transaction fails if another process has
        // written between its first read and its first write.
        let mut tx = connection.raw.begin_with("BEGIN IMMEDIATE").await?;
        for QueuedWrite { scope, job, .. } in writes {
            if !job.start() {
                continue;
            }
            if *scope == WriteScope::Statement {
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
        tx.commit().await
    }

    async fn close(self) {
        if let Some(WriterConnection { mut raw, .. }) = self.connection {
            // Fails while another process reads. The last process to close the database then checkpoints.
            let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut raw).await;
            let _ = raw.close().await;
        }
        let _ = self.anchor.close().await;
    }
}

/// Sends the results to the callers.
fn complete(writes: Vec<QueuedWrite>, committed: Result<(), WriteError>) {
    for write in writes {
        write.job.complete(committed.clone());
    }
}

impl WriterConnection {
    async fn new(options: &SqliteConnectOptions) -> Result<Self, sqlx::Error> {
        Ok(Self { raw: options.connect().await?, durability: Durability::Flushed })
    }

    /// Sets the durability of the next transactions. SQLite refuses the pragma within a transaction.
    async fn set_durability(&mut self, durability: Durability) -> Result<(), sqlx::Error> {
        if self.durability != durability {
            let pragma = match durability {
                Durability::Flushed => "PRAGMA synchronous = FULL",
                Durability::Relaxed => "PRAGMA synchronous = NORMAL",
            };
            sqlx::query(pragma).execute(&mut self.raw).await?;
            self.durability = durability;
        }
        Ok(())
    }
}

/// Maximum number of writes in one transaction.
const MAX_BATCH: usize = 64;

/// Capacity of the queue. Further writes wait for a place until they time out.
const QUEUE_CAPACITY: usize = 1024;

#[cfg(test)]
mod tests;
