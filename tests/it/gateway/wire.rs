//! Framing, limits, streams and disconnects on a real socket.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::poll;
use http::Response;
use http_body_util::BodyExt;
use sekisho::models::user::Role;
use sekisho::server::ServerLimits;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::gateway::{SessionCookies, TestGateway, TestGatewayBuilder, get, post, route};
use crate::support::proxy_server::exchange;
use crate::support::upstream::{Upstream, listen, read_head};

/// Starts a gateway in front of this upstream, with a route that needs no session.
async fn start(upstream: &str) -> (TestGateway, SocketAddr) {
    let gateway = TestGatewayBuilder::new(route("/", upstream, "auth = \"none\"")).start().await;
    let address = gateway.listen(ServerLimits::default()).await;
    (gateway, address)
}

fn status(response: &str) -> &str {
    response.strip_prefix("HTTP/1.1 ").map_or("", |rest| &rest[..3])
}

#[tokio::test]
async fn event_stream_is_forwarded_incrementally_after_a_refresh() {
    let (feed, pieces) = mpsc::unbounded_channel::<&'static str>();
    let pieces = Mutex::new(Some(pieces));
    let upstream = Upstream::responding_with(move |_| {
        let pieces = pieces.lock().unwrap().take();
        let stream = futures_util::stream::unfold(pieces, |pieces| async {
            let mut pieces = pieces?;
            let piece = pieces.recv().await?;
            Some((Ok::<_, Infallible>(Bytes::from_static(piece.as_bytes())), Some(pieces)))
        });
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(Body::from_stream(stream))
            .unwrap()
    })
    .await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "")).start().await;
    let cookies = gateway.signed_in(Role::User).await;
    gateway.expire();

    let request = get("/events").header("cookie", cookies.line()).body(Body::empty()).unwrap();
    let mut response = gateway.call(request).await;
    assert_eq!(response.headers()["x-session-event"], "rotated");
    assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
    for piece in ["data: one\n\n", "data: two\n\n"] {
        // The upstream sends the second event only after the first one has arrived, so buffering would hang.
        feed.send(piece).unwrap();
        assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), piece);
    }
}

#[tokio::test]
async fn disconnect_during_refresh_keeps_the_session() {
    let mut upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "")).start().await;
    let cookies = gateway.signed_in(Role::User).await;
    gateway.expire();
    // A write lock held by another connection delays the rotation.
    let options: SqliteConnectOptions = gateway.database.url().parse().unwrap();
    let mut writer = options.connect().await.unwrap();
    writer.execute("BEGIN IMMEDIATE").await.unwrap();
    let request = post("/orders").header("cookie", cookies.line()).body(Body::from("one")).unwrap();
    let mut refreshing = Box::pin(gateway.call(request));
    assert!(poll!(&mut refreshing).is_pending());
    drop(refreshing);
    writer.execute("COMMIT").await.unwrap();
    writer.close().await.unwrap();

    let response = gateway.ask(get("/").header("cookie", cookies.line())).await;
    assert_eq!((response.status.as_u16(), response.header("x-session-event")), (200, Some("replayed")));
    assert_eq!(upstream.seen().await.method, "GET", "the cancelled POST was not forwarded");
    let fresh = SessionCookies::of(&response).unwrap();
    // The second request joined the rotation that the first one had started.
    let session = gateway.app.tokens.identify_session(Some(&fresh.refresh), None).unwrap();
    let row = gateway.database.stores.sessions.find_session(session).await.unwrap().unwrap();
    assert_eq!((row.generation, row.rotations), (2, 1));
}

#[tokio::test]
async fn slow_header_times_out() {
    let (gateway, _) = start("http://127.0.0.1:1").await;
    let limits = ServerLimits { header_timeout: Duration::from_millis(50), ..ServerLimits::default() };
    let server = gateway.listen(limits).await;
    for sent in ["", "GET / HTTP/1.1\r\nHost: a\r\nX-"] {
        let response = exchange(server, sent).await;
        assert!(response.is_empty() || status(&response) == "408", "{response}");
    }
}

#[tokio::test]
async fn oversized_header_is_431() {
    let mut upstream = Upstream::start().await;
    let (_gateway, server) = start(&upstream.url()).await;
    let large =
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {}\r\n\r\n", "x".repeat(300_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n", "X: 1\r\n".repeat(101));
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "x".repeat(8_192));
    let longer = format!("GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "x".repeat(70_000));
    for (request, expected) in [(large, "431"), (many, "431"), (long, "414"), (longer, "431")] {
        assert_eq!(status(&exchange(server, request).await), expected);
    }
    let enough = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n", "X: 1\r\n".repeat(90));
    assert_eq!(status(&exchange(server, enough).await), "200");
    upstream.seen().await;
    assert!(upstream.has_no_more_requests());
}

