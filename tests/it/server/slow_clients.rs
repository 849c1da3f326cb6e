//! A thousand deliberately slow clients, and honest browsers that must not be affected.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::support::db::sqlite_place;
use crate::support::http::Answer;
use crate::support::process::{PATIENCE, ServerProcess, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;
use crate::support::upstream::{listen, serve};

const ATTACKERS: usize = 1_000;

/// Number of honest browsers, each with one persistent connection and further short ones.
const BROWSERS: usize = 4;

/// Default duration of the attack in seconds (`SEKISHO_TEST_HOSTILE`).
const SECONDS: u64 = 5;

/// Memory limit in KiB for each response or request that an attacker holds: about three buffers of 64 KiB.
const MEMORY: usize = 200;

fn duration() -> Duration {
    let told = std::env::var("SEKISHO_TEST_HOSTILE").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(told.unwrap_or(SECONDS))
}

/// Starts a server with short timeouts, so that attackers reconnect often.
async fn site() -> (TestDeployment, ServerProcess) {
    let large = Bytes::from(vec![b'x'; 8 * 1024 * 1024]);
    let upstream = listen(move |socket| {
        let large = large.clone();
        serve(socket, move |request| {
            let large = large.clone();
            async move {
                let body = if request.uri().path() == "/open/large" {
                    Body::from(large)
                } else {
                    // The response is irrelevant if the client disconnects during the upload.
                    let _ = axum::body::to_bytes(Body::new(request.into_body()), usize::MAX).await;
                    Body::from("welcome")
                };
                Response::new(body)
            }
        })
    })
    .await;
    let mut site = TestDeployment::new(sqlite_place().await.unwrap()).await;
    site.forward_to(format!("http://{upstream}"));
    let config = std::fs::read_to_string(site.path("sekisho.toml")).unwrap();
    let open = format!(
        "[[routes]]\npath = \"/open\"\nupstreams = [\"http://{upstream}\"]\nauth = \"none\"\nidle_timeout = \"5s\"\n"
    );
    site.write("sekisho.toml", &format!("{config}{open}"));
    site.set("server.header_timeout", "5s");
    site.set("server.write_timeout", "5s");
    site.user("ann@example.com", "user").await;
    let server = site.serve().await;
    (site, server)
}

/// The behaviour of an attacker on one connection, until it is closed.
#[derive(Clone, Copy)]
enum Attack {
    Headers,
    Body,
    Reading,
    /// Many responses on one HTTP/2 connection, with flow-control windows that never open.
    Streams,
}

/// Attacks, and reconnects whenever the connection is closed.
async fn attack(server: SocketAddr, attack: Attack, cut: Arc<AtomicUsize>) {
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        // The smallest receive buffer that the kernel allows.
        socket.set_recv_buffer_size(1).unwrap();
        if let Ok(socket) = socket.connect(server).await {
            match attack {
                Attack::Headers => drip(socket, b"GET / HTTP/1.1\r\nHost: a\r\nSlow: ").await,
                Attack::Body => {
                    drip(socket, b"POST /open/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await;
                }
                Attack::Reading => sip(socket).await,
                Attack::Streams => read_without_window(socket).await,
            }
        }
        cut.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends one byte a second.
async fn drip(mut socket: TcpStream, begin: &[u8]) {
    let mut written = socket.write_all(begin).await;
    let mut answer = [0; 1];
    while written.is_ok() {
        // A response also ends the attack on this connection.
        if timeout(Duration::from_secs(1), socket.read(&mut answer)).await.is_ok() {
            return;
        }
        written = socket.write_all(b"x").await;
    }
}

/// Reads a few bytes a second.
async fn sip(mut socket: TcpStream) {
    if socket.write_all(b"GET /open/large HTTP/1.1\r\nHost: a\r\n\r\n").await.is_err() {
        return;
    }
    let mut answer = [0; 16];
    while let Ok(1..) = socket.read(&mut answer).await {
        sleep(Duration::from_secs(1)).await;
    }
}

async fn read_without_window(socket: TcpStream) {
    let Ok((mut client, connection)) = h2::client::handshake(socket).await else { return };
    let connection = tokio::spawn(connection);
    let mut answers = Vec::new();
    while answers.len() < 50 {
        let Ok(ready) = client.ready().await else { break };
        client = ready;
        let request = Request::get("http://a/open/large").body(()).unwrap();
        let Ok((answer, _)) = client.send_request(request, true) else { break };
        answers.push(answer);
    }
    // Reads frames without returning window, until each stream is reset.
    let answers = join_all(answers).await.into_iter().flatten();
    join_all(answers.map(|answer| read_to_end(answer.into_body()))).await;
    connection.abort();
}

async fn read_to_end(mut body: h2::RecvStream) {
    while let Some(Ok(_)) = body.data().await {}
}

/// The observations of an honest browser.
#[derive(Default)]
struct ClientStats {
    took: Vec<Duration>,
    renewals: usize,
    failures: Vec<String>,
}

impl ClientStats {
    fn note(&mut self, began: Instant, answer: Result<Answer, Box<dyn std::error::Error + Send + Sync>>) {
        self.took.push(began.elapsed());
        match answer {
            Ok(answer) if answer.status == 200 && answer.body == b"welcome" => {
                self.renewals += usize::from(answer.headers.contains_key("set-cookie"));
            }
            Ok(answer) => self.failures.push(format!("{} {:?}", answer.status, answer.headers)),
            Err(error) => self.failures.push(format!("{error:?}")),
        }
    }

    /// Returns the median and the maximum.
    fn latency(&mut self) -> (Duration, Duration) {
        self.took.sort_unstable();
        (self.took[self.took.len() / 2], self.took[self.took.len() - 1])
    }
}

/// Signs browsers in and has them send requests for this time.
async fn browse(server: SocketAddr, duration: Duration) -> ClientStats {
    let browsing = (0..BROWSERS).map(|_| tokio::spawn(browse_alone(server, duration)));
    let mut all = ClientStats::default();
    for seen in join_all(browsing).await {
        let seen = seen.unwrap();
        all.took.extend(seen.took);
        all.failures.extend(seen.failures);
        all.renewals += seen.renewals;
    }
    all
}

async fn browse_alone(server: SocketAddr, duration: Duration) -> ClientStats {
    let mut browser = SocketBrowser::signed_in(server, "ann@example.com").await;
    let mut seen = ClientStats::default();
    let socket = TcpStream::connect(server).await.unwrap();
    let (mut kept, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let until = Instant::now() + duration;
    while Instant::now() < until {
        let request = || Request::get("/page").body(Body::empty()).unwrap();
        let began = Instant::now();
        seen.note(began, browser.send_on(&mut kept, server, request()).await);
        let began = Instant::now();
        seen.note(began, browser.send(server, request()).await);
        // A pause between pages.
        sleep(Duration::from_millis(10)).await;
    }
    seen
}

async fn check_browsers_are_unaffected(attackers: usize, attacks: &[Attack]) {
    let (_site, server) = site().await;
    let public = server.public;
    let mut before = browse(public, duration() / 4).await;
    assert!(before.failures.is_empty(), "{:?}", before.failures);
    let memory = server.memory();

    let cut = Arc::new(AtomicUsize::new(0));
    let mut attacking = JoinSet::new();
    for n in 0..attackers {
        attacking.spawn(attack(public, attacks[n % attacks.len()], Arc::clone(&cut)));
    }
    let mut during = timeout(duration() + PATIENCE, browse(public, duration())).await.unwrap();
    // Closed attackers reconnect.
    let open = until("the attackers to be there, after some were cut", async || {
        let open = connections(&server).await;
        (open > attackers / 2 && cut.load(Ordering::Relaxed) > 0).then_some(open)
    });
    let (open, cost) = (open.await, server.peak_memory().saturating_sub(memory));
    attacking.shutdown().await;

    let latency = (during.latency(), before.latency());
    println!(
        "{} requests, {} renewals: (median, longest) {:?}; without the attack {:?}; {} attackers' connections open, \
         {} were cut; memory {memory} KiB before, {cost} KiB more at most",
        during.took.len(),
        during.renewals,
        latency.0,
        latency.1,
        open,
        cut.load(Ordering::Relaxed),
    );
    assert!(during.failures.is_empty(), "{}: {:?}", during.failures.len(), during.failures);
    assert!(during.renewals > 0);
    assert!(cost < attackers * attacks_memory(attacks), "{cost} KiB");
    // All attackers' connections are released.
    let deadline = Instant::now() + PATIENCE;
    timeout_at(deadline, async { while connections(&server).await > BROWSERS {} }).await.unwrap();
    server.stop().await;
}

/// Returns the memory limit of one attacker. Each HTTP/2 stream counts as one connection.
fn attacks_memory(attacks: &[Attack]) -> usize {
    if attacks.iter().any(|attack| matches!(attack, Attack::Streams)) { 50 * MEMORY } else { MEMORY }
}

async fn connections(server: &ServerProcess) -> usize {
    let answer = SocketBrowser::default().get(server.admin, "/metrics").await;
    let text = String::from_utf8(answer.body).unwrap();
    let of = |line: &str| line.rsplit_once(' ').map(|(_, number)| number.parse::<usize>().unwrap());
    text.lines()
        .filter(|line| line.starts_with("sekisho_connections{thread=\"") && !line.contains("admin"))
        .filter_map(of)
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_slow_clients_do_not_affect_others() {
    let attacks = [Attack::Headers, Attack::Body, Attack::Reading];
    check_browsers_are_unaffected(ATTACKERS, &attacks).await;
}

/// Ten attackers hold as many responses as five hundred HTTP/1.1 connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_streams_without_window_do_not_affect_others() {
    check_browsers_are_unaffected(10, &[Attack::Streams]).await;
}
