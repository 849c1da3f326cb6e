//! Memory use of idle connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::db::sqlite_location;
use crate::support::process::{PROCESS_TIMEOUT, TestDeployment, until};
use crate::support::upstream::Upstream;

/// Number of connections in one batch.
const CONNECTIONS: usize = 400;

/// Memory limit of an idle connection in KiB; its buffers alone take 16 KiB while in use.
const MEMORY_LIMIT: usize = 4;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

async fn send(socket: &mut TcpStream, request: &[u8]) {
    socket.write_all(request).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        let read = timeout(PROCESS_TIMEOUT, socket.read_buf(&mut response)).await.unwrap().unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&response));
    }
    assert!(response.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&response));
}

/// The allocator may keep released buffers, so the test measures whether a further batch reuses them.
#[tokio::test]
async fn idle_connection_releases_its_buffers() {
    let upstream = Upstream::start().await;
    let mut deployment = TestDeployment::new(sqlite_location().await.unwrap()).await;
    deployment.forward_to_without_auth(upstream.url());
    // All batches come from one address.
    deployment.set("server.max_connections_per_client", "10000");
    let server = deployment.serve().await;
    let mut sockets = Vec::new();
    let cost = until("idle connections to release their buffers", async || {
        let before = server.memory();
        for _ in 0..CONNECTIONS {
            let mut socket = TcpStream::connect(server.public).await.unwrap();
            send(&mut socket, REQUEST).await;
            sockets.push(socket);
        }
        let cost = server.memory().saturating_sub(before);
        println!("{CONNECTIONS} more connections: {cost} KiB, {} bytes each", cost * 1024 / CONNECTIONS);
        (cost < CONNECTIONS * MEMORY_LIMIT).then_some(cost)
    });
    cost.await;
    // All connections are still usable.
    for socket in &mut sockets {
        send(socket, REQUEST).await;
    }
    server.stop().await;
}

/// The connection becomes idle with part of the next request in its buffer.
#[tokio::test]
async fn buffered_bytes_of_the_next_request_are_kept() {
    let upstream = Upstream::start().await;
    let mut deployment = TestDeployment::new(sqlite_location().await.unwrap()).await;
    deployment.forward_to_without_auth(upstream.url());
    deployment.set("server.header_timeout", "10s");
    let server = deployment.serve().await;
    let mut socket = TcpStream::connect(server.public).await.unwrap();
    send(&mut socket, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHo").await;
    // Longer than a connection takes to release its buffers, which is not observable.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    send(&mut socket, b"st: a\r\n\r\n").await;
    server.stop().await;
}
