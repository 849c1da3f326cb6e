//! Active health checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use axum_core::body::Body;
use http::Response;
use sekisho::proxy::{HealthCheck, Routes, UpstreamSettings};

use super::{get, route};
use crate::support::proxy_server::{ProxyServer, text};
use crate::support::upstream::Upstream;

/// Starts an upstream that responds with its name, and to `/well` with this status.
async fn checked_upstream(name: &'static str, status: u16) -> (Upstream, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(status));
    let current_status = Arc::clone(&status);
    let upstream = Upstream::responding_with(move |seen| {
        if seen.target == "/well?now" {
            assert_eq!(seen.all("user-agent"), ["sekisho-health-check"]);
            let status = current_status.load(Ordering::SeqCst);
            return Response::builder().status(status).body(Body::from("how I am")).unwrap();
        }
        Response::new(Body::from(name))
    })
    .await;
    (upstream, status)
}

fn settings() -> UpstreamSettings {
    let check = HealthCheck { path: "/well?now".parse().unwrap(), interval: Duration::from_millis(20) };
    let slow_start = Duration::from_millis(1);
    UpstreamSettings { health: Some(check), slow_start, ..UpstreamSettings::default() }
}

/// Returns the names of the upstreams that serve 32 requests.
async fn serving_names(proxy: std::net::SocketAddr) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..32 {
        names.push(text(get(proxy).await).await);
    }
    names.sort();
    names.dedup();
    names
}

#[tokio::test]
async fn unhealthy_upstream_receives_no_requests() {
    let ((one, _), (two, status)) = (checked_upstream("one", 204).await, checked_upstream("two", 302).await);
    let routes = Routes::new([route([one.url(), two.url()], settings())]).unwrap();
    let watching = tokio::spawn(routes.run_health_checks());
    let proxy = ProxyServer { routes: routes.clone(), ..ProxyServer::default() }.start().await;
    // A check that takes longer than its interval counts as failed, so the first rounds may vary.
    while serving_names(proxy).await != ["one", "two"] {}
    for bad in [500, 404] {
        status.store(bad, Ordering::SeqCst);
        while serving_names(proxy).await != ["one"] {}
        status.store(200, Ordering::SeqCst);
        while serving_names(proxy).await != ["one", "two"] {}
    }
    watching.abort();
}

#[tokio::test]
async fn all_unhealthy_upstreams_still_receive_requests() {
    let ((one, _), (two, _)) = (checked_upstream("one", 500).await, checked_upstream("two", 500).await);
    let mut upstreams = [one, two];
    let routes = Routes::new([route(upstreams.iter().map(Upstream::url), settings())]).unwrap();
    tokio::spawn(routes.run_health_checks());
    for checked_upstream in &mut upstreams {
        for _ in 0..4 {
            checked_upstream.seen().await;
        }
    }
    let proxy = ProxyServer { routes: routes.clone(), ..ProxyServer::default() }.start().await;
    assert_eq!(serving_names(proxy).await, ["one", "two"]);
}

#[tokio::test]
async fn health_checks_end_with_their_routes() {
    let (upstream, _) = checked_upstream("one", 200).await;
    let routes = Routes::new([route([upstream.url()], settings())]).unwrap();
    let watching = tokio::spawn(routes.run_health_checks());
    let clone = routes.clone();
    drop(routes);
    assert!(clone.find(&"/".parse().unwrap()).unwrap().is_some());
    assert!(!watching.is_finished());
    drop(clone);
    tokio::time::timeout(Duration::from_secs(10), watching).await.unwrap().unwrap();
}
