//! Forwarding of upgrade handshakes and of the bytes that follow.

use futures_util::{SinkExt, StreamExt};
use sekisho::proxy::RouteSpec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::support::proxy_server::{ProxyServer, connect, exchange, get, request};
use crate::support::upstream::{Upstream, listen, raw_upstream, read_head};
use crate::support::websocket::{
    EchoUpstream, accept_handshake, assert_echoes, line, open, refused, until_closed,
};

#[tokio::test]
async fn websocket_messages_are_forwarded_both_ways() {
    let upstream = EchoUpstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    let (mut socket, response) = open(proxy, "/chat?room=1", &[]).await.unwrap();
    assert_eq!(response.headers()["x-answer"], "yes");
    let large = Message::binary(vec![7; 1 << 20]);
    for message in [Message::text("hello"), Message::binary(Vec::new()), large] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    let parts =
        [(Data::Text, "in ", false), (Data::Continue, "three ", false), (Data::Continue, "parts", true)];
    for (kind, text, last) in parts {
        let frame = Frame::message(text.as_bytes().to_vec(), OpCode::Data(kind), last);
        socket.send(Message::Frame(frame)).await.unwrap();
        if !last {
            socket.send(Message::Ping("between".into())).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("between".into()));
        }
    }
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("in three parts"));
}

/// Close codes pass unchanged in both directions (P-21).
#[tokio::test]
async fn websocket_close_codes_are_forwarded() {
    let mut upstream = EchoUpstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    for code in [1000, 1001, 1011, 3000, 4123] {
        let (mut socket, _) = open(proxy, "/", &[]).await.unwrap();
        let frame = CloseFrame { code: code.into(), reason: "that is all".into() };
        socket.close(Some(frame)).await.unwrap();
        until_closed(&mut socket).await;
        assert_eq!(upstream.closed().await, Some((code, "that is all".to_owned())));

        let (mut socket, _) = open(proxy, "/", &[]).await.unwrap();
        socket.send(Message::text(format!("close {code} and out"))).await.unwrap();
        assert_eq!(until_closed(&mut socket).await, Some((code, "and out".to_owned())));
        assert_eq!(upstream.closed().await, Some((code, "and out".to_owned())), "the client's response");
    }
    let (socket, _) = open(proxy, "/", &[]).await.unwrap();
    drop(socket);
    assert_eq!(upstream.closed().await, None, "closed without a Close frame");
}

