//! A server of its own for a test: threads, a service that does as its path says, and clients.

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

use super::process::PATIENCE;

/// Threads that serve [`ScriptedService`].
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) threads: WorkerThreads,
    pub(crate) script: ScriptedService,
}

/// What the service does, and what it has seen.
#[derive(Clone)]
pub(crate) struct ScriptedService {
    released: watch::Sender<bool>,
    seen: mpsc::UnboundedSender<String>,
    /// How many endless answers there are.
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
        let (seen, seen_paths) = mpsc::unbounded_channel();
        let script = ScriptedService { released: watch::Sender::new(false), seen, endless: Arc::default() };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let threads = WorkerThreads::start(threads, limits).unwrap();
        let service = script.clone();
        threads.serve(listener, certificate, move || service.service()).unwrap();
        (Self { address, threads, script }, seen_paths)
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A client that begins with HTTP/2 at once.
    pub(crate) async fn http2(&self) -> h2::client::SendRequest<Bytes> {
        let (client, connection) = h2::client::handshake(self.connect().await).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

impl ScriptedService {
    /// Whoever waits at `/slow` is answered, now and from now on.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    /// How many endless answers are being sent.
    pub(crate) fn endless(&self) -> usize {
        self.endless.load(Ordering::Relaxed)
    }

    pub(crate) fn service(
        &self,
    ) -> BoxCloneSyncService<Request<Body>, Response<Body>, std::convert::Infallible> {
        let script = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            let script = script.clone();
            async move { Ok(script.answer(request).await) }
        }))
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        assert!(request.extensions().get::<Peer>().is_some());
        let path = request.uri().path().to_owned();
        let _ = self.seen.send(path.clone());
        match path.as_str() {
            "/slow" => {
                self.released.subscribe().wait_for(|released| *released).await.unwrap();
                Response::new(Body::from("at last"))
            }
            "/endless" => Response::new(Body::from_stream(self.endless_answer())),
            // Begins, and never ends.
            "/stream" => {
                let begun = futures_util::stream::iter([Ok::<_, std::io::Error>("begun")]);
                let waits = futures_util::stream::pending();
                Response::new(Body::from_stream(futures_util::StreamExt::chain(begun, waits)))
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
            _ => Response::new(Body::from(told(&request))),
        }
    }

    fn endless_answer(
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

/// Sends back what comes after the upgrade, until there is no more.
fn echo(request: Request<Body>) -> Response<Body> {
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async {
        let upgraded = hyper_util::rt::TokioIo::new(upgraded.await.unwrap());
        let (mut read, mut write) = tokio::io::split(upgraded);
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    });
    let answer = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
    answer.body(Body::empty()).unwrap()
}

/// What a request says of itself.
fn told(request: &Request<Body>) -> String {
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

/// Sends one request on a connection of HTTP/2.
pub(crate) async fn ask(
    client: &mut h2::client::SendRequest<Bytes>,
    request: Request<()>,
) -> Result<(u16, HeaderMap, String), h2::Error> {
    let mut ready = client.clone().ready().await?;
    let (answer, _) = ready.send_request(request, true)?;
    let (head, mut body) = timeout(PATIENCE, answer).await.unwrap()?.into_parts();
    let mut text = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        let _ = body.flow_control().release_capacity(piece.len());
        text.extend_from_slice(&piece);
    }
    Ok((head.status.as_u16(), head.headers, String::from_utf8(text).unwrap()))
}

pub(crate) fn get2(path: &str) -> Request<()> {
    Request::get(format!("http://app.example{path}")).body(()).unwrap()
}

/// Sends bytes and reads an answer with a length, leaving the connection as it is.
pub(crate) async fn talk<W>(socket: &mut W, bytes: &str) -> String
where
    W: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    socket.write_all(bytes.as_bytes()).await.unwrap();
    answer(socket).await
}

/// Reads an answer with a length; what there is of one if the other side closes.
pub(crate) async fn answer<R: tokio::io::AsyncRead + Unpin>(socket: &mut R) -> String {
    let mut answer = Vec::new();
    let reading = async {
        loop {
            let text = String::from_utf8_lossy(&answer).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if length.is_some_and(|length| length.parse() == Ok(body.len())) {
                    return text;
                }
            }
            match socket.read_u8().await {
                Ok(byte) => answer.push(byte),
                Err(_) => return text,
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("an answer, or an end")
}

/// Reads until the other side closes, in whatever way.
pub(crate) async fn to_the_end<R: tokio::io::AsyncRead + Unpin>(socket: &mut R) -> String {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("an end");
    String::from_utf8_lossy(&rest).into_owned()
}

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n";

pub(crate) fn get1(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app.example\r\n\r\n")
}

/// A certificate of its own making, in files.
pub(crate) struct Files {
    dir: TempDir,
    pem: String,
}

impl Files {
    /// Good for `app.example` and this machine.
    pub(crate) fn good() -> Self {
        Self::until(2100)
    }

    /// Good until that year begins.
    pub(crate) fn until(year: i32) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap(), pem: String::new() };
        files.renewed(2000, year)
    }

    /// Other ones in the same place, good between these years.
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

    /// Connects over TLS as a client that trusts nothing but this certificate.
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
        timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, socket)).await.unwrap()
    }
}

/// A client that trusts nothing but these certificates.
pub(crate) fn trusting(files: &[&Files], versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for files in files {
        roots.add(CertificateDer::from_pem_slice(files.pem.as_bytes()).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    config.with_root_certificates(roots).with_no_client_auth()
}

/// Limits under which nothing takes long.
pub(crate) fn hasty() -> ServerLimits {
    ServerLimits { drain: Duration::from_secs(10), ..ServerLimits::default() }
}
