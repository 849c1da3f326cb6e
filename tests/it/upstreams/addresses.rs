//! Name resolution of upstreams.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum_core::body::Body;
use http::Response;
use sekisho::proxy::{Resolve, RouteSpec, UpstreamSettings};

use super::{UnresponsiveUpstream, get, problem, refusing_url, route};
use crate::support::fair_clock::FairInstant;
use crate::support::paused_clock::PausedClock;
use crate::support::proxy_server::{ProxyServer, code, text};
use crate::support::upstream::Upstream;

/// A resolver with configurable results.
#[derive(Default)]
struct TestResolver(Mutex<Option<Vec<SocketAddr>>>);

impl TestResolver {
    fn set(&self, addresses: Option<&[&str]>) {
        let address = |url: &&str| url.trim_start_matches("http://").parse().unwrap();
        *self.0.lock().unwrap() = addresses.map(|urls| urls.iter().map(address).collect());
    }
}

#[async_trait]
impl Resolve for TestResolver {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        assert_eq!((host, port), ("app.internal", 80));
        self.0.lock().unwrap().clone().ok_or_else(|| io::Error::other("no name server"))
    }
}

/// Starts a proxy whose upstream is resolved by `names`.
async fn start_proxy(resolver: &Arc<TestResolver>) -> SocketAddr {
    let dyn_resolver: Arc<dyn Resolve> = resolver.clone();
    let settings = UpstreamSettings { resolver: Some(dyn_resolver), ..UpstreamSettings::default() };
    ProxyServer::new([route(["http://app.internal"], settings)]).start().await
}

async fn named_upstream(name: &'static str) -> Upstream {
    Upstream::responding_with(move |_| Response::new(Body::from(name))).await
}

#[tokio::test]
async fn system_resolver_is_used() {
    let upstream = named_upstream("local").await;
    let proxy = ProxyServer::to(format!("http://localhost:{}", upstream.address().port())).start().await;
    assert_eq!(text(get(proxy).await).await, "local");
}

#[tokio::test]
async fn every_address_is_tried_and_used() {
    let (one, two) = (named_upstream("one").await, named_upstream("two").await);
    let resolver = Arc::<TestResolver>::default();
    resolver.set(Some(&[&refusing_url(), &one.url(), &refusing_url(), &two.url()]));
    let proxy = start_proxy(&resolver).await;
    let responses =
        futures_util::future::join_all((0..8).map(|_| async { text(get(proxy).await).await })).await;
    assert!(
        ["one", "two"].iter().all(|name| responses.iter().any(|response| response == name)),
        "{responses:?}"
    );
}

#[tokio::test]
async fn unresponsive_address_does_not_delay_requests() {
    let (unresponsive, one) = (UnresponsiveUpstream::new().await, named_upstream("one").await);
    let resolver = Arc::<TestResolver>::default();
    resolver.set(Some(&[&unresponsive.url(), &one.url()]));
    let proxy = start_proxy(&resolver).await;
    let start = FairInstant::now();
    assert_eq!(text(get(proxy).await).await, "one");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn changed_addresses_are_followed() {
    let (old, new) = (named_upstream("old").await, named_upstream("new").await);
    let resolver = Arc::<TestResolver>::default();
    resolver.set(Some(&[&old.url()]));
    let proxy = start_proxy(&resolver).await;
    let clock = PausedClock::new();
    assert_eq!(text(get(proxy).await).await, "old");
    resolver.set(Some(&[&new.url()]));
    clock.advance(9).await;
    assert_eq!(text(get(proxy).await).await, "old", "addresses are cached for ten seconds");
    clock.advance(2).await;
    // The next request starts the lookup in the background and may still use the old address. The connection
    // that it leaves there must not be reused.
    for _ in 0..100 {
        if text(get(proxy).await).await == "new" {
            break;
        }
    }
    assert_eq!(text(get(proxy).await).await, "new");

    resolver.set(None);
    clock.advance(11).await;
    for _ in 0..5 {
        assert_eq!(text(get(proxy).await).await, "new", "a failed lookup keeps the addresses");
    }
    resolver.set(Some(&[&old.url()]));
    clock.advance(11).await;
    while text(get(proxy).await).await == "new" {}
}

#[tokio::test]
async fn failing_name_is_resolved_again_soon() {
    let upstream = named_upstream("moved").await;
    let resolver = Arc::<TestResolver>::default();
    resolver.set(Some(&[&refusing_url()]));
    let proxy = start_proxy(&resolver).await;
    let clock = PausedClock::new();
    assert_eq!(get(proxy).await.status(), 502);
    resolver.set(Some(&[&upstream.url()]));
    clock.advance_millis(1100).await;
    while get(proxy).await.status() != 200 {}
}

#[tokio::test]
async fn name_without_addresses_is_reported_and_retried() {
    let upstream = named_upstream("there").await;
    let resolver = Arc::<TestResolver>::default();
    let proxy = start_proxy(&resolver).await;
    assert_eq!(code(get(proxy).await).await, problem(502, "upstream_unreachable"));
    resolver.set(Some(&[]));
    assert_eq!(code(get(proxy).await).await, problem(502, "upstream_unreachable"));
    resolver.set(Some(&[&upstream.url()]));
    assert_eq!(text(get(proxy).await).await, "there");
}

#[tokio::test]
async fn host_header_is_kept() {
    let mut upstream = named_upstream("one").await;
    let resolver = Arc::<TestResolver>::default();
    resolver.set(Some(&[&upstream.url()]));
    let proxy = start_proxy(&resolver).await;
    get(proxy).await;
    assert_eq!(upstream.seen().await.all("host"), ["app.example"]);
    let old = crate::support::proxy_server::exchange(proxy, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 "), "{old}");
    assert_eq!(upstream.seen().await.all("host"), ["app.internal"]);
}

#[tokio::test]
async fn ipv6_addresses_are_used() {
    let Ok(listener) = tokio::net::TcpListener::bind("[::1]:0").await else { return };
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(crate::support::upstream::serve_any(socket, |_| async {
                Response::new(Body::from("six"))
            }));
        }
    });
    let proxy = ProxyServer::new([RouteSpec::new("/", [format!("http://[::1]:{port}")])]).start().await;
    assert_eq!(text(get(proxy).await).await, "six");
}
