//! Replacement of the route table at run time.

use std::sync::atomic::Ordering;

use axum_core::body::Body;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use sekisho::long_lived_streams::LongLivedStreams;
use sekisho::proxy::{Proxy, ReservedCookies, Routes, UpstreamSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::{invalid_upstream, route};
use crate::support::paused_clock::PausedClock;
use crate::support::proxy_server::request;
use crate::support::upstream::{Upstream, listen, read_head};

async fn ask(proxy: &Proxy, routes: &Routes) -> Response<Body> {
    let mut request_with_route = request("GET", "/", Body::empty());
    request_with_route.extensions_mut().insert(routes.find(&"/".parse().unwrap()).unwrap().unwrap());
    proxy.clone().oneshot(request_with_route).await.unwrap()
}

#[tokio::test]
async fn upstream_state_survives_a_reload() {
    let (invalid, requests) = invalid_upstream().await;
    let good = Upstream::start().await;
    let settings = UpstreamSettings { eject_after: 1, ..UpstreamSettings::default() };
    let spec = |settings: &UpstreamSettings| route([invalid.clone(), good.url()], settings.clone());
    let (proxy, first) = (
        Proxy::new(ReservedCookies::default(), LongLivedStreams::default()),
        Routes::new([spec(&settings)]).unwrap(),
    );
    while requests.load(Ordering::SeqCst) == 0 {
        ask(&proxy, &first).await.into_body().collect().await.unwrap();
    }
    let second = Routes::rebuild_from([spec(&settings)], &first).unwrap();
    drop(first);
    for _ in 0..20 {
        assert_eq!(ask(&proxy, &second).await.status(), StatusCode::OK);
    }
    let connections = good.connections();
    assert_eq!(
        (requests.load(Ordering::SeqCst), connections),
        (1, connections.min(1)),
        "connections are kept too"
    );

    let changed = UpstreamSettings { eject_after: 2, ..settings };
    let third = Routes::rebuild_from([spec(&changed)], &second).unwrap();
    while requests.load(Ordering::SeqCst) == 1 {
        ask(&proxy, &third).await;
    }
}

#[tokio::test]
async fn connections_to_removed_upstreams_are_closed() {
    let (report, mut closed) = mpsc::unbounded_channel();
    let upstream = listen(move |mut socket| {
        let report = report.clone();
        async move {
            read_head(&mut socket).await;
            socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            report.send(socket.read(&mut [0]).await.unwrap_or(0)).unwrap();
        }
    })
    .await;
    let routes = Routes::new([route([format!("http://{upstream}")], UpstreamSettings::default())]).unwrap();
    let proxy = Proxy::new(ReservedCookies::default(), LongLivedStreams::default());
    let clock = PausedClock::new();
    ask(&proxy, &routes).await.into_body().collect().await.unwrap();
    clock.advance(2).await;
    assert!(closed.try_recv().is_err(), "still open");
    drop(routes);
    clock.advance_millis(1100).await;
    assert_eq!(closed.recv().await, Some(0));
}
