//! Upgrade requests: ownership of the connection, and that it is not reused.

use std::sync::Arc;
use std::time::Duration;

use axum_core::body::Body;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{LoadBalancer, Pool, TrustAnchors, UpstreamSettings, UpstreamTimeouts, send};
use crate::proxy::header_writer::HeaderWriter;
use crate::proxy::request_head::RequestHead;
use crate::proxy::upload_progress::UploadProgress;

async fn read_head(socket: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
}

/// A request for `/chat`, with or without an upgrade.
struct Chat(PathAndQuery, Option<HeaderValue>);

impl Chat {
    fn new(is_upgrade: bool) -> Self {
        let protocol = is_upgrade.then_some(HeaderValue::from_static("echo"));
        Self(PathAndQuery::from_static("/chat"), protocol)
    }
}

impl RequestHead for Chat {
    fn method(&self) -> &Method {
        &Method::GET
    }

    fn target(&self) -> &PathAndQuery {
        &self.0
    }

    fn host(&self) -> Option<&HeaderValue> {
        None
    }

    fn upgrade(&self) -> Option<&HeaderValue> {
        self.1.as_ref()
    }

    fn write_headers(&self, _: &mut impl HeaderWriter) {}
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
    let chat = Chat::new(true);
    let (response, lease) =
        send(&pool, &balancer, TIMEOUTS, &chat, Body::empty(), &mut progress).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    // The lease ends with the request; the connection does not.
    drop(lease);
    let mut io = response.into_body().into_upgraded().unwrap();
    io.write_all(b" and back").await.unwrap();
    let mut echoed = [0; 14];
    io.read_exact(&mut echoed).await.unwrap();
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
    for is_upgrade in [true, false] {
        let mut progress = UploadProgress::without_body();
        let chat = Chat::new(is_upgrade);
        let (response, lease) =
            send(&pool, &balancer, TIMEOUTS, &chat, Body::empty(), &mut progress).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        lease.finish(response.into_body());
    }
    server.await.unwrap();
}
