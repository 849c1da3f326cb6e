//! Load balancing, failover and outlier ejection.

use std::convert::Infallible;
use std::sync::atomic::Ordering;

use axum_core::body::Body;
use futures_util::StreamExt;
use http::Response;
use sekisho::proxy::{RouteSpec, UpstreamSettings};

use super::{UnresponsiveUpstream, get, invalid_upstream, problem, refusing_url, route, send};
use crate::support::paused_clock::PausedClock;
use crate::support::proxy_server::{ProxyServer, code, connect, request, text};
use crate::support::upstream::{GatedUpstream, RecordedRequest, Upstream};

#[tokio::test]
async fn request_goes_to_the_less_loaded_upstream() {
    let (mut first, mut second) = (GatedUpstream::start().await, GatedUpstream::start().await);
    let proxy = ProxyServer::new([RouteSpec::new("/", [first.url(), second.url()])]).start().await;
    let mut waiting = Vec::new();
    let mut counts = [0, 0];
    for _ in 0..10 {
        let mut client = connect(proxy).await;
        waiting.push(tokio::spawn(client.send_request(request("GET", "/", Body::empty()))));
        tokio::select! {
            () = first.arrived(1) => counts[0] += 1,
            () = second.arrived(1) => counts[1] += 1,
        }
    }
    assert_eq!(counts, [5, 5]);
    first.release(5);
    second.release(5);
    for response in waiting {
        assert_eq!(text(response.await.unwrap().unwrap()).await, GatedUpstream::ANSWER);
    }
}

/// A5: a streamed response does not count against the limit, but it is load.
#[tokio::test]
async fn streamed_responses_count_as_load() {
    let unfinished = |_: &RecordedRequest| {
        let begun = futures_util::stream::iter([Ok::<_, Infallible>("begun")]);
        Response::new(Body::from_stream(begun.chain(futures_util::stream::pending())))
    };
    let mut first = Upstream::responding_with(unfinished).await;
    let mut second = Upstream::responding_with(unfinished).await;
    let proxy = ProxyServer::new([RouteSpec::new("/", [first.url(), second.url()])]).start().await;
    let mut streamed = Vec::new();
    for _ in 0..10 {
        streamed.extend([get(proxy).await, get(proxy).await]);
        // Equally loaded upstreams are chosen at random.
        for upstream in [&mut first, &mut second] {
            assert!(upstream.try_next_request().is_some() && upstream.has_no_more_requests());
        }
    }
}

#[tokio::test]
async fn idle_upstreams_share_requests_at_random() {
    let (first, second, third) = (Upstream::start().await, Upstream::start().await, Upstream::start().await);
    let proxy =
        ProxyServer::new([RouteSpec::new("/", [first.url(), second.url(), third.url()])]).start().await;
    for _ in 0..64 {
        assert_eq!(get(proxy).await.status(), 200);
    }
    for upstream in [&first, &second, &third] {
        assert!(upstream.connections() > 0);
    }
}

#[tokio::test]
async fn undeliverable_request_goes_to_another_upstream() {
    let mut upstream = Upstream::start().await;
    let proxy = ProxyServer::new([RouteSpec::new("/", [refusing_url(), upstream.url()])]).start().await;
    // Any method may fail over, since nothing was sent to the first upstream.
    for _ in 0..20 {
        assert_eq!(send(proxy, "POST", Body::from("body")).await.status(), 200);
        assert_eq!(upstream.seen().await.length, 4);
    }
    assert!(upstream.has_no_more_requests());
}

#[tokio::test]
async fn no_reachable_upstream_is_reported() {
    let proxy = ProxyServer::new([RouteSpec::new("/", [refusing_url(), refusing_url()])]).start().await;
    assert_eq!(code(get(proxy).await).await, problem(502, "upstream_unreachable"));
}

#[tokio::test]
async fn unresponsive_upstream_leaves_time_for_another() {
    let (unresponsive, upstream) = (UnresponsiveUpstream::new().await, Upstream::start().await);
    let settings = UpstreamSettings { eject_after: 1, ..UpstreamSettings::default() };
    let proxy = ProxyServer::new([route([unresponsive.url(), upstream.url()], settings)]).start().await;
    let clock = PausedClock::new();
    // The random choice hits the unresponsive upstream a few times before it is ejected.
    let mut slow = 0;
    for _ in 0..30 {
        let response = tokio::spawn(get(proxy));
        let before = tokio::time::Instant::now();
        while !response.is_finished() {
            clock.advance_millis(100).await;
        }
        let took = before.elapsed().as_millis();
        assert_eq!(response.await.unwrap().status(), 200);
        slow += usize::from(took >= 2400);
        assert!(took < 4000, "within the connect timeout: {took}");
    }
    assert!(slow <= 2, "{slow}");
    assert_eq!(unresponsive.waiting.len(), 2);
}

#[tokio::test]
async fn failing_upstream_is_ejected_temporarily() {
    let (invalid, requests) = invalid_upstream().await;
    let upstream = Upstream::start().await;
    let settings = UpstreamSettings { eject_after: 3, ..UpstreamSettings::default() };
    let proxy = ProxyServer::new([route([invalid, upstream.url()], settings)]).start().await;
    let clock = PausedClock::new();
    while requests.load(Ordering::SeqCst) < 3 {
        get(proxy).await;
    }
    for _ in 0..20 {
        assert_eq!(get(proxy).await.status(), 200);
    }
    assert_eq!(requests.load(Ordering::SeqCst), 3);
    // The next request is the probe, which fails.
    clock.advance(11).await;
    assert_eq!(code(get(proxy).await).await, problem(502, "upstream_error"));
    for _ in 0..20 {
        assert_eq!(get(proxy).await.status(), 200);
    }
    // The second ejection lasts longer.
    clock.advance(11).await;
    assert_eq!(get(proxy).await.status(), 200);
    clock.advance(10).await;
    assert_eq!(get(proxy).await.status(), 502);
    assert_eq!(requests.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn never_all_upstreams_are_ejected() {
    let ((first, first_requests), (second, second_requests)) =
        (invalid_upstream().await, invalid_upstream().await);
    let settings = UpstreamSettings { eject_after: 1, ..UpstreamSettings::default() };
    let proxy = ProxyServer::new([route([first, second], settings)]).start().await;
    for _ in 0..20 {
        assert_eq!(code(get(proxy).await).await, problem(502, "upstream_error"));
    }
    let requests = [first_requests, second_requests].map(|requests| requests.load(Ordering::SeqCst));
    assert!(
        requests.iter().sum::<usize>() == 20 && requests.iter().all(|&requests| requests > 0),
        "{requests:?}"
    );
}
