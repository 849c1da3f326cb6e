//! Forwarding: bodies, connections, timeouts, and failing upstreams.

use std::convert::Infallible;

use axum_core::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use ring::digest;
use sekisho::proxy::RouteSpec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::paused_clock::PausedClock;
use crate::support::proxy_server::{ProxyServer, channel_body, code, connect, exchange, get, request, text};
use crate::support::upstream::{Upstream, closed_address, listen, raw_upstream, read_head, serve};

#[tokio::test]
async fn request_and_response_are_forwarded() {
    let mut upstream = Upstream::responding_with(|_| {
        let response = Response::builder().status(418).header("x-answer", "yes").header("x-answer", "and no");
        response.body(Body::from("tea")).unwrap()
    })
    .await;
    let proxy = ProxyServer::to(upstream.url()).start().await;

    let mut sent = request("PATCH", "/pot/%7E?a=b&&c", Body::from("milk"));
    sent.headers_mut().append("x-two", "1".parse().unwrap());
    sent.headers_mut().append("x-two", "2".parse().unwrap());
    let response = connect(proxy).await.send_request(sent).await.unwrap();

    assert_eq!(response.status(), 418);
    assert_eq!(response.headers().get_all("x-answer").iter().collect::<Vec<_>>(), ["yes", "and no"]);
    assert_eq!(text(response).await, "tea");
    let seen = upstream.seen().await;
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("PATCH", "/pot/%7E?a=b&&c"));
    assert_eq!(seen.all("x-two"), ["1", "2"]);
    assert_eq!(seen.all("content-length"), ["4"]);
    assert_eq!(seen.length, 4);
}

#[tokio::test]
async fn paths_and_queries_arrive_byte_for_byte() {
    // The upstream responds with the raw request target.
    let upstream = listen(|mut socket| async move {
        let head = read_head(&mut socket).await;
        let target = head.split(|&byte| byte == b' ').nth(1).unwrap().to_vec();
        let response =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", target.len());
        socket.write_all(&[response.as_bytes(), &target].concat()).await.unwrap();
    })
    .await;
    let proxy = ProxyServer::to(format!("http://{upstream}")).start().await;

    let mut targets: Vec<String> = (0..=255).map(|byte| format!("/q?x=%{byte:02x}&y=%{byte:02X}")).collect();
    let is_rejected = |byte: u8| byte.is_ascii_control() || matches!(byte, b'/' | b'\\' | b'.' | b';');
    targets.extend(
        (0..=255).filter(|&byte| !is_rejected(byte)).map(|byte| format!("/p/%{byte:02x}/%{byte:02X}")),
    );
    targets.extend(("!$&'()*+,-.:;=@_~".chars()).map(|mark| format!("/p{mark}{mark}/q?{mark}/{mark}")));
    targets.extend(
        [
            "/",
            "/?",
            "/??",
            "/?/../..",
            "/?//",
            "/a/?%",
            "/?%zz",
            "/?\\",
            "/%252e%252e/",
            "/%25",
            "/a;b=c/d;",
            "/...",
            "/.a",
            "/~",
            "/a%20b+c",
            "/%E2%82%AC",
            "/?a=1&a=1&&=",
            "/?q=http://x/y?z",
            "/?[]{}|^`",
        ]
        .map(str::to_owned),
    );
    for target in targets {
        let response = get(proxy, &target, "").await;
        assert_eq!(response.split("\r\n\r\n").nth(1), Some(&*target));
    }
}

#[tokio::test]
async fn large_bodies_are_forwarded_both_ways() {
    let pieces = || (0..160_u8).map(|piece| Ok::<_, Infallible>(Bytes::from(vec![piece; 65_536])));
    let mut upstream = Upstream::responding_with(move |_| {
        Response::new(Body::from_stream(futures_util::stream::iter(pieces())))
    })
    .await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    let whole: Vec<u8> = pieces().flat_map(|piece| piece.unwrap()).collect();
    let hash = digest::digest(&digest::SHA256, &whole);

    let body = Body::from_stream(futures_util::stream::iter(pieces()));
    let response = connect(proxy).await.send_request(request("POST", "/", body)).await.unwrap();
    assert!(response.into_body().collect().await.unwrap().to_bytes() == whole);
    let seen = upstream.seen().await;
    assert_eq!(seen.length, whole.len());
    assert_eq!(seen.digest.as_ref(), hash.as_ref());
}

