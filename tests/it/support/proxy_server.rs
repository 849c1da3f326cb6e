//! The proxy on a free port, without the rest of the gateway.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum_core::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sekisho::identity::{Claims, Identity, Roles};
use sekisho::long_lived_streams::LongLivedStreams;
use sekisho::models::session::SessionId;
use sekisho::proxy::{Forwarded, Proxy, ProxyError, ReservedCookies, RouteSpec, Routes, UpstreamTokens};
use sekisho::session_event::SessionUseRecorder;
use time::macros::datetime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::upstream::{listen, serve, serve_any};

/// A server that resolves the route, inserts the identity and calls the proxy.
#[derive(Clone, Default)]
pub(crate) struct ProxyServer {
    pub(crate) routes: Routes,
    pub(crate) identity: Option<Identity>,
    pub(crate) forwarded: Option<Forwarded>,
    pub(crate) streams: LongLivedStreams,
    pub(crate) upstream_tokens: Option<Arc<dyn UpstreamTokens>>,
    pub(crate) session_uses: Option<Arc<dyn SessionUseRecorder>>,
}

/// Names of the cookies that upstreams neither receive nor set.
pub(crate) const RESERVED: [&str; 2] = ["__Host-access_token", "__Host-refresh_token"];

impl ProxyServer {
    pub(crate) fn new(routes: impl IntoIterator<Item = RouteSpec>) -> Self {
        Self { routes: Routes::new(routes).unwrap(), ..Self::default() }
    }

    /// Routes everything to `upstream`.
    pub(crate) fn to(upstream: impl Into<String>) -> Self {
        Self::new([RouteSpec::new("/", [upstream])])
    }

    pub(crate) fn signed_in(self, roles: &[&str]) -> Self {
        Self { identity: Some(identity(roles)), ..self }
    }

    /// Starts an HTTP/1.1 server.
    pub(crate) async fn start(self) -> SocketAddr {
        let proxy = self.proxy();
        listen(move |socket| {
            let server = self.clone();
            let proxy = proxy.clone();
            serve(socket, move |request| server.clone().call(proxy.clone(), request))
        })
        .await
    }

    /// Starts a server that also speaks HTTP/2, without upgrades.
    pub(crate) async fn start_http2(self) -> SocketAddr {
        let proxy = self.proxy();
        listen(move |socket| {
            let server = self.clone();
            let proxy = proxy.clone();
            serve_any(socket, move |request| server.clone().call(proxy.clone(), request))
        })
        .await
    }

    fn proxy(&self) -> Proxy {
        let names = RESERVED.map(str::to_owned).to_vec();
        let mut proxy = Proxy::new(ReservedCookies { names }, self.streams.clone());
        if let Some(tokens) = &self.upstream_tokens {
            proxy = proxy.with_upstream_tokens(Arc::clone(tokens));
        }
        if let Some(recorder) = &self.session_uses {
            proxy = proxy.with_session_uses(Arc::clone(recorder));
        }
        proxy
    }

    async fn call(self, proxy: Proxy, mut request: Request<Incoming>) -> Response<Body> {
        match self.routes.find(request.uri()) {
            Ok(Some(route)) => _ = request.extensions_mut().insert(route),
            Ok(None) => {}
            Err(bad_path) => return ProxyError::from(bad_path).into_response(),
        }
        if let Some(identity) = self.identity {
            request.extensions_mut().insert(identity);
        }
        if let Some(forwarded) = self.forwarded {
            request.extensions_mut().insert(forwarded);
        }
        proxy.oneshot(request).await.unwrap()
    }
}

pub(crate) fn identity(roles: &[&str]) -> Identity {
    Identity {
        subject: "user-1".parse().unwrap(),
        session: SessionId("00000000-0000-0000-0000-000000000001".parse().unwrap()),
        email: "ann@example.com".into(),
        roles: Roles::new(roles).unwrap(),
        claims: Claims::default(),
        expires_at: datetime!(2026-01-01 00:15 UTC),
    }
}

pub(crate) fn forwarded() -> Forwarded {
    Forwarded {
        client: Some([192, 0, 2, 7].into()),
        proto: "https",
        host: HeaderValue::from_static("app.example"),
        chain: None,
    }
}

/// Writes `request` and reads until the server closes, which `Connection: close` makes it do.
pub(crate) async fn exchange(server: SocketAddr, request: impl AsRef<[u8]>) -> String {
    let mut socket = TcpStream::connect(server).await.unwrap();
    socket.write_all(request.as_ref()).await.unwrap();
    let mut response = Vec::new();
    // The server may reset the connection.
    let _ = socket.read_to_end(&mut response).await;
    String::from_utf8_lossy(&response).into_owned()
}

/// Requests `target` with further header lines, each ending in `\r\n`, and reads the whole response.
pub(crate) async fn get(server: SocketAddr, target: &str, headers: &str) -> String {
    exchange(
        server,
        format!("GET {target} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n{headers}\r\n"),
    )
    .await
}

/// Opens an HTTP/1.1 connection.
pub(crate) async fn connect(server: SocketAddr) -> http1::SendRequest<Body> {
    let socket = TcpStream::connect(server).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Builds a request with the `Host` of the application.
pub(crate) fn request(method: &str, target: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(target).header("host", "app.example").body(body).unwrap()
}

/// Returns a body and the sender of its chunks.
pub(crate) fn channel_body() -> (mpsc::UnboundedSender<&'static str>, Body) {
    let (feed, pieces) = mpsc::unbounded_channel();
    let pieces = futures_util::stream::unfold(pieces, |mut pieces| async {
        let piece: &'static str = pieces.recv().await?;
        Some((Ok::<_, Infallible>(Bytes::from_static(piece.as_bytes())), pieces))
    });
    (feed, Body::from_stream(pieces))
}

/// Reads the body of a response.
pub(crate) async fn text(
    response: Response<impl http_body::Body<Data = Bytes, Error: std::fmt::Debug>>,
) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Reads a problem document and returns its status and code.
pub(crate) async fn code(response: Response<hyper::body::Incoming>) -> (StatusCode, String) {
    let status = response.status();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(problem["status"], status.as_u16());
    (status, problem["code"].as_str().unwrap().to_owned())
}
