//! What `/metrics` shows of an upstream. The handles are looked up once; gauges are set by the second,
//! not by the request.

use metrics::{Counter, Gauge, counter, gauge};

use super::circuit_breaker::Transition;

pub(super) struct UpstreamMetrics {
    in_flight: Gauge,
    idle: Gauge,
    healthy: Gauge,
    pub(super) connect_failures: Counter,
    pub(super) retries: Counter,
    ejections: Counter,
}

impl UpstreamMetrics {
    pub(super) fn new(route: &str, upstream: &str) -> Self {
        let labels = [("route", route.to_owned()), ("upstream", upstream.to_owned())];
        Self {
            in_flight: gauge!("sekisho_upstream_in_flight", &labels),
            idle: gauge!("sekisho_upstream_idle_connections", &labels),
            healthy: gauge!("sekisho_upstream_healthy", &labels),
            connect_failures: counter!("sekisho_upstream_connect_failures_total", &labels),
            retries: counter!("sekisho_upstream_retries_total", &labels),
            ejections: counter!("sekisho_upstream_ejections_total", &labels),
        }
    }

    pub(super) fn set(&self, in_flight: usize, healthy: bool) {
        self.in_flight.set(count(in_flight));
        self.healthy.set(f64::from(u8::from(healthy)));
    }

    /// Each thread's pool adds what has changed in it.
    pub(super) fn idle_changed(&self, before: usize, now: usize) {
        if before != now {
            self.idle.increment(count(now) - count(before));
        }
    }

    pub(super) fn changed(&self, change: Transition) {
        if change == Transition::Ejected {
            self.ejections.increment(1);
        }
    }
}

/// An upstream that is no more has nothing.
impl Drop for UpstreamMetrics {
    fn drop(&mut self) {
        for gauge in [&self.in_flight, &self.idle, &self.healthy] {
            gauge.set(0.0);
        }
    }
}

fn count(number: usize) -> f64 {
    u32::try_from(number).unwrap_or(u32::MAX).into()
}
