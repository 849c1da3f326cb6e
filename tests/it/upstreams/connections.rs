//! Reuse and retries of upstream HTTP/1.1 connections (P-13, P-14).

use std::time::Duration;

use axum_core::body::Body;
use http_body_util::BodyExt;
use sekisho::long_lived_streams::LongLivedStreams;
use sekisho::proxy::{MatchedRoute, Proxy, ReservedCookies, RouteSpec, Routes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::{get, problem, send};
use crate::support::paused_clock::PausedClock;
use crate::support::proxy_server::{ProxyServer, channel_body, code, connect, request, text};
use crate::support::upstream::{Upstream, listen, raw_upstream, read_head};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Starts a proxy, and returns the listener of its upstream.
async fn start_proxy() -> (std::net::SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = ProxyServer::to(format!("http://{}", listener.local_addr().unwrap())).start().await;
    (proxy, listener)
}

/// Accepts a connection and reads a request header.
async fn accept(listener: &TcpListener) -> TcpStream {
    let (mut socket, _) = listener.accept().await.unwrap();
    assert!(!read_head(&mut socket).await.is_empty());
    socket
}

/// Reads until the proxy closes the connection.
async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest).await;
    rest
}

#[tokio::test]
async fn early_response_closes_the_connection() {
    let (proxy, listener) = start_proxy().await;
    let (feed, body) = channel_body();
    feed.send("begun").unwrap();
    let (response, mut first) = tokio::join!(send(proxy, "POST", body), async {
        let mut first = accept(&listener).await;
        first.write_all(OK).await.unwrap();
        first
    });
    assert_eq!(text(response).await, "ok");
    // The rest of the body arrives after the response. It must not precede the next request.
    let _ = feed.send("the rest");
    drop(feed);
    let (response, ()) = tokio::join!(get(proxy), async {
        accept(&listener).await.write_all(OK).await.unwrap();
    });
    assert_eq!(text(response).await, "ok");
    let first = rest(&mut first).await;
    assert!(!String::from_utf8_lossy(&first).contains("GET"), "{first:?}");
}

#[tokio::test]
async fn early_bodiless_response_closes_the_connection() {
    let (proxy, listener) = start_proxy().await;
    let (feed, body) = channel_body();
    feed.send("begun").unwrap();
    let (response, mut first) = tokio::join!(send(proxy, "POST", body), async {
        let mut first = accept(&listener).await;
        first.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        first
    });
    assert_eq!(response.status(), 403);
    assert!(!String::from_utf8_lossy(&rest(&mut first).await).contains("GET"));
    drop(feed);
}

#[tokio::test]
async fn unsolicited_bytes_answer_no_request() {
    let (proxy, listener) = start_proxy().await;
    let (response, mut first) = tokio::join!(get(proxy), async {
        let mut first = accept(&listener).await;
        first.write_all(OK).await.unwrap();
        first
    });
    assert_eq!(text(response).await, "ok");
    first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await.unwrap();
    assert!(rest(&mut first).await.is_empty(), "closed without another request");
    let (response, ()) = tokio::join!(get(proxy), async {
        accept(&listener).await.write_all(OK).await.unwrap();
    });
    assert_eq!(text(response).await, "ok");
}

#[tokio::test]
async fn only_self_delimited_responses_keep_the_connection() {
    let large = |after: &str| {
        let body = "x".repeat(100_000);
        format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{body}{after}").leak().as_bytes()
    };
    for (response, reused) in [
        (large(""), true),
        (large("x"), false),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n", true),
        (b"HTTP/1.1 204 No Content\r\n\r\n", true),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", true),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", false),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more", false),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nmore", false),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            false,
        ),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false),
    ] {
        let (count, mut counted) = mpsc::unbounded_channel();
        let upstream = listen(move |mut socket| {
            let count = count.clone();
            async move {
                let mut requests = 0;
                while !read_head(&mut socket).await.is_empty() {
                    requests += 1;
                    socket.write_all(response).await.unwrap();
                }
                count.send(requests).unwrap();
            }
        })
        .await;
        let proxy = ProxyServer::to(format!("http://{upstream}")).start().await;
        for _ in 0..2 {
            assert!(get(proxy).await.into_body().collect().await.is_ok());
        }
        let clock = PausedClock::new();
        clock.advance(5).await;
        let requests = counted.recv().await.unwrap();
        assert_eq!(requests, if reused { 2 } else { 1 }, "{}", String::from_utf8_lossy(response));
        tokio::time::resume();
    }
}

