//! Server-sent events.

use std::time::Duration;

use sekisho::proxy::RouteSpec;
use sekisho::session_event::SessionEvent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::SessionEndTrigger;
use crate::support::fair_clock::FairInstant;
use crate::support::process::PROCESS_TIMEOUT;
use crate::support::upstream::{listen, read_head};

/// Starts an upstream that sends an endless response of this type.
async fn start_endless_upstream(content_type: &'static str) -> String {
    let upstream = listen(move |mut socket| async move {
        read_head(&mut socket).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        while socket.write_all(b"data: tick\n\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    format!("http://{upstream}")
}

/// Reads for at least this time and at least two events.
async fn read_events(socket: &mut TcpStream, time: Duration) {
    let start = Instant::now();
    let mut read = Vec::new();
    while start.elapsed() < time || read.len() <= 12 {
        let more = timeout(PROCESS_TIMEOUT, socket.read_buf(&mut read)).await.unwrap();
        assert!(matches!(more, Ok(1..)), "it ended");
    }
}

async fn request_events(spec: RouteSpec) -> (TcpStream, SessionEndTrigger) {
    let (proxy, trigger) = SessionEndTrigger::proxy_with_trigger(spec);
    let mut socket = TcpStream::connect(proxy.start().await).await.unwrap();
    socket.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_head(&mut socket).await;
    (socket, trigger)
}

#[tokio::test]
async fn event_stream_is_aborted_when_its_session_ends() {
    for content_type in ["text/event-stream", "Text/Event-Stream; charset=utf-8"] {
        let (mut socket, trigger) =
            request_events(RouteSpec::new("/", [start_endless_upstream(content_type).await])).await;
        read_events(&mut socket, Duration::from_millis(200)).await;
        let start = FairInstant::now();
        trigger.fire(SessionEvent::PasswordChanged);
        let mut rest = Vec::new();
        // A reset is allowed.
        let _ = timeout(PROCESS_TIMEOUT, socket.read_to_end(&mut rest)).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert!(!rest.ends_with(b"0\r\n\r\n"), "the stream looks complete");
    }
}

#[tokio::test]
async fn other_responses_outlive_the_session() {
    let (mut socket, trigger) =
        request_events(RouteSpec::new("/", [start_endless_upstream("application/octet-stream").await])).await;
    trigger.fire(SessionEvent::Revoked);
    read_events(&mut socket, Duration::from_millis(300)).await;
}

/// Each event is flushed at once, without waiting for more data (P-19).
#[tokio::test]
async fn events_arrive_at_once() {
    let (sender, receiver) = tokio::sync::watch::channel(0_u32);
    let upstream = listen(move |mut socket| {
        let mut receiver = receiver.clone();
        async move {
            read_head(&mut socket).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await.unwrap();
            while receiver.changed().await.is_ok() {
                socket.write_all(b"data: x\n\n").await.unwrap();
            }
        }
    })
    .await;
    let (mut socket, _trigger) = request_events(RouteSpec::new("/", [format!("http://{upstream}")])).await;
    for n in 1..20 {
        let start = FairInstant::now();
        sender.send_replace(n);
        let mut read = Vec::new();
        while !read.ends_with(b"data: x\n\n\r\n") {
            assert!(socket.read_buf(&mut read).await.unwrap() > 0);
        }
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    }
}
