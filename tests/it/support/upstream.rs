//! Upstreams on a port of their own: one that speaks HTTP and records, and bare sockets for those
//! that don't behave.

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
use tokio_rustls::TlsAcceptor;

/// What an upstream was sent.
#[derive(Debug)]
pub(crate) struct RecordedRequest {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// The request target, as it stood on the wire.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    /// How long the body was, in bytes.
    pub(crate) length: usize,
    /// The body's SHA-256.
    pub(crate) digest: digest::Digest,
    pub(crate) trailers: HeaderMap,
}

impl RecordedRequest {
    /// All values of a header, in their order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    async fn read(request: Request<Incoming>) -> Self {
        let (parts, mut body) = request.into_parts();
        let mut hash = digest::Context::new(&digest::SHA256);
        let (mut length, mut trailers) = (0, HeaderMap::new());
        while let Some(Ok(frame)) = body.frame().await {
            match frame.into_data() {
                Ok(data) => {
                    length += data.len();
                    hash.update(&data);
                }
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            }
        }
        let (digest, target) = (hash.finish(), parts.uri.to_string());
        Self {
            method: parts.method,
            version: parts.version,
            target,
            headers: parts.headers,
            length,
            digest,
            trailers,
        }
    }
}

/// An upstream that reads each request to its end, records it, and answers.
pub(crate) struct Upstream {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<RecordedRequest>,
    connections: Arc<AtomicUsize>,
}

impl Upstream {
    /// One that answers 200 with nothing.
    pub(crate) async fn start() -> Self {
        Self::answering(|_| Response::new(Body::empty())).await
    }

    pub(crate) async fn answering(
        answer: impl Fn(&RecordedRequest) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self::listening(None, answer).await
    }

    /// One that shakes hands by TLS first.
    pub(crate) async fn by_tls(tls: TlsAcceptor) -> Self {
        Self::listening(Some(tls), |_| Response::new(Body::empty())).await
    }

    async fn listening(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&RecordedRequest) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let (record, seen) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let (answer, count) = (Arc::new(answer), Arc::clone(&connections));
        let address = listen(move |socket| {
            count.fetch_add(1, Ordering::SeqCst);
            let (answer, record, tls) = (Arc::clone(&answer), record.clone(), tls.clone());
            let answer = move |request| {
                let (answer, record) = (Arc::clone(&answer), record.clone());
                async move {
                    let seen = RecordedRequest::read(request).await;
                    let response = answer(&seen);
                    let _ = record.send(seen);
                    response
                }
            };
            async move {
                match tls {
                    None => serve_any(socket, answer).await,
                    // Peers that don't trust it are part of the tests.
                    Some(tls) => {
                        if let Ok(socket) = tls.accept(socket).await {
                            serve_any(socket, answer).await;
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

    /// The next request recorded.
    pub(crate) async fn seen(&mut self) -> RecordedRequest {
        self.seen.recv().await.unwrap()
    }

    /// The next request recorded, if there is one already.
    pub(crate) fn seen_already(&mut self) -> Option<RecordedRequest> {
        self.seen.try_recv().ok()
    }

    /// Whether no request is recorded that was not asked for.
    pub(crate) fn has_seen_no_more(&mut self) -> bool {
        self.seen.try_recv().is_err()
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// An upstream that says when a request has arrived, and answers when it may.
pub(crate) struct GatedUpstream {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    arrivals: mpsc::UnboundedReceiver<()>,
    may_answer: Arc<Semaphore>,
}

impl GatedUpstream {
    /// What it answers.
    pub(crate) const ANSWER: &str = "late but whole";

    pub(crate) async fn start() -> Self {
        let (tell, arrivals) = mpsc::unbounded_channel();
        let may_answer = Arc::new(Semaphore::new(0));
        let gate = Arc::clone(&may_answer);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let address = listen(move |socket| {
            count.fetch_add(1, Ordering::SeqCst);
            let (tell, gate) = (tell.clone(), Arc::clone(&gate));
            serve_any(socket, move |_| {
                let (tell, gate) = (tell.clone(), Arc::clone(&gate));
                async move {
                    let _ = tell.send(());
                    gate.acquire().await.unwrap().forget();
                    Response::new(Body::from(Self::ANSWER))
                }
            })
        })
        .await;
        Self { address, connections, arrivals, may_answer }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until so many more requests have arrived.
    pub(crate) async fn arrived(&mut self, requests: usize) {
        for _ in 0..requests {
            self.arrivals.recv().await.unwrap();
        }
    }

    /// Lets it answer so many requests.
    pub(crate) fn release(&self, requests: usize) {
        self.may_answer.add_permits(requests);
    }
}

/// Serves HTTP/1.1 on a connection.
pub(crate) async fn serve<F, Answer>(socket: TcpStream, answer: F)
where
    F: Fn(Request<Incoming>) -> Answer,
    Answer: Future<Output = Response<Body>>,
{
    let answer = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    // A peer that breaks off is part of many tests.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), answer).with_upgrades().await;
}

/// Serves HTTP/1.1, or HTTP/2 to one who begins with it.
pub(crate) async fn serve_any<Io, F, Answer>(socket: Io, answer: F)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> Answer + Send + 'static,
    Answer: Future<Output = Response<Body>> + Send + 'static,
{
    let answer = service_fn(move |request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    // A peer that breaks off is part of many tests.
    let _ = server.serve_connection(TokioIo::new(socket), answer).await;
}

/// Runs `connection` for every connection to a port of its own.
pub(crate) async fn listen<F, Done>(connection: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Done + Send + 'static,
    Done: Future<Output = ()> + Send + 'static,
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

/// An upstream that reads the head of a request, writes these bytes, and closes.
pub(crate) async fn saying(bytes: &'static [u8]) -> String {
    let address = listen(move |mut socket| async move {
        read_head(&mut socket).await;
        let _ = socket.write_all(bytes).await;
    })
    .await;
    format!("http://{address}")
}

/// Reads the head of a message; what it read is empty if the connection was closed before.
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

/// An address at which nobody listens. Its port stays taken, for what another test would start there might
/// answer.
pub(crate) fn nobody() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}
