//! Load balancing over the upstreams of a route.
//!
//! The algorithm is the power of two choices: of two upstreams picked at random, the one with fewer requests
//! in flight gets the request. Only upstreams that are up and below their limit take part.
//!
//! tower's `Balance` implements the same algorithm, but owns its services and is called through `&mut`.
//! Shared by concurrent requests it would need a channel and a task. Here a choice reads two counters that
//! exist anyway.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use super::error::UpstreamConfigError;
use super::permit::Permit;
use super::settings::{UpstreamHttp, UpstreamSettings};
use super::tls::TrustAnchors;
use super::upstream::Upstream;
use crate::proxy::error::ProxyError;

/// The upstreams of a route. There is at least one.
pub(in crate::proxy) struct LoadBalancer(pub(super) Vec<Arc<Upstream>>);

impl LoadBalancer {
    /// Builds the upstreams of a route.
    ///
    /// An upstream that one of `previous` has with the same settings is shared with it, including its
    /// health, addresses and connections.
    pub(in crate::proxy) fn new(
        route: &str,
        urls: &[String],
        settings: &UpstreamSettings,
        previous: &[&Self],
        trust_anchors: &mut TrustAnchors,
    ) -> Result<Self, UpstreamConfigError> {
        if urls.is_empty() {
            return Err(UpstreamConfigError::NoUpstream);
        }
        let mut upstreams = Vec::with_capacity(urls.len());
        for url in urls {
            let mut existing = previous.iter().flat_map(|balancer| &balancer.0);
            upstreams.push(match existing.find(|upstream| upstream.matches(route, url, settings)) {
                Some(upstream) => Arc::clone(upstream),
                None => Arc::new(Upstream::new(route, url, settings, trust_anchors)?),
            });
        }
        Ok(Self(upstreams))
    }

    /// Returns `true` if connections to these upstreams may use HTTP/2.
    pub(super) fn offers_http2(&self) -> bool {
        self.0.iter().any(|upstream| upstream.settings.http == UpstreamHttp::Http2)
    }

    /// Returns the number of requests that wait for one of the upstreams, or in their queues.
    pub(in crate::proxy) fn waiting(&self) -> usize {
        self.0.iter().map(|upstream| upstream.concurrency.waiting()).sum()
    }

    /// Picks an upstream that is not in `tried`. Waits in its queue if it is at its limit.
    pub(super) async fn pick(&self, tried: &[u64]) -> Result<Permit, ProxyError> {
        let permit = match &*self.0 {
            [upstream] if upstream.circuit_breaker.is_up() => Permit::new(upstream),
            _ => self.choose(tried, Instant::now()).ok_or(ProxyError::UpstreamUnavailable)?,
        };
        permit.acquire().await
    }

    /// Returns `true` if another upstream, not in `tried`, could be connected to.
    pub(super) fn has_alternative(&self, tried: &[u64]) -> bool {
        self.0.iter().any(|upstream| !tried.contains(&upstream.id) && !upstream.circuit_breaker.is_open())
    }

    fn choose(&self, tried: &[u64], now: Instant) -> Option<Permit> {
        let untried = || self.0.iter().filter(|upstream| !tried.contains(&upstream.id));
        let mut due = untried().filter(|upstream| upstream.circuit_breaker.is_probe_due(now));
        if let Some(permit) = due.find_map(Permit::try_probe) {
            return Some(permit);
        }
        let up = || untried().filter(|upstream| upstream.circuit_breaker.is_up());
        let with_capacity = up().filter(|upstream| upstream.concurrency.has_capacity());
        // If no upstream is up, an ejected one whose circuit is closed may still respond.
        let closed = || untried().filter(|upstream| !upstream.circuit_breaker.is_open());
        let chosen = power_of_two_choices(with_capacity, now)
            .or_else(|| power_of_two_choices(up(), now))
            .or_else(|| power_of_two_choices(closed(), now));
        if let Some(upstream) = chosen {
            return Some(Permit::new(upstream));
        }
        let mut open: Vec<_> = untried().collect();
        open.sort_by_key(|upstream| upstream.circuit_breaker.ejected_until());
        open.into_iter().find_map(Permit::try_probe)
    }
}

fn power_of_two_choices<'a>(
    mut candidates: impl Iterator<Item = &'a Arc<Upstream>> + Clone,
    now: Instant,
) -> Option<&'a Arc<Upstream>> {
    let count = candidates.clone().count();
    if count < 2 {
        return candidates.next();
    }
    let first = fastrand::usize(..count);
    let second = (first + fastrand::usize(1..count)) % count;
    let first = candidates.clone().nth(first)?;
    let second = candidates.nth(second)?;
    let first_admits = first.circuit_breaker.admits_slow_start(now);
    let second_admits = second.circuit_breaker.admits_slow_start(now);
    Some(match (first_admits, second_admits) {
        (true, false) => first,
        (false, true) => second,
        _ if second.concurrency.in_flight() < first.concurrency.in_flight() => second,
        _ => first,
    })
}

impl fmt::Debug for LoadBalancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|upstream| &upstream.url)).finish()
    }
}
