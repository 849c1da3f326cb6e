//! The end of a session closes its upgraded connections.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use sekisho::proxy::RouteSpec;
use sekisho::session_event::SessionEvent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::SessionEndTrigger;
use crate::support::fair_clock::FairInstant;
use crate::support::process::PROCESS_TIMEOUT;
use crate::support::proxy_server::ProxyServer;
use crate::support::upstream::{listen, read_head};
use crate::support::websocket::{EchoUpstream, accept_handshake, assert_echoes, line, open, until_closed};

#[tokio::test]
async fn session_end_closes_both_sides_of_a_websocket() {
    let mut upstream = EchoUpstream::start().await;
    let (proxy, trigger) = SessionEndTrigger::proxy_with_trigger(RouteSpec::new("/", [upstream.url()]));
    let proxy = proxy.start().await;
    let (mut socket, _) = open(proxy, "/", &[]).await.unwrap();
    assert_echoes(&mut socket).await;
    let start = FairInstant::now();
    trigger.fire(SessionEvent::LoggedOut);
    assert_eq!(until_closed(&mut socket).await, Some((4401, "logged_out".to_owned())));
    assert_eq!(upstream.closed().await, Some((1001, String::new())));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    // Also one that is opened after the end.
    let (mut socket, _) = open(proxy, "/", &[]).await.unwrap();
    assert_eq!(until_closed(&mut socket).await, Some((4401, "logged_out".to_owned())));
    assert_eq!(upstream.closed().await, Some((1001, String::new())));
}

#[tokio::test]
async fn sessionless_websocket_outlives_session_ends() {
    let upstream = EchoUpstream::start().await;
    let (proxy, trigger) = SessionEndTrigger::proxy_with_trigger(RouteSpec::new("/", [upstream.url()]));
    let proxy = ProxyServer { identity: None, ..proxy }.start().await;
    let (mut socket, _) = open(proxy, "/", &[]).await.unwrap();
    trigger.fire(SessionEvent::LoggedOut);
    let (mut later, _) = open(proxy, "/", &[]).await.unwrap();
    assert_echoes(&mut later).await;
    assert_echoes(&mut socket).await;
}

/// Starts an upstream that accepts a WebSocket, sends `first` once, and then `bytes` without end.
async fn start_flooding_websocket(first: &'static [u8], bytes: &'static [u8]) -> String {
    let upstream = listen(move |mut socket| async move {
        let head = String::from_utf8(read_head(&mut socket).await).unwrap();
        accept_handshake(&mut socket, line(&head, "sec-websocket-key").unwrap()).await;
        socket.write_all(first).await.unwrap();
        while socket.write_all(bytes).await.is_ok() {}
    })
    .await;
    format!("http://{upstream}")
}

#[tokio::test]
async fn no_data_follows_the_close_frame() {
    // Frames of several sizes.
    let frames: &'static [u8] =
        Vec::leak([&b"\x82\x05hello\x82\x00\x82\x7e\x03\xe8"[..], &[7; 1_000]].concat());
    let (proxy, trigger) = SessionEndTrigger::proxy_with_trigger(RouteSpec::new(
        "/",
        [start_flooding_websocket(b"", frames).await],
    ));
    let (mut socket, _) = open(proxy.start().await, "/", &[]).await.unwrap();
    for _ in 0..1_000 {
        socket.next().await.unwrap().unwrap();
    }
    let start = FairInstant::now();
    trigger.fire(SessionEvent::Revoked);
    assert_eq!(
        until_closed(&mut socket).await,
        Some((4401, "revoked".to_owned())),
        "all frames were complete"
    );
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// The upstream never completes its frame.
#[tokio::test]
async fn incomplete_frame_closes_without_close_frame() {
    let endless_frame =
        start_flooding_websocket(b"\x82\x7f\x00\x00\x00\xff\xff\xff\xff\xff", &[7; 16 * 1024]).await;
    let (proxy, trigger) = SessionEndTrigger::proxy_with_trigger(RouteSpec::new("/", [endless_frame]));
    let mut socket = TcpStream::connect(proxy.start().await).await.unwrap();
    let handshake = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(handshake.as_bytes()).await.unwrap();
    read_head(&mut socket).await;
    let mut buffer = vec![0; 64 * 1024];
    socket.read_exact(&mut buffer).await.unwrap();
    let start = FairInstant::now();
    trigger.fire(SessionEvent::Revoked);
    let mut tail = Vec::new();
    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
        tail = buffer[..read].to_vec();
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!tail.windows(7).any(|part| part == b"revoked"));
}

