//! Concurrency limits, queues, and unreachable upstreams.

use axum_core::body::Body;
use bytes::Bytes;
use http::Response;
use sekisho::proxy::{RouteSpec, UpstreamSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::{UnresponsiveUpstream, get, problem, refusing_url, route, send};
use crate::support::paused_clock::PausedClock;
use crate::support::process::until;
use crate::support::proxy_server::{ProxyServer, channel_body, code, connect, request, text};
use crate::support::upstream::{GatedUpstream, Upstream, read_head};

/// One request in flight and one queued.
fn one_at_a_time() -> UpstreamSettings {
    UpstreamSettings { max_in_flight: 1, max_queued: 1, ..UpstreamSettings::default() }
}

#[tokio::test]
async fn full_upstream_queues_briefly() {
    let mut upstream = GatedUpstream::start().await;
    let proxy = ProxyServer::new([route([upstream.url()], one_at_a_time())]).start().await;
    let _clock = PausedClock::new();
    let first = tokio::spawn(get(proxy));
    upstream.arrived(1).await;
    // One of the two is queued, and the other is rejected at once.
    let (mut second, mut third) = (tokio::spawn(get(proxy)), tokio::spawn(get(proxy)));
    let (rejected, queued) = tokio::select! {
        rejected = &mut second => (rejected.unwrap(), third),
        rejected = &mut third => (rejected.unwrap(), second),
    };
    assert_eq!(rejected.headers()["retry-after"], "1");
    assert_eq!(code(rejected).await, problem(503, "upstream_busy"));
    upstream.release(1);
    assert_eq!(text(first.await.unwrap()).await, GatedUpstream::ANSWER);
    upstream.arrived(1).await;
    upstream.release(1);
    assert_eq!(text(queued.await.unwrap()).await, GatedUpstream::ANSWER);
}

#[tokio::test]
async fn queue_timeout_is_short() {
    let mut upstream = GatedUpstream::start().await;
    let proxy = ProxyServer::new([route([upstream.url()], one_at_a_time())]).start().await;
    let first = tokio::spawn(get(proxy));
    upstream.arrived(1).await;
    assert_eq!(code(get(proxy).await).await, problem(503, "upstream_busy"));
    upstream.release(1);
    assert_eq!(first.await.unwrap().status(), 200);
}

#[tokio::test]
async fn disconnected_client_frees_its_queue_slot() {
    let mut upstream = GatedUpstream::start().await;
    let proxy = ProxyServer::new([route([upstream.url()], one_at_a_time())]).start().await;
    let _clock = PausedClock::new();
    for _ in 0..3 {
        let mut client = tokio::net::TcpStream::connect(proxy).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        upstream.arrived(1).await;
    }
}

#[tokio::test]
async fn event_stream_releases_its_concurrency_slot() {
    let (_feed, body) = channel_body();
    let body = std::sync::Mutex::new(Some(body));
    let upstream = Upstream::responding_with(move |_| match body.lock().unwrap().take() {
        Some(events) => {
            let kind = "text/event-stream; charset=utf-8";
            Response::builder().header("content-type", kind).body(events).unwrap()
        }
        None => Response::new(Body::from("next")),
    })
    .await;
    let proxy = ProxyServer::new([route([upstream.url()], one_at_a_time())]).start().await;
    let _events = get(proxy).await;
    for _ in 0..3 {
        assert_eq!(text(get(proxy).await).await, "next");
    }
}

/// A5: clients that did not read their responses kept the upstream busy for all others.
#[tokio::test]
async fn unread_response_releases_its_concurrency_slot() {
    let large = Bytes::from(vec![b'x'; 16 * 1024 * 1024]);
    let upstream = Upstream::responding_with(move |request| {
        let is_large = request.target == "/large";
        Response::new(if is_large { Body::from(large.clone()) } else { Body::from("next") })
    })
    .await;
    let proxy = ProxyServer::new([route([upstream.url()], one_at_a_time())]).start().await;
    let mut stuck = Vec::new();
    for _ in 0..3 {
        let socket = TcpSocket::new_v4().unwrap();
        // The smallest receive buffer that the kernel allows.
        socket.set_recv_buffer_size(1).unwrap();
        let mut client = socket.connect(proxy).await.unwrap();
        client.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut status = [0; 12];
        client.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        stuck.push(client);
    }
    assert_eq!(text(get(proxy).await).await, "next");
}

/// A1: a body that arrived slowly kept its place at the upstream.
#[tokio::test]
async fn awaited_upload_releases_its_concurrency_slot() {
    let mut upstream = Upstream::start().await;
    let proxy = ProxyServer::new([route([upstream.url()], one_at_a_time())]).start().await;
    let (feed, body) = channel_body();
    feed.send("begun").unwrap();
    let upload = tokio::spawn(send(proxy, "POST", body));
    until("the upload to begin", async || (upstream.connections() == 1).then_some(())).await;
    for _ in 0..3 {
        assert_eq!(get(proxy).await.status(), 200);
        assert_eq!(upstream.seen().await.method, "GET");
    }
    drop(feed);
    assert_eq!(upload.await.unwrap().status(), 200);
    assert_eq!(upstream.seen().await.length, 5);
}

#[tokio::test]
async fn requests_of_a_full_upstream_go_to_another() {
    let (mut first, mut second) = (GatedUpstream::start().await, GatedUpstream::start().await);
    let proxy = ProxyServer::new([route([first.url(), second.url()], one_at_a_time())]).start().await;
    let _clock = PausedClock::new();
    let responses = [tokio::spawn(get(proxy)), tokio::spawn(get(proxy))];
    first.arrived(1).await;
    second.arrived(1).await;
    first.release(1);
    second.release(1);
    for response in responses {
        assert_eq!(response.await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn unresponsive_upstream_times_out() {
    let unresponsive = UnresponsiveUpstream::new().await;
    let proxy = ProxyServer::to(unresponsive.url()).start().await;
    let clock = PausedClock::new();
    let response = tokio::spawn(get(proxy));
    while !response.is_finished() {
        clock.advance(1).await;
    }
    assert_eq!(code(response.await.unwrap()).await, problem(504, "upstream_connect_timeout"));
}

#[tokio::test]
async fn unreachable_upstream_has_no_queue() {
    let unresponsive = UnresponsiveUpstream::new().await;
    let settings = UpstreamSettings { eject_after: 2, ..UpstreamSettings::default() };
    let proxy = ProxyServer::new([route([unresponsive.url()], settings)]).start().await;
    let clock = PausedClock::new();
    let both = [tokio::spawn(get(proxy)), tokio::spawn(get(proxy))];
    while !both.iter().all(tokio::task::JoinHandle::is_finished) {
        clock.advance(1).await;
    }
    // With the circuit open, one request at a time is a probe, and others are rejected at once.
    let (mut first, mut second) = (tokio::spawn(get(proxy)), tokio::spawn(get(proxy)));
    let (rejected, probe) = tokio::select! {
        rejected = &mut first => (rejected.unwrap(), second),
        rejected = &mut second => (rejected.unwrap(), first),
    };
    assert_eq!(rejected.headers()["retry-after"], "1");
    assert_eq!(code(rejected).await, problem(503, "upstream_unavailable"));
    while !probe.is_finished() {
        clock.advance(1).await;
    }
    assert_eq!(code(probe.await.unwrap()).await, problem(504, "upstream_connect_timeout"));

    // A successful probe closes the circuit.
    let UnresponsiveUpstream { listener, waiting } = unresponsive;
    drop(waiting);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                while !read_head(&mut socket).await.is_empty() {
                    let _ = socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                }
            });
        }
    });
    while get(proxy).await.status() != 204 {}
    let responses = futures_util::future::join_all((0..8).map(|_| get(proxy))).await;
    assert!(responses.iter().all(|response| response.status() == 204));
}

#[tokio::test]
async fn refused_connection_is_reported() {
    // Each request is a probe, since refused connections fail fast.
    let proxy = ProxyServer::new([RouteSpec::new("/", [refusing_url()])]).start().await;
    for _ in 0..20 {
        let mut client = connect(proxy).await;
        let response = client.send_request(request("GET", "/", Body::empty())).await.unwrap();
        assert_eq!(code(response).await, problem(502, "upstream_unreachable"));
    }
}
