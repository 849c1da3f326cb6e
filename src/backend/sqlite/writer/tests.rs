//! The queue held up by a write that waits at a gate, and what then becomes of those behind it.

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
        // A connection that is dropped gives its lock back a moment later.
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
        let writer = WriteQueue::start(options.clone(), connection);
        Self { writer, options, _directory: directory }
    }

    /// A write that says when it has begun and then waits.
    async fn gate(&self, nth_waiting: usize) -> Gate {
        let (begun, has_begun) = oneshot::channel();
        let (open, opened) = oneshot::channel();
        let write = self.queue(nth_waiting, Durability::Relaxed, move |_| {
            Box::pin(async move {
                let _ = begun.send(());
                let _ = opened.await;
                Ok(())
            })
        });
        Gate { open, has_begun, write: write.await }
    }

    /// A gate that has begun: what is queued now waits behind it.
    async fn held_up(&self) -> Gate {
        let mut gate = self.gate(0).await;
        (&mut gate.has_begun).await.unwrap();
        gate
    }

    async fn note(&self, nth_waiting: usize, n: i64) -> JoinHandle<Result<(), StoreError>> {
        self.queue(nth_waiting, Durability::Relaxed, move |tx| Box::pin(insert(tx, n))).await
    }

    /// Hands a write in, and waits until that many of them are in the queue.
    async fn queue<T: Send + 'static>(
        &self,
        waiting: usize,
        durability: Durability,
        work: impl WriteFn<T>,
    ) -> JoinHandle<Result<T, StoreError>> {
        let writer = self.writer.clone();
        let task = tokio::spawn(async move { writer.write(durability, work).await });
        let queue = self.writer.queue().unwrap();
        while queue.max_capacity() - queue.capacity() < waiting {
            tokio::task::yield_now().await;
        }
        task
    }

    /// What another connection sees.
    async fn done(&self) -> Vec<i64> {
        let mut connection = self.options.connect().await.unwrap();
        sqlx::query_scalar("SELECT n FROM done ORDER BY n").fetch_all(&mut connection).await.unwrap()
    }
}

struct Gate {
    open: oneshot::Sender<()>,
    has_begun: oneshot::Receiver<()>,
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
    query.execute(tx).await.map(drop).map_err(StoreError::unavailable)
}

async fn synchronous(tx: &mut SqliteConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar("PRAGMA synchronous").fetch_one(tx).await.map_err(StoreError::unavailable)
}

#[tokio::test]
async fn one_flushed_write_has_those_beside_it_flushed() {
    let fixture = Fixture::new().await;
    for (beside, expected) in [(Durability::Relaxed, NORMAL), (Durability::Flushed, FULL)] {
        let gate = fixture.held_up().await;
        let relaxed = fixture.queue(1, Durability::Relaxed, |tx| Box::pin(synchronous(tx))).await;
        let beside = fixture.queue(2, beside, |tx| Box::pin(synchronous(tx))).await;
        gate.open().await;
        assert_eq!(relaxed.await.unwrap().unwrap(), expected);
        assert_eq!(beside.await.unwrap().unwrap(), expected);
    }
    let alone = fixture.writer.write(Durability::Relaxed, |tx| Box::pin(synchronous(tx))).await;
    assert_eq!(alone.unwrap(), NORMAL);
}

#[tokio::test]
async fn nobody_is_answered_before_the_commit() {
    let fixture = Fixture::new().await;
    let first = fixture.held_up().await;
    let noted = fixture.note(1, 1).await;
    let mut last = fixture.gate(2).await;
    first.open().await;
    (&mut last.has_begun).await.unwrap();
    assert!(!noted.is_finished(), "it shares a transaction that is still open");
    assert!(fixture.done().await.is_empty());
    last.open().await;
    noted.await.unwrap().unwrap();
    assert_eq!(fixture.done().await, [1]);
}

