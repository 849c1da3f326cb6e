//! Upgrade requests: ownership of the connection, and that it is not reused.

use std::sync::Arc;
use std::time::Duration;

use axum_core::body::Body;
use http::StatusCode;
use http_body_util::Either;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{LoadBalancer, Pool, TrustAnchors, UpgradedConnection, UpstreamSettings, UpstreamTimeouts, send};
use crate::proxy::test_support::TestHead;
use crate::proxy::upload_progress::UploadProgress;

async fn read_head(socket: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
}

const TIMEOUTS: UpstreamTimeouts = UpstreamTimeouts {
    connect: Duration::from_secs(5),
    first_byte: Duration::from_secs(60),
    idle: Duration::from_secs(60),
};

async fn bind_upstream() -> (TcpListener, LoadBalancer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let urls = [format!("http://{}", listener.local_addr().unwrap())];
    let settings = UpstreamSettings::default();
    let balancer = LoadBalancer::new("/", &urls, &settings, &[], &mut TrustAnchors::default()).unwrap();
    (listener, balancer)
}

#[tokio::test]
async fn upgraded_connection_belongs_to_the_request() {
    let (listener, balancer) = bind_upstream().await;
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_head(&mut socket).await;
        let switching =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nahead";
        socket.write_all(switching).await.unwrap();
        let (mut from, mut to) = socket.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    });
    let pool = Arc::<Pool>::default();
    let mut progress = UploadProgress::without_body();
    let head = TestHead::get(Some("echo"), false);
    let (response, lease) =
        send(&pool, &balancer, TIMEOUTS, &head, Body::empty(), &mut progress).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    // The lease ends with the request; the connection does not.
    drop(lease);
    let Either::Left(http1) = response.into_body() else { panic!("expected HTTP/1.1") };
    let UpgradedConnection { unread, mut io } = http1.into_upgraded();
    io.write_all(b" and back").await.unwrap();
    let mut echoed = [0; 14];
    unread.chain(&mut io).read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"ahead and back");
    drop(io);
    server.await.unwrap();
}

#[tokio::test]
async fn rejected_upgrade_leaves_no_connection_in_the_pool() {
    let (listener, balancer) = bind_upstream().await;
    let server = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_head(&mut socket).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            tokio::spawn(async move { socket.read_u8().await });
        }
    });
    let pool = Arc::<Pool>::default();
    for upgrade in [Some("echo"), None] {
        let mut progress = UploadProgress::without_body();
        let head = TestHead::get(upgrade, false);
        let (response, lease) =
            send(&pool, &balancer, TIMEOUTS, &head, Body::empty(), &mut progress).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        lease.finish(response.into_body());
    }
    server.await.unwrap();
}