#[tokio::test]
async fn ambiguous_host_is_400_everywhere() {
    let mut upstream = Upstream::start().await;
    let (_gateway, server) = start(&upstream.url()).await;
    for target in ["/x", "/auth/session", "/auth/unknown"] {
        for hosts in [
            "",
            "Host:\r\n",
            "Host: a\r\nHost: b\r\n",
            "Host: a\r\nHost: a\r\n",
            "Host: a b\r\n",
            "Host: u@a\r\n",
            "Host: a/b\r\n",
            "Host: a, b\r\n",
        ] {
            let response =
                exchange(server, format!("GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await;
            assert!(
                status(&response) == "400" && response.contains("\"code\":\"bad_host\""),
                "{hosts}: {response}"
            );
        }
        let request = format!("GET http://u:p@a{target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&exchange(server, request).await), "400");
    }
    assert!(upstream.has_no_more_requests());
    for request in
        ["GET /x HTTP/1.0\r\n\r\n", "GET http://b/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"]
    {
        let response = exchange(server, request).await;
        assert!(response.contains(" 200 OK\r\n"), "{response}");
        upstream.seen().await;
    }
}

/// Requests with ambiguous framing are rejected, or forwarded as a single request with one length.
#[tokio::test]
async fn ambiguous_framing_is_rejected_or_normalized() {
    let (record, mut heads) = mpsc::unbounded_channel();
    let upstream = listen(move |mut socket| {
        let record = record.clone();
        async move {
            let head = read_head(&mut socket).await;
            record.send(String::from_utf8(head).unwrap().to_lowercase()).unwrap();
            let _ =
                socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            let _ = socket.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let (_gateway, server) = start(&format!("http://{upstream}")).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for (lines, rejected) in [
        // RFC 9112, section 6.3: Transfer-Encoding overrides Content-Length, which is dropped.
        ("Content-Length: 6\r\nTransfer-Encoding: chunked", false),
        ("Transfer-Encoding: chunked\r\nContent-Length: 6", false),
        ("Content-Length: 5\r\nContent-Length: 6", true),
        ("Content-Length: 5, 6", true),
        ("Content-Length: +5", true),
        ("Content-Length: -1", true),
        ("Content-Length: 0x5", true),
        ("Content-Length:", true),
        ("Content-Length: 5 5", true),
        ("Transfer-Encoding: chunked, identity", true),
        ("Transfer-Encoding: xchunked", true),
        ("Transfer-Encoding : chunked", true),
        ("Transfer-Encoding: \x0bchunked", true),
        ("Content-Length : 5", true),
        ("X: a\r\n folded\r\nContent-Length: 5", true),
        ("X: a\x00b\r\nContent-Length: 5", true),
    ] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n\r\n0\r\n\r\n{smuggled}");
        let response = exchange(server, request).await;
        assert!(response.matches("HTTP/1.1 ").count() <= 1, "{lines}: {response}");
        assert_eq!(status(&response) == "400", rejected, "{lines}: {response}");
        if let Ok(head) = heads.try_recv() {
            assert!(!rejected && !head.contains("content-length") && !head.contains("smuggled"), "{head}");
        }
        assert!(heads.try_recv().is_err(), "{lines}");
    }
}

#[tokio::test]
async fn connect_and_asterisk_targets_are_rejected() {
    let mut upstream = Upstream::start().await;
    let (_gateway, server) = start(&upstream.url()).await;
    for (line, expected) in [
        ("OPTIONS * HTTP/1.1", "400"),
        ("CONNECT evil:443 HTTP/1.1", "400"),
        ("CONNECT / HTTP/1.1", "405"),
        ("TRACE / HTTP/1.1", "405"),
        ("GET evil:80 HTTP/1.1", "400"),
        ("GET @evil/ HTTP/1.1", "400"),
        ("GET  / HTTP/1.1", "400"),
        ("GET / HTTP/1.1 x", "400"),
        ("GET /\u{e9}/../x HTTP/1.1", "400"),
    ] {
        let response = exchange(server, format!("{line}\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(status(&response), expected, "{line}: {response}");
    }
    assert!(upstream.has_no_more_requests());
}

/// Requests of one connection with different cookies.
#[tokio::test]
async fn connection_has_no_user() {
    let mut upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "auth = \"optional\"")).start().await;
    let cookies = gateway.signed_in(Role::Admin).await;
    let server = gateway.listen(ServerLimits::default()).await;
    let mut socket = TcpStream::connect(server).await.unwrap();
    let signed_in = format!("GET /1 HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", cookies.line());
    let anonymous = "GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    socket.write_all(format!("{signed_in}{anonymous}").as_bytes()).await.unwrap();
    let mut responses = String::new();
    socket.read_to_string(&mut responses).await.unwrap();
    assert_eq!(responses.matches("HTTP/1.1 200 OK").count(), 2);
    let (first, second) = (upstream.seen().await, upstream.seen().await);
    assert_eq!((first.target.as_str(), first.all("x-forwarded-groups")), ("/1", vec!["admin"]));
    assert_eq!((second.target.as_str(), second.all("x-forwarded-groups")), ("/2", vec![]));
}
