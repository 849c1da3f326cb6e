//! A server with a scripted service, its clients and its certificates.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use sekisho::clock::SystemClock;
use sekisho::server::{Certificate, Peer, ServerLimits, TlsConnection, WorkerThreads};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::util::BoxCloneSyncService;

use super::process::PROCESS_TIMEOUT;

/// Worker threads that serve a [`ScriptedService`].
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) threads: WorkerThreads,
    pub(crate) script: ScriptedService,
}

/// A service whose response depends on the path.
#[derive(Clone)]
pub(crate) struct ScriptedService {
    is_released: watch::Sender<bool>,
    received: mpsc::UnboundedSender<String>,
    /// Number of endless responses in flight.
    endless: Arc<AtomicUsize>,
}

impl TestServer {
    pub(crate) fn start(threads: usize, limits: ServerLimits) -> (Self, mpsc::UnboundedReceiver<String>) {
        Self::with(threads, limits, None)
    }

    pub(crate) fn with(
        threads: usize,
        limits: ServerLimits,
        certificate: Option<Arc<Certificate>>,
    ) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (received, received_paths) = mpsc::unbounded_channel();
        let script =
            ScriptedService { is_released: watch::Sender::new(false), received, endless: Arc::default() };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let threads = WorkerThreads::start(threads, limits).unwrap();
        let service = script.clone();
        threads.serve(listener, certificate, move || service.service()).unwrap();
        (Self { address, threads, script }, received_paths)
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Connects with HTTP/2 by prior knowledge.
    pub(crate) async fn http2(&self) -> h2::client::SendRequest<Bytes> {
        let (client, connection) = h2::client::handshake(self.connect().await).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

impl ScriptedService {
    /// Lets requests for `/slow` complete, present and future ones.
    pub(crate) fn release(&self) {
        self.is_released.send_replace(true);
    }

    /// Returns the number of endless responses in flight.
    pub(crate) fn endless(&self) -> usize {
        self.endless.load(Ordering::Relaxed)
    }

    pub(crate) fn service(
        &self,
    ) -> BoxCloneSyncService<Request<Body>, Response<Body>, std::convert::Infallible> {
        let script = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            let script = script.clone();
            async move { Ok(script.respond(request).await) }
        }))
    }

    async fn respond(self, request: Request<Body>) -> Response<Body> {
        assert!(request.extensions().get::<Peer>().is_some());
        let path = request.uri().path().to_owned();
        let _ = self.received.send(path.clone());
        match path.as_str() {
            "/slow" => {
                self.is_released.subscribe().wait_for(|is_released| *is_released).await.unwrap();
                Response::new(Body::from("at last"))
            }
            "/endless" => Response::new(Body::from_stream(self.endless_body())),
            // Sends one chunk and never ends.
            "/stream" => {
                let first = futures_util::stream::iter([Ok::<_, std::io::Error>("begun")]);
                let rest = futures_util::stream::pending();
                Response::new(Body::from_stream(futures_util::StreamExt::chain(first, rest)))
            }
            "/length" => {
                let read = request.into_body().collect().await.map(|body| body.to_bytes().len());
                Response::new(Body::from(format!("{read:?}")))
            }
            "/echo" => echo(request),
            "/refused" => Response::builder().status(413).body(Body::from("too much")).unwrap(),
            "/hsts" => Response::builder()
                .header("strict-transport-security", "max-age=1")
                .body(Body::empty())
                .unwrap(),
            "/thread" => Response::new(Body::from(std::thread::current().name().unwrap().to_owned())),
            _ => Response::new(Body::from(describe(&request))),
        }
    }

    fn endless_body(
        self,
    ) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
        struct Running(Arc<AtomicUsize>);
        impl Drop for Running {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.endless.fetch_add(1, Ordering::Relaxed);
        futures_util::stream::unfold(Running(self.endless), |running| async {
            Some((Ok(Bytes::from(vec![b'x'; 64 * 1024])), running))
        })
    }
}

/// Upgrades the connection and sends back everything that it reads.
fn echo(request: Request<Body>) -> Response<Body> {
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async {
        let upgraded = hyper_util::rt::TokioIo::new(upgraded.await.unwrap());
        let (mut read, mut write) = tokio::io::split(upgraded);
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    });
    let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
    response.body(Body::empty()).unwrap()
}

