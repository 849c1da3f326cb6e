//! What goes on beside the requests: checks of the upstreams' health, and their gauges.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum_core::body::Body;
use futures_util::future::join_all;
use http::Method;
use http::header::{HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use tokio::time::Instant;

use super::connect::connect;
use super::http1::RequestWriter;
use super::{HealthCheck, Upstream};
use crate::proxy::header_writer::HeaderWriter;
use crate::proxy::request_head::RequestHead;
use crate::proxy::routes::Route;

/// Runs until the routes are no more.
pub(in crate::proxy) fn run(routes: Weak<[Arc<Route>]>) -> impl Future<Output = ()> + Send + 'static {
    let upstreams: Vec<_> = routes.upgrade().iter().flat_map(|routes| all(routes)).collect();
    async move {
        let checks = upstreams.iter().map(|upstream| check(Weak::clone(&routes), Weak::clone(upstream)));
        tokio::join!(update_gauges(routes.clone(), &upstreams), join_all(checks));
    }
}

fn all(routes: &[Arc<Route>]) -> Vec<Weak<Upstream>> {
    let upstreams = routes.iter().flat_map(|route| &route.upstreams.0);
    upstreams.map(Arc::downgrade).collect()
}

/// Sets the gauges once a second.
async fn update_gauges(routes: Weak<[Arc<Route>]>, upstreams: &[Weak<Upstream>]) {
    while routes.strong_count() > 0 {
        for upstream in upstreams.iter().filter_map(Weak::upgrade) {
            upstream.metrics.set(upstream.load.in_flight(), upstream.health.is_up());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Asks one upstream for as long as its routes are there.
async fn check(routes: Weak<[Arc<Route>]>, upstream: Weak<Upstream>) {
    let mut in_a_row = (true, 0);
    while let (1.., Some(upstream)) = (routes.strong_count(), upstream.upgrade()) {
        let Some(check) = upstream.settings.health.clone() else { return };
        let began = Instant::now();
        upstream.refresh_dns_if_stale(began);
        let is_well = tokio::time::timeout(check.interval, probe(&upstream, &check)).await.unwrap_or(false);
        in_a_row = if in_a_row.0 == is_well { (is_well, in_a_row.1 + 1) } else { (is_well, 1) };
        if in_a_row.1 >= IN_A_ROW {
            upstream.checked(is_well);
        }
        drop(upstream);
        // Spread, so that replicas don't all ask at once.
        let pause = check.interval.mul_f64(0.9 + 0.2 * fastrand::f64());
        tokio::time::sleep_until(began + pause).await;
    }
}

/// Asks on a connection of its own: a new one must be possible too.
async fn probe(upstream: &Upstream, check: &HealthCheck) -> bool {
    let connection = match connect(upstream, upstream.settings.http, check.interval).await {
        Ok(connection) => connection,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(upstream = upstream.url(), error, "a check could not connect");
            return false;
        }
    };
    match connection.send(check, &mut RequestWriter::new(Body::empty()), &upstream.origin).await {
        Ok(answer) => answer.status().is_success() || answer.status().is_redirection(),
        Err(_) => false,
    }
}

impl RequestHead for HealthCheck {
    fn method(&self) -> &Method {
        &Method::GET
    }

    fn target(&self) -> &PathAndQuery {
        &self.path
    }

    fn host(&self) -> Option<&HeaderValue> {
        None
    }

    fn write_headers(&self, to: &mut impl HeaderWriter) {
        to.add(&USER_AGENT, b"sekisho-health-check");
    }
}

/// How many checks in a row change our mind.
const IN_A_ROW: u32 = 2;
