//! Upstream selection, connections, and failures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum_core::body::Body;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use sekisho::proxy::{RouteSpec, UpstreamSettings};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::proxy_server::{connect, request};
use crate::support::upstream::{closed_address, listen, read_head};

mod addresses;
mod balancing;
mod connections;
mod health_checks;
mod http2;
mod limits;
mod memory;
mod metrics;
mod reload;
mod tls;
mod unix_sockets;

/// Returns a route for all paths.
fn route<U: Into<String>>(
    upstreams: impl IntoIterator<Item = U>,
    upstream_settings: UpstreamSettings,
) -> RouteSpec {
    RouteSpec { upstream_settings, ..RouteSpec::new("/", upstreams) }
}

async fn get(proxy: SocketAddr) -> Response<Incoming> {
    send(proxy, "GET", Body::empty()).await
}

async fn send(proxy: SocketAddr, method: &str, body: Body) -> Response<Incoming> {
    connect(proxy).await.send_request(request(method, "/", body)).await.unwrap()
}

fn problem(status: u16, code: &str) -> (StatusCode, String) {
    (StatusCode::from_u16(status).unwrap(), code.to_owned())
}

/// Starts an upstream that sends invalid responses, and returns its URL and its request count.
async fn invalid_upstream() -> (String, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let address = listen(move |mut socket| {
        let count = Arc::clone(&count);
        async move {
            read_head(&mut socket).await;
            count.fetch_add(1, Ordering::SeqCst);
            let _ = socket.write_all(b"nonsense\r\n\r\n").await;
        }
    })
    .await;
    (format!("http://{address}"), requests)
}

/// Returns the URL of an upstream that refuses connections.
fn refusing_url() -> String {
    format!("http://{}", closed_address())
}

/// An upstream that neither accepts nor refuses connections, because its accept queue is full.
struct UnresponsiveUpstream {
    listener: TcpListener,
    waiting: Vec<TcpStream>,
}

impl UnresponsiveUpstream {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        // The queue takes one connection more than its backlog.
        let waiting =
            vec![TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        Self { listener, waiting }
    }

    fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }
}
