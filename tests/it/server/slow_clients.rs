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

use crate::support::db::sqlite_location;
use crate::support::http::TestResponse;
use crate::support::process::{PROCESS_TIMEOUT, ServerProcess, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;
use crate::support::upstream::{listen, serve};

const ATTACKERS: usize = 1_000;

/// Number of honest browsers, each with one persistent connection and further short ones.
const BROWSERS: usize = 4;

/// Default duration of the attack in seconds (`SEKISHO_TEST_HOSTILE`).
const DEFAULT_SECONDS: u64 = 5;

/// Memory limit in KiB for each response or request that an attacker holds: about three buffers of 64 KiB.
const MEMORY_LIMIT: usize = 200;

fn duration() -> Duration {
    let configured = std::env::var("SEKISHO_TEST_HOSTILE").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(configured.unwrap_or(DEFAULT_SECONDS))
}

/// Starts a server with short timeouts, so that attackers reconnect often.
async fn new_deployment() -> (TestDeployment, ServerProcess) {
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
    let mut deployment = TestDeployment::new(sqlite_location().await.unwrap()).await;
    deployment.forward_to(format!("http://{upstream}"));
    let config = std::fs::read_to_string(deployment.path("sekisho.toml")).unwrap();
    let open = format!(
        "[[routes]]\npath = \"/open\"\nupstreams = [\"http://{upstream}\"]\nauth = \"none\"\nidle_timeout = \"5s\"\n"
    );
    deployment.write("sekisho.toml", &format!("{config}{open}"));
    deployment.set("server.header_timeout", "5s");
    deployment.set("server.write_timeout", "5s");
    deployment.user("ann@example.com", "user").await;
    let server = deployment.serve().await;
    (deployment, server)
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
async fn attack(server: SocketAddr, attack: Attack, closed: Arc<AtomicUsize>) {
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        // Another client than the browsers.
        socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
        // The smallest receive buffer that the kernel allows.
        socket.set_recv_buffer_size(1).unwrap();
        if let Ok(socket) = socket.connect(server).await {
            match attack {
                Attack::Headers => write_slowly(socket, b"GET / HTTP/1.1\r\nHost: a\r\nSlow: ").await,
                Attack::Body => {
                    write_slowly(
                        socket,
                        b"POST /open/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
                    )
                    .await;
                }
                Attack::Reading => read_slowly(socket).await,
                Attack::Streams => read_without_window(socket).await,
            }
        }
        closed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends one byte a second.
async fn write_slowly(mut socket: TcpStream, begin: &[u8]) {
    let mut written = socket.write_all(begin).await;
    let mut response = [0; 1];
    while written.is_ok() {
        // A response also ends the attack on this connection.
        if timeout(Duration::from_secs(1), socket.read(&mut response)).await.is_ok() {
            return;
        }
        written = socket.write_all(b"x").await;
    }
}

/// Reads a few bytes a second.
async fn read_slowly(mut socket: TcpStream) {
    if socket.write_all(b"GET /open/large HTTP/1.1\r\nHost: a\r\n\r\n").await.is_err() {
        return;
    }
    let mut response = [0; 16];
    while let Ok(1..) = socket.read(&mut response).await {
        sleep(Duration::from_secs(1)).await;
    }
}

async fn read_without_window(socket: TcpStream) {
    let Ok((mut client, connection)) = h2::client::handshake(socket).await else { return };
    let connection = tokio::spawn(connection);
    let mut responses = Vec::new();
    while responses.len() < 50 {
        let Ok(ready) = client.ready().await else { break };
        client = ready;
        let request = Request::get("http://a/open/large").body(()).unwrap();
        let Ok((response, _)) = client.send_request(request, true) else { break };
        responses.push(response);
    }
    // Reads frames without returning window, until each stream is reset.
    let responses = join_all(responses).await.into_iter().flatten();
    join_all(responses.map(|response| read_to_end(response.into_body()))).await;
    connection.abort();
}

async fn read_to_end(mut body: h2::RecvStream) {
    while let Some(Ok(_)) = body.data().await {}
}

/// The observations of an honest browser.
#[derive(Default)]
struct ClientStats {
    took: Vec<Duration>,
    refreshes: usize,
    failures: Vec<String>,
}

impl ClientStats {
    fn record(
        &mut self,
        start: Instant,
        response: Result<TestResponse, Box<dyn std::error::Error + Send + Sync>>,
    ) {
        self.took.push(start.elapsed());
        match response {
            Ok(response) if response.status == 200 && response.body == b"welcome" => {
                self.refreshes += usize::from(response.headers.contains_key("set-cookie"));
            }
            Ok(response) => self.failures.push(format!("{} {:?}", response.status, response.headers)),
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
        all.refreshes += seen.refreshes;
    }
    all
}

async fn browse_alone(server: SocketAddr, duration: Duration) -> ClientStats {
    let mut browser = SocketBrowser::signed_in(server, "ann@example.com").await;
    let mut seen = ClientStats::default();
    let socket = TcpStream::connect(server).await.unwrap();
    let (mut persistent, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let until = Instant::now() + duration;
    while Instant::now() < until {
        let request = || Request::get("/page").body(Body::empty()).unwrap();
        let start = Instant::now();
        seen.record(start, browser.send_on(&mut persistent, server, request()).await);
        let start = Instant::now();
        seen.record(start, browser.send(server, request()).await);
        // A pause between pages.
        sleep(Duration::from_millis(10)).await;
    }
    seen
}

async fn check_browsers_are_unaffected(attackers: usize, attacks: &[Attack]) {
    let (_deployment, server) = new_deployment().await;
    let public = server.public;
    let mut before = browse(public, duration() / 4).await;
    assert!(before.failures.is_empty(), "{:?}", before.failures);
    let memory = server.memory();

    let closed = Arc::new(AtomicUsize::new(0));
    let mut attacking = JoinSet::new();
    for n in 0..attackers {
        attacking.spawn(attack(public, attacks[n % attacks.len()], Arc::clone(&closed)));
    }
    let mut during = timeout(duration() + PROCESS_TIMEOUT, browse(public, duration())).await.unwrap();
    // Closed attackers reconnect.
    let open = until("attackers to be connected, after some were disconnected", async || {
        let open = connections(&server).await;
        (open > attackers / 2 && closed.load(Ordering::Relaxed) > 0).then_some(open)
    });
    let (open, cost) = (open.await, server.peak_memory().saturating_sub(memory));
    attacking.shutdown().await;

    let latency = (during.latency(), before.latency());
    println!(
        "{} requests, {} refreshes: (median, longest) {:?}; without the attack {:?}; {} attackers' connections open, \
         {} were closed; memory {memory} KiB before, {cost} KiB more at most",
        during.took.len(),
        during.refreshes,
        latency.0,
        latency.1,
        open,
        closed.load(Ordering::Relaxed),
    );
    assert!(during.failures.is_empty(), "{}: {:?}", during.failures.len(), during.failures);
    assert!(during.refreshes > 0);
    assert!(cost < attackers * memory_limit(attacks), "{cost} KiB");
    // All attackers' connections are released.
    let deadline = Instant::now() + PROCESS_TIMEOUT;
    timeout_at(deadline, async { while connections(&server).await > BROWSERS {} }).await.unwrap();
    server.stop().await;
}

/// Returns the memory limit of one attacker. Each HTTP/2 stream counts as one connection.
fn memory_limit(attacks: &[Attack]) -> usize {
    if attacks.iter().any(|attack| matches!(attack, Attack::Streams)) {
        50 * MEMORY_LIMIT
    } else {
        MEMORY_LIMIT
    }
}

async fn connections(server: &ServerProcess) -> usize {
    let response = SocketBrowser::default().get(server.admin, "/metrics").await;
    let text = String::from_utf8(response.body).unwrap();
    let value = |line: &str| line.rsplit_once(' ').map(|(_, number)| number.parse::<usize>().unwrap());
    text.lines()
        .filter(|line| line.starts_with("sekisho_connections{thread=\"") && !line.contains("admin"))
        .filter_map(value)
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
