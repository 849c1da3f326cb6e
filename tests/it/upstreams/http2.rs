//! HTTP/2 to upstreams with prior knowledge.

use std::net::SocketAddr;

use axum_core::body::Body;
use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, Response, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use sekisho::proxy::{RouteSpec, UpstreamHttp, UpstreamSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{get, problem, route, send};
use crate::support::paused_clock::PausedClock;
use crate::support::process::PROCESS_TIMEOUT;
use crate::support::proxy_server::{ProxyServer, channel_body, code, connect, exchange, request, text};
use crate::support::raw_http2::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, RawHttp2, STATUS_200, frame, headers,
};
use crate::support::upstream::{GatedUpstream, Upstream, listen, serve_any};

fn http2() -> UpstreamSettings {
    UpstreamSettings { http: UpstreamHttp::Http2, ..UpstreamSettings::default() }
}

async fn start_proxy(upstream: impl Into<String>) -> SocketAddr {
    ProxyServer::new([route([upstream.into()], http2())]).start().await
}

#[tokio::test]
async fn http2_request_uses_pseudo_headers() {
    let mut upstream = Upstream::responding_with(|_| Response::new(Body::from("answer"))).await;
    let proxy = start_proxy(upstream.url()).await;
    let raw = "POST /a%2e?b HTTP/1.1\r\nHost: app.example\r\nConnection: close, TE\r\nTE: trailers\r\nCookie: a=1\r\n\
                 Keep-Alive: 5\r\nContent-Length: 4\r\n\r\nbody";
    let response = exchange(proxy, raw.replace("%2e", "%7e")).await;
    assert!(
        response.starts_with("HTTP/1.1 200 OK\r\n") && response.contains("via: 2.0 sekisho-"),
        "{response}"
    );
    assert!(response.ends_with("answer") || response.ends_with("answer\r\n0\r\n\r\n"), "{response}");
    let seen = upstream.seen().await;
    assert_eq!((seen.version, &*seen.target), (Version::HTTP_2, "http://app.example/a%7e?b"));
    assert_eq!((seen.all("te"), seen.all("cookie")), (vec!["trailers"], vec!["a=1"]));
    assert_eq!((seen.all("content-length"), seen.length), (vec!["4"], 4));
    for gone in ["host", "connection", "keep-alive", "transfer-encoding"] {
        assert!(seen.all(gone).is_empty(), "{gone}");
    }
}

