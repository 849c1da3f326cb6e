//! Tests of the queue while a write blocks it at a gate.

use std::time::Duration;

use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use tempfile::TempDir;

use super::*;

const FULL: i64 = 2;
const NORMAL: i64 = 1;

struct Fixture {
    writer: WriteQueue,
    options: SqliteConnectOptions,
    _directory: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        // A dropped connection releases its lock asynchronously.
        Self::with_busy_timeout(ACQUIRE_TIMEOUT).await
    }

    async fn with_busy_timeout(busy_timeout: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("test.db"))
            .create_if_missing(true)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(busy_timeout);
        let mut connection = options.clone().journal_mode(SqliteJournalMode::Wal).connect().await.unwrap();
        sqlx::query("CREATE TABLE done (n INTEGER)").execute(&mut connection).await.unwrap();
        let files = DatabaseFiles::read(&directory.path().join("test.db")).unwrap();
        let anchor = options.connect().await.unwrap();
        let writer = WriteQueue::start(files, options.clone(), connection, anchor);
        Self { writer, options, _directory: directory }
    }

    /// Queues a write that signals its start and then blocks until the gate opens.
    async fn gate(&self, nth_waiting: usize) -> Gate {
        let (start, started) = oneshot::channel();
        let (open, opened) = oneshot::channel();
        let write = self.queue(nth_waiting, Durability::Relaxed, move |_| {
            Box::pin(async move {
                let _ = start.send(());
                let _ = opened.await;
                Ok(())
            })
        });
        Gate { open, started, write: write.await }
    }

    /// Starts a gate, behind which later writes wait.
    async fn closed_gate(&self) -> Gate {
        let mut gate = self.gate(0).await;
        (&mut gate.started).await.unwrap();
        gate
    }

    async fn queue_insert(&self, nth_waiting: usize, n: i64) -> JoinHandle<Result<(), StoreError>> {
        self.queue(nth_waiting, Durability::Relaxed, move |tx| Box::pin(insert(tx, n))).await
    }

    /// Queues a write and waits until the queue holds `waiting` writes.
    async fn queue<T: Send + 'static>(
        &self,
        waiting: usize,
        durability: Durability,
        work: impl WriteFn<T>,
    ) -> JoinHandle<Result<T, StoreError>> {
        let writer = self.writer.clone();
        let task = tokio::spawn(async move { writer.write(durability, WriteScope::Statements, work).await });
        let queue = self.writer.queue().unwrap();
        while queue.max_capacity() - queue.capacity() < waiting {
            tokio::task::yield_now().await;
        }
        task
    }

    async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl WriteFn<T>,
    ) -> Result<T, StoreError> {
        self.writer.write(durability, WriteScope::Statements, work).await
    }

    /// Queues an insert of 1, followed by a gate that holds their transaction open.
    async fn insert_before_gate(&self) -> (JoinHandle<Result<(), StoreError>>, Gate) {
        let first = self.closed_gate().await;
        let write = self.queue_insert(1, 1).await;
        let mut last = self.gate(2).await;
        first.open().await;
        (&mut last.started).await.unwrap();
        (write, last)
    }

    /// Returns the rows that another connection sees.
    async fn rows(&self) -> Vec<i64> {
        let mut connection = self.options.connect().await.unwrap();
        sqlx::query_scalar("SELECT n FROM done ORDER BY n").fetch_all(&mut connection).await.unwrap()
    }
}

struct Gate {
    open: oneshot::Sender<()>,
    started: oneshot::Receiver<()>,
    write: JoinHandle<Result<(), StoreError>>,
}

impl Gate {
    async fn open(self) {
        self.open.send(()).unwrap();
        self.write.await.unwrap().unwrap();
    }
}

async fn insert(tx: &mut SqliteConnection, n: i64) -> Result<(), StoreError> {
    let query = sqlx::query("INSERT INTO done VALUES ($1)").bind(n);
    query.execute(tx).await?;
    Ok(())
}

async fn synchronous(tx: &mut SqliteConnection) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("PRAGMA synchronous").fetch_one(tx).await?)
}

#[tokio::test]
async fn flushed_write_flushes_its_transaction() {
    let fixture = Fixture::new().await;
    for (beside, expected) in [(Durability::Relaxed, NORMAL), (Durability::Flushed, FULL)] {
        let gate = fixture.closed_gate().await;
        let relaxed = fixture.queue(1, Durability::Relaxed, |tx| Box::pin(synchronous(tx))).await;
        let beside = fixture.queue(2, beside, |tx| Box::pin(synchronous(tx))).await;
        gate.open().await;
        assert_eq!(relaxed.await.unwrap().unwrap(), expected);
        assert_eq!(beside.await.unwrap().unwrap(), expected);
    }
    let alone = fixture.write(Durability::Relaxed, |tx| Box::pin(synchronous(tx))).await;
    assert_eq!(alone.unwrap(), NORMAL);
}

