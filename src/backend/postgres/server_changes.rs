//! Changes of the server that the connections lead to, as by a failover.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts the changes of the server. Clones share the count.
///
/// A connection that was established before a change may lead to a server that is no longer the primary, so
/// it is not used again.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerChanges(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    count: AtomicU64,
    recorded: Notify,
}

impl ServerChanges {
    /// Returns the number of changes so far.
    pub(super) fn count(&self) -> u64 {
        self.0.count.load(Ordering::Acquire)
    }

    /// Records a change.
    pub(super) fn record(&self) {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        self.0.recorded.notify_waiters();
    }

    /// Waits until there are more changes than `count`.
    pub(super) async fn more_than(&self, count: u64) {
        loop {
            let recorded = self.0.recorded.notified();
            if self.count() > count {
                return;
            }
            recorded.await;
        }
    }
}
