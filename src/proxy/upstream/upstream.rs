//! One upstream of a route, shared by all worker threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::circuit_breaker::{CircuitBreaker, Failure, Transition};
use super::concurrency::ConcurrencyLimit;
use super::connect::Connector;
use super::error::UpstreamConfigError;
use super::metrics::UpstreamMetrics;
use super::origin::Origin;
use super::settings::UpstreamSettings;
use super::tls::TrustAnchors;
use crate::log_interval;

/// One upstream of a route: its address, health, load and metrics.
pub(super) struct Upstream {
    /// Unique in this process. Pools use it as their key.
    pub(super) id: u64,
    route: String,
    pub(super) url: String,
    pub(super) settings: UpstreamSettings,
    pub(super) origin: Origin,
    pub(super) connector: Connector,
    pub(super) circuit_breaker: CircuitBreaker,
    pub(super) concurrency: ConcurrencyLimit,
    pub(super) metrics: UpstreamMetrics,
    /// Time of the last log line about a dropped field.
    dropped_field_logged_at: Mutex<Option<Instant>>,
}

impl Upstream {
    pub(super) fn new(
        route: &str,
        url: &str,
        settings: &UpstreamSettings,
        trust_anchors: &mut TrustAnchors,
    ) -> Result<Self, UpstreamConfigError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let origin = Origin::parse(url)?;
        Ok(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            route: route.to_owned(),
            url: url.to_owned(),
            connector: Connector::new(&origin, settings, trust_anchors)?,
            circuit_breaker: CircuitBreaker::new(settings),
            concurrency: ConcurrencyLimit::new(settings),
            metrics: UpstreamMetrics::new(route, url),
            dropped_field_logged_at: Mutex::new(None),
            settings: settings.clone(),
            origin,
        })
    }

    /// Returns `true` if [`new`](Self::new) with these arguments would build an equal upstream.
    pub(super) fn matches(&self, route: &str, url: &str, settings: &UpstreamSettings) -> bool {
        self.route == route && self.url == url && self.settings == *settings
    }

    /// Refreshes the host's addresses in a background task if they are stale.
    pub(super) fn refresh_dns_if_stale(self: &Arc<Self>, now: Instant) {
        if self.connector.addresses.take_refresh(now) {
            let upstream = Arc::clone(self);
            tokio::spawn(async move { upstream.connector.addresses.refresh().await });
        }
    }

    /// Records that a response head has been received.
    pub(super) fn record_success(&self) {
        self.report(self.circuit_breaker.record_success());
    }

    pub(super) fn record_failure(&self, failure: Failure) {
        if failure == Failure::Connection {
            self.metrics.connect_failures.increment(1);
            self.connector.addresses.mark_stale(Instant::now());
        }
        self.report(self.circuit_breaker.record_failure(failure, Instant::now()));
    }

    /// Records the state that consecutive health checks agree on.
    pub(super) fn record_health_check(&self, is_healthy: bool) {
        self.report(self.circuit_breaker.record_health_check(is_healthy, Instant::now()));
    }

    /// Logs that a field of a response was dropped, at most once a minute.
    pub(super) fn report_dropped_field(&self, name: &str) {
        let now = Instant::now();
        let mut logged_at = self.dropped_field_logged_at.lock();
        if !log_interval::is_due(*logged_at, now) {
            return;
        }
        *logged_at = Some(now);
        drop(logged_at);
        tracing::warn!(
            upstream = self.url,
            route = self.route,
            name,
            "response field with an invalid name dropped"
        );
    }

    fn report(&self, transition: Transition) {
        match transition {
            Transition::Ejected => {
                self.metrics.ejections.increment(1);
                tracing::warn!(upstream = self.url, route = self.route, "upstream ejected");
            }
            Transition::None => {}
            Transition::Recovered => {
                tracing::info!(upstream = self.url, route = self.route, "upstream recovered");
            }
        }
    }
}