/// A client that does not read, while the upstream writes.
#[tokio::test]
async fn unread_websocket_is_aborted_and_the_upstream_closed() {
    let (sender, mut received) = mpsc::unbounded_channel();
    let upstream = listen(move |mut socket| {
        let sender = sender.clone();
        async move {
            let head = String::from_utf8(read_head(&mut socket).await).unwrap();
            accept_handshake(&mut socket, line(&head, "sec-websocket-key").unwrap()).await;
            let (mut from, mut to) = socket.into_split();
            let writing = async { while to.write_all(&b"\x82\x05hello".repeat(1_000)).await.is_ok() {} };
            let reading = async {
                let mut bytes = Vec::new();
                let _ = from.read_to_end(&mut bytes).await;
                bytes
            };
            let ((), bytes) = tokio::join!(writing, reading);
            let _ = sender.send(bytes);
        }
    })
    .await;
    let (proxy, trigger) =
        SessionEndTrigger::proxy_with_trigger(RouteSpec::new("/", [format!("http://{upstream}")]));
    let (socket, _) = open(proxy.start().await, "/", &[]).await.unwrap();
    // Time for the buffers to fill. The outcome does not depend on it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let start = FairInstant::now();
    trigger.fire(SessionEvent::Revoked);
    let bytes = timeout(PROCESS_TIMEOUT, received.recv()).await.unwrap().unwrap();
    assert_eq!(bytes[..2], [0x88, 0x82], "a Close");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    drop(socket);
}

#[tokio::test]
async fn session_end_aborts_other_tunnels() {
    let upstream = listen(|mut socket| async move {
        read_head(&mut socket).await;
        let switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n";
        socket.write_all(switching).await.unwrap();
        while socket.write_all(b"hello").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let spec = RouteSpec {
        upgrades: vec!["shout".to_owned()],
        ..RouteSpec::new("/", [format!("http://{upstream}")])
    };
    let (proxy, trigger) = SessionEndTrigger::proxy_with_trigger(spec);
    let mut socket = TcpStream::connect(proxy.start().await).await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n")
        .await
        .unwrap();
    read_head(&mut socket).await;
    let start = FairInstant::now();
    trigger.fire(SessionEvent::UserDeleted);
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn shutdown_closes_websockets_with_1001() {
    let mut upstream = EchoUpstream::start().await;
    let proxy = ProxyServer::to(upstream.url());
    let streams = proxy.streams.clone();
    let proxy = proxy.start().await;
    let (mut socket, _) = open(proxy, "/", &[]).await.unwrap();
    assert_echoes(&mut socket).await;
    streams.close_all();
    assert_eq!(until_closed(&mut socket).await, Some((1001, String::new())));
    assert_eq!(upstream.closed().await, Some((1001, String::new())));

    let (mut late, _) = open(proxy, "/", &[]).await.unwrap();
    assert_eq!(until_closed(&mut late).await, Some((1001, String::new())));
}

#[tokio::test]
async fn idle_websocket_outlives_body_timeouts() {
    let upstream = EchoUpstream::start().await;
    let spec = RouteSpec {
        idle_timeout: Duration::from_millis(50),
        first_byte_timeout: Duration::from_millis(500),
        tunnel_idle_timeout: Duration::from_secs(4),
        ..RouteSpec::new("/", [upstream.url()])
    };
    let (mut socket, _) = open(ProxyServer::new([spec]).start().await, "/", &[]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_echoes(&mut socket).await;
    let last = Instant::now();
    socket.flush().await.unwrap();
    assert_eq!(until_closed(&mut socket).await, Some((1001, String::new())));
    assert!(last.elapsed() >= Duration::from_millis(3_900), "{:?}", last.elapsed());
    assert!(socket.send(Message::text("too late")).await.is_err());
}
