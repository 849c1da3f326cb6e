//! Upstreams on Unix sockets.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum_core::body::Body;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sekisho::proxy::{HealthCheck, RouteSpec, UpstreamHttp, UpstreamSettings};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::mpsc;

use super::{get, problem, route, send};
use crate::support::log::Log;
use crate::support::process::PROCESS_TIMEOUT;
use crate::support::proxy_server::{ProxyServer, code, exchange, text};
use crate::support::upstream::serve_any;

/// The directory of a socket, which is deleted when dropped.
struct SocketDir(TempDir);

impl SocketDir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("app.sock")
    }

    fn url(&self) -> String {
        format!("unix:{}", self.path().display())
    }
}

/// Starts an upstream that responds with the host of each request. Returns the number of its connections.
fn echo_host(path: &Path) -> Arc<AtomicUsize> {
    let listener = UnixListener::bind(path).unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve_any(socket, |request: Request<Incoming>| async move {
                let host = request.headers().get("host").map(HeaderValue::as_bytes).map(<[u8]>::to_vec);
                let authority = request.uri().authority().map(|authority| authority.as_str().into());
                request.into_body().collect().await.unwrap();
                Response::new(Body::from(authority.or(host).unwrap_or_default()))
            }));
        }
    });
    connections
}

/// `upstreams = ["unix:…"]`: the host is the client's, `localhost` without one, and connections are reused.
#[tokio::test]
async fn upstreams_may_be_unix_sockets() {
    for http in [UpstreamHttp::Http1, UpstreamHttp::Http2] {
        let dir = SocketDir::new();
        let connections = echo_host(&dir.path());
        let settings = UpstreamSettings { http, ..UpstreamSettings::default() };
        let proxy = ProxyServer::new([route([dir.url()], settings)]).start().await;
        for _ in 0..3 {
            assert_eq!(text(get(proxy).await).await, "app.example");
        }
        let body = Body::from(vec![b'x'; 1_000_000]);
        assert_eq!(send(proxy, "POST", body).await.status(), 200);
        let response = exchange(proxy, "GET / HTTP/1.0\r\n\r\n").await;
        assert!(response.ends_with("\r\n\r\nlocalhost"), "{response}");
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{http:?}");
    }
}

#[tokio::test]
async fn unix_socket_error_has_path_and_remedy() {
    let dir = SocketDir::new();
    let log = Log::default();
    let _captured = log.capture();
    let settings = || UpstreamSettings { eject_after: 1000, ..UpstreamSettings::default() };
    let proxy = ProxyServer::new([route([dir.url()], settings())]).start().await;
    let fails_with = async |remedy: &str| {
        assert_eq!(code(get(proxy).await).await, problem(502, "upstream_unreachable"));
        let lines = log.lines();
        let message = format!("cannot connect to {}{remedy}", dir.url());
        assert!(lines.last().is_some_and(|line| line.contains(&message)), "{message}: {lines:?}");
    };
    fails_with(", which does not exist: start the application, or correct the path").await;
    drop(UnixListener::bind(dir.path()).unwrap());
    fails_with(", on which no program listens: start the application").await;
    std::fs::remove_file(dir.path()).unwrap();
    echo_host(&dir.path());
    assert_eq!(get(proxy).await.status(), 200);
    // Root may connect whatever the mode is.
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o000)).unwrap();
    if UnixStream::connect(dir.path()).await.is_err() {
        let proxy = ProxyServer::new([route([dir.url()], settings())]).start().await;
        assert_eq!(code(get(proxy).await).await, problem(502, "upstream_unreachable"));
        assert!(log.lines().last().is_some_and(|line| line.contains("write access to the socket")));
    }
}

/// The kernel refuses connections beyond the backlog of a Unix socket, where those over TCP wait.
#[tokio::test]
async fn full_backlog_of_a_unix_socket_is_waited_for() {
    let dir = SocketDir::new();
    let socket = UnixSocket::new_stream().unwrap();
    socket.bind(dir.path()).unwrap();
    let listener = socket.listen(0).unwrap();
    let waiting = UnixStream::connect(dir.path()).await.unwrap();
    let refused = UnixStream::connect(dir.path()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
    let spec = RouteSpec { connect_timeout: PROCESS_TIMEOUT, ..RouteSpec::new("/", [dir.url()]) };
    let proxy = ProxyServer::new([spec]).start().await;
    let request = tokio::spawn(get(proxy));
    tokio::task::yield_now().await;
    drop(waiting);
    listener.accept().await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let server = tokio::spawn(serve_any(socket, |_| async { Response::new(Body::empty()) }));
    assert_eq!(request.await.unwrap().status(), 200);
    server.abort();
}

#[tokio::test]
async fn health_checks_reach_unix_sockets() {
    let dir = SocketDir::new();
    let listener = UnixListener::bind(dir.path()).unwrap();
    let (probed, mut probes) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let probed = probed.clone();
            tokio::spawn(serve_any(socket, move |request: Request<_>| {
                let host = request.headers()["host"].to_str().unwrap().to_owned();
                let _ = probed.send((request.uri().path().to_owned(), host));
                async { Response::new(Body::empty()) }
            }));
        }
    });
    let health = HealthCheck { path: "/healthz".parse().unwrap(), interval: PROCESS_TIMEOUT };
    let settings = UpstreamSettings { health: Some(health), ..UpstreamSettings::default() };
    let server = ProxyServer::new([route([dir.url()], settings)]);
    tokio::spawn(server.routes.run_health_checks());
    assert_eq!(probes.recv().await.unwrap(), ("/healthz".to_owned(), "localhost".to_owned()));
}
