//! Background tasks for upstreams: active health checks and gauges.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum_core::body::Body;
use futures_util::future::join_all;
use http::Method;
use http::header::USER_AGENT;
use tokio::time::Instant;

use super::balancer::LoadBalancer;
use super::http1::RequestWriter;
use super::settings::HealthCheck;
use super::upstream::Upstream;
use crate::proxy::header_writer::HeaderWriter;
use crate::proxy::request_head::{ConnectionReuse, ControlData, RequestHead};

/// Checks the upstreams' health and updates their gauges until `owner` is dropped.
///
/// The upstreams may outlive `owner`, since a reloaded route table shares them.
pub(in crate::proxy) fn run_health_checks<T: ?Sized + Send + Sync + 'static>(
    owner: Weak<T>,
    balancers: &[&LoadBalancer],
) -> impl Future<Output = ()> + Send + use<T> {
    let upstreams: Vec<_> = balancers.iter().flat_map(|balancer| &balancer.0).map(Arc::downgrade).collect();
    async move {
        let checks = upstreams.iter().map(|upstream| check(&owner, upstream));
        tokio::join!(update_gauges(&owner, &upstreams), join_all(checks));
    }
}

/// Updates the gauges once a second.
async fn update_gauges<T: ?Sized>(owner: &Weak<T>, upstreams: &[Weak<Upstream>]) {
    while owner.strong_count() > 0 {
        for upstream in upstreams.iter().filter_map(Weak::upgrade) {
            upstream.metrics.set(upstream.concurrency.in_flight(), upstream.circuit_breaker.is_up());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Checks one upstream at its interval. Returns at once if the route has no health check.
async fn check<T: ?Sized>(owner: &Weak<T>, upstream: &Weak<Upstream>) {
    let mut was_healthy = true;
    let mut consecutive = 0;
    while owner.strong_count() > 0 {
        let Some(upstream) = upstream.upgrade() else { return };
        let Some(check) = upstream.settings.health.clone() else { return };
        let started = Instant::now();
        upstream.refresh_dns_if_stale(started);
        let probed = tokio::time::timeout(check.interval, probe(&upstream, &check)).await;
        let is_healthy = probed.unwrap_or(false);
        consecutive = if is_healthy == was_healthy { consecutive + 1 } else { 1 };
        was_healthy = is_healthy;
        if consecutive >= CHECK_THRESHOLD {
            upstream.record_health_check(is_healthy);
        }
        drop(upstream);
        // Jitter, so that replicas do not check at the same time.
        let pause = check.interval.mul_f64(0.9 + 0.2 * fastrand::f64());
        tokio::time::sleep_until(started + pause).await;
    }
}

/// Sends a request on a new connection, so that the check covers connecting.
async fn probe(upstream: &Upstream, check: &HealthCheck) -> bool {
    let connection = match upstream.connector.connect(upstream.settings.http, check.interval).await {
        Ok(connection) => connection,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(upstream = upstream.url, error, "health check failed to connect");
            return false;
        }
    };
    match connection.send(check, &mut RequestWriter::new(Body::empty()), &upstream.origin).await {
        Ok(response) => response.status().is_success() || response.status().is_redirection(),
        Err(_) => false,
    }
}

impl RequestHead for HealthCheck {
    fn control_data(&self) -> ControlData<'_> {
        ControlData {
            method: &Method::GET,
            target: &self.path,
            host: None,
            upgrade: None,
            accepts_trailers: false,
            reuse: ConnectionReuse::Any,
        }
    }

    fn write_headers(&self, to: &mut impl HeaderWriter) {
        to.add(&USER_AGENT, b"sekisho-health-check");
    }
}

/// Number of consecutive checks with the same result that change the upstream's state.
const CHECK_THRESHOLD: u32 = 2;
