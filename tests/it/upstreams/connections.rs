//! Reuse and retries of upstream HTTP/1.1 connections (P-13, P-14).

use std::time::Duration;

use axum_core::body::Body;
use http_body_util::BodyExt;
use sekisho::proxy::{LongLivedStreams, MatchedRoute, Proxy, ReservedCookies, RouteSpec, Routes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::{get, problem, send};
use crate::support::paused_clock::PausedClock;
use crate::support::proxy_server::{ProxyServer, code, connect, fed, request, text};
use crate::support::upstream::{Upstream, listen, read_head, saying};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Starts a proxy, and returns the listener of its upstream.
async fn front() -> (std::net::SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = ProxyServer::to(format!("http://{}", listener.local_addr().unwrap())).start().await;
    (front, listener)
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
    let (front, listener) = front().await;
    let (feed, body) = fed();
    feed.send("begun").unwrap();
    let (answer, mut first) = tokio::join!(send(front, "POST", body), async {
        let mut first = accept(&listener).await;
        first.write_all(OK).await.unwrap();
        first
    });
    assert_eq!(text(answer).await, "ok");
    // The rest of the body arrives after the response. It must not precede the next request.
    let _ = feed.send("the rest");
    drop(feed);
    let (answer, ()) = tokio::join!(get(front), async {
        accept(&listener).await.write_all(OK).await.unwrap();
    });
    assert_eq!(text(answer).await, "ok");
    let first = rest(&mut first).await;
    assert!(!String::from_utf8_lossy(&first).contains("GET"), "{first:?}");
}

#[tokio::test]
async fn early_bodiless_response_closes_the_connection() {
    let (front, listener) = front().await;
    let (feed, body) = fed();
    feed.send("begun").unwrap();
    let (answer, mut first) = tokio::join!(send(front, "POST", body), async {
        let mut first = accept(&listener).await;
        first.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        first
    });
    assert_eq!(answer.status(), 403);
    assert!(!String::from_utf8_lossy(&rest(&mut first).await).contains("GET"));
    drop(feed);
}

#[tokio::test]
async fn unsolicited_bytes_answer_no_request() {
    let (front, listener) = front().await;
    let (answer, mut first) = tokio::join!(get(front), async {
        let mut first = accept(&listener).await;
        first.write_all(OK).await.unwrap();
        first
    });
    assert_eq!(text(answer).await, "ok");
    first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await.unwrap();
    assert!(rest(&mut first).await.is_empty(), "it is closed, and nothing more was asked on it");
    let (answer, ()) = tokio::join!(get(front), async {
        accept(&listener).await.write_all(OK).await.unwrap();
    });
    assert_eq!(text(answer).await, "ok");
}

#[tokio::test]
async fn only_self_delimited_responses_keep_the_connection() {
    let large = |after: &str| {
        let body = "x".repeat(100_000);
        format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{body}{after}").leak().as_bytes()
    };
    for (answer, reused) in [
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
                    socket.write_all(answer).await.unwrap();
                }
                count.send(requests).unwrap();
            }
        })
        .await;
        let front = ProxyServer::to(format!("http://{upstream}")).start().await;
        for _ in 0..2 {
            assert!(get(front).await.into_body().collect().await.is_ok());
        }
        let clock = PausedClock::new();
        clock.advance(5).await;
        let requests = counted.recv().await.unwrap();
        assert_eq!(requests, if reused { 2 } else { 1 }, "{}", String::from_utf8_lossy(answer));
        tokio::time::resume();
    }
}

#[tokio::test]
async fn idle_connection_is_closed() {
    let (front, listener) = front().await;
    let (answer, mut idle) = tokio::join!(get(front), async {
        let mut first = accept(&listener).await;
        first.write_all(OK).await.unwrap();
        first
    });
    assert_eq!(text(answer).await, "ok");
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
    let front = ProxyServer::to(format!("http://{upstream}")).start().await;
    assert_eq!(text(get(front).await).await, "ok");
    assert_eq!(text(get(front).await).await, "ok");
    assert!(seen.recv().await.unwrap().starts_with("GET / "));
    assert_eq!(seen.recv().await.unwrap(), "again");
}

#[tokio::test]
async fn safe_request_is_retried_only_once_and_never_after_a_byte() {
    for last_words in [&b""[..], b"H", b"HTTP/1.1 200 OK\r\nX: "] {
        let upstream = listen(move |mut socket| async move {
            read_head(&mut socket).await;
            socket.write_all(OK).await.unwrap();
            read_head(&mut socket).await;
            let _ = socket.write_all(last_words).await;
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
        let front = ProxyServer::to(format!("http://{second}")).start().await;
        assert_eq!(text(get(front).await).await, "ok");
        counted.recv().await.unwrap();
        let answer = get(front).await;
        if last_words.is_empty() {
            assert_eq!(answer.status(), 200, "once more, on a second connection");
            counted.recv().await.unwrap();
        } else {
            assert_eq!(code(answer).await, problem(502, "upstream_error"));
            assert!(counted.try_recv().is_err());
        }
    }
}

#[tokio::test]
async fn failure_on_a_new_connection_is_not_retried() {
    for last_words in [&b""[..], b"HTTP/1.1 2"] {
        let front = ProxyServer::to(saying(last_words).await).start().await;
        assert_eq!(code(get(front).await).await, problem(502, "upstream_error"));
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
    let front = ProxyServer::to(format!("http://{upstream}")).start().await;
    let answer = get(front).await;
    let total: u64 = written.recv().await.unwrap();
    assert!(total < 32 * 1024 * 1024, "{total}");
    drop(answer);
}

#[tokio::test]
async fn each_worker_thread_has_its_own_upstream_connections() {
    let upstream = Upstream::start().await;
    let routes = Routes::new([RouteSpec::new("/", [upstream.url()])]).unwrap();
    let route: MatchedRoute = routes.find(&"/".parse().unwrap()).unwrap().unwrap();
    let proxy = Proxy::new(ReservedCookies::default(), LongLivedStreams::default());
    let ask = async |proxy: &Proxy| {
        let mut question = request("GET", "/", Body::empty());
        question.extensions_mut().insert(route.clone());
        proxy.clone().oneshot(question).await.unwrap().into_body().collect().await.unwrap();
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
    let front = ProxyServer::to(upstream.url()).start().await;
    for _ in 0..3 {
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(connect(front).await);
        }
        let answers =
            clients.iter_mut().map(|client| client.send_request(request("GET", "/", Body::empty())));
        for answer in futures_util::future::join_all(answers).await {
            answer.unwrap().into_body().collect().await.unwrap();
        }
    }
    assert!(upstream.connections() <= 8, "{}", upstream.connections());
}
