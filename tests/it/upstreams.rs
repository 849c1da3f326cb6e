//! Upstreams: which one gets a request, over which connection, and what becomes of it when they fail.

use axum_core::body::Body;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use sekisho::proxy::{RouteSpec, UpstreamSettings};
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::front::{connect, request};
use crate::support::upstream::nobody;

mod addresses;
mod checks;
mod connections;
mod http2;
mod limits;
mod memory;
mod metrics;
mod reload;
mod several;
mod tls;

/// A route for everything.
fn route<U: Into<String>>(
    upstreams: impl IntoIterator<Item = U>,
    upstream_settings: UpstreamSettings,
) -> RouteSpec {
    RouteSpec { upstream_settings, ..RouteSpec::new("/", upstreams) }
}

async fn get(front: SocketAddr) -> Response<Incoming> {
    send(front, "GET", Body::empty()).await
}

async fn send(front: SocketAddr, method: &str, body: Body) -> Response<Incoming> {
    connect(front).await.send_request(request(method, "/", body)).await.unwrap()
}

fn problem(status: u16, code: &str) -> (StatusCode, String) {
    (StatusCode::from_u16(status).unwrap(), code.to_owned())
}

/// The URL of an upstream that is not there.
fn dead() -> String {
    format!("http://{}", nobody())
}

/// An upstream that neither accepts nor refuses: its queue is full.
struct Blackhole {
    listener: TcpListener,
    waiting: Vec<TcpStream>,
}

impl Blackhole {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        // As many as the queue takes: the backlog and one.
        let waiting =
            vec![TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        Self { listener, waiting }
    }

    fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }
}