/// Bytes pass unchanged, whether they are valid frames or not (P-21).
#[tokio::test]
async fn websocket_bytes_are_unchanged() {
    let upstream = listen(|mut socket| async move {
        let head = String::from_utf8(read_head(&mut socket).await).unwrap();
        accept_handshake(&mut socket, line(&head, "sec-websocket-key").unwrap()).await;
        let (mut from, mut to) = socket.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    })
    .await;
    let proxy = ProxyServer::to(format!("http://{upstream}")).start().await;
    let mut socket = TcpStream::connect(proxy).await.unwrap();
    // The first bytes follow the handshake request, before the 101.
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    socket.write_all(&[HANDSHAKE.as_bytes(), &bytes[..100]].concat()).await.unwrap();
    let head = String::from_utf8(read_head(&mut socket).await).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(line(&head, "upgrade"), Some("websocket"));
    assert_eq!(line(&head, "connection"), Some("upgrade"));
    assert_eq!(line(&head, "content-length"), None);
    let (mut from, mut to) = socket.into_split();
    let rest = bytes[100..].to_vec();
    tokio::spawn(async move {
        for piece in rest.chunks(1_237) {
            to.write_all(piece).await.unwrap();
        }
        to.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    from.read_to_end(&mut back).await.unwrap();
    assert!(back == bytes, "{} of {}", back.len(), bytes.len());
}

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn connection_header_is_parsed_as_a_list() {
    let mut upstream = EchoUpstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    for lines in [
        &[("connection", "keep-alive, Upgrade")][..],
        &[("connection", "UPGRADE")],
        &[("connection", "x-one ,\tupgrade,"), ("x-one", "1")],
    ] {
        let (mut socket, _) = open(proxy, "/", lines).await.unwrap();
        assert_echoes(&mut socket).await;
        let head = upstream.head().await;
        assert_eq!(line(&head, "connection"), Some("upgrade"), "{head}");
        assert_eq!(line(&head, "upgrade"), Some("websocket"));
        assert_eq!(line(&head, "x-one"), None);
    }
    let split = HANDSHAKE.replace("Connection: Upgrade", "Connection: keep-alive\r\nConnection: upgrade");
    let mut socket = TcpStream::connect(proxy).await.unwrap();
    socket.write_all(split.as_bytes()).await.unwrap();
    assert!(read_head(&mut socket).await.starts_with(b"HTTP/1.1 101 "));
}

#[tokio::test]
async fn refused_upgrade_keeps_the_connection() {
    let upstream =
        raw_upstream(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\nX-Why: no\r\n\r\nnot you").await;
    let proxy = ProxyServer::to(upstream).start().await;
    let response = refused(proxy, "/", &[]).await;
    assert_eq!((response.status().as_u16(), &response.headers()["x-why"]), (403, &"no".parse().unwrap()));
    assert_eq!(response.body().as_deref(), Some(&b"not you"[..]));

    let mut socket = TcpStream::connect(proxy).await.unwrap();
    for _ in 0..2 {
        socket.write_all(HANDSHAKE.as_bytes()).await.unwrap();
        assert!(read_head(&mut socket).await.starts_with(b"HTTP/1.1 403 "));
        let mut body = [0; 7];
        socket.read_exact(&mut body).await.unwrap();
    }
}

/// A 101 for another protocol, without a valid `Sec-WebSocket-Accept`, or without a request for it.
#[tokio::test]
async fn wrong_upgrade_protocol_is_502() {
    for lines in [
        "Upgrade: h2c\r\n",
        "",
        "Upgrade: websocket\r\n",
        "Upgrade: websocket\r\nUpgrade: websocket\r\n",
        "Upgrade: websocket\r\nSec-WebSocket-Accept: bm90IHRoZSBvbmUgdGhhdCBpcyBkdWU=\r\n",
    ] {
        let response = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{lines}\r\n");
        let proxy = ProxyServer::to(raw_upstream(Box::leak(response.into_boxed_str()).as_bytes()).await)
            .start()
            .await;
        let response =
            exchange(proxy, HANDSHAKE.replace("Upgrade\r\nUpgrade", "Upgrade, close\r\nUpgrade")).await;
        assert!(response.starts_with("HTTP/1.1 502 "), "{lines}: {response}");
        assert!(response.contains("\"upstream_error\""), "{response}");
    }
    let upstream = raw_upstream(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    let response = get(ProxyServer::to(upstream.await).start().await, "/", "").await;
    assert!(response.starts_with("HTTP/1.1 502 "), "unasked: {response}");
}

/// Upgrades need permission of the route. Protocols that carry requests, such as h2c, never get it: requests
/// in the tunnel would bypass authentication.
#[tokio::test]
async fn unlisted_upgrade_protocols_are_not_forwarded() {
    let mut upstream = Upstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    for lines in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
        "Connection: Upgrade\r\nUpgrade: tcp\r\n",
        "Connection: keep-alive\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        // Not a handshake: `Sec-WebSocket-Key` is missing.
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
    ] {
        let response =
            exchange(proxy, format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n")).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{lines}: {response}");
        let seen = upstream.seen().await;
        for name in ["connection", "upgrade", "http2-settings"] {
            assert!(seen.all(name).is_empty(), "{lines}: {seen:?}");
        }
    }
    let old = HANDSHAKE.replace("HTTP/1.1", "HTTP/1.0");
    assert!(exchange(proxy, old).await.contains(" 200 OK"));
    assert!(upstream.seen().await.all("upgrade").is_empty());
}

#[tokio::test]
async fn listed_upgrade_protocol_is_forwarded() {
    let upstream = listen(|mut socket| async move {
        let head = String::from_utf8(read_head(&mut socket).await).unwrap();
        assert_eq!(line(&head, "upgrade"), Some("shout"), "{head}");
        let switching =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: Shout\r\n\r\nHELLO";
        socket.write_all(switching).await.unwrap();
        let mut proxied_response = Vec::new();
        socket.read_to_end(&mut proxied_response).await.unwrap();
        proxied_response.make_ascii_uppercase();
        socket.write_all(&proxied_response).await.unwrap();
    })
    .await;
    let spec = RouteSpec {
        upgrades: vec!["shout".to_owned()],
        ..RouteSpec::new("/", [format!("http://{upstream}")])
    };
    let proxy = ProxyServer::new([spec]).start().await;
    let mut socket = TcpStream::connect(proxy).await.unwrap();
    socket
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket, shout\r\n\r\n")
        .await
        .unwrap();
    assert!(read_head(&mut socket).await.starts_with(b"HTTP/1.1 101 "));
    socket.write_all(b"anyone there?").await.unwrap();
    // The upstream responds after the end of the request stream, so half-closing must keep the other
    // direction open.
    socket.shutdown().await.unwrap();
    let mut received = String::new();
    socket.read_to_string(&mut received).await.unwrap();
    assert_eq!(received, "HELLOANYONE THERE?");
}

#[tokio::test]
async fn upgrade_uses_its_own_upstream_connection() {
    let upstream = EchoUpstream::start().await;
    let proxy = ProxyServer::to(upstream.url()).start().await;
    let (mut one, _) = open(proxy, "/", &[]).await.unwrap();
    let (mut other, _) = open(proxy, "/", &[]).await.unwrap();
    assert_echoes(&mut one).await;
    assert_echoes(&mut other).await;
    let mut events = connect(proxy).await;
    let response = events.send_request(request("GET", "/", axum_core::body::Body::empty())).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_echoes(&mut one).await;
}

/// C10: an upgrade whose request has a body, such as that of `docker exec`, was not made.
#[tokio::test]
async fn request_with_a_body_is_upgraded() {
    let upstream = listen(|mut socket| async move {
        let head = String::from_utf8(read_head(&mut socket).await).unwrap();
        assert_eq!(
            (line(&head, "connection"), line(&head, "upgrade")),
            (Some("upgrade"), Some("tcp")),
            "{head}"
        );
        let length = line(&head, "content-length").map(|length| length.parse().unwrap());
        let mut body = vec![0; length.unwrap_or(12)];
        socket.read_exact(&mut body).await.unwrap();
        let expected = if length.is_some() { "{}" } else { "2\r\n{}\r\n0\r\n\r\n" };
        assert_eq!(body, expected.as_bytes()[..body.len()]);
        socket
            .write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            .await
            .unwrap();
        let (mut from, mut to) = socket.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    })
    .await;
    let spec =
        RouteSpec { upgrades: vec!["tcp".to_owned()], ..RouteSpec::new("/", [format!("http://{upstream}")]) };
    let proxy = ProxyServer::new([spec]).start().await;
    for framing in ["Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"] {
        let mut socket = TcpStream::connect(proxy).await.unwrap();
        let head = "POST /exec/1/start HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n";
        socket.write_all(format!("{head}{framing}").as_bytes()).await.unwrap();
        let head = String::from_utf8(read_head(&mut socket).await).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!((line(&head, "upgrade"), line(&head, "content-length")), (Some("tcp"), None));
        socket.write_all(b"hello").await.unwrap();
        socket.shutdown().await.unwrap();
        let mut back = String::new();
        socket.read_to_string(&mut back).await.unwrap();
        assert_eq!(back, "hello");
    }
}

/// C10: the protocol cannot change in the middle of a request (RFC 9110, section 7.8).
#[tokio::test]
async fn upgrade_before_the_end_of_the_request_is_an_error() {
    let upstream = listen(|mut socket| async move {
        read_head(&mut socket).await;
        socket
            .write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            .await
            .unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let spec =
        RouteSpec { upgrades: vec!["tcp".to_owned()], ..RouteSpec::new("/", [format!("http://{upstream}")]) };
    let proxy = ProxyServer::new([spec]).start().await;
    let raw =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 9\r\n\r\nhalf";
    let mut socket = TcpStream::connect(proxy).await.unwrap();
    socket.write_all(raw.as_bytes()).await.unwrap();
    let head = String::from_utf8(read_head(&mut socket).await).unwrap();
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}
