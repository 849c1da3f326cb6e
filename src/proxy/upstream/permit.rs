//! Permission to send one request to an upstream.

use std::sync::Arc;

use super::concurrency::ConcurrencyLimit;
use super::upstream::Upstream;
use crate::proxy::error::ProxyError;

/// A request's claim on an upstream, released on drop.
///
/// It counts the request as in flight: within the limit until the response begins, but not while the request body
/// is awaited from the client. It may hold the single half-open probe of an ejected upstream.
pub(super) struct Permit {
    pub(super) upstream: Arc<Upstream>,
    is_probe: bool,
    pub(super) count: Count,
}

/// The count of an upstream that includes a request.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Count {
    /// No count: the request has ended, or has become a long-lived connection.
    #[default]
    None,
    /// The requests whose body is awaited from the client, and the responses that are streamed.
    Streaming,
    /// The requests that wait for their response, which are limited.
    Waiting,
}

impl Count {
    /// Moves the request from its count to another one.
    pub(super) fn change(&mut self, limit: &ConcurrencyLimit, new: Self) {
        let old = std::mem::replace(self, new);
        if old == new {
            return;
        }
        match new {
            Self::None => {}
            Self::Streaming => limit.start_streaming(),
            Self::Waiting => limit.resume(),
        }
        match old {
            Self::None => {}
            Self::Streaming => limit.end_streaming(),
            Self::Waiting => limit.release(),
        }
    }
}

impl Permit {
    /// A permit that is not counted yet; see [`acquire`](Self::acquire).
    pub(super) fn new(upstream: &Arc<Upstream>) -> Self {
        Self { upstream: Arc::clone(upstream), is_probe: false, count: Count::None }
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
        self.count = Count::Waiting;
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

    /// Counts the request as a response that is streamed, outside the limit.
    pub(super) fn start_streaming(&mut self) {
        if self.count == Count::Waiting {
            self.count.change(&self.upstream.concurrency, Count::Streaming);
        }
    }

    /// Stops counting the request, which has ended or become a long-lived connection.
    pub(super) fn release(&mut self) {
        self.count.change(&self.upstream.concurrency, Count::None);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release();
        self.end_probe();
    }
}