#[tokio::test]
async fn idle_connection_is_closed() {
    let (proxy, listener) = start_proxy().await;
    let (response, mut idle) = tokio::join!(get(proxy), async {
        let mut first = accept(&listener).await;
        first.write_all(OK).await.unwrap();
        first
    });
    assert_eq!(text(response).await, "ok");
    let clock = PausedClock::new();
    clock.advance(3).await;
    assert!(idle.try_read(&mut [0]).is_err(), "not yet");
    clock.advance(2).await;
    assert!(rest(&mut idle).await.is_empty());
}

#[tokio::test]
async fn safe_request_without_response_byte_is_retried_once() {
    // The upstream responds only to the first request of the first connection.
    let (record, mut seen) = mpsc::unbounded_channel();
    let first = std::sync::atomic::AtomicBool::new(true);
    let upstream = listen(move |mut socket| {
        let (record, is_first) = (record.clone(), first.swap(false, std::sync::atomic::Ordering::SeqCst));
        async move {
            read_head(&mut socket).await;
            socket.write_all(OK).await.unwrap();
            if is_first {
                let head = String::from_utf8(read_head(&mut socket).await).unwrap();
                record.send(head).unwrap();
            } else {
                record.send("again".to_owned()).unwrap();
            }
        }
    })
    .await;
    let proxy = ProxyServer::to(format!("http://{upstream}")).start().await;
    assert_eq!(text(get(proxy).await).await, "ok");
    assert_eq!(text(get(proxy).await).await, "ok");
    assert!(seen.recv().await.unwrap().starts_with("GET / "));
    assert_eq!(seen.recv().await.unwrap(), "again");
}

#[tokio::test]
async fn safe_request_is_retried_only_once_and_never_after_a_byte() {
    for last_bytes in [&b""[..], b"H", b"HTTP/1.1 200 OK\r\nX: "] {
        let upstream = listen(move |mut socket| async move {
            read_head(&mut socket).await;
            socket.write_all(OK).await.unwrap();
            read_head(&mut socket).await;
            let _ = socket.write_all(last_bytes).await;
        })
        .await;
        let (count, mut counted) = mpsc::unbounded_channel();
        // A relay that counts connections. The upstream closes each one at its second request.
        let second = listen(move |socket| {
            let count = count.clone();
            async move {
                count.send(()).unwrap();
                let mut onward = TcpStream::connect(upstream).await.unwrap();
                let mut socket = socket;
                let _ = tokio::io::copy_bidirectional(&mut socket, &mut onward).await;
            }
        })
        .await;
        let proxy = ProxyServer::to(format!("http://{second}")).start().await;
        assert_eq!(text(get(proxy).await).await, "ok");
        counted.recv().await.unwrap();
        let response = get(proxy).await;
        if last_bytes.is_empty() {
            assert_eq!(response.status(), 200, "retried on a second connection");
            counted.recv().await.unwrap();
        } else {
            assert_eq!(code(response).await, problem(502, "upstream_error"));
            assert!(counted.try_recv().is_err());
        }
    }
}

#[tokio::test]
async fn failure_on_a_new_connection_is_not_retried() {
    for last_bytes in [&b""[..], b"HTTP/1.1 2"] {
        let proxy = ProxyServer::to(raw_upstream(last_bytes).await).start().await;
        assert_eq!(code(get(proxy).await).await, problem(502, "upstream_error"));
    }
}