#[tokio::test]
async fn results_arrive_after_the_commit() {
    let fixture = Fixture::new().await;
    let (write, last) = fixture.insert_before_gate().await;
    assert!(!write.is_finished(), "its transaction is still open");
    assert!(fixture.rows().await.is_empty());
    last.open().await;
    write.await.unwrap().unwrap();
    assert_eq!(fixture.rows().await, [1]);
}

#[tokio::test]
async fn failed_write_does_not_roll_back_others() {
    let fixture = Fixture::new().await;
    let gate = fixture.closed_gate().await;
    let before = fixture.queue_insert(1, 1).await;
    let failing = fixture.queue(2, Durability::Flushed, |tx| {
        Box::pin(async move {
            insert(tx, 2).await?;
            Err::<(), _>(StoreError::Conflict("email"))
        })
    });
    let failing = failing.await;
    let after = fixture.queue_insert(3, 3).await;
    gate.open().await;
    before.await.unwrap().unwrap();
    after.await.unwrap().unwrap();
    let failed = failing.await.unwrap();
    assert!(matches!(failed, Err(StoreError::Conflict("email"))), "{failed:?}");
    assert_eq!(fixture.rows().await, [1, 3]);
}

#[tokio::test]
async fn write_of_dropped_caller_is_skipped() {
    let fixture = Fixture::new().await;
    let gate = fixture.closed_gate().await;
    let gone = fixture.queue_insert(1, 1).await;
    let stayed = fixture.queue_insert(2, 2).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    gate.open().await;
    stayed.await.unwrap().unwrap();
    assert_eq!(fixture.rows().await, [2]);
}

#[tokio::test]
async fn started_write_completes_after_its_caller_is_dropped() {
    let fixture = Fixture::new().await;
    let (write, last) = fixture.insert_before_gate().await;
    write.abort();
    assert!(write.await.unwrap_err().is_cancelled());
    last.open().await;
    assert_eq!(fixture.rows().await, [1]);
}

#[tokio::test]
async fn waiting_writes_time_out() {
    let fixture = Fixture::new().await;
    let gate = fixture.closed_gate().await;
    tokio::time::pause();
    let waited = tokio::time::Instant::now();
    let many =
        (0..QUEUE_CAPACITY + 10).map(|_| fixture.write(Durability::Relaxed, |tx| Box::pin(insert(tx, 1))));
    for result in futures_util::future::join_all(many).await {
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    }
    assert!(waited.elapsed() < 2 * ACQUIRE_TIMEOUT, "{:?}", waited.elapsed());
    tokio::time::resume();
    // The write that has started does not time out.
    gate.open().await;
    fixture.write(Durability::Relaxed, |tx| Box::pin(insert(tx, 2))).await.unwrap();
    assert_eq!(fixture.rows().await, [2], "a write that timed out is not run later");
}

#[tokio::test]
async fn locked_database_is_unavailable_until_unlocked() {
    let fixture = Fixture::with_busy_timeout(Duration::from_millis(1)).await;
    let mut other = fixture.options.connect().await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let result = fixture.write(Durability::Relaxed, |tx| Box::pin(insert(tx, 1))).await;
    assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    lock.rollback().await.unwrap();
    let level = fixture.write(Durability::Relaxed, |tx| Box::pin(synchronous(tx))).await;
    assert_eq!(level.unwrap(), NORMAL);
    let level = fixture.write(Durability::Flushed, |tx| Box::pin(synchronous(tx))).await;
    assert_eq!(level.unwrap(), FULL);
    assert!(fixture.rows().await.is_empty());
}

#[tokio::test]
async fn panic_does_not_stop_the_queue() {
    let fixture = Fixture::new().await;
    let write = fixture.write::<()>(Durability::Flushed, |tx| {
        Box::pin(async move {
            insert(tx, 1).await?;
            panic!("on purpose");
        })
    });
    let result = write.await;
    assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    fixture.write(Durability::Relaxed, |tx| Box::pin(insert(tx, 2))).await.unwrap();
    assert_eq!(fixture.rows().await, [2]);
}

#[tokio::test]
async fn close_finishes_queued_writes_and_refuses_new_ones() {
    let fixture = Fixture::new().await;
    let gate = fixture.closed_gate().await;
    let write = fixture.queue_insert(1, 1).await;
    let writer = fixture.writer.clone();
    let closing = tokio::spawn(async move { writer.close().await });
    while fixture.writer.queue().is_some() {
        tokio::task::yield_now().await;
    }
    let late = fixture.write(Durability::Relaxed, |tx| Box::pin(insert(tx, 2))).await;
    assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
    gate.open().await;
    write.await.unwrap().unwrap();
    closing.await.unwrap();
    assert_eq!(fixture.rows().await, [1]);
}
