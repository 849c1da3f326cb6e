//! How much an upstream has to do, and who waits until it has less.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Upstream;
use super::circuit_breaker::ProbePermit;

/// The requests under way to an upstream, from all threads.
pub(super) struct ConcurrencyLimit {
    in_flight: AtomicUsize,
    limit: usize,
    queued: AtomicUsize,
    max_queued: usize,
    queue_timeout: Duration,
    left: Notify,
}

/// The upstream has too much to do, and as many waiting as may.
#[derive(Debug)]
pub(super) struct QueueFull;

impl ConcurrencyLimit {
    pub(super) fn new(limit: usize, max_queued: usize, queue_timeout: Duration) -> Self {
        let (in_flight, queued) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { in_flight, limit, queued, max_queued, queue_timeout, left: Notify::new() }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight() < self.limit
    }

    /// Counts one more, if need be after a wait.
    async fn enter(&self) -> Result<(), QueueFull> {
        // Whoever waits was here first.
        if self.queued.load(Ordering::Relaxed) == 0 && self.try_enter() {
            return Ok(());
        }
        let _queued = QueueSlot::new(self).ok_or(QueueFull)?;
        // In a box: most need not wait.
        Box::pin(tokio::time::timeout(self.queue_timeout, self.wait())).await.map_err(|_| QueueFull)
    }

    async fn wait(&self) {
        loop {
            // Made before the look at the count, so that nobody leaves unnoticed in between.
            let left = self.left.notified();
            if self.try_enter() {
                return;
            }
            left.await;
        }
    }

    fn try_enter(&self) -> bool {
        let more = |count| (count < self.limit).then_some(count + 1);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.queued.load(Ordering::SeqCst) > 0 {
            self.left.notify_one();
        }
    }
}

/// A place in the queue.
struct QueueSlot<'a>(&'a ConcurrencyLimit);

impl<'a> QueueSlot<'a> {
    fn new(load: &'a ConcurrencyLimit) -> Option<Self> {
        let more = |count| (count < load.max_queued).then_some(count + 1);
        let counted = load.queued.fetch_update(Ordering::SeqCst, Ordering::Relaxed, more);
        counted.is_ok().then(|| Self(load))
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::SeqCst);
        // It may have been told of a place that it didn't take.
        if self.0.queued.load(Ordering::SeqCst) > 0 && self.0.has_room() {
            self.0.left.notify_one();
        }
    }
}

/// A request that is under way, counted until this is dropped.
pub(super) struct Permit {
    pub(super) upstream: Arc<Upstream>,
    /// Held where this request is to show whether the upstream is well again.
    pub(super) trial: Option<ProbePermit>,
    counted: bool,
}

impl Permit {
    pub(super) async fn new(upstream: Arc<Upstream>, trial: Option<ProbePermit>) -> Result<Self, QueueFull> {
        upstream.load.enter().await?;
        Ok(Self { upstream, trial, counted: true })
    }

    /// From now on it is a connection, not a request: it may stay for days.
    pub(super) fn release(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.upstream.load.leave();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release();
    }
}
