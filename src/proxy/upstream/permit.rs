//! Permission to send one request to an upstream.

use std::sync::Arc;

use super::concurrency::ConcurrencyLimit;
use super::contention::Place;
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
#[derive(Default)]
pub(super) enum Count {
    /// No count: the request has ended, or has become a long-lived connection.
    #[default]
    None,
    /// The requests whose body is awaited from the client or that continue without a place, and the responses that are
    /// streamed.
    Streaming,
    /// The requests that wait for their response, which are limited.
    Waiting(Place),
}

impl Count {
    /// Counts a waiting request outside the limit.
    pub(super) fn suspend(&mut self, limit: &ConcurrencyLimit) {
        if let Self::Waiting(_) = self
            && let Self::Waiting(place) = std::mem::replace(self, Self::Streaming)
        {
            limit.start_streaming();
            limit.release(place);
        }
    }

    /// Counts a suspended request within the limit, unless it must continue without a place.
    pub(super) fn resume(&mut self, limit: &ConcurrencyLimit) {
        if let Self::Streaming = self
            && let Some(place) = limit.try_resume()
        {
            *self = Self::Waiting(place);
            limit.end_streaming();
        }
    }

    fn clear(&mut self, limit: &ConcurrencyLimit) {
        match std::mem::take(self) {
            Self::None => {}
            Self::Streaming => limit.end_streaming(),
            Self::Waiting(place) => limit.release(place),
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
        self.count = Count::Waiting(self.upstream.concurrency.acquire().await?);
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
        self.count.suspend(&self.upstream.concurrency);
    }

    /// Stops counting the request, which has ended or become a long-lived connection.
    pub(super) fn release(&mut self) {
        self.count.clear(&self.upstream.concurrency);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release();
        self.end_probe();
    }
}
