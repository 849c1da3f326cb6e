//! Thread pool with a bounded queue for CPU-bound work.

use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io, thread};

use metrics::{Counter, Gauge, counter, gauge};
use tokio::sync::{Semaphore, oneshot};

use super::error::PasswordError;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads, each running one job at a time. They exit when the pool is dropped.
pub(super) struct Pool {
    slots: Arc<Semaphore>,
    workers: Arc<Semaphore>,
    jobs: Sender<Job>,
    queued: Gauge,
    running: Gauge,
    refused: Counter,
}

/// Increments a gauge until it is dropped.
struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Pool {
    /// Starts `workers` threads and allows `queue` further callers to wait.
    pub(super) fn new(workers: usize, queue: usize) -> io::Result<Self> {
        let (jobs, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..workers {
            let receiver = Arc::clone(&receiver);
            let builder = thread::Builder::new().name("sekisho-password".to_owned());
            builder.spawn(move || worker_loop(&receiver))?;
        }
        let slots = workers.saturating_add(queue).min(Semaphore::MAX_PERMITS);
        Ok(Self {
            slots: Arc::new(Semaphore::new(slots)),
            workers: Arc::new(Semaphore::new(workers)),
            jobs,
            queued: gauge!("sekisho_password_jobs_queued"),
            running: gauge!("sekisho_password_jobs_running"),
            refused: counter!("sekisho_password_jobs_refused_total"),
        })
    }

    /// Runs `work` on one of the threads. Dropping the future leaves the queue at once; a job that has
    /// started runs to completion.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            self.refused.increment(1);
            PasswordError::Busy
        })?;
        let queued = GaugeGuard::new(&self.queued);
        let worker = Arc::clone(&self.workers).acquire_owned().await.map_err(|_| PasswordError::Stopped)?;
        drop(queued);
        let running = GaugeGuard::new(&self.running);
        let (result_sender, result) = oneshot::channel();
        let job = move || {
            let value = work();
            // Released before the result is sent, so that the caller sees the free capacity.
            drop((worker, slot, running));
            let _ = result_sender.send(value);
        };
        self.jobs.send(Box::new(job)).map_err(|_| PasswordError::Stopped)?;
        result.await.map_err(|_| PasswordError::Stopped)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = self.slots.available_permits();
        f.debug_struct("Pool").field("free_slots", &free).finish_non_exhaustive()
    }
}

fn worker_loop(receiver: &Mutex<Receiver<Job>>) {
    lower_priority();
    loop {
        let job = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // The panic hook has reported a panic, and the channel of the caller is closed.
        let _ = panic::catch_unwind(AssertUnwindSafe(job));
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

    use super::*;
    use crate::services::test_support::poll_once;

    #[tokio::test]
    async fn full_queue_is_busy_and_runtime_is_not_blocked() {
        let pool = Pool::new(1, 1).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let (start, started) = oneshot::channel();
        let mut first = pin!(pool.run(move || {
            start.send(()).unwrap();
            gate.recv().unwrap();
            1
        }));
        assert!(poll_once(first.as_mut()).is_pending());
        started.await.unwrap();
        let mut second = pin!(pool.run(|| 2));
        assert!(poll_once(second.as_mut()).is_pending());

        assert!(matches!(pool.run(|| 3).await, Err(PasswordError::Busy)));

        // This runtime has one thread, which the job must not block.
        let output = tokio::spawn(async { "not blocked" }).await.unwrap();
        assert_eq!(output, "not blocked");
        assert!(poll_once(first.as_mut()).is_pending() && poll_once(second.as_mut()).is_pending());

        open.send(()).unwrap();
        assert_eq!(first.await.unwrap(), 1);
        assert_eq!(second.await.unwrap(), 2);
        assert_eq!(pool.run(|| 4).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn dropped_caller_releases_its_slot() {
        let pool = Pool::new(1, 1).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let mut first = pin!(pool.run(move || gate.recv().is_ok()));
        assert!(poll_once(first.as_mut()).is_pending());
        let mut dropped = Box::pin(pool.run(|| panic!("must not run")));
        assert!(poll_once(dropped.as_mut()).is_pending());
        drop(dropped);

        let mut second = pin!(pool.run(|| 2));
        assert!(poll_once(second.as_mut()).is_pending(), "the queue has a free slot");
        open.send(()).unwrap();
        assert!(first.await.unwrap());
        assert_eq!(second.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn job_of_dropped_caller_occupies_its_thread_until_it_completes() {
        let pool = Pool::new(1, 0).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let (finish, finished) = oneshot::channel::<()>();
        let mut first = Box::pin(pool.run(move || {
            gate.recv().unwrap();
            // Dropped with the job, before the slot is released.
            drop(finish);
        }));
        assert!(poll_once(first.as_mut()).is_pending());
        drop(first);

        assert!(matches!(pool.run(|| ()).await, Err(PasswordError::Busy)));
        open.send(()).unwrap();
        assert!(finished.await.is_err());
        let _free = Arc::clone(&pool.slots).acquire_owned().await.unwrap();
    }

    #[tokio::test]
    async fn panic_keeps_thread_and_slot_usable() {
        let pool = Pool::new(1, 0).unwrap();
        let panicked: Result<(), PasswordError> = pool.run(|| panic!("on purpose")).await;
        assert!(matches!(panicked, Err(PasswordError::Stopped)));
        // Unwinding releases the slot, possibly after the caller has its error.
        drop(Arc::clone(&pool.slots).acquire_owned().await.unwrap());
        assert_eq!(pool.run(|| 2).await.unwrap(), 2);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn threads_run_at_lower_priority() {
        let pool = Pool::new(1, 0).unwrap();
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        assert_eq!(pool.run(priority).await.unwrap(), (before + 10).min(19));
        assert_eq!(priority(), before, "the runtime's thread keeps its priority");
    }
}
