//! The limit on concurrent requests to one upstream, with a bounded queue.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::settings::UpstreamSettings;
use crate::proxy::error::ProxyError;

/// Counts the requests in flight to an upstream and limits those that wait for their response.
///
/// A response that is streamed no longer counts against the limit, nor does a request while its body is awaited:
/// their end depends on the client.
///
/// The counter serves the load balancer too, so the limit is not a [`tokio::sync::Semaphore`].
pub(super) struct ConcurrencyLimit {
    /// Number of requests that wait for the start of their response.
    waiting: AtomicUsize,
    /// Number of responses that have begun and have not ended, and of requests whose body is awaited.
    streaming: AtomicUsize,
    max_in_flight: usize,
    queued: AtomicUsize,
    max_queued: usize,
    queue_timeout: Duration,
    released: Notify,
}

impl ConcurrencyLimit {
    pub(super) fn new(settings: &UpstreamSettings) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            streaming: AtomicUsize::new(0),
            max_in_flight: settings.max_in_flight,
            queued: AtomicUsize::new(0),
            max_queued: settings.max_queued,
            queue_timeout: settings.queue_timeout,
            released: Notify::new(),
        }
    }

    /// Returns the number of requests whose response has not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.waiting.load(Ordering::Relaxed) + self.streaming.load(Ordering::Relaxed)
    }

    /// Returns the number of requests that wait in the queue or for the start of their response.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed) + self.queued.load(Ordering::Relaxed)
    }

    pub(super) fn has_capacity(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < self.max_in_flight
    }

    /// Counts one more request. Waits in the queue while the limit is reached.
    ///
    /// The caller must call [`release`](Self::release) when the response begins, or when the request ends without
    /// one. Fails with [`UpstreamBusy`](ProxyError::UpstreamBusy) if the queue is full, or after too long a wait in
    /// it.
    pub(super) async fn acquire(&self) -> Result<(), ProxyError> {
        // A new request does not overtake the queued ones.
        if self.queued.load(Ordering::Relaxed) == 0 && self.try_acquire() {
            return Ok(());
        }
        let _slot = QueueSlot::new(self).ok_or(ProxyError::UpstreamBusy)?;
        // Boxed to keep the future of the usual case, which does not wait, small.
        let waited = Box::pin(tokio::time::timeout(self.queue_timeout, self.wait())).await;
        waited.map_err(|_| ProxyError::UpstreamBusy)
    }

    async fn wait(&self) {
        loop {
            // Created before the check, so that a release in between is not missed.
            let released = self.released.notified();
            if self.try_acquire() {
                return;
            }
            released.await;
        }
    }

    fn try_acquire(&self) -> bool {
        let increment = |count| (count < self.max_in_flight).then_some(count + 1);
        self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, increment).is_ok()
    }

    pub(super) fn release(&self) {
        let before = self.waiting.fetch_sub(1, Ordering::SeqCst);
        // Beyond the limit no place became free. A waiter that is woken without one loses its turn.
        if before <= self.max_in_flight && self.queued.load(Ordering::SeqCst) > 0 {
            self.released.notify_one();
        }
    }

    /// Counts a request again whose body has arrived, even at the limit, because the request has begun.
    pub(super) fn resume(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts a request as a streamed response or an awaited body, which are not limited.
    pub(super) fn start_streaming(&self) {
        self.streaming.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_streaming(&self) {
        self.streaming.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place in the queue, held until drop.
struct QueueSlot<'a>(&'a ConcurrencyLimit);

impl<'a> QueueSlot<'a> {
    fn new(limit: &'a ConcurrencyLimit) -> Option<Self> {
        let increment = |count| (count < limit.max_queued).then_some(count + 1);
        let counted = limit.queued.fetch_update(Ordering::SeqCst, Ordering::Relaxed, increment);
        counted.is_ok().then(|| Self(limit))
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::SeqCst);
        // A waiter that is cancelled may have consumed a notification: pass it on.
        if self.0.queued.load(Ordering::SeqCst) > 0 && self.0.has_capacity() {
            self.0.released.notify_one();
        }
    }
}
