//! Upstream servers: one that records requests, one that holds responses back, and raw sockets.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum_core::body::Body;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use ring::digest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::process::PROCESS_TIMEOUT;

/// A request that an upstream received.
#[derive(Debug)]
pub(crate) struct RecordedRequest {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// The request target.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    /// Length of the body, in bytes.
    pub(crate) length: usize,
    /// SHA-256 of the body.
    pub(crate) digest: digest::Digest,
    pub(crate) trailers: HeaderMap,
}

impl RecordedRequest {
    /// Returns all values of a header, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    async fn read(request: Request<Incoming>) -> Self {
        let (parts, mut body) = request.into_parts();
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut length = 0;
        let mut trailers = HeaderMap::new();
        while let Some(Ok(frame)) = body.frame().await {
            match frame.into_data() {
                Ok(data) => {
                    length += data.len();
                    hash.update(&data);
                }
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            }
        }
        Self {
            method: parts.method,
            version: parts.version,
            target: parts.uri.to_string(),
            headers: parts.headers,
            length,
            digest: hash.finish(),
            trailers,
        }
    }
}

/// An upstream that reads and records each request before it responds.
pub(crate) struct Upstream {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<RecordedRequest>,
    connections: Arc<AtomicUsize>,
}

impl Upstream {
    /// Starts an upstream that responds 200 without a body.
    pub(crate) async fn start() -> Self {
        Self::responding_with(|_| Response::new(Body::empty())).await
    }

    pub(crate) async fn responding_with(
        respond: impl Fn(&RecordedRequest) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self::listening(None, respond).await
    }

    /// Starts an upstream with TLS.
    pub(crate) async fn with_tls(tls: TlsAcceptor) -> Self {
        Self::listening(Some(tls), |_| Response::new(Body::empty())).await
    }

    async fn listening(
        tls: Option<TlsAcceptor>,
        respond: impl Fn(&RecordedRequest) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let (record, seen) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let respond = Arc::new(respond);
        let count = Arc::clone(&connections);
        let address = listen(move |socket| {
            count.fetch_add(1, Ordering::SeqCst);
            let respond = Arc::clone(&respond);
            let record = record.clone();
            let tls = tls.clone();
            let handle = move |request| {
                let respond = Arc::clone(&respond);
                let record = record.clone();
                async move {
                    let request = RecordedRequest::read(request).await;
                    let response = respond(&request);
                    let _ = record.send(request);
                    response
                }
            };
            async move {
                match tls {
                    None => serve_any(socket, handle).await,
                    // Some tests connect with clients that do not trust the certificate.
                    Some(tls) => {
                        if let Ok(socket) = tls.accept(socket).await {
                            serve_any(socket, handle).await;
                        }
                    }
                }
            }
        })
        .await;
        Self { address, seen, connections }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the next request.
    pub(crate) async fn seen(&mut self) -> RecordedRequest {
        timeout(PROCESS_TIMEOUT, self.seen.recv()).await.expect("a request at the upstream").unwrap()
    }

    /// Returns the next request, if it has arrived.
    pub(crate) fn try_next_request(&mut self) -> Option<RecordedRequest> {
        self.seen.try_recv().ok()
    }

    /// Returns `true` if no further request has arrived.
    pub(crate) fn has_no_more_requests(&mut self) -> bool {
        self.seen.try_recv().is_err()
    }

    /// Returns the number of accepted connections.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// An upstream that reports the arrival of requests and holds its responses back.
pub(crate) struct GatedUpstream {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    arrivals: mpsc::UnboundedReceiver<()>,
    permits: Arc<Semaphore>,
}

impl GatedUpstream {
    /// The body of its responses.
    pub(crate) const ANSWER: &str = "late but whole";

    pub(crate) async fn start() -> Self {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let permits = Arc::new(Semaphore::new(0));
        let gate = Arc::clone(&permits);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let address = listen(move |socket| {
            count.fetch_add(1, Ordering::SeqCst);
            let arrived = arrived.clone();
            let gate = Arc::clone(&gate);
            serve_any(socket, move |_| {
                let arrived = arrived.clone();
                let gate = Arc::clone(&gate);
                async move {
                    let _ = arrived.send(());
                    gate.acquire().await.unwrap().forget();
                    Response::new(Body::from(Self::ANSWER))
                }
            })
        })
        .await;
        Self { address, connections, arrivals, permits }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the number of accepted connections.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until `requests` more requests have arrived.
    pub(crate) async fn arrived(&mut self, requests: usize) {
        for _ in 0..requests {
            timeout(PROCESS_TIMEOUT, self.arrivals.recv()).await.expect("a request at the upstream").unwrap();
        }
    }

    /// Releases the responses to `requests` requests.
    pub(crate) fn release(&self, requests: usize) {
        self.permits.add_permits(requests);
    }
}

/// Serves HTTP/1.1 on a connection with upgrades.
pub(crate) async fn serve<F, Fut>(socket: TcpStream, respond: F)
where
    F: Fn(Request<Incoming>) -> Fut,
    Fut: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let response = respond(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    // Many tests close the connection early.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades().await;
}

/// Serves HTTP/1.1, or HTTP/2 if the client sends its preface.
pub(crate) async fn serve_any<Io, F, Fut>(socket: Io, respond: F)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> Fut + Send + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let response = respond(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    // Many tests close the connection early.
    let _ = server.serve_connection(TokioIo::new(socket), service).await;
}

/// Listens on a free port and runs `connection` for every connection.
pub(crate) async fn listen<F, Fut>(connection: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(connection(socket));
        }
    });
    address
}

/// Starts an upstream that reads the head of a request, writes `bytes` and closes.
pub(crate) async fn raw_upstream(bytes: &'static [u8]) -> String {
    let address = listen(move |mut socket| async move {
        read_head(&mut socket).await;
        let _ = socket.write_all(bytes).await;
    })
    .await;
    format!("http://{address}")
}

/// Reads the head of a message, or as much as arrives before the connection closes.
pub(crate) async fn read_head(socket: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    head
}

/// Returns an address that refuses connections. Its port stays bound, so that no other test listens there.
pub(crate) fn closed_address() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}