#[tokio::test]
async fn slow_reader_holds_only_buffers() {
    // Back-pressure (P-19): an endless response is read only as fast as the client reads.
    let (report, mut written) = mpsc::unbounded_channel();
    let upstream = listen(move |mut socket| {
        let report = report.clone();
        async move {
            read_head(&mut socket).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut total = 0;
            while let Ok(Ok(())) =
                tokio::time::timeout(Duration::from_millis(300), socket.write_all(&[0; 65_536])).await
            {
                total += 65_536;
            }
            report.send(total).unwrap();
        }
    })
    .await;
    let proxy = ProxyServer::to(format!("http://{upstream}")).start().await;
    let response = get(proxy).await;
    let total: u64 = written.recv().await.unwrap();
    assert!(total < 32 * 1024 * 1024, "{total}");
    drop(response);
}

#[tokio::test]
async fn each_worker_thread_has_its_own_upstream_connections() {
    let upstream = Upstream::start().await;
    let routes = Routes::new([RouteSpec::new("/", [upstream.url()])]).unwrap();
    let route: MatchedRoute = routes.find(&"/".parse().unwrap()).unwrap().unwrap();
    let proxy = Proxy::new(ReservedCookies::default(), LongLivedStreams::default());
    let ask = async |proxy: &Proxy| {
        let mut request_with_route = request("GET", "/", Body::empty());
        request_with_route.extensions_mut().insert(route.clone());
        proxy.clone().oneshot(request_with_route).await.unwrap().into_body().collect().await.unwrap();
    };
    let another = proxy.with_own_connections();
    for (proxy, connections) in [(&proxy, 1), (&proxy.clone(), 1), (&another, 2), (&another, 2), (&proxy, 2)]
    {
        ask(proxy).await;
        assert_eq!(upstream.connections(), connections);
    }
}

#[tokio::test]
async fn burst_leaves_few_idle_connections() {
    let upstream = Upstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    for _ in 0..3 {
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(connect(proxy).await);
        }
        let responses =
            clients.iter_mut().map(|client| client.send_request(request("GET", "/", Body::empty())));
        for response in futures_util::future::join_all(responses).await {
            response.unwrap().into_body().collect().await.unwrap();
        }
    }
    assert!(upstream.connections() <= 8, "{}", upstream.connections());
}

/// Starts an upstream that greets, on each connection, the user whom the first credentials on it name.
async fn greeting_upstream() -> String {
    let upstream = listen(|mut socket| async move {
        let mut user = "anonymous".to_owned();
        loop {
            let head = String::from_utf8(read_head(&mut socket).await).unwrap();
            if head.is_empty() {
                return;
            }
            if let Some(credentials) = head.lines().find_map(|line| line.strip_prefix("authorization: ")) {
                user = credentials.split(' ').nth(1).unwrap().to_owned();
            }
            let length = user.len();
            let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{user}");
            socket.write_all(response.as_bytes()).await.unwrap();
        }
    })
    .await;
    format!("http://{upstream}")
}

/// C1: connections that NTLM or Negotiate had authenticated served other users.
#[tokio::test]
async fn authenticated_connections_serve_no_other_client() {
    let upstream = greeting_upstream().await;
    let spec = RouteSpec { pass_authorization: true, ..RouteSpec::new("/", [upstream]) };
    let proxy = ProxyServer::new([spec]).start().await;
    for scheme in ["NTLM", "ntlm", "Negotiate", "NEGOTIATE", "Kerberos"] {
        for method in ["GET", "POST"] {
            let mut signed_in = request(method, "/", Body::empty());
            signed_in.headers_mut().insert("authorization", format!("{scheme} alice").parse().unwrap());
            assert_eq!(text(connect(proxy).await.send_request(signed_in).await.unwrap()).await, "alice");
            assert_eq!(text(get(proxy).await).await, "anonymous", "{scheme}");
        }
    }
    let mut twice = request("GET", "/", Body::empty());
    twice.headers_mut().append("authorization", "Basic bob".parse().unwrap());
    twice.headers_mut().append("authorization", "NTLM alice".parse().unwrap());
    connect(proxy).await.send_request(twice).await.unwrap();
    assert_eq!(text(get(proxy).await).await, "anonymous");
}
