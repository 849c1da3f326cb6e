//! Limits on connections, requests, sizes and times (P-18).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use sekisho::server::ServerLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::fair_clock::FairInstant;
use crate::support::process::{PROCESS_TIMEOUT, until};
use crate::support::raw_http2::{END_STREAM, HEADERS, Outcome, RawHttp2, frame};
use crate::support::test_server::{
    GET, TestServer, answer, ask, get1, get2, read_until_closed, send_and_read,
};

const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn header_timeout_closes_the_connection() {
    let limits = ServerLimits { header_timeout: SHORT, ..ServerLimits::default() };
    let (server, mut seen) = TestServer::start(1, limits);
    for sent in ["", "P", "GET / HTTP/1.1\r\nHost: a\r\nX-"] {
        let start = Instant::now();
        let mut socket = server.connect().await;
        socket.write_all(sent.as_bytes()).await.unwrap();
        assert_eq!(read_until_closed(&mut socket).await, "", "{sent}");
        assert!(start.elapsed() >= SHORT, "{sent}: {:?}", start.elapsed());
    }
    // Single bytes do not extend the timeout.
    let mut slow = server.connect().await;
    let mut dripping = Box::pin(async {
        let (mut read, mut write) = slow.split();
        tokio::select! {
            () = async {
                let mut tick = tokio::time::interval(SHORT / 4);
                while write.write_all(b"X").await.is_ok() {
                    tick.tick().await;
                }
                std::future::pending().await
            } => unreachable!(),
            rest = read_until_closed(&mut read) => rest,
        }
    });
    assert_eq!(dripping.as_mut().await, "");
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn keep_alive_timeout_is_independent_of_header_timeout() {
    let keep_alive = SHORT * 15;
    let limits = ServerLimits { header_timeout: SHORT, keep_alive, ..ServerLimits::default() };
    let (server, _seen) = TestServer::start(1, limits);
    let mut socket = server.connect().await;
    assert!(send_and_read(&mut socket, GET).await.starts_with("HTTP/1.1 200 OK"));
    let idle = Instant::now();
    assert_eq!(read_until_closed(&mut socket).await, "");
    assert!(idle.elapsed() >= keep_alive, "{:?}", idle.elapsed());

    // The header timeout applies from the first byte of the next request.
    let mut socket = server.connect().await;
    let twice = format!("{}{}", send_and_read(&mut socket, GET).await, send_and_read(&mut socket, GET).await);
    assert_eq!(twice.matches("HTTP/1.1 200 OK").count(), 2);
    let start = FairInstant::now();
    socket.write_all(b"GET / HT").await.unwrap();
    assert_eq!(read_until_closed(&mut socket).await, "");
    assert!(start.elapsed() < keep_alive, "{:?}", start.elapsed());
}

#[tokio::test]
async fn idle_http2_connection_gets_goaway() {
    let limits = ServerLimits { keep_alive: SHORT, ..ServerLimits::default() };
    let (server, _seen) = TestServer::start(1, limits);
    let (mut client, connection) = h2::client::handshake(server.connect().await).await.unwrap();
    let ended = tokio::spawn(connection);
    assert_eq!(ask(&mut client, get2("/")).await.unwrap().0, 200);
    // GOAWAY with NO_ERROR and the end of the connection; `h2` reports anything else as an error.
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn slow_handler_is_not_interrupted() {
    let limits = ServerLimits {
        header_timeout: SHORT / 4,
        keep_alive: SHORT / 4,
        write_timeout: SHORT / 4,
        ..ServerLimits::default()
    };
    let (server, mut seen) = TestServer::start(1, limits);
    let mut socket = server.connect().await;
    let mut client = server.http2().await;
    socket.write_all(get1("/slow").as_bytes()).await.unwrap();
    let second = tokio::spawn(async move { ask(&mut client, get2("/slow")).await.unwrap() });
    seen.recv().await;
    seen.recv().await;
    tokio::time::sleep(SHORT).await;
    server.script.release();
    assert!(answer(&mut socket).await.ends_with("at last"));
    assert_eq!(second.await.unwrap().2, "at last");
}

#[tokio::test]
async fn upgraded_connection_may_be_silent_and_half_closed() {
    let limits = ServerLimits {
        header_timeout: SHORT / 4,
        keep_alive: SHORT / 4,
        write_timeout: SHORT / 4,
        ..ServerLimits::default()
    };
    let (server, _seen) = TestServer::start(1, limits);
    let mut socket = server.connect().await;
    let upgrade = "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
    tokio::time::sleep(SHORT).await;
    socket.write_all(b"still there").await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(read_until_closed(&mut socket).await, "still there");
}

#[tokio::test]
async fn write_timeout_closes_connection_when_client_stops_reading() {
    let limits = ServerLimits { write_timeout: SHORT, ..ServerLimits::default() };
    let (server, mut seen) = TestServer::start(1, limits);
    let mut socket = server.connect().await;
    socket.write_all(get1("/endless").as_bytes()).await.unwrap();
    // The client reads the connection but opens no window for the stream.
    let mut client = server.http2().await;
    let (stuck, _) = client.send_request(get2("/endless"), true).unwrap();
    seen.recv().await;
    seen.recv().await;
    until("both responses to be aborted", async || (server.script.endless() == 0).then_some(())).await;
    drop((socket, stuck));
}

/// The stream is blocked by HTTP/2 flow control, while the connection itself makes progress.
#[tokio::test]
async fn stalled_http2_stream_ends_beside_a_busy_one() {
    let limits = ServerLimits { write_timeout: SHORT * 2, ..ServerLimits::default() };
    let (server, _seen) = TestServer::start(1, limits);
    let handshake = h2::client::Builder::new().initial_window_size(0).handshake(server.connect().await);
    let (mut client, mut connection) = handshake.await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    tokio::spawn(connection);
    // Before the request: on a busy machine the response waits before the client sees it.
    let start = Instant::now();
    let (stuck, _) = client.send_request(get2("/endless"), true).unwrap();
    let stuck = stuck.await.unwrap();
    assert_eq!(server.script.endless(), 1);
    until("the response to be aborted", async || {
        // A response without a body needs no window.
        assert_eq!(ask(&mut client, get2("/hsts")).await.unwrap().0, 200);
        pings.ping(h2::Ping::opaque()).await.unwrap();
        (server.script.endless() == 0).then_some(())
    })
    .await;
    assert!(start.elapsed() >= limits.write_timeout, "{:?}", start.elapsed());
    let end = stuck.into_body().data().await.unwrap();
    assert_eq!(end.unwrap_err().reason(), Some(h2::Reason::CANCEL));
    // Only the stream was reset.
    assert_eq!(ask(&mut client, get2("/hsts")).await.unwrap().0, 200);
}

/// The timeout applies to blocked writes, not to pauses of the response.
#[tokio::test]
async fn pausing_response_is_not_aborted() {
    let limits = ServerLimits { write_timeout: SHORT / 4, ..ServerLimits::default() };
    let (server, _seen) = TestServer::start(1, limits);
    let mut client = server.http2().await;
    let (response, _) = client.send_request(get2("/stream"), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "begun");
    assert!(tokio::time::timeout(SHORT, body.data()).await.is_err());
}

#[tokio::test]
async fn slow_but_steady_reader_is_served() {
    let limits = ServerLimits { write_timeout: SHORT * 5, ..ServerLimits::default() };
    let (server, _seen) = TestServer::start(1, limits);
    let mut client = server.http2().await;
    let (stream, _) = client.send_request(get2("/endless"), true).unwrap();
    let mut body = stream.await.unwrap().into_body();
    let start = Instant::now();
    while start.elapsed() < limits.write_timeout * 3 {
        tokio::time::sleep(SHORT / 8).await;
        let piece = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
    assert_eq!(server.script.endless(), 1);
}

#[tokio::test]
async fn connections_beyond_the_limit_get_503_at_once() {
    let limits = ServerLimits { connections: 2, ..ServerLimits::default() };
    let (server, _seen) = TestServer::start(1, limits);
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    assert!(send_and_read(&mut first, GET).await.contains("200 OK"));
    assert!(send_and_read(&mut second, GET).await.contains("200 OK"));
    let mut third = server.connect().await;
    let refusal = send_and_read(&mut third, GET).await;
    assert!(refusal.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{refusal}");
    assert!(
        refusal.contains("Retry-After: 1\r\n") && refusal.contains(r#""code":"overloaded""#),
        "{refusal}"
    );
    drop(first);
    until("a connection slot to be free", async || {
        send_and_read(&mut server.connect().await, GET).await.contains("200 OK").then_some(())
    })
    .await;
    assert!(send_and_read(&mut second, GET).await.contains("200 OK"));
}

async fn connect_from(server: &TestServer, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    socket.connect(server.address).await.unwrap()
}

/// Returns `true` if the connection is served.
async fn is_served(socket: &mut TcpStream) -> bool {
    send_and_read(socket, GET).await.contains("200 OK")
}

/// A1, A9: one client could take all connections.
#[tokio::test]
async fn connections_of_a_client_are_limited() {
    let limits = ServerLimits { connections_per_client: 2, ..ServerLimits::default() };
    let (server, _seen) = TestServer::start(2, limits);
    let mut first = connect_from(&server, 2).await;
    let mut second = connect_from(&server, 2).await;
    assert!(is_served(&mut first).await && is_served(&mut second).await);
    let mut third = connect_from(&server, 2).await;
    // Fails if the server closes the connection first. Without a request, the header timeout would close it too.
    let sent = third.write_all(GET.as_bytes()).await;
    assert!(sent.is_err() || !answer(&mut third).await.contains("200 OK"));
    assert!(is_served(&mut connect_from(&server, 3).await).await);
    drop(first);
    until("a place of the client to be free", async || {
        let mut socket = connect_from(&server, 2).await;
        // Fails if the server closes the connection first.
        let sent = socket.write_all(GET.as_bytes()).await;
        (sent.is_ok() && answer(&mut socket).await.contains("200 OK")).then_some(())
    })
    .await;

    server.threads.set_exempt_peers(vec!["127.0.0.2/32".parse().unwrap()]);
    let mut exempt = Vec::new();
    for _ in 0..4 {
        let mut socket = connect_from(&server, 2).await;
        assert!(is_served(&mut socket).await);
        exempt.push(socket);
    }
}

/// A1: a client from many addresses could take all connections.
#[tokio::test]
async fn last_connections_are_shared_equally() {
    let limits = ServerLimits { connections: 40, ..ServerLimits::default() };
    let (server, _seen) = TestServer::start(1, limits);
    let mut held = Vec::new();
    for last in (2..6).cycle().take(80) {
        let mut socket = connect_from(&server, last).await;
        // Fails if the server closes the connection first.
        let sent = socket.write_all(GET.as_bytes()).await;
        if sent.is_ok() && answer(&mut socket).await.contains("200 OK") {
            held.push(socket);
        }
    }
    assert!((36..40).contains(&held.len()), "{}", held.len());
    assert!(is_served(&mut connect_from(&server, 9).await).await);
}

#[tokio::test]
async fn requests_beyond_the_limit_get_503_at_once() {
    let limits = ServerLimits { in_flight: 1, ..ServerLimits::default() };
    let (server, mut seen) = TestServer::start(1, limits);
    let mut waiting = server.connect().await;
    waiting.write_all(get1("/slow").as_bytes()).await.unwrap();
    assert_eq!(seen.recv().await.as_deref(), Some("/slow"));
    let mut client = server.http2().await;
    let (status, headers, body) = ask(&mut client, get2("/")).await.unwrap();
    assert_eq!((status, headers["retry-after"].to_str().unwrap()), (503, "1"));
    assert!(body.contains(r#""code":"overloaded""#), "{body}");
    let mut other = server.connect().await;
    let refusal = send_and_read(&mut other, GET).await;
    assert!(refusal.starts_with("HTTP/1.1 503") && refusal.contains("retry-after: 1\r\n"), "{refusal}");
    server.script.release();
    assert!(answer(&mut waiting).await.ends_with("at last"));
    // The same connections stay usable, and responses that have begun do not count.
    let mut stream = server.http2().await;
    let (begun, _) = stream.send_request(get2("/stream"), true).unwrap();
    let _begun = begun.await.unwrap();
    assert!(send_and_read(&mut other, GET).await.starts_with("HTTP/1.1 200"));
    assert_eq!(ask(&mut client, get2("/")).await.unwrap().0, 200);
}

/// A6: a thread refused requests beyond its part of the limit, while the other threads were idle.
#[tokio::test]
async fn one_connection_may_use_the_whole_limit_of_requests() {
    let limits = ServerLimits { in_flight: 100, streams: 200, ..ServerLimits::default() };
    let (server, mut seen) = TestServer::start(32, limits);
    let mut client = server.http2().await;
    let mut waiting = Vec::new();
    for _ in 0..100 {
        client = client.ready().await.unwrap();
        waiting.push(client.send_request(get2("/slow"), true).unwrap().0);
    }
    for _ in 0..100 {
        timeout(PROCESS_TIMEOUT, seen.recv()).await.expect("a request");
    }
    assert_eq!(ask(&mut client, get2("/")).await.unwrap().0, 503);
    server.script.release();
    for response in waiting {
        assert_eq!(response.await.unwrap().status(), 200);
    }
}

/// A1: requests that arrived together on one connection took all places before any of them was handled, so that those
/// which are refused at once left none to others.
#[tokio::test]
async fn burst_of_short_requests_is_served_one_after_the_other() {
    let limits = ServerLimits { in_flight: 2, ..ServerLimits::default() };
    let (server, _seen) = TestServer::start(1, limits);
    let mut client = server.http2().await;
    // The connection sends them together, when this task waits.
    let responses: Vec<_> = (0..100).map(|_| client.send_request(get2("/"), true).unwrap().0).collect();
    for response in responses {
        assert_eq!(response.await.unwrap().status(), 200);
    }
}

/// A6: the limit is that of all threads together.
#[tokio::test]
async fn connections_of_all_threads_share_the_limit_of_requests() {
    let limits = ServerLimits { in_flight: 10, ..ServerLimits::default() };
    let (server, mut seen) = TestServer::start(4, limits);
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let mut socket = server.connect().await;
        socket.write_all(get1("/slow").as_bytes()).await.unwrap();
        timeout(PROCESS_TIMEOUT, seen.recv()).await.expect("a request");
        waiting.push(socket);
    }
    for _ in 0..10 {
        let refusal = send_and_read(&mut server.connect().await, GET).await;
        assert!(refusal.contains(r#""code":"overloaded""#), "{refusal}");
    }
    server.script.release();
    for mut socket in waiting {
        assert!(answer(&mut socket).await.ends_with("at last"));
    }
}

/// A1: requests whose bodies did not arrive took the places of all others.
#[tokio::test]
async fn request_is_not_in_flight_while_its_body_is_awaited() {
    let limits = ServerLimits { in_flight: 2, ..ServerLimits::default() };
    let (server, mut seen) = TestServer::start(1, limits);
    let mut client = server.http2().await;
    let mut streams = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let post = Request::post("http://app.example/length").body(()).unwrap();
        let (response, mut upload) = client.send_request(post, false).unwrap();
        upload.send_data(Bytes::from_static(b"x"), false).unwrap();
        timeout(PROCESS_TIMEOUT, seen.recv()).await.expect("a request");
        streams.push((response, upload));
        let mut socket = server.connect().await;
        let head = "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx";
        socket.write_all(head.as_bytes()).await.unwrap();
        timeout(PROCESS_TIMEOUT, seen.recv()).await.expect("a request");
        sockets.push(socket);
    }
    assert!(send_and_read(&mut server.connect().await, GET).await.starts_with("HTTP/1.1 200"));
    // No place is lost: the limit is what it was.
    for mut socket in sockets {
        assert!(send_and_read(&mut socket, "x").await.ends_with("Ok(2)"));
    }
    for (response, mut upload) in streams {
        upload.send_data(Bytes::from_static(b"x"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    }
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut socket = server.connect().await;
        socket.write_all(get1("/slow").as_bytes()).await.unwrap();
        while seen.recv().await.as_deref() != Some("/slow") {}
        waiting.push(socket);
    }
    let refusal = send_and_read(&mut server.connect().await, GET).await;
    assert!(refusal.starts_with("HTTP/1.1 503"), "{refusal}");
}

/// A1: requests that wait for their bodies, or whose responses are streamed, had no limit for all of them.
#[tokio::test]
async fn open_requests_are_limited() {
    let limits = ServerLimits { in_flight: 1, connections: 2, ..ServerLimits::default() };
    let (server, mut seen) = TestServer::start(1, limits);
    let mut client = server.http2().await;
    let mut streams = Vec::new();
    for path in ["/length", "/length", "/stream", "/stream"] {
        let post = Request::post(format!("http://app.example{path}")).body(()).unwrap();
        let stream = client.send_request(post, path == "/stream").unwrap();
        timeout(PROCESS_TIMEOUT, seen.recv()).await.expect("a request");
        streams.push(stream);
    }
    let (status, _, body) = ask(&mut client, get2("/")).await.unwrap();
    assert_eq!(status, 503);
    assert!(body.contains(r#""code":"overloaded""#), "{body}");
    let (response, mut upload) = streams.swap_remove(0);
    upload.send_data(Bytes::new(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    until("a place to be free", async || (ask(&mut client, get2("/")).await.unwrap().0 == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn oversized_targets_and_headers_are_rejected() {
    let limits = ServerLimits { header_bytes: 16 * 1024, uri_bytes: 1024, ..ServerLimits::default() };
    let (server, mut seen) = TestServer::start(1, limits);
    let path = |length: usize| format!("/{}", "x".repeat(length - 1));
    let fields = |count: usize| (0..count).map(|i| format!("X-{i}: 1\r\n")).collect::<String>();
    let head = |more: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    for (request, status) in [
        (get1(&path(1024)), "200"),
        (get1(&path(1025)), "414"),
        (get1(&format!("/?{}", path(1024))), "414"),
        (head(&fields(99)), "200"),
        (head(&fields(100)), "431"),
        (head(&format!("X: {}\r\n", "x".repeat(16_000))), "200"),
        (head(&format!("X: {}\r\n", "x".repeat(17_000))), "431"),
    ] {
        let response = send_and_read(&mut server.connect().await, &request).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{status}: {response}");
        assert_eq!(status == "414", response.contains(r#""code":"uri_too_long""#), "{response}");
    }
    let many = |count: usize| {
        let mut request = get2("/");
        for number in 0..count {
            let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
            request.headers_mut().insert(name, "1".parse().unwrap());
        }
        request
    };
    let mut large = get2("/");
    large.headers_mut().insert("x", "x".repeat(17_000).parse().unwrap());
    for (request, status) in
        [(get2(&path(1025)), 414), (many(100), 200), (many(101), 431), (large, 431), (get2("/"), 200)]
    {
        let mut client = server.http2().await;
        assert_eq!(ask(&mut client, request).await.unwrap().0, status);
    }
    let mut served = 0;
    while seen.try_recv().is_ok() {
        served += 1;
    }
    assert_eq!(served, 5);
}

/// A9: unfinished heads with HTTP/2 had no limit for all of them together.
#[tokio::test]
async fn unfinished_http2_heads_share_a_limit() {
    let limits = ServerLimits { unfinished_heads: 12 * 1024, ..ServerLimits::default() };
    let (server, _seen) = TestServer::start(1, limits);
    // A literal field `x` whose value has 20,000 bytes (RFC 7541 section 6.2.2).
    let mut block = vec![0, 1, b'x', 0x7F, 0xA1, 0x9B, 0x01];
    block.resize(16_000, b'a');
    let unfinished = frame(HEADERS, END_STREAM, 1, &block);
    let mut first = RawHttp2::connect(server.address).await;
    first.send(&unfinished).await;
    let mut second = RawHttp2::connect(server.address).await;
    second.send(&unfinished).await;
    let closed = async {
        tokio::select! {
            outcome = first.outcome() => outcome,
            outcome = second.outcome() => outcome,
        }
    };
    assert_eq!(timeout(PROCESS_TIMEOUT, closed).await.expect("a closed connection"), Outcome::Closed);
    assert_eq!(ask(&mut server.http2().await, get2("/")).await.unwrap().0, 200);
    // Bodies are not heads.
    let mut client = server.http2().await;
    let post = Request::post("http://app.example/length").body(()).unwrap();
    let (response, mut upload) = client.send_request(post, false).unwrap();
    upload.send_data(Bytes::from(vec![b'x'; 30_000]), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
}

/// A9: unfinished heads had no limit for all of them together.
#[tokio::test]
async fn unfinished_heads_share_a_limit() {
    // Nothing else closes a connection within the test.
    let limits = ServerLimits {
        unfinished_heads: 32 * 1024,
        header_timeout: 2 * PROCESS_TIMEOUT,
        ..ServerLimits::default()
    };
    let (server, _seen) = TestServer::start(1, limits);
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(30_000));
    let mut first = server.connect().await;
    first.write_all(head.as_bytes()).await.unwrap();
    let mut second = server.connect().await;
    second.write_all(head.as_bytes()).await.unwrap();
    let closed = async {
        tokio::select! {
            rest = read_until_closed(&mut first) => (rest, true),
            rest = read_until_closed(&mut second) => (rest, false),
        }
    };
    let (rest, is_first) = timeout(PROCESS_TIMEOUT, closed).await.expect("a closed connection");
    assert_eq!(rest, "");
    assert!(send_and_read(&mut server.connect().await, GET).await.contains("200 OK"), "a small head");
    let mut open = if is_first { second } else { first };
    assert!(send_and_read(&mut open, "\r\n\r\n").await.contains("200 OK"));
    // A head that is complete no longer counts.
    let whole = format!("{head}\r\n\r\n");
    for _ in 0..3 {
        assert!(send_and_read(&mut server.connect().await, &whole).await.contains("200 OK"));
    }
}

/// Closing a socket with unread bytes resets the connection, and a client that is still sending would see the
/// reset instead of the response.
#[tokio::test]
async fn rejection_arrives_before_the_body_is_read() {
    let (server, _seen) = TestServer::start(1, ServerLimits::default());
    let mut socket = server.connect().await;
    let head = "POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n";
    let refusal = send_and_read(&mut socket, head).await;
    assert!(refusal.starts_with("HTTP/1.1 413") && refusal.ends_with("too much"), "{refusal}");
    // The server has closed its sending side.
    assert_eq!(socket.peek(&mut [0]).await.unwrap(), 0);
    for _ in 0..30 {
        socket.write_all(&[b'x'; 10_000]).await.unwrap();
        tokio::task::yield_now().await;
    }
    socket.shutdown().await.unwrap();
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    // A client that keeps sending is disconnected after a while.
    let mut socket = server.connect().await;
    assert!(send_and_read(&mut socket, head).await.ends_with("too much"));
    let mut dripping = tokio::time::interval(SHORT / 4);
    while socket.write_all(b"x").await.is_ok() {
        dripping.tick().await;
    }
}