#[tokio::test]
async fn bodies_are_streamed() {
    // The upstream responds before reading, and echoes the request body.
    let upstream = listen(|socket| {
        serve(socket, |request| async {
            Response::new(Body::from_stream(request.into_body().into_data_stream()))
        })
    })
    .await;
    let proxy = ProxyServer::to(format!("http://{upstream}")).start().await;

    let (feed, body) = channel_body();
    let response = connect(proxy).await.send_request(request("POST", "/", body)).await.unwrap();
    let mut response = response.into_body().into_data_stream();
    for piece in ["one", "two", "three"] {
        feed.send(piece).unwrap();
        assert_eq!(response.next().await.unwrap().unwrap(), piece);
    }
    drop(feed);
    assert!(response.next().await.is_none());
}

#[tokio::test]
async fn events_arrive_before_the_stream_ends() {
    let (feed, body) = channel_body();
    let body = std::sync::Mutex::new(Some(body));
    let upstream = Upstream::responding_with(move |_| {
        let events = body.lock().unwrap().take().unwrap();
        Response::builder().header("content-type", "text/event-stream").body(events).unwrap()
    })
    .await;
    let proxy = ProxyServer::to(upstream.url()).start().await;

    let response = connect(proxy).await.send_request(request("GET", "/", Body::empty())).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut events = response.into_body().into_data_stream();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        feed.send(event).unwrap();
        assert_eq!(events.next().await.unwrap().unwrap(), event);
    }
}

