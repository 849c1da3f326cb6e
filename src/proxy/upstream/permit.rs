//! Permission to send one request to an upstream.

use std::sync::Arc;

use super::upstream::Upstream;
use crate::proxy::error::ProxyError;

/// A request's claim on an upstream, released on drop.
///
/// It counts the request as in flight, and may hold the single half-open probe of an ejected upstream.
pub(super) struct Permit {
    pub(super) upstream: Arc<Upstream>,
    is_probe: bool,
    is_counted: bool,
}

impl Permit {
    /// A permit that is not counted yet; see [`acquire`](Self::acquire).
    pub(super) fn new(upstream: &Arc<Upstream>) -> Self {
        Self { upstream: Arc::clone(upstream), is_probe: false, is_counted: false }
    }

    /// A permit to probe an ejected upstream. Returns `None` while another request probes it.
    pub(super) fn try_probe(upstream: &Arc<Upstream>) -> Option<Self> {
        let mut permit = Self::new(upstream);
        permit.is_probe = upstream.circuit_breaker.try_begin_probe();
        permit.is_probe.then_some(permit)
    }

    /// Counts the request as in flight. Waits in the queue while the upstream is at its limit.
    pub(super) async fn acquire(mut self) -> Result<Self, ProxyError> {
        self.upstream.concurrency.acquire().await?;
        self.is_counted = true;
        Ok(self)
    }

    /// Records that the upstream has responded, which ends a probe.
    pub(super) fn record_success(&mut self) {
        self.upstream.record_success();
        self.end_probe();
    }

    fn end_probe(&mut self) {
        if std::mem::take(&mut self.is_probe) {
            self.upstream.circuit_breaker.end_probe();
        }
    }

    /// Stops counting the request, which has become a long-lived connection.
    pub(super) fn release(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.upstream.concurrency.release();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release();
        self.end_probe();
    }
}