#[tokio::test]
async fn one_that_fails_undoes_nothing_of_the_others() {
    let fixture = Fixture::new().await;
    let gate = fixture.held_up().await;
    let before = fixture.note(1, 1).await;
    let failing = fixture.queue(2, Durability::Flushed, |tx| {
        Box::pin(async move {
            insert(tx, 2).await?;
            Err::<(), _>(StoreError::Conflict("email"))
        })
    });
    let failing = failing.await;
    let after = fixture.note(3, 3).await;
    gate.open().await;
    before.await.unwrap().unwrap();
    after.await.unwrap().unwrap();
    let failed = failing.await.unwrap();
    assert!(matches!(failed, Err(StoreError::Conflict("email"))), "{failed:?}");
    assert_eq!(fixture.done().await, [1, 3]);
}

#[tokio::test]
async fn who_has_gone_before_its_turn_is_left_out() {
    let fixture = Fixture::new().await;
    let gate = fixture.held_up().await;
    let gone = fixture.note(1, 1).await;
    let stayed = fixture.note(2, 2).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    gate.open().await;
    stayed.await.unwrap().unwrap();
    assert_eq!(fixture.done().await, [2]);
}

#[tokio::test]
async fn what_has_begun_runs_to_its_end() {
    let fixture = Fixture::new().await;
    let first = fixture.held_up().await;
    let noted = fixture.note(1, 1).await;
    let mut last = fixture.gate(2).await;
    first.open().await;
    (&mut last.has_begun).await.unwrap();
    noted.abort();
    assert!(noted.await.unwrap_err().is_cancelled());
    last.open().await;
    assert_eq!(fixture.done().await, [1]);
}

#[tokio::test]
async fn waiting_has_an_end() {
    let fixture = Fixture::new().await;
    let gate = fixture.held_up().await;
    tokio::time::pause();
    let waited = tokio::time::Instant::now();
    let many = (0..LONGEST_QUEUE + 10).map(|_| {
        let writer = fixture.writer.clone();
        async move { writer.write(Durability::Relaxed, |tx| Box::pin(insert(tx, 1))).await }
    });
    for answer in futures_util::future::join_all(many).await {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
    assert!(waited.elapsed() < 2 * ACQUIRE_TIMEOUT, "{:?}", waited.elapsed());
    tokio::time::resume();
    // The one that had begun is not given up.
    gate.open().await;
    fixture.writer.write(Durability::Relaxed, |tx| Box::pin(insert(tx, 2))).await.unwrap();
    assert_eq!(fixture.done().await, [2], "what was given up is not written after all");
}

#[tokio::test]
async fn a_locked_database_is_unavailable_until_it_is_free() {
    let fixture = Fixture::with_busy_timeout(Duration::from_millis(1)).await;
    let mut other = fixture.options.connect().await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let answer = fixture.writer.write(Durability::Relaxed, |tx| Box::pin(insert(tx, 1))).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    lock.rollback().await.unwrap();
    let level = fixture.writer.write(Durability::Relaxed, |tx| Box::pin(synchronous(tx))).await;
    assert_eq!(level.unwrap(), NORMAL);
    let level = fixture.writer.write(Durability::Flushed, |tx| Box::pin(synchronous(tx))).await;
    assert_eq!(level.unwrap(), FULL);
    assert!(fixture.done().await.is_empty());
}

#[tokio::test]
async fn a_panic_leaves_the_queue_running() {
    let fixture = Fixture::new().await;
    let panicking = fixture.writer.write::<(), _>(Durability::Flushed, |tx| {
        Box::pin(async move {
            insert(tx, 1).await?;
            panic!("on purpose");
        })
    });
    let answer = panicking.await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    fixture.writer.write(Durability::Relaxed, |tx| Box::pin(insert(tx, 2))).await.unwrap();
    assert_eq!(fixture.done().await, [2]);
}

#[tokio::test]
async fn closing_lets_what_is_queued_be_written_and_nothing_after_it() {
    let fixture = Fixture::new().await;
    let gate = fixture.held_up().await;
    let noted = fixture.note(1, 1).await;
    let writer = fixture.writer.clone();
    let closing = tokio::spawn(async move { writer.close().await });
    while fixture.writer.queue().is_some() {
        tokio::task::yield_now().await;
    }
    let late = fixture.writer.write(Durability::Relaxed, |tx| Box::pin(insert(tx, 2))).await;
    assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
    gate.open().await;
    noted.await.unwrap().unwrap();
    closing.await.unwrap();
    assert_eq!(fixture.done().await, [1]);
}
