//! A load generator that records the outcome of each request.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum_core::body::Body;
use http::Response;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_rustls::TlsConnector;

use crate::support::iterations::rng_for;
use crate::support::process::{PROCESS_TIMEOUT, until};
use crate::support::test_server::get1;
use crate::support::upstream::{listen, serve};

/// 50 clients that send 500 requests a second in total, half of them on persistent connections.
pub(super) struct LoadGenerator {
    clients: JoinSet<Tally>,
    stop: watch::Sender<bool>,
    answered: Arc<AtomicUsize>,
}

/// The outcomes of requests. Each request has a unique path.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Number of complete 200 responses.
    pub(super) answered: usize,
    /// Responses that were incomplete or had another status.
    pub(super) cut: Vec<String>,
    /// Paths of requests whose connection ended before the first response byte. RFC 9112, section 9.6, allows
    /// this at any time, so clients retry; these do so with another path.
    pub(super) unanswered: Vec<String>,
    /// Number of connections that ended with or after a response.
    pub(super) closed: usize,
    /// Number of clients that stopped because the connection was refused.
    pub(super) refused: usize,
}

impl LoadGenerator {
    pub(super) fn start(server: SocketAddr, tls: Option<ClientConfig>) -> Self {
        let (stop, answered) = (watch::Sender::new(false), Arc::new(AtomicUsize::new(0)));
        let tls = tls.map(|config| TlsConnector::from(Arc::new(config)));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client {
                number,
                server,
                tls: tls.clone(),
                is_persistent: number % 2 == 0,
                socket: None,
                sent: 0,
                tally: Tally::default(),
                answered: Arc::clone(&answered),
            };
            clients.spawn(client.run(stop.subscribe()));
        }
        Self { clients, stop, answered }
    }

    /// Waits for this many further responses.
    pub(super) async fn wait_for_responses(&self, more: usize) {
        let all = self.answered.load(Ordering::Relaxed) + more;
        let enough = async || (self.answered.load(Ordering::Relaxed) >= all).then_some(());
        until(&format!("{all} answers"), enough).await;
    }

    /// Stops the clients after their requests in flight, and returns all outcomes.
    pub(super) async fn end(self) -> Tally {
        self.stop.send_replace(true);
        let mut all = Tally::default();
        for tally in self.clients.join_all().await {
            all.answered += tally.answered;
            all.cut.extend(tally.cut);
            all.unanswered.extend(tally.unanswered);
            all.closed += tally.closed;
            all.refused += tally.refused;
        }
        all
    }
}

struct Client {
    number: u32,
    server: SocketAddr,
    tls: Option<TlsConnector>,
    is_persistent: bool,
    socket: Option<Box<dyn Socket>>,
    sent: usize,
    tally: Tally,
    answered: Arc<AtomicUsize>,
}

trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

/// The outcome of one request.
enum RequestOutcome {
    Response { is_last: bool },
    Closed,
    Other(String),
}

impl Client {
    async fn run(mut self, stop: watch::Receiver<bool>) -> Tally {
        let mut ticks = interval_at(Instant::now() + self.number * PERIOD / CLIENTS, PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if *stop.borrow() {
                return self.tally;
            }
            if self.get_with_retries().await.is_err() {
                self.tally.refused += 1;
                return self.tally;
            }
        }
    }

    /// Sends requests until one gets a response; fails if the connection is refused.
    async fn get_with_retries(&mut self) -> io::Result<()> {
        loop {
            let path = format!("/c{}-{}", self.number, self.sent);
            self.sent += 1;
            let mut socket = match self.socket.take() {
                Some(socket) => socket,
                None => match self.connect().await {
                    Ok(socket) => socket,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(error),
                    // The kernel accepted the connection but the server did not, so nothing was sent.
                    Err(_) => continue,
                },
            };
            match timeout(PROCESS_TIMEOUT, send(&mut socket, &path)).await {
                Ok(RequestOutcome::Response { is_last }) => {
                    self.tally.answered += 1;
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    self.tally.closed += usize::from(is_last);
                    self.socket = (self.is_persistent && !is_last).then_some(socket);
                    return Ok(());
                }
                Ok(RequestOutcome::Closed) => self.tally.unanswered.push(path),
                Ok(RequestOutcome::Other(received)) => {
                    self.tally.cut.push(format!("{path}: {received:?}"));
                    return Ok(());
                }
                Err(_) => {
                    self.tally.cut.push(format!("{path}: no response"));
                    return Ok(());
                }
            }
        }
    }

    async fn connect(&self) -> io::Result<Box<dyn Socket>> {
        let socket = TcpStream::connect(self.server).await?;
        socket.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(socket)) };
        let name = ServerName::try_from("app.example").unwrap();
        Ok(Box::new(tls.connect(name, socket).await?))
    }
}

async fn send(socket: &mut Box<dyn Socket>, path: &str) -> RequestOutcome {
    // If the connection has ended, the read below detects it.
    let _ = socket.write_all(get1(path).as_bytes()).await;
    let _ = socket.flush().await;
    let mut received = Vec::new();
    loop {
        let mut piece = [0; 1024];
        match socket.read(&mut piece).await {
            Ok(0) | Err(_) if received.is_empty() => return RequestOutcome::Closed,
            Ok(0) | Err(_) => return RequestOutcome::Other(String::from_utf8_lossy(&received).into_owned()),
            Ok(read) => received.extend_from_slice(&piece[..read]),
        }
        let text = String::from_utf8_lossy(&received);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if !head.starts_with("HTTP/1.1 200 ") {
            return RequestOutcome::Other(text.into_owned());
        }
        if body == path {
            return RequestOutcome::Response { is_last: head.contains("\r\nconnection: close") };
        }
    }
}

/// An upstream that responds with the request's path after up to 20 ms.
#[derive(Clone, Default)]
pub(super) struct PathEcho(Arc<Mutex<HashSet<String>>>);

impl PathEcho {
    pub(super) async fn start() -> (Self, String) {
        let upstream = Self::default();
        let seen = upstream.clone();
        let address = listen(move |socket| {
            let seen = seen.clone();
            serve(socket, move |request| {
                let (seen, path) = (seen.clone(), request.uri().path().to_owned());
                async move {
                    seen.0.lock().unwrap().insert(path.clone());
                    tokio::time::sleep(Duration::from_millis(rng_for(&path).u64(..20))).await;
                    Response::new(Body::from(path))
                }
            })
        })
        .await;
        (upstream, format!("http://{address}"))
    }

    pub(super) fn has_seen(&self, path: &str) -> bool {
        self.0.lock().unwrap().contains(path)
    }

    /// Forgets all paths, since new clients reuse them.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap().clear();
    }
}

const CLIENTS: u32 = 50;
const PERIOD: Duration = Duration::from_millis(100);