#[tokio::test]
async fn connections_are_reused() {
    let upstream = Upstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    for _ in 0..3 {
        assert!(get(proxy, "/", "").await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn closed_idle_connection_fails_no_request() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = ProxyServer::to(format!("http://{}", listener.local_addr().unwrap())).start().await;
    let mut client = TcpStream::connect(proxy).await.unwrap();
    client.write_all(POST).await.unwrap();
    let (mut kept, _) = listener.accept().await.unwrap();
    read_head(&mut kept).await;
    kept.read_exact(&mut [0; 4]).await.unwrap();
    kept.write_all(OK).await.unwrap();
    read_head(&mut client).await;

    // The proxy reads the request before it detects the closed connection.
    client.write_all(POST).await.unwrap();
    drop(kept);
    let upstream = async {
        let (mut fresh, _) = listener.accept().await.unwrap();
        read_head(&mut fresh).await;
        fresh.read_exact(&mut [0; 4]).await.unwrap();
        fresh.write_all(OK).await.unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        response = read_head(&mut client) => assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n")),
        () = upstream => unreachable!(),
    }
}

#[tokio::test]
async fn request_read_by_an_upstream_is_not_retried() {
    // P-13: the upstream responds to the first request of a connection and closes on the second.
    let (record, mut read) = mpsc::unbounded_channel();
    let upstream = listen(move |mut socket| {
        let record = record.clone();
        async move {
            read_head(&mut socket).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            let head = read_head(&mut socket).await;
            record.send(String::from_utf8(head).unwrap()).unwrap();
        }
    })
    .await;
    let proxy = ProxyServer::to(format!("http://{upstream}")).start().await;
    for (method, body) in [("PUT", ""), ("DELETE", ""), ("POST", ""), ("PATCH", "body")] {
        assert!(get(proxy, "/first", "").await.starts_with("HTTP/1.1 200"));
        let mut client = connect(proxy).await;
        let response = client.send_request(request(method, "/second", Body::from(body))).await.unwrap();
        assert_eq!(code(response).await, (StatusCode::BAD_GATEWAY, "upstream_error".to_owned()));
        assert!(read.recv().await.unwrap().starts_with(&format!("{method} /second")));
        assert!(read.try_recv().is_err());
    }
}

#[tokio::test]
async fn connection_with_leftover_bytes_is_not_reused() {
    let upstream =
        raw_upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX-Evil: 1\r\n\r\n")
            .await;
    let proxy = ProxyServer::to(upstream).start().await;
    for _ in 0..3 {
        let response = get(proxy, "/", "").await;
        assert!(response.ends_with("\r\n\r\nok") && !response.contains("x-evil"), "{response}");
    }
}

#[tokio::test]
async fn early_response_is_forwarded() {
    let (closed, mut is_closed) = mpsc::unbounded_channel();
    let upstream = listen(move |mut socket| {
        let closed = closed.clone();
        async move {
            read_head(&mut socket).await;
            socket.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
            let _ = socket.read_to_end(&mut Vec::new()).await;
            closed.send(()).unwrap();
        }
    })
    .await;
    let proxy = ProxyServer::to(format!("http://{upstream}")).start().await;
    let (feed, body) = channel_body();
    feed.send("begun").unwrap();
    let mut client = connect(proxy).await;
    let response = client.send_request(request("POST", "/", body)).await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(text(response).await, "no");
    // The proxy does not wait for the rest of the request body.
    is_closed.recv().await.unwrap();
    drop(feed);
}

#[tokio::test]
async fn unreachable_upstream_is_502() {
    let proxy = ProxyServer::to(format!("http://{}", closed_address())).start().await;
    let response = connect(proxy).await.send_request(request("POST", "/", Body::from("x"))).await.unwrap();
    assert_eq!(code(response).await, (StatusCode::BAD_GATEWAY, "upstream_unreachable".to_owned()));
}

#[tokio::test]
async fn non_http_response_is_502() {
    for nonsense in [
        &b""[..],
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX A: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\0c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b",
    ] {
        let proxy = ProxyServer::to(raw_upstream(nonsense).await).start().await;
        let response = connect(proxy).await.send_request(request("GET", "/", Body::empty())).await.unwrap();
        let shown = String::from_utf8_lossy(nonsense);
        assert_eq!(code(response).await, (StatusCode::BAD_GATEWAY, "upstream_error".to_owned()), "{shown}");
    }
}

#[tokio::test]
async fn truncated_response_does_not_look_complete() {
    for half in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ] {
        let proxy = ProxyServer::to(raw_upstream(half).await).start().await;
        let response = connect(proxy).await.send_request(request("GET", "/", Body::empty())).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.into_body().collect().await.is_err(), "{}", String::from_utf8_lossy(half));
        let raw = get(proxy, "/", "").await;
        assert!(!raw.ends_with("0\r\n\r\n"), "{raw}");
    }
}