#[tokio::test]
async fn requests_are_multiplexed_on_one_connection() {
    let mut upstream = GatedUpstream::start().await;
    let proxy = start_proxy(upstream.url()).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = connect(proxy).await;
        waiting.push(tokio::spawn(client.send_request(request("GET", "/", Body::empty()))));
    }
    upstream.arrived(20).await;
    upstream.release(20);
    for response in waiting {
        assert_eq!(text(response.await.unwrap().unwrap()).await, GatedUpstream::ANSWER);
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn trailers_are_forwarded_both_ways() {
    let upstream = listen(|socket| {
        serve_any(socket, |request| async {
            let sent = request.into_body().collect().await.unwrap();
            let mut trailers = HeaderMap::new();
            let sum = sent.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
            trailers.insert("x-sum-again", sum.unwrap());
            trailers.insert("set-cookie", "a=b".parse().unwrap());
            let frames =
                [Ok::<_, h2::Error>(Frame::data(Bytes::from("data"))), Ok(Frame::trailers(trailers))];
            let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
            Response::builder().header("trailer", "x-sum-again").body(body).unwrap()
        })
    })
    .await;
    let proxy = start_proxy(format!("http://{upstream}")).await;
    let raw = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, TE\r\nTE: trailers\r\nTrailer: x-sum\r\n\
                 Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 7\r\nX-Forwarded-User: root\r\n\r\n";
    let response = exchange(proxy, raw).await;
    assert!(response.contains("\r\n4\r\ndata\r\n0\r\nx-sum-again: 7\r\n\r\n"), "{response}");
    assert!(!response.contains("set-cookie"));
}

#[tokio::test]
async fn large_bodies_are_forwarded_both_ways() {
    let upstream = listen(|socket| {
        serve_any(socket, |request| async {
            Response::new(Body::from_stream(http_body_util::BodyDataStream::new(request.into_body())))
        })
    })
    .await;
    let proxy = start_proxy(format!("http://{upstream}")).await;
    let sent = Bytes::from((0..10_000_000_u32).map(|n| n.to_le_bytes()[1]).collect::<Vec<_>>());
    let response = send(proxy, "POST", Body::from(sent.clone())).await;
    assert!(response.into_body().collect().await.unwrap().to_bytes() == sent);
}

#[tokio::test]
async fn bodiless_responses_stay_bodiless() {
    let upstream = Upstream::responding_with(|seen| {
        let status: u16 = seen.target.rsplit('/').next().unwrap().parse().unwrap();
        let length = if status == 200 { Some("5") } else { None };
        let mut response = Response::builder().status(status).header("etag", "\"1\"");
        if let Some(length) = length.filter(|_| seen.method == "HEAD") {
            response = response.header("content-length", length);
        }
        response.body(Body::empty()).unwrap()
    })
    .await;
    let proxy = start_proxy(upstream.url()).await;
    for (method, target) in [("HEAD", "/200"), ("GET", "/204"), ("GET", "/304")] {
        let raw = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let response = exchange(proxy, raw).await.to_lowercase();
        assert!(response.ends_with("\r\n\r\n") && !response.contains("transfer-encoding"), "{response}");
        assert_eq!(response.contains("content-length: 5"), method == "HEAD", "{response}");
    }
}

/// Starts an upstream that calls `script` for each request, with the numbers of the connection and of the
/// request on it.
async fn scripted<F>(script: F) -> String
where
    F: Fn(usize, usize, http::Request<h2::RecvStream>, SendResponse<Bytes>) -> After
        + Send
        + Sync
        + Clone
        + 'static,
{
    let connections = std::sync::atomic::AtomicUsize::new(0);
    let address = listen(move |socket| {
        let connection = connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let script = script.clone();
        async move {
            let mut http = h2::server::handshake(socket).await.unwrap();
            let mut number = 0;
            while let Some(Ok((request, respond))) = http.accept().await {
                match script(connection, number, request, respond) {
                    After::GoAway => http.graceful_shutdown(),
                    After::Nothing => {}
                }
                number += 1;
            }
        }
    })
    .await;
    format!("http://{address}")
}

enum After {
    GoAway,
    Nothing,
}

fn ok(mut respond: SendResponse<Bytes>) {
    respond.send_response(Response::new(()), true).unwrap();
}

#[tokio::test]
async fn goaway_replaces_the_connection() {
    let (record, mut seen) = mpsc::unbounded_channel();
    let upstream = scripted(move |connection, number, _, respond| {
        record.send((connection, number)).unwrap();
        ok(respond);
        After::GoAway
    })
    .await;
    let proxy = start_proxy(upstream).await;
    for connection in 0..3 {
        assert_eq!(send(proxy, "POST", Body::from("x")).await.status(), 200);
        assert_eq!(seen.recv().await, Some((connection, 0)));
        tokio::task::yield_now().await;
    }
}

/// Starts an upstream that allows `streams` open streams on a connection, and passes on each request.
async fn limited(streams: u32) -> (String, mpsc::UnboundedReceiver<(String, SendResponse<Bytes>)>) {
    let (record, requests) = mpsc::unbounded_channel();
    let address = listen(move |socket| {
        let record = record.clone();
        async move {
            let mut builder = h2::server::Builder::new();
            let mut http = builder.max_concurrent_streams(streams).handshake(socket).await.unwrap();
            while let Some(Ok((request, respond))) = http.accept().await {
                // Fails once the test has ended.
                let _ = record.send((request.uri().path().to_owned(), respond));
            }
        }
    })
    .await;
    (format!("http://{address}"), requests)
}

/// A2: requests beyond the upstream's limit of streams waited until the streams of others ended.
#[tokio::test]
async fn open_streams_at_the_limit_do_not_block_other_requests() {
    let (upstream, mut requests) = limited(2).await;
    tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Some((path, mut respond)) = requests.recv().await {
            match path.as_str() {
                "/stream" => streams.push(respond.send_response(Response::new(()), false).unwrap()),
                _ => ok(respond),
            }
        }
    });
    let proxy = start_proxy(upstream).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut client = connect(proxy).await;
        streams.push(client.send_request(request("GET", "/stream", Body::empty())).await.unwrap());
        let response = timeout(PROCESS_TIMEOUT, get(proxy)).await.expect("a response");
        assert_eq!(response.status(), 200);
    }
}

