//! Accepting connections, and ending with grace.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::future::Either;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use http::uri::Authority;
use http::{Request, Response, StatusCode, Version};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::{Service, ServiceExt};

/// The other end of a connection, put into every request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// What a connection may cost.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// How long a client may take over a request's headers.
    pub header_timeout: Duration,
    /// How large a request's line and headers may be together, in bytes. What one more read brings
    /// is let through, up to about twice as much.
    pub header_bytes: usize,
    /// How many header fields a request may have.
    pub header_fields: usize,
    /// How long requests may go on after the server was told to stop.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            header_bytes: 64 * 1024,
            header_fields: 100,
            drain: Duration::from_secs(30),
        }
    }
}

/// Serves until `stop` is ready, then lets what is under way end.
pub async fn serve<S>(listener: TcpListener, service: S, limits: ServerLimits, stop: impl Future<Output = ()>)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let connections = watch::Sender::new(());
    let http = Arc::new(http(limits));
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let connection = connection(&http, stream, peer, service.clone());
                    let mut told = connections.subscribe();
                    tokio::spawn(async move {
                        let mut connection = pin!(connection);
                        let served = tokio::select! {
                            served = connection.as_mut() => served,
                            _ = told.changed() => {
                                connection.as_mut().graceful_shutdown();
                                connection.await
                            }
                        };
                        if let Err(error) = served {
                            tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a connection broke");
                        }
                    });
                }
                Err(error) => pause_after(&error).await,
            },
        }
    }
    drop(listener);
    connections.send_replace(());
    if tokio::time::timeout(limits.drain, connections.closed()).await.is_err() {
        tracing::warn!(after = ?limits.drain, "requests were still under way when the server stopped");
    }
}

fn http(limits: ServerLimits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes)
        .max_headers(limits.header_fields);
    http
}

fn connection<S>(
    http: &http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    service: S,
) -> http1::UpgradeableConnection<
    TokioIo<TcpStream>,
    impl hyper::service::Service<
        Request<hyper::body::Incoming>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Send,
    > + use<S>,
>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    // Small answers should not wait for the client's acknowledgement of the last ones.
    let _ = stream.set_nodelay(true);
    // WebSockets may be silent for long: a client that is gone without a word must be noticed.
    keep_alive(&stream);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        if names_one_host(&request) {
            Either::Left(service.clone().oneshot(request))
        } else {
            Either::Right(ready(Ok(bad_host())))
        }
    });
    http.serve_connection(TokioIo::new(stream), service).with_upgrades()
}

fn keep_alive(stream: &TcpStream) {
    // Without it the connection is as good, only not noticed when it is gone.
    let _ = sockopt::set_socket_keepalive(stream, true);
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    let _ = sockopt::set_tcp_keepidle(stream, KEEP_ALIVE);
}

/// RFC 9112, section 3.2: a request that names no host, two of them or none that can be read is
/// answered with 400, whatever it asks for. HTTP/1.0 may leave it out.
fn names_one_host<B>(request: &Request<B>) -> bool {
    let mut lines = request.headers().get_all(HOST).iter();
    let target = request.uri().authority();
    let sound = |authority: &Authority| !authority.as_str().contains('@');
    match (lines.next(), lines.next()) {
        (Some(host), None) => {
            Authority::try_from(host.as_bytes()).is_ok_and(|host| sound(&host)) && target.is_none_or(sound)
        }
        (None, _) => request.version() < Version::HTTP_11 && target.is_none_or(sound),
        (Some(_), Some(_)) => false,
    }
}

fn bad_host() -> Response<Body> {
    let problem = r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"The Host header is missing, repeated or malformed.","code":"bad_host"}"#;
    let mut response = Response::new(Body::from(problem));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Out of file descriptors, most likely: accepting again at once would only spin.
async fn pause_after(error: &io::Error) {
    tracing::error!(error = error as &dyn std::error::Error, "no connection could be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// After how much silence the other end is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