/// Describes a request in one line.
fn describe(request: &Request<Body>) -> String {
    let lines = |name| -> Vec<_> {
        request.headers().get_all(name).iter().map(|line| line.to_str().unwrap().to_owned()).collect()
    };
    format!(
        "version={:?} method={} host={:?} cookie={:?} secured={}",
        request.version(),
        request.method(),
        lines("host"),
        lines("cookie"),
        request.extensions().get::<TlsConnection>().is_some(),
    )
}

/// Sends a request on an HTTP/2 connection and reads the whole response.
pub(crate) async fn ask(
    client: &mut h2::client::SendRequest<Bytes>,
    request: Request<()>,
) -> Result<(u16, HeaderMap, String), h2::Error> {
    let mut ready = client.clone().ready().await?;
    let (response, _) = ready.send_request(request, true)?;
    let (head, mut body) = timeout(PROCESS_TIMEOUT, response).await.unwrap()?.into_parts();
    let mut text = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        let _ = body.flow_control().release_capacity(chunk.len());
        text.extend_from_slice(&chunk);
    }
    Ok((head.status.as_u16(), head.headers, String::from_utf8(text).unwrap()))
}

pub(crate) fn get2(path: &str) -> Request<()> {
    Request::get(format!("http://app.example{path}")).body(()).unwrap()
}

/// Sends bytes and reads a response with a `Content-Length`. The connection stays open.
pub(crate) async fn send_and_read<W>(socket: &mut W, bytes: &str) -> String
where
    W: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    socket.write_all(bytes.as_bytes()).await.unwrap();
    answer(socket).await
}

/// Reads a response with a `Content-Length`, or as much as arrives before the connection closes.
pub(crate) async fn answer<R: tokio::io::AsyncRead + Unpin>(socket: &mut R) -> String {
    let mut response = Vec::new();
    let reading = async {
        loop {
            let text = String::from_utf8_lossy(&response).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if length.is_some_and(|length| length.parse() == Ok(body.len())) {
                    return text;
                }
            }
            match socket.read_u8().await {
                Ok(byte) => response.push(byte),
                Err(_) => return text,
            }
        }
    };
    timeout(PROCESS_TIMEOUT, reading).await.expect("a response, or the end")
}

/// Reads until the connection is closed or reset.
pub(crate) async fn read_until_closed<R: tokio::io::AsyncRead + Unpin>(socket: &mut R) -> String {
    let mut rest = Vec::new();
    let _ = timeout(PROCESS_TIMEOUT, socket.read_to_end(&mut rest)).await.expect("an end");
    String::from_utf8_lossy(&rest).into_owned()
}

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n";

pub(crate) fn get1(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app.example\r\n\r\n")
}

/// A self-signed certificate and its key in files.
pub(crate) struct Files {
    dir: TempDir,
    pem: String,
}

impl Files {
    /// Creates a certificate for `app.example` and the loopback address.
    pub(crate) fn good() -> Self {
        Self::until(2100)
    }

    /// Creates a certificate that expires at the start of `year`.
    pub(crate) fn until(year: i32) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap(), pem: String::new() };
        files.renewed(2000, year)
    }

    /// Replaces the files by a new certificate that is valid between these years.
    pub(crate) fn renewed(mut self, from: i32, until: i32) -> Self {
        let names = ["app.example".to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        self.pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(self.key(), key.serialize_pem()).unwrap();
        std::fs::write(self.certificate(), &self.pem).unwrap();
        self
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    pub(crate) fn load(&self) -> Result<Arc<Certificate>, sekisho::server::CertificateError> {
        Certificate::load(self.certificate(), self.key(), Arc::new(SystemClock)).map(Arc::new)
    }

    /// Connects over TLS as a client that trusts only this certificate.
    pub(crate) async fn connect(
        &self,
        server: SocketAddr,
        protocols: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = trusting(&[self], versions);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(server).await?;
        let name = ServerName::try_from("app.example").unwrap();
        timeout(PROCESS_TIMEOUT, TlsConnector::from(Arc::new(config)).connect(name, socket)).await.unwrap()
    }
}

/// Returns the configuration of a client that trusts only these certificates.
pub(crate) fn trusting(files: &[&Files], versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for files in files {
        roots.add(CertificateDer::from_pem_slice(files.pem.as_bytes()).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    config.with_root_certificates(roots).with_no_client_auth()
}

/// Default limits with a short drain timeout.
pub(crate) fn short_drain() -> ServerLimits {
    ServerLimits { drain: Duration::from_secs(10), ..ServerLimits::default() }
}