/// A2: the limit of a new connection is not known when the first requests arrive.
#[tokio::test]
async fn burst_of_requests_is_spread_over_connections() {
    let (upstream, mut requests) = limited(2).await;
    let proxy = start_proxy(upstream).await;
    let responses: Vec<_> = (0..10).map(|_| tokio::spawn(get(proxy))).collect();
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let (_, respond) = timeout(PROCESS_TIMEOUT, requests.recv()).await.expect("a request").unwrap();
        waiting.push(respond);
    }
    waiting.into_iter().for_each(ok);
    for response in responses {
        assert_eq!(response.await.unwrap().status(), 200);
    }
}

/// Starts an upstream that responds to all requests, and reports the number of the connection of each.
async fn recording_upstream() -> (String, mpsc::UnboundedReceiver<usize>) {
    let (record, seen) = mpsc::unbounded_channel();
    let upstream = scripted(move |connection, _, _, respond| {
        record.send(connection).unwrap();
        ok(respond);
        After::Nothing
    })
    .await;
    (upstream, seen)
}

/// A2: long-lived streams take no part of the connections for other requests.
#[tokio::test]
async fn long_lived_streams_have_their_own_connections() {
    let (upstream, mut seen) = recording_upstream().await;
    let proxy = start_proxy(upstream).await;
    for (name, value, expected) in [
        ("accept", "text/html, */*", 0),
        ("accept", "text/event-stream", 1),
        ("content-type", "application/grpc+proto", 1),
        ("content-type", "text/plain", 0),
    ] {
        let mut post = request("POST", "/", Body::empty());
        post.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(connect(proxy).await.send_request(post).await.unwrap().status(), 200);
        assert_eq!(seen.recv().await, Some(expected), "{value}");
    }
}

/// A2: clients that did not read their responses stopped the responses of all others.
#[tokio::test]
async fn unread_responses_do_not_block_others() {
    let large = Bytes::from(vec![b'x'; 16 * 1024 * 1024]);
    let upstream = listen(move |socket| {
        let large = large.clone();
        serve_any(socket, move |request| {
            let length = if request.uri().path() == "/large" { large.len() } else { 256 * 1024 };
            let body = Body::from(large.slice(..length));
            async { Response::new(body) }
        })
    })
    .await;
    let proxy = start_proxy(format!("http://{upstream}")).await;
    let mut stuck = Vec::new();
    for _ in 0..8 {
        let socket = TcpSocket::new_v4().unwrap();
        // The smallest receive buffer that the kernel allows.
        socket.set_recv_buffer_size(1).unwrap();
        let mut client = socket.connect(proxy).await.unwrap();
        client.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'H');
        stuck.push(client);
    }
    // All buffers of the others are full before the last of these.
    for _ in 0..100 {
        let read = async { get(proxy).await.into_body().collect().await.unwrap().to_bytes().len() };
        assert_eq!(timeout(PROCESS_TIMEOUT, read).await.expect("a response"), 256 * 1024);
    }
}

/// Reads a request body to its end.
async fn read_body(request: http::Request<h2::RecvStream>) -> Vec<u8> {
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    bytes
}

/// C2: refused streams became 502, whatever the method, unless the request was safe and had no body.
#[tokio::test]
async fn refused_stream_is_sent_again() {
    let (record, mut seen) = mpsc::unbounded_channel();
    let upstream = scripted(move |_, number, request, mut respond| {
        let record = record.clone();
        tokio::spawn(async move {
            let method = request.method().to_string();
            let body = if number % 3 == 1 { Vec::new() } else { read_body(request).await };
            record.send((method, String::from_utf8(body).unwrap())).unwrap();
            if number % 3 == 2 {
                ok(respond);
            } else {
                respond.send_reset(Reason::REFUSED_STREAM);
            }
        });
        After::Nothing
    })
    .await;
    let proxy = start_proxy(upstream).await;
    for (method, text) in [("GET", ""), ("POST", ""), ("POST", "body"), ("PATCH", "body"), ("DELETE", "")] {
        let response = send(proxy, method, Body::from(text)).await;
        assert_eq!(response.status(), 200, "{method} {text}");
        for body in [text, "", text] {
            assert_eq!(seen.recv().await, Some((method.to_owned(), body.to_owned())));
        }
    }
}

