//! Name resolution of upstreams.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum_core::body::Body;
use http::Response;
use sekisho::proxy::{Resolve, RouteSpec, UpstreamSettings};

use super::{UnresponsiveUpstream, dead, get, problem, route};
use crate::support::fair_clock::FairInstant;
use crate::support::paused_clock::PausedClock;
use crate::support::proxy_server::{ProxyServer, code, text};
use crate::support::upstream::Upstream;

/// A resolver with configurable results.
#[derive(Default)]
struct Names(Mutex<Option<Vec<SocketAddr>>>);

impl Names {
    fn say(&self, addresses: Option<&[&str]>) {
        let address = |url: &&str| url.trim_start_matches("http://").parse().unwrap();
        *self.0.lock().unwrap() = addresses.map(|urls| urls.iter().map(address).collect());
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        assert_eq!((host, port), ("app.internal", 80));
        self.0.lock().unwrap().clone().ok_or_else(|| io::Error::other("no name server"))
    }
}

/// Starts a proxy whose upstream is resolved by `names`.
async fn front(names: &Arc<Names>) -> SocketAddr {
    let resolver: Arc<dyn Resolve> = names.clone();
    let settings = UpstreamSettings { resolver: Some(resolver), ..UpstreamSettings::default() };
    ProxyServer::new([route(["http://app.internal"], settings)]).start().await
}

async fn named(name: &'static str) -> Upstream {
    Upstream::answering(move |_| Response::new(Body::from(name))).await
}

#[tokio::test]
async fn system_resolver_is_used() {
    let upstream = named("local").await;
    let front = ProxyServer::to(format!("http://localhost:{}", upstream.address().port())).start().await;
    assert_eq!(text(get(front).await).await, "local");
}

#[tokio::test]
async fn every_address_is_tried_and_used() {
    let (one, two) = (named("one").await, named("two").await);
    let names = Arc::<Names>::default();
    names.say(Some(&[&dead(), &one.url(), &dead(), &two.url()]));
    let front = front(&names).await;
    let answers =
        futures_util::future::join_all((0..8).map(|_| async { text(get(front).await).await })).await;
    assert!(["one", "two"].iter().all(|name| answers.iter().any(|answer| answer == name)), "{answers:?}");
}

#[tokio::test]
async fn unresponsive_address_does_not_delay_requests() {
    let (hole, one) = (UnresponsiveUpstream::new().await, named("one").await);
    let names = Arc::<Names>::default();
    names.say(Some(&[&hole.url(), &one.url()]));
    let front = front(&names).await;
    let began = FairInstant::now();
    assert_eq!(text(get(front).await).await, "one");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn changed_addresses_are_followed() {
    let (old, new) = (named("old").await, named("new").await);
    let names = Arc::<Names>::default();
    names.say(Some(&[&old.url()]));
    let front = front(&names).await;
    let clock = PausedClock::new();
    assert_eq!(text(get(front).await).await, "old");
    names.say(Some(&[&new.url()]));
    clock.advance(9).await;
    assert_eq!(text(get(front).await).await, "old", "they are good for ten seconds");
    clock.advance(2).await;
    // The next request starts the lookup in the background and may still use the old address. The connection
    // that it leaves there must not be reused.
    for _ in 0..100 {
        if text(get(front).await).await == "new" {
            break;
        }
    }
    assert_eq!(text(get(front).await).await, "new");

    names.say(None);
    clock.advance(11).await;
    for _ in 0..5 {
        assert_eq!(text(get(front).await).await, "new", "a failing lookup changes nothing");
    }
    names.say(Some(&[&old.url()]));
    clock.advance(11).await;
    while text(get(front).await).await == "new" {}
}

#[tokio::test]
async fn failing_name_is_resolved_again_soon() {
    let upstream = named("moved").await;
    let names = Arc::<Names>::default();
    names.say(Some(&[&dead()]));
    let front = front(&names).await;
    let clock = PausedClock::new();
    assert_eq!(get(front).await.status(), 502);
    names.say(Some(&[&upstream.url()]));
    clock.advance_millis(1100).await;
    while get(front).await.status() != 200 {}
}

#[tokio::test]
async fn name_without_addresses_is_reported_and_retried() {
    let upstream = named("there").await;
    let names = Arc::<Names>::default();
    let front = front(&names).await;
    assert_eq!(code(get(front).await).await, problem(502, "upstream_unreachable"));
    names.say(Some(&[]));
    assert_eq!(code(get(front).await).await, problem(502, "upstream_unreachable"));
    names.say(Some(&[&upstream.url()]));
    assert_eq!(text(get(front).await).await, "there");
}

#[tokio::test]
async fn host_header_is_kept() {
    let mut upstream = named("one").await;
    let names = Arc::<Names>::default();
    names.say(Some(&[&upstream.url()]));
    let front = front(&names).await;
    get(front).await;
    assert_eq!(upstream.seen().await.all("host"), ["app.example"]);
    let old = crate::support::proxy_server::exchange(front, "GET / HTTP/1.0\r\n\r\n").await;
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
    let front = ProxyServer::new([RouteSpec::new("/", [format!("http://[::1]:{port}")])]).start().await;
    assert_eq!(text(get(front).await).await, "six");
}
