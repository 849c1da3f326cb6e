//! Which of a route's upstreams gets a request.
//!
//! Of two that are chosen by chance the one with fewer requests under way ("the power of two random
//! choices"), among those that are up and not full. tower's `Balance` does the same, but owns its
//! services and is asked through `&mut`: shared by requests it needs a channel and a task in
//! between. Here a choice is two reads of counters that are kept anyway.

use std::sync::Arc;

use tokio::time::Instant;

use super::Upstream;
use super::circuit_breaker::ProbePermit;
use super::concurrency::Permit;
use crate::proxy::error::ProxyError;

/// The upstreams of a route, at least one.
pub(in crate::proxy) struct LoadBalancer(pub(super) Vec<Arc<Upstream>>);

impl LoadBalancer {
    /// Chooses one that isn't among `tried`, and waits for its permission if it is full.
    pub(super) async fn pick(&self, tried: &[u64]) -> Result<Permit, ProxyError> {
        let (upstream, trial) = match &*self.0 {
            [only] if only.health.is_up() => (only, None),
            _ => self.choose(tried, Instant::now()).ok_or(ProxyError::UpstreamUnavailable)?,
        };
        let permit = Permit::new(Arc::clone(upstream), trial).await;
        permit.map_err(|_| ProxyError::UpstreamBusy)
    }

    /// Whether there is one that isn't among `tried` and could take its place.
    pub(super) fn has_alternative(&self, tried: &[u64]) -> bool {
        self.0.iter().any(|upstream| !tried.contains(&upstream.id) && !upstream.health.is_open())
    }

    fn choose(&self, tried: &[u64], now: Instant) -> Option<(&Arc<Upstream>, Option<ProbePermit>)> {
        let rest = || self.0.iter().filter(|upstream| !tried.contains(&upstream.id));
        let due = rest().filter(|upstream| upstream.health.is_due(now));
        if let Some(chosen) = due.into_iter().find_map(try_probe) {
            return Some(chosen);
        }
        let up = || rest().filter(|upstream| upstream.health.is_up());
        let with_room = up().filter(|upstream| upstream.load.has_room());
        // If none is up, what was ejected may still be better than nothing.
        let closed = || rest().filter(|upstream| !upstream.health.is_open());
        let chosen = power_of_two_choices(with_room, now)
            .or_else(|| power_of_two_choices(up(), now))
            .or_else(|| power_of_two_choices(closed(), now));
        if let Some(chosen) = chosen {
            return Some((chosen, None));
        }
        let mut open: Vec<_> = rest().collect();
        open.sort_by_key(|upstream| upstream.health.ejected_until());
        open.into_iter().find_map(try_probe)
    }
}

fn try_probe(upstream: &Arc<Upstream>) -> Option<(&Arc<Upstream>, Option<ProbePermit>)> {
    ProbePermit::of(upstream).map(|trial| (upstream, Some(trial)))
}

fn power_of_two_choices<'a>(
    mut among: impl Iterator<Item = &'a Arc<Upstream>> + Clone,
    now: Instant,
) -> Option<&'a Arc<Upstream>> {
    let count = among.clone().count();
    if count < 2 {
        return among.next();
    }
    let first = fastrand::usize(..count);
    let second = (first + fastrand::usize(1..count)) % count;
    let (first, second) = (among.clone().nth(first)?, among.nth(second)?);
    Some(match (first.health.admits_slow_start(now), second.health.admits_slow_start(now)) {
        (true, false) => first,
        (false, true) => second,
        _ if second.load.in_flight() < first.load.in_flight() => second,
        _ => first,
    })
}