#[tokio::test]
async fn silent_upstream_times_out() {
    let (progress, mut steps) = mpsc::unbounded_channel();
    let upstream = listen(move |mut socket| {
        let progress = progress.clone();
        async move {
            progress.send(read_head(&mut socket).await.len()).unwrap();
            progress.send(socket.read(&mut [0; 8]).await.unwrap()).unwrap();
        }
    })
    .await;
    let proxy = ProxyServer::to(format!("http://{upstream}")).start().await;
    let clock = PausedClock::new();
    let mut client = connect(proxy).await;
    let response = tokio::spawn(client.send_request(request("GET", "/", Body::empty())));
    assert_ne!(steps.recv().await, Some(0));
    clock.advance(59).await;
    assert!(!response.is_finished());
    clock.advance(2).await;
    let timeout = (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout".to_owned());
    assert_eq!(code(response.await.unwrap().unwrap()).await, timeout);
    assert_eq!(steps.recv().await, Some(0), "the upstream's connection is closed");
}

/// Starts an upstream that reports each piece it reads and responds with the total length: after the whole
/// request, or with an early header and a late body.
async fn start_reporting_upstream(early: bool) -> (String, mpsc::UnboundedReceiver<Bytes>) {
    let (report, reports) = mpsc::unbounded_channel();
    let address = listen(move |socket| {
        let report = report.clone();
        serve(socket, move |request| {
            let report = report.clone();
            let length = async move {
                let mut body = request.into_body().into_data_stream();
                let mut length = 0;
                while let Some(Ok(piece)) = body.next().await {
                    length += piece.len();
                    report.send(piece).unwrap();
                }
                length.to_string()
            };
            async move {
                let length = async { Ok::<_, Infallible>(length.await) };
                let body = Body::from_stream(futures_util::stream::once(length));
                if early {
                    Response::new(body)
                } else {
                    Response::new(Body::from(body.collect().await.unwrap().to_bytes()))
                }
            }
        })
    })
    .await;
    (format!("http://{address}"), reports)
}

#[tokio::test]
async fn slow_upload_does_not_count_as_a_slow_response() {
    let clock = PausedClock::new();
    for early in [false, true] {
        let (upstream, mut pieces) = start_reporting_upstream(early).await;
        let proxy = ProxyServer::to(upstream).start().await;
        let (feed, body) = channel_body();
        let mut client = connect(proxy).await;
        let response = tokio::spawn(client.send_request(request("POST", "/", body)));
        for _ in 0..5 {
            feed.send("piece").unwrap();
            assert_eq!(pieces.recv().await.unwrap(), "piece");
            clock.advance(40).await;
        }
        drop(feed);
        assert_eq!(text(response.await.unwrap().unwrap()).await, "25", "early: {early}");
    }
}

#[tokio::test]
async fn stalled_upload_times_out() {
    let (upstream, mut pieces) = start_reporting_upstream(false).await;
    let proxy = ProxyServer::to(upstream).start().await;
    let clock = PausedClock::new();
    let (feed, body) = channel_body();
    let mut client = connect(proxy).await;
    let response = tokio::spawn(client.send_request(request("POST", "/", body)));
    feed.send("begun").unwrap();
    assert_eq!(pieces.recv().await.unwrap(), "begun");
    clock.advance(61).await;
    let timeout = (StatusCode::REQUEST_TIMEOUT, "body_timeout".to_owned());
    assert_eq!(code(response.await.unwrap().unwrap()).await, timeout);
}

#[tokio::test]
async fn upstream_that_stops_reading_times_out() {
    let upstream = listen(|mut socket| async move {
        read_head(&mut socket).await;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = ProxyServer::to(format!("http://{upstream}")).start().await;
    let clock = PausedClock::new();
    let endless = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[0; 65_536])));
    let mut client = connect(proxy).await;
    let response = tokio::spawn(client.send_request(request("POST", "/", Body::from_stream(endless))));
    // The capacity of the buffers in between is unknown.
    while !response.is_finished() {
        clock.advance(10).await;
    }
    assert_eq!(response.await.unwrap().unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn stalled_response_is_aborted() {
    let (feed, body) = channel_body();
    let body = std::sync::Mutex::new(Some(body));
    let upstream =
        Upstream::responding_with(move |_| Response::new(body.lock().unwrap().take().unwrap())).await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    let clock = PausedClock::new();
    let response = connect(proxy).await.send_request(request("GET", "/", Body::empty())).await.unwrap();
    let mut response = response.into_body().into_data_stream();
    for _ in 0..3 {
        feed.send("piece").unwrap();
        assert_eq!(response.next().await.unwrap().unwrap(), "piece");
        clock.advance(40).await;
    }
    clock.advance(21).await;
    assert!(response.next().await.unwrap().is_err());
}

#[tokio::test]
async fn body_beyond_the_limit_is_413() {
    let mut upstream = Upstream::start().await;
    let route = RouteSpec { max_body: Some(8), ..RouteSpec::new("/", [upstream.url()]) };
    let proxy = ProxyServer::new([route]).start().await;
    let ask =
        |body| async move { connect(proxy).await.send_request(request("POST", "/", body)).await.unwrap() };

    assert_eq!(ask(Body::from("12345678")).await.status(), 200);
    assert_eq!(upstream.seen().await.length, 8);

    let too_large = (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large".to_owned());
    assert_eq!(code(ask(Body::from("123456789")).await).await, too_large);
    assert!(upstream.has_no_more_requests());

    let (feed, unknown_length) = channel_body();
    feed.send("12345678").unwrap();
    feed.send("9").unwrap();
    assert_eq!(code(ask(unknown_length).await).await, too_large);
    assert_eq!(upstream.seen().await.length, 8, "the chunked body is incomplete");
}

#[tokio::test]
async fn client_disconnect_aborts_the_upstream_request() {
    let (progress, mut steps) = mpsc::unbounded_channel();
    let upstream = listen(move |mut socket| {
        let progress = progress.clone();
        async move {
            read_head(&mut socket).await;
            progress.send(1).unwrap();
            progress.send(socket.read(&mut [0; 8]).await.unwrap_or(0)).unwrap();
        }
    })
    .await;
    let proxy = ProxyServer::to(format!("http://{upstream}")).start().await;
    let mut client = TcpStream::connect(proxy).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(steps.recv().await, Some(1));
    drop(client);
    assert_eq!(steps.recv().await, Some(0));
}

#[tokio::test]
async fn expect_continue_is_answered() {
    let mut upstream = Upstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    let mut client = TcpStream::connect(proxy).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    client.write_all(head).await.unwrap();
    assert_eq!(read_head(&mut client).await, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").await.unwrap();
    assert!(read_head(&mut client).await.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert_eq!(upstream.seen().await.length, 4);
}

#[tokio::test]
async fn rejected_request_gets_no_100_continue() {
    let upstream = Upstream::start().await;
    let route = RouteSpec { max_body: Some(1), ..RouteSpec::new("/", [upstream.url()]) };
    let proxy = ProxyServer::new([route]).start().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    assert!(exchange(proxy, head).await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn bodiless_responses_stay_bodiless() {
    let upstream = Upstream::responding_with(|seen| {
        let status: u16 = seen.target[1..].parse().unwrap();
        let length = if status == 200 { "5" } else { "0" };
        let mut response = Response::builder().status(status).header("etag", "\"1\"");
        if status != 204 {
            response = response.header("content-length", length);
        }
        response.body(Body::empty()).unwrap()
    })
    .await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    let ask = |method: &str, target: &str| {
        exchange(proxy, format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
    };
    for (method, target) in [("HEAD", "/200"), ("GET", "/204"), ("GET", "/304"), ("GET", "/404")] {
        let response = ask(method, target).await.to_lowercase();
        assert!(response.ends_with("\r\n\r\n") && !response.contains("transfer-encoding"), "{response}");
        assert_eq!(response.contains("content-length: 5"), method == "HEAD", "{response}");
    }
}

#[tokio::test]
async fn redirects_are_forwarded_to_the_client() {
    let mut upstream = Upstream::responding_with(|_| {
        Response::builder().status(302).header("location", "http://127.0.0.1:1/").body(Body::empty()).unwrap()
    })
    .await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    let response = get(proxy, "/", "").await;
    assert!(response.starts_with("HTTP/1.1 302 ") && response.contains("location: http://127.0.0.1:1/\r\n"));
    upstream.seen().await;
    assert!(upstream.has_no_more_requests());
}

#[tokio::test]
async fn http10_clients_and_upstreams_are_supported() {
    let mut upstream = Upstream::responding_with(|_| Response::new(Body::from("body"))).await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    let response = exchange(proxy, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.0 200 OK\r\n") && response.ends_with("\r\n\r\nbody"), "{response}");
    assert_eq!(upstream.seen().await.all("host"), [upstream.address().to_string()]);

    let proxy = ProxyServer::to(raw_upstream(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await).start().await;
    let response = get(proxy, "/", "").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.contains("until the end"), "{response}");
}
