//! Thread pool for CPU-bound work.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::{fmt, io, thread};

use metrics::{Counter, counter};
use tokio::sync::oneshot;

use super::error::PasswordError;
use super::queue::{Caller, Job, Queue, Respond};

/// A fixed number of threads, each running one job at a time. They exit when the pool is dropped.
pub(super) struct Pool {
    queue: Arc<Queue>,
    refused: Counter,
}

impl Pool {
    /// Starts `workers` threads and allows `queue` further callers to wait.
    pub(super) fn new(workers: usize, queue: usize) -> io::Result<Self> {
        let queue = Queue::new(workers.saturating_add(queue));
        let pool = Self { queue, refused: counter!("sekisho_password_jobs_refused_total") };
        for _ in 0..workers {
            let queue = Arc::clone(&pool.queue);
            let builder = thread::Builder::new().name("sekisho-password".to_owned());
            builder.spawn(move || worker_loop(&queue))?;
        }
        Ok(pool)
    }

    /// Runs `work` on one of the threads. Dropping the future leaves the queue at once; a job that has
    /// started runs to completion.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        caller: Caller,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let (result_sender, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            let value = work();
            let respond: Respond = Box::new(move || _ = result_sender.send(value));
            respond
        });
        let busy = || {
            self.refused.increment(1);
            PasswordError::Busy
        };
        let ticket = self.queue.push(caller, job).ok_or_else(busy)?;
        // The sender is dropped by a panic, and with a job that lost its place.
        result.await.map_err(|_| if ticket.is_displaced() { busy() } else { PasswordError::Stopped })
    }

    /// Records a wrong password, which defers later jobs of the caller.
    pub(super) fn record_failure(&self, caller: Caller) {
        self.queue.record_failure(caller);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("free_slots", &self.queue.free()).finish_non_exhaustive()
    }
}

fn worker_loop(queue: &Queue) {
    lower_priority();
    while let Some((caller, job)) = queue.pop() {
        // The panic hook has reported a panic, and the channel of the caller is closed.
        let respond = panic::catch_unwind(AssertUnwindSafe(job));
        // Before the response, so that the caller sees the free capacity.
        queue.finish(caller);
        if let Ok(respond) = respond {
            respond();
        }
    }
}

/// Lowers the priority of this thread below that of the worker threads that serve requests.
fn lower_priority() {
    // On Linux `nice` applies to the calling thread; POSIX applies it to the process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!(%error, "cannot lower the priority of a password thread");
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::mpsc;

    use super::*;
    use crate::services::test_support::poll_once;

    async fn run_when_free(pool: &Pool) -> i32 {
        loop {
            match pool.run(Caller::Operator, || 2).await {
                Err(PasswordError::Busy) => tokio::task::yield_now().await,
                result => return result.unwrap(),
            }
        }
    }

    #[tokio::test]
    async fn full_queue_is_busy_and_runtime_is_not_blocked() {
        let pool = Pool::new(1, 1).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let (start, started) = oneshot::channel();
        let mut first = pin!(pool.run(Caller::Operator, move || {
            start.send(()).unwrap();
            gate.recv().unwrap();
            1
        }));
        assert!(poll_once(first.as_mut()).is_pending());
        started.await.unwrap();
        let mut second = pin!(pool.run(Caller::Operator, || 2));
        assert!(poll_once(second.as_mut()).is_pending());

        assert!(matches!(pool.run(Caller::Operator, || 3).await, Err(PasswordError::Busy)));

        // This runtime has one thread, which the job must not block.
        let output = tokio::spawn(async { "not blocked" }).await.unwrap();
        assert_eq!(output, "not blocked");
        assert!(poll_once(first.as_mut()).is_pending() && poll_once(second.as_mut()).is_pending());

        open.send(()).unwrap();
        assert_eq!(first.await.unwrap(), 1);
        assert_eq!(second.await.unwrap(), 2);
        assert_eq!(pool.run(Caller::Operator, || 4).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn dropped_caller_releases_its_slot() {
        let pool = Pool::new(1, 1).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let mut first = pin!(pool.run(Caller::Operator, move || gate.recv().is_ok()));
        assert!(poll_once(first.as_mut()).is_pending());
        let mut dropped = Box::pin(pool.run(Caller::Operator, || panic!("must not run")));
        assert!(poll_once(dropped.as_mut()).is_pending());
        drop(dropped);

        let mut second = pin!(pool.run(Caller::Operator, || 2));
        assert!(poll_once(second.as_mut()).is_pending(), "the queue has a free slot");
        open.send(()).unwrap();
        assert!(first.await.unwrap());
        assert_eq!(second.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn job_of_dropped_caller_occupies_its_thread_until_it_completes() {
        let pool = Pool::new(1, 0).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let (start, started) = oneshot::channel();
        let (finish, finished) = oneshot::channel::<()>();
        let mut first = Box::pin(pool.run(Caller::Operator, move || {
            start.send(()).unwrap();
            gate.recv().unwrap();
            // Dropped with the job, before the slot is released.
            drop(finish);
        }));
        assert!(poll_once(first.as_mut()).is_pending());
        started.await.unwrap();
        drop(first);

        assert!(matches!(pool.run(Caller::Operator, || ()).await, Err(PasswordError::Busy)));
        open.send(()).unwrap();
        assert!(finished.await.is_err());
        assert_eq!(run_when_free(&pool).await, 2);
    }

    #[tokio::test]
    async fn panic_keeps_thread_and_slot_usable() {
        let pool = Pool::new(1, 0).unwrap();
        let panicked: Result<(), PasswordError> = pool.run(Caller::Operator, || panic!("on purpose")).await;
        assert!(matches!(panicked, Err(PasswordError::Stopped)));
        // Unwinding releases the slot, possibly after the caller has its error.
        assert_eq!(run_when_free(&pool).await, 2);
    }

    /// A7: a full queue refused every caller, however new.
    #[tokio::test]
    async fn displaced_job_is_busy() {
        let pool = Pool::new(1, 1).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let mut first = pin!(pool.run(Caller::Operator, move || gate.recv().is_ok()));
        assert!(poll_once(first.as_mut()).is_pending());
        let address = |last| Caller::Address([192, 0, 2, last].into());
        pool.record_failure(address(1));
        let mut flood = pin!(pool.run(address(1), || 1));
        assert!(poll_once(flood.as_mut()).is_pending());
        let mut newcomer = pin!(pool.run(address(2), || 2));
        assert!(poll_once(newcomer.as_mut()).is_pending());
        assert!(matches!(flood.await, Err(PasswordError::Busy)));
        open.send(()).unwrap();
        assert!(first.await.unwrap());
        assert_eq!(newcomer.await.unwrap(), 2);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn threads_run_at_lower_priority() {
        let pool = Pool::new(1, 0).unwrap();
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        assert_eq!(pool.run(Caller::Operator, priority).await.unwrap(), (before + 10).min(19));
        assert_eq!(priority(), before, "the runtime's thread keeps its priority");
    }
}
