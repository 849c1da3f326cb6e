//! TLS to upstreams (P-26).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum_core::body::Body;
use futures_util::future::join_all;
use sekisho::proxy::{RouteSpec, Routes, UpstreamHttp, UpstreamSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Barrier;
use tokio::time::timeout;

use super::{get, problem, route};
use crate::support::authority::Authority;
use crate::support::log::Log;
use crate::support::process::PROCESS_TIMEOUT;
use crate::support::proxy_server::{ProxyServer, code, connect, request};
use crate::support::upstream::{Upstream, listen};

fn trusting(authority: &Authority) -> UpstreamSettings {
    UpstreamSettings { ca: authority.trusted(), ..UpstreamSettings::default() }
}

fn url(upstream: &Upstream, host: &str) -> String {
    format!("https://{host}:{}", upstream.address().port())
}

#[tokio::test]
async fn certificate_is_verified_by_name_and_address() {
    let authority = Authority::new();
    for (name, host) in [("localhost", "localhost"), ("127.0.0.1", "127.0.0.1")] {
        let mut upstream = Upstream::with_tls(authority.server(name, &[])).await;
        let proxy = ProxyServer::new([route([url(&upstream, host)], trusting(&authority))]).start().await;
        assert_eq!(get(proxy).await.status(), 200);
        assert_eq!(upstream.seen().await.all("host"), ["app.example"]);
        assert_eq!(get(proxy).await.status(), 200);
        assert_eq!(upstream.connections(), 1);
    }
}

#[tokio::test]
async fn invalid_certificate_is_rejected() {
    let (authority, other) = (Authority::new(), Authority::new());
    let systems = UpstreamSettings::default();
    for (server, settings, cause) in [
        (other.server("localhost", &[]), trusting(&authority), "UnknownIssuer"),
        (authority.server("localhost", &[]), systems, "UnknownIssuer"),
        (authority.server("app.example", &[]), trusting(&authority), "not valid for name"),
        (authority.server("127.0.0.1", &[]), trusting(&authority), "not valid for name"),
        (authority.expired("localhost"), trusting(&authority), "expired"),
    ] {
        let log = Log::default();
        let _captured = log.capture();
        let mut upstream = Upstream::with_tls(server).await;
        let proxy = ProxyServer::new([route([url(&upstream, "localhost")], settings)]).start().await;
        assert_eq!(code(get(proxy).await).await, problem(502, "upstream_unreachable"));
        assert!(upstream.has_no_more_requests());
        let lines = log.lines();
        assert!(lines.iter().any(|line| line.contains(cause)), "{cause}: {lines:?}");
    }
}

/// C12: the certificate of an authority was rejected, even where it was listed itself, as openssl makes it.
#[tokio::test]
async fn listed_certificate_of_an_authority_is_trusted() {
    let (_, listed_other) = Authority::self_signed("localhost", 2000, 2100);
    for (name, from, until, is_listed, expected) in [
        ("localhost", 2000, 2100, true, None),
        ("localhost", 2000, 2100, false, Some("CaUsedAsEndEntity")),
        ("app.example", 2000, 2100, true, Some("not valid for name")),
        ("localhost", 2000, 2001, true, Some("expired")),
        ("localhost", 2099, 2100, true, Some("not valid yet")),
    ] {
        let log = Log::default();
        let _captured = log.capture();
        let (acceptor, certificate) = Authority::self_signed(name, from, until);
        let mut upstream = Upstream::with_tls(acceptor).await;
        let listed =
            if is_listed { vec![listed_other.clone(), certificate] } else { vec![listed_other.clone()] };
        let settings = UpstreamSettings { ca: Some(listed), ..UpstreamSettings::default() };
        let proxy = ProxyServer::new([route([url(&upstream, "localhost")], settings)]).start().await;
        match expected {
            None => assert_eq!(get(proxy).await.status(), 200),
            Some(cause) => {
                assert_eq!(code(get(proxy).await).await, problem(502, "upstream_unreachable"));
                assert!(upstream.has_no_more_requests());
                let lines = log.lines();
                assert!(lines.iter().any(|line| line.contains(cause)), "{cause}: {lines:?}");
            }
        }
    }
}

#[tokio::test]
async fn non_tls_upstream_is_reported() {
    let plain = listen(|mut socket| async move {
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let proxy =
        ProxyServer::new([route([format!("https://{plain}")], trusting(&Authority::new()))]).start().await;
    assert_eq!(code(get(proxy).await).await, problem(502, "upstream_unreachable"));
}

#[tokio::test]
async fn http_version_is_negotiated() {
    let authority = Authority::new();
    for (ours, theirs, version) in [
        (UpstreamHttp::Http1, &["h2", "http/1.1"][..], http::Version::HTTP_11),
        (UpstreamHttp::Http2, &["h2", "http/1.1"], http::Version::HTTP_2),
        (UpstreamHttp::Http2, &["h2"], http::Version::HTTP_2),
        (UpstreamHttp::Http2, &["http/1.1"], http::Version::HTTP_11),
        (UpstreamHttp::Http2, &[], http::Version::HTTP_11),
    ] {
        let mut upstream = Upstream::with_tls(authority.server("localhost", theirs)).await;
        let settings = UpstreamSettings { http: ours, ..trusting(&authority) };
        let proxy = ProxyServer::new([route([url(&upstream, "localhost")], settings)]).start().await;
        for _ in 0..3 {
            assert_eq!(get(proxy).await.status(), 200);
            assert_eq!(upstream.seen().await.version, version, "{ours:?} {theirs:?}");
        }
        assert_eq!(upstream.connections(), 1);
    }
    let upstream = Upstream::with_tls(authority.server("localhost", &["h2"])).await;
    let proxy = ProxyServer::new([route([url(&upstream, "localhost")], trusting(&authority))]).start().await;
    assert_eq!(code(get(proxy).await).await, problem(502, "upstream_unreachable"), "HTTP/1.1 alone");
}

/// Requests wait for a connection that may turn out to be HTTP/2. HTTP/1.1 connections must be established
/// concurrently.
#[tokio::test]
async fn http1_upstreams_are_connected_concurrently() {
    const CONNECTIONS: usize = 4;
    let authority = Authority::new();
    let tls = authority.server("localhost", &["http/1.1"]);
    let (first, all) = (Arc::new(AtomicBool::new(true)), Arc::new(Barrier::new(CONNECTIONS)));
    let upstream = listen(move |socket| {
        let (tls, first, all) = (tls.clone(), Arc::clone(&first), Arc::clone(&all));
        async move {
            if !first.swap(false, Ordering::Relaxed) {
                all.wait().await;
            }
            let mut socket = tls.accept(socket).await.unwrap();
            let _ = socket.read(&mut [0; 1024]).await;
            let _ = socket.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        }
    })
    .await;
    let settings = UpstreamSettings { http: UpstreamHttp::Http2, ..trusting(&authority) };
    let url = format!("https://localhost:{}", upstream.port());
    let proxy = ProxyServer::new([route([url], settings)]).start().await;
    assert_eq!(get(proxy).await.status(), 204);
    for response in join_all((0..CONNECTIONS).map(|_| get(proxy))).await {
        assert_eq!(response.status(), 204);
    }
}

#[test]
fn invalid_ca_and_server_names_are_rejected_at_start() {
    let junk = UpstreamSettings { ca: Some(vec![b"junk".to_vec().into()]), ..UpstreamSettings::default() };
    let error = |spec: RouteSpec| Routes::new([spec]).unwrap_err().to_string();
    assert!(error(route(["https://h"], junk.clone())).contains("route `/`"));
    assert!(Routes::new([route(["http://h"], junk)]).is_ok(), "unused without TLS");
    let authority = trusting(&Authority::new());
    assert!(error(route(["https://a..b"], authority)).contains("not a valid server name"));
}

/// The TLS layer buffers data that the socket does not accept. For some of these sizes it is the end of the
/// upload.
#[tokio::test]
async fn upload_to_a_late_reader_completes() {
    let authority = Authority::new();
    let tls = authority.server("localhost", &[]);
    let late = listen(move |socket| {
        let tls = tls.clone();
        async move {
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 64 * 1024).unwrap();
            let mut stream = tls.accept(socket).await.unwrap();
            // Time for the writer to fill all buffers.
            for _ in 0..20_000 {
                tokio::task::yield_now().await;
            }
            let (mut read, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
            loop {
                let len = stream.read(&mut piece).await.unwrap();
                read.extend_from_slice(&piece[..len]);
                if read.ends_with(b"end") {
                    break;
                }
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
            stream.flush().await.unwrap();
        }
    })
    .await;
    let url = format!("https://localhost:{}", late.port());
    let proxy = ProxyServer::new([route([url], trusting(&authority))]).start().await;
    for size in (100_000..6_000_000).step_by(50_000) {
        let mut body = vec![b'x'; size];
        body.extend_from_slice(b"end");
        let response = connect(proxy).await.send_request(request("POST", "/", Body::from(body)));
        assert_eq!(
            timeout(PROCESS_TIMEOUT, response).await.expect("a response").unwrap().status(),
            204,
            "{size}"
        );
    }
}
