//! Connections of requests that ask for an upgrade: whose they are, and that none is used again.

use std::sync::Arc;

use axum_core::body::Body;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Pool, send};
use crate::proxy::header_writer::HeaderWriter;
use crate::proxy::request_head::RequestHead;
use crate::proxy::routes::{MatchedRoute, RouteSpec, Routes};
use crate::proxy::upload_progress::UploadProgress;

async fn read_head(socket: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
}

/// A request for `/chat`, perhaps with an upgrade.
struct Chat(PathAndQuery, Option<HeaderValue>);

impl Chat {
    fn new(upgrades: bool) -> Self {
        let protocol = upgrades.then_some(HeaderValue::from_static("echo"));
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

async fn upstream() -> (TcpListener, MatchedRoute) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = Routes::new([RouteSpec::new("/", [url])]).unwrap();
    (listener, routes.find(&"/".parse().unwrap()).unwrap().unwrap())
}

#[tokio::test]
async fn an_upgraded_connection_is_the_requests_own() {
    let (listener, route) = upstream().await;
    let serving = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_head(&mut socket).await;
        let switches =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nahead";
        socket.write_all(switches).await.unwrap();
        let (mut from, mut to) = socket.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    });
    let (pool, mut progress) = (Arc::<Pool>::default(), UploadProgress::without_body());
    let chat = Chat::new(true);
    let (response, lease) = send(&pool, route.route(), &chat, Body::empty(), &mut progress).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    // Only the request has ended: the connection goes on.
    drop(lease);
    let mut io = response.into_body().into_upgraded().unwrap();
    io.write_all(b" and back").await.unwrap();
    let mut said = [0; 14];
    io.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"ahead and back");
    drop(io);
    serving.await.unwrap();
}

#[tokio::test]
async fn a_refused_upgrade_leaves_no_connection() {
    let (listener, route) = upstream().await;
    let serving = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_head(&mut socket).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            tokio::spawn(async move { socket.read_u8().await });
        }
    });
    let pool = Arc::<Pool>::default();
    for upgrades in [true, false] {
        let mut progress = UploadProgress::without_body();
        let chat = Chat::new(upgrades);
        let (response, lease) =
            send(&pool, route.route(), &chat, Body::empty(), &mut progress).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        lease.finish(response.into_body());
    }
    serving.await.unwrap();
}
