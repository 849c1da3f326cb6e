//! Memory use of idle connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::db::sqlite_place;
use crate::support::process::{PATIENCE, TestDeployment, until};
use crate::support::upstream::Upstream;

/// Number of connections in one batch.
const MANY: usize = 400;

/// Memory limit of an idle connection in KiB; its buffers alone take 16 KiB while in use.
const EACH: usize = 4;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

async fn ask(socket: &mut TcpStream, request: &[u8]) {
    socket.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let read = timeout(PATIENCE, socket.read_buf(&mut answer)).await.unwrap().unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

/// The allocator may keep released buffers, so the test measures whether a further batch reuses them.
#[tokio::test]
async fn idle_connection_releases_its_buffers() {
    let upstream = Upstream::start().await;
    let site = TestDeployment::new(sqlite_place().await.unwrap()).await;
    site.forward_to_openly(upstream.url());
    let server = site.serve().await;
    let mut sockets = Vec::new();
    let cost = until("connections that rest", async || {
        let before = server.memory();
        for _ in 0..MANY {
            let mut socket = TcpStream::connect(server.public).await.unwrap();
            ask(&mut socket, REQUEST).await;
            sockets.push(socket);
        }
        let cost = server.memory().saturating_sub(before);
        println!("{MANY} more connections: {cost} KiB, {} bytes each", cost * 1024 / MANY);
        (cost < MANY * EACH).then_some(cost)
    });
    cost.await;
    // All connections are still usable.
    for socket in &mut sockets {
        ask(socket, REQUEST).await;
    }
    server.stop().await;
}

/// The connection becomes idle with part of the next request in its buffer.
#[tokio::test]
async fn buffered_bytes_of_the_next_request_are_kept() {
    let upstream = Upstream::start().await;
    let mut site = TestDeployment::new(sqlite_place().await.unwrap()).await;
    site.forward_to_openly(upstream.url());
    site.set("server.header_timeout", "10s");
    let server = site.serve().await;
    let mut socket = TcpStream::connect(server.public).await.unwrap();
    ask(&mut socket, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHo").await;
    // Longer than a connection takes to release its buffers, which is not observable.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    ask(&mut socket, b"st: a\r\n\r\n").await;
    server.stop().await;
}
