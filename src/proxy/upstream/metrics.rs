//! Metrics of one upstream.
//!
//! The handles are resolved once. Gauges are set once a second, not per request.

use metrics::{Counter, Gauge, counter, gauge};

pub(super) struct UpstreamMetrics {
    in_flight: Gauge,
    idle: Gauge,
    healthy: Gauge,
    pub(super) connect_failures: Counter,
    pub(super) retries: Counter,
    pub(super) ejections: Counter,
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

    pub(super) fn set(&self, in_flight: usize, is_healthy: bool) {
        self.in_flight.set(to_f64(in_flight));
        self.healthy.set(f64::from(u8::from(is_healthy)));
    }

    /// Adds the change of one pool, of which each worker thread has its own, to the gauge.
    pub(super) fn adjust_idle(&self, before: usize, after: usize) {
        if before != after {
            self.idle.increment(to_f64(after) - to_f64(before));
        }
    }
}

/// Resets the gauges of an upstream that has been removed.
impl Drop for UpstreamMetrics {
    fn drop(&mut self) {
        for gauge in [&self.in_flight, &self.idle, &self.healthy] {
            gauge.set(0.0);
        }
    }
}

fn to_f64(number: usize) -> f64 {
    u32::try_from(number).unwrap_or(u32::MAX).into()
}
