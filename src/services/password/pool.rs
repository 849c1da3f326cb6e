//! Threads for work that keeps a core busy, with a bounded queue before them.

use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io, thread};

use metrics::{Counter, Gauge, counter, gauge};
use tokio::sync::{Semaphore, oneshot};

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads that do one job each at a time. They end with the pool.
pub(super) struct Pool {
    places: Arc<Semaphore>,
    workers: Arc<Semaphore>,
    jobs: Sender<Job>,
    counts: PoolMetrics,
}

/// What `/metrics` shows of a pool.
struct PoolMetrics {
    queued: Gauge,
    running: Gauge,
    refused: Counter,
}

impl PoolMetrics {
    fn new() -> Self {
        Self {
            queued: gauge!("sekisho_password_jobs_queued"),
            running: gauge!("sekisho_password_jobs_running"),
            refused: counter!("sekisho_password_jobs_refused_total"),
        }
    }
}

/// Counts as one until it is dropped.
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
    /// Starts `workers` threads, before which `queue` callers may wait.
    pub(super) fn new(workers: usize, queue: usize) -> io::Result<Self> {
        let (jobs, todo) = mpsc::channel();
        let todo = Arc::new(Mutex::new(todo));
        for _ in 0..workers {
            let todo = Arc::clone(&todo);
            thread::Builder::new().name("sekisho-password".to_owned()).spawn(move || worker_loop(&todo))?;
        }
        let places = workers.saturating_add(queue).min(Semaphore::MAX_PERMITS);
        Ok(Self {
            places: Arc::new(Semaphore::new(places)),
            workers: Arc::new(Semaphore::new(workers)),
            jobs,
            counts: PoolMetrics::new(),
        })
    }

    /// Runs `work` on one of the threads, when its turn comes. The future may be dropped: a place in
    /// the queue is freed at once, a thread when it is done.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            self.counts.refused.increment(1);
            PoolError::Busy
        })?;
        let queued = GaugeGuard::new(&self.counts.queued);
        let worker = Arc::clone(&self.workers).acquire_owned().await.map_err(|_| PoolError::Stopped)?;
        drop(queued);
        let running = GaugeGuard::new(&self.counts.running);
        let (done, result) = oneshot::channel();
        let job = move || {
            let value = work();
            // Before the answer, so that who has it finds the place free.
            drop((worker, place, running));
            let _ = done.send(value);
        };
        self.jobs.send(Box::new(job)).map_err(|_| PoolError::Stopped)?;
        result.await.map_err(|_| PoolError::Stopped)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = self.places.available_permits();
        f.debug_struct("Pool").field("free_places", &free).finish_non_exhaustive()
    }
}

/// Why a job has no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PoolError {
    /// The queue is full.
    Busy,
    /// The job panicked.
    Stopped,
}

fn worker_loop(todo: &Mutex<Receiver<Job>>) {
    yield_to_requests();
    loop {
        let job = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // The panic hook has reported it, and the caller learns that its channel is closed.
        let _ = panic::catch_unwind(AssertUnwindSafe(job));
    }
}

/// Lowers this thread's priority, so that on a busy machine requests come first.
fn yield_to_requests() {
    // POSIX means the whole process by it; on Linux it is the calling thread.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!(%error, "password threads keep the normal priority");
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    /// Polls a future once.
    macro_rules! poll {
        ($future:expr) => {
            $future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
    }

    #[tokio::test]
    async fn full_queue_is_busy_and_tasks_go_on() {
        let pool = Pool::new(1, 1).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let (begin, begun) = oneshot::channel();
        let mut first = pin!(pool.run(move || {
            begin.send(()).unwrap();
            gate.recv().unwrap();
            1
        }));
        assert!(poll!(first).is_pending());
        begun.await.unwrap();
        let mut second = pin!(pool.run(|| 2));
        assert!(poll!(second).is_pending());

        assert_eq!(pool.run(|| 3).await, Err(PoolError::Busy));

        // This runtime has one thread: were it the one at work, nothing would answer here.
        let answer = tokio::spawn(async { "still here" }).await.unwrap();
        assert_eq!(answer, "still here");
        assert!(poll!(first).is_pending() && poll!(second).is_pending());

        open.send(()).unwrap();
        assert_eq!(first.await, Ok(1));
        assert_eq!(second.await, Ok(2));
        assert_eq!(pool.run(|| 4).await, Ok(4));
    }

    #[tokio::test]
    async fn dropped_caller_frees_its_place() {
        let pool = Pool::new(1, 1).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let mut first = pin!(pool.run(move || gate.recv().is_ok()));
        assert!(poll!(first).is_pending());
        let mut given_up = Box::pin(pool.run(|| panic!("nobody waits for this")));
        assert!(poll!(given_up).is_pending());
        drop(given_up);

        let mut second = pin!(pool.run(|| 2));
        assert!(poll!(second).is_pending(), "the queue has a place again");
        open.send(()).unwrap();
        assert_eq!(first.await, Ok(true));
        assert_eq!(second.await, Ok(2));
    }

    #[tokio::test]
    async fn caller_gone_in_mid_work_keeps_the_worker_until_it_is_done() {
        let pool = Pool::new(1, 0).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let (finish, finished) = oneshot::channel::<()>();
        let mut first = Box::pin(pool.run(move || {
            gate.recv().unwrap();
            // Dropped with the work, before the place is free.
            drop(finish);
        }));
        assert!(poll!(first).is_pending());
        drop(first);

        assert_eq!(pool.run(|| ()).await, Err(PoolError::Busy));
        open.send(()).unwrap();
        assert!(finished.await.is_err());
        let _free = Arc::clone(&pool.places).acquire_owned().await.unwrap();
    }

    #[tokio::test]
    async fn panic_costs_neither_thread_nor_place() {
        let pool = Pool::new(1, 0).unwrap();
        let panicked: Result<(), PoolError> = pool.run(|| panic!("on purpose")).await;
        assert_eq!(panicked, Err(PoolError::Stopped));
        // The places were dropped in unwinding, perhaps after the answer.
        drop(Arc::clone(&pool.places).acquire_owned().await.unwrap());
        assert_eq!(pool.run(|| 2).await, Ok(2));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn threads_give_way_to_requests() {
        let pool = Pool::new(1, 0).unwrap();
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let here = priority();
        assert_eq!(pool.run(priority).await, Ok((here + 10).min(19)));
        assert_eq!(priority(), here, "the runtime's own thread keeps its priority");
    }
}