/// C2: a body is sent again with all its parts, including those that the client sends after the refusal.
#[tokio::test]
async fn streamed_body_is_sent_again_after_a_refusal() {
    let (refuse, mut refused) = mpsc::unbounded_channel();
    let (record, mut seen) = mpsc::unbounded_channel();
    let upstream = scripted(move |_, number, request, mut respond| {
        let (refuse, record) = (refuse.clone(), record.clone());
        tokio::spawn(async move {
            if number == 0 {
                let mut body = request.into_body();
                assert_eq!(body.data().await.unwrap().unwrap(), "one ");
                respond.send_reset(Reason::REFUSED_STREAM);
                refuse.send(()).unwrap();
            } else {
                record.send(String::from_utf8(read_body(request).await).unwrap()).unwrap();
                ok(respond);
            }
        });
        After::Nothing
    })
    .await;
    let proxy = start_proxy(upstream).await;
    let (feed, body) = channel_body();
    feed.send("one ").unwrap();
    let response = tokio::spawn(send(proxy, "POST", body));
    refused.recv().await.unwrap();
    feed.send("two ").unwrap();
    feed.send("three").unwrap();
    drop(feed);
    assert_eq!(response.await.unwrap().status(), 200);
    assert_eq!(seen.recv().await.unwrap(), "one two three");
}

/// C2: refusals ejected a healthy upstream.
#[tokio::test]
async fn refusals_do_not_eject_the_upstream() {
    let upstream = scripted(|_, _, request, mut respond| {
        if request.uri().path() == "/" {
            respond.send_reset(Reason::REFUSED_STREAM);
        } else {
            ok(respond);
        }
        After::Nothing
    })
    .await;
    let settings = UpstreamSettings { eject_after: 1, ..http2() };
    let proxy = ProxyServer::new([route([upstream], settings)]).start().await;
    assert_eq!(code(get(proxy).await).await, problem(502, "upstream_error"), "refused each time");
    // More than is kept to be sent again.
    let large = Body::from(vec![b'x'; 1024 * 1024]);
    assert_eq!(code(send(proxy, "POST", large).await).await, problem(502, "upstream_error"));
    let response = connect(proxy).await.send_request(request("GET", "/served", Body::empty())).await.unwrap();
    assert_eq!(response.status(), 200);
}

/// Starts an upstream that processes `served` requests on each connection. Like nginx after
/// `keepalive_requests`, it then sends GOAWAY with the last of them, and ignores the other streams.
async fn closing_after(served: u32) -> (String, mpsc::UnboundedReceiver<()>) {
    let (record, requests) = mpsc::unbounded_channel();
    let address = listen(move |socket| {
        let record = record.clone();
        async move {
            let mut raw = RawHttp2::accept(socket).await;
            let last_stream = 2 * served - 1;
            let goaway = frame(GOAWAY, 0, 0, &[last_stream.to_be_bytes(), [0; 4]].concat());
            while let Some(stream) = raw.request().await {
                if stream == last_stream {
                    raw.send(&goaway).await;
                }
                if stream <= last_stream {
                    let _ = record.send(());
                    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200)).await;
                }
            }
        }
    })
    .await;
    (format!("http://{address}"), requests)
}

