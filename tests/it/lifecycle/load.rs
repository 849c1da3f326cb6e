//! Clients that ask again and again, and what became of each request.

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

use crate::support::iterations::random_for;
use crate::support::process::{PATIENCE, until};
use crate::support::test_server::get1;
use crate::support::upstream::{listen, serve};

/// 50 clients that ask 500 times a second together: half of them on one connection for as long as it is
/// kept, half on a new one each time.
pub(super) struct LoadGenerator {
    clients: JoinSet<Tally>,
    stop: watch::Sender<bool>,
    answered: Arc<AtomicUsize>,
}

/// What became of requests. Each has a path of its own.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// With 200, to the last byte.
    pub(super) answered: usize,
    /// With anything else, or not to the last byte.
    pub(super) cut: Vec<String>,
    /// On a connection that ended without a byte of an answer. RFC 9112, section 9.6: a connection may
    /// close at any time, also while a request is on its way to it, so all HTTP clients ask again where they
    /// may. These do so, by another path.
    pub(super) unanswered: Vec<String>,
    /// Connections that were said to be closed by an answer, or that ended after one.
    pub(super) told_to_close: usize,
    /// Clients that found that nobody listens, and left.
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
                keeps: number % 2 == 0,
                socket: None,
                asked: 0,
                tally: Tally::default(),
                answered: Arc::clone(&answered),
            };
            clients.spawn(client.run(stop.subscribe()));
        }
        Self { clients, stop, answered }
    }

    /// Waits until so many more requests have been answered.
    pub(super) async fn answers(&self, more: usize) {
        let all = self.answered.load(Ordering::Relaxed) + more;
        let enough = async || (self.answered.load(Ordering::Relaxed) >= all).then_some(());
        until(&format!("{all} answers"), enough).await;
    }

    /// Lets the requests under way end, and tells what became of all.
    pub(super) async fn end(self) -> Tally {
        self.stop.send_replace(true);
        let mut all = Tally::default();
        for tally in self.clients.join_all().await {
            all.answered += tally.answered;
            all.cut.extend(tally.cut);
            all.unanswered.extend(tally.unanswered);
            all.told_to_close += tally.told_to_close;
            all.refused += tally.refused;
        }
        all
    }
}

struct Client {
    number: u32,
    server: SocketAddr,
    tls: Option<TlsConnector>,
    keeps: bool,
    socket: Option<Box<dyn Socket>>,
    asked: usize,
    tally: Tally,
    answered: Arc<AtomicUsize>,
}

trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

/// What came back.
enum RequestOutcome {
    Answer { is_last: bool },
    Nothing,
    Else(String),
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
            if self.get_answered().await.is_err() {
                self.tally.refused += 1;
                return self.tally;
            }
        }
    }

    /// Asks until there is an answer; an error if nobody listens.
    async fn get_answered(&mut self) -> io::Result<()> {
        loop {
            let path = format!("/c{}-{}", self.number, self.asked);
            self.asked += 1;
            let mut socket = match self.socket.take() {
                Some(socket) => socket,
                None => match self.connect().await {
                    Ok(socket) => socket,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(error),
                    // Accepted by the system alone, and never by the server: nothing was asked.
                    Err(_) => continue,
                },
            };
            match timeout(PATIENCE, ask(&mut socket, &path)).await {
                Ok(RequestOutcome::Answer { is_last }) => {
                    self.tally.answered += 1;
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    self.tally.told_to_close += usize::from(is_last);
                    self.socket = (self.keeps && !is_last).then_some(socket);
                    return Ok(());
                }
                Ok(RequestOutcome::Nothing) => self.tally.unanswered.push(path),
                Ok(RequestOutcome::Else(said)) => {
                    self.tally.cut.push(format!("{path}: {said:?}"));
                    return Ok(());
                }
                Err(_) => {
                    self.tally.cut.push(format!("{path}: no answer"));
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

async fn ask(socket: &mut Box<dyn Socket>, path: &str) -> RequestOutcome {
    // The connection may have ended: then nothing comes.
    let _ = socket.write_all(get1(path).as_bytes()).await;
    let _ = socket.flush().await;
    let mut said = Vec::new();
    loop {
        let mut piece = [0; 1024];
        match socket.read(&mut piece).await {
            Ok(0) | Err(_) if said.is_empty() => return RequestOutcome::Nothing,
            Ok(0) | Err(_) => return RequestOutcome::Else(String::from_utf8_lossy(&said).into_owned()),
            Ok(read) => said.extend_from_slice(&piece[..read]),
        }
        let text = String::from_utf8_lossy(&said);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if !head.starts_with("HTTP/1.1 200 ") {
            return RequestOutcome::Else(text.into_owned());
        }
        if body == path {
            return RequestOutcome::Answer { is_last: head.contains("\r\nconnection: close") };
        }
    }
}

/// An upstream that takes up to 20 ms over each answer, which is the request's path.
#[derive(Clone, Default)]
pub(super) struct Echoing(Arc<Mutex<HashSet<String>>>);

impl Echoing {
    pub(super) async fn start() -> (Self, String) {
        let echoing = Self::default();
        let seen = echoing.clone();
        let address = listen(move |socket| {
            let seen = seen.clone();
            serve(socket, move |request| {
                let (seen, path) = (seen.clone(), request.uri().path().to_owned());
                async move {
                    seen.0.lock().unwrap().insert(path.clone());
                    tokio::time::sleep(Duration::from_millis(random_for(&path).u64(..20))).await;
                    Response::new(Body::from(path))
                }
            })
        })
        .await;
        (echoing, format!("http://{address}"))
    }

    pub(super) fn has_seen(&self, path: &str) -> bool {
        self.0.lock().unwrap().contains(path)
    }

    /// Paths are those of new clients from now on.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap().clear();
    }
}

const CLIENTS: u32 = 50;
const PERIOD: Duration = Duration::from_millis(100);