/// C2: requests above the last stream of a GOAWAY became 502, and ejected the upstream.
#[tokio::test]
async fn requests_beyond_a_goaway_are_sent_again() {
    for served in [1, 3, 10] {
        let (upstream, mut requests) = closing_after(served).await;
        let settings = UpstreamSettings { eject_after: 1, ..http2() };
        let proxy = ProxyServer::new([route([upstream], settings)]).start().await;
        let senders: Vec<_> = (0..10)
            .map(|_| {
                tokio::spawn(async move {
                    for body in ["", "body", ""] {
                        assert_eq!(send(proxy, "POST", Body::from(body)).await.status(), 200, "{body}");
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.await.unwrap();
        }
        for _ in 0..30 {
            requests.recv().await.unwrap();
        }
        assert!(requests.try_recv().is_err(), "each request is processed once");
    }
}

#[tokio::test]
async fn truncated_response_does_not_look_complete() {
    let (cut, may_cut) = tokio::sync::watch::channel(false);
    let upstream = scripted(move |_, _, _, mut respond| {
        let mut may_cut = may_cut.clone();
        tokio::spawn(async move {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from("half"), false).unwrap();
            may_cut.wait_for(|cut| *cut).await.unwrap();
            body.send_reset(Reason::INTERNAL_ERROR);
        });
        After::Nothing
    })
    .await;
    let proxy = start_proxy(upstream).await;
    let mut response = get(proxy).await.into_body();
    assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    cut.send_replace(true);
    assert!(response.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn body_errors_are_reported() {
    let upstream = listen(|socket| {
        serve_any(socket, |request| async {
            let _ = request.into_body().collect().await;
            Response::new(Body::empty())
        })
    })
    .await;
    let limited = RouteSpec { max_body: Some(8), ..route([format!("http://{upstream}")], http2()) };
    let proxy = ProxyServer::new([limited]).start().await;
    let (feed, body) = channel_body();
    feed.send("12345678").unwrap();
    feed.send("9").unwrap();
    assert_eq!(code(send(proxy, "POST", body).await).await, problem(413, "body_too_large"));

    let clock = PausedClock::new();
    let (feed, body) = channel_body();
    feed.send("begun").unwrap();
    let response = tokio::spawn(send(proxy, "POST", body));
    while !response.is_finished() {
        clock.advance(10).await;
    }
    assert_eq!(code(response.await.unwrap()).await, problem(408, "body_timeout"));
    drop(feed);
    assert_eq!(get(proxy).await.status(), 200, "other requests are unaffected");
}

#[tokio::test]
async fn early_response_ends_the_upload() {
    let (end, mut ended) = mpsc::unbounded_channel();
    let upstream = scripted(move |_, _, request, respond| {
        ok(respond);
        let end = end.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(_)) = body.data().await {}
            end.send(()).unwrap();
        });
        After::Nothing
    })
    .await;
    let proxy = start_proxy(upstream).await;
    let (feed, body) = channel_body();
    feed.send("begun").unwrap();
    assert_eq!(send(proxy, "POST", body).await.status(), 200);
    ended.recv().await.unwrap();
    drop(feed);
}

#[tokio::test]
async fn silent_upstream_times_out() {
    let (started, mut requests) = mpsc::unbounded_channel();
    let pending = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let upstream = scripted(move |_, _, _, respond| {
        pending.lock().unwrap().push(respond);
        started.send(()).unwrap();
        After::Nothing
    })
    .await;
    let proxy = start_proxy(upstream).await;
    let clock = PausedClock::new();
    let response = tokio::spawn(get(proxy));
    requests.recv().await.unwrap();
    clock.advance(61).await;
    assert_eq!(code(response.await.unwrap()).await, problem(504, "upstream_timeout"));
}

#[tokio::test]
async fn http1_only_upstream_is_reported() {
    let upstream = crate::support::upstream::raw_upstream(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert_eq!(code(get(start_proxy(upstream).await).await).await, problem(502, "upstream_error"));
}

/// Starts an upstream that sends these frames as each response, at once.
async fn raw_responses(frames: Vec<u8>) -> String {
    let address = listen(move |socket| {
        let frames = frames.clone();
        async move {
            let mut raw = RawHttp2::accept(socket).await;
            while raw.request().await.is_some() {
                raw.send(&frames).await;
            }
        }
    })
    .await;
    format!("http://{address}")
}

/// C19: a response that was reset with `NO_ERROR`, or ended by a GOAWAY, looked complete.
#[tokio::test]
async fn response_without_end_of_stream_does_not_look_complete() {
    let head = |flags| frame(HEADERS, END_HEADERS | flags, 1, STATUS_200);
    let data = |flags| frame(DATA, flags, 1, b"half");
    let half = [head(0), data(0)].concat();
    let whole = [head(0), data(END_STREAM)].concat();
    let bodiless = head(END_STREAM);
    let with_trailers = [&half[..], &headers(1, END_STREAM, &[("x-sum", "7")])].concat();
    let reset = |code: u32| frame(RST_STREAM, 0, 1, &code.to_be_bytes());
    let goaway =
        |last: u32, code: u32| frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat());
    for (response, end, expected) in [
        (&half, reset(0), None),
        (&half, reset(8), None),
        (&half, goaway(0, 0), None),
        (&half, goaway(0, 2), None),
        (&head(0), reset(0), None),
        (&whole, reset(0), Some("half")),
        (&bodiless, reset(0), Some("")),
        (&with_trailers, reset(0), Some("half")),
        (&whole, goaway(0, 0), Some("half")),
        (&whole, goaway(1, 0), Some("half")),
    ] {
        for _ in 0..3 {
            let frames = [&response[..], &end].concat();
            let proxy = start_proxy(raw_responses(frames.clone()).await).await;
            let response = timeout(PROCESS_TIMEOUT, get(proxy)).await.expect("a response");
            assert_eq!(response.status(), 200, "{frames:?}");
            let body = timeout(PROCESS_TIMEOUT, response.into_body().collect()).await.expect("an end");
            let text = body.ok().map(|body| String::from_utf8(body.to_bytes().to_vec()).unwrap());
            assert_eq!(text.as_deref(), expected, "{frames:?}");
        }
    }
}

/// C18 and C20: a name that http accepts from HTTP/2 alone became a malformed HTTP/1.1 field line.
#[tokio::test]
async fn response_fields_with_odd_names_are_dropped() {
    let fields = [(":status", "200"), ("x\"a", "1"), ("x-b", "2")];
    let trailers = [("x\"c", "1"), ("x-d", "2")];
    let frames =
        [headers(1, 0, &fields), frame(DATA, 0, 1, b"text"), headers(1, END_STREAM, &trailers)].concat();
    let proxy = start_proxy(raw_responses(frames).await).await;
    let raw = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, TE\r\nTE: trailers\r\n\r\n";
    let response = exchange(proxy, raw).await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.contains("\r\nx-b: 2\r\n"), "{response}");
    assert!(response.contains("text") && !response.contains('"'), "{response}");
}

/// C18: the line of a status without a registered reason had `<none>`.
#[tokio::test]
async fn unknown_status_has_an_empty_reason() {
    let frames = headers(1, END_STREAM, &[(":status", "599")]);
    let proxy = start_proxy(raw_responses(frames).await).await;
    let response = exchange(proxy, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 599 \r\n"), "{response}");
}

/// C13: `Alt-Svc` of HTTP/2 upstreams.
#[tokio::test]
async fn alt_svc_is_not_forwarded() {
    let frames = headers(1, END_STREAM, &[(":status", "200"), ("alt-svc", "h3=\":443\""), ("x-b", "2")]);
    let proxy = start_proxy(raw_responses(frames).await).await;
    let response = get(proxy).await;
    assert!(response.headers().contains_key("x-b") && !response.headers().contains_key("alt-svc"));
}

/// C1: requests whose credentials authenticate the connection share none with others.
#[tokio::test]
async fn authenticated_connections_are_not_shared() {
    let (upstream, mut seen) = recording_upstream().await;
    let spec = RouteSpec { pass_authorization: true, ..route([upstream], http2()) };
    let proxy = ProxyServer::new([spec]).start().await;
    for (credentials, expected) in [
        ("Basic YTpi", 0),
        ("NTLM TlRMTVNTUAAB", 1),
        ("Basic YTpi", 0),
        ("negotiate YII=", 2),
        ("Negotiate YII=", 3),
        ("Bearer x", 0),
    ] {
        let mut get = request("GET", "/", Body::empty());
        get.headers_mut().insert("authorization", credentials.parse().unwrap());
        assert_eq!(connect(proxy).await.send_request(get).await.unwrap().status(), 200);
        assert_eq!(seen.recv().await, Some(expected), "{credentials}");
    }
}
