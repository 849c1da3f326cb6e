//! Long-lived connections of several server processes: a session end closes them in all processes.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::db::{self, DatabaseLocation};
use crate::support::fair_clock::FairInstant;
use crate::support::process::{PROCESS_TIMEOUT, ServerProcess, TestDeployment, on_both, until};
use crate::support::socket_browser::SocketBrowser;
use crate::support::websocket::{Closed, EchoUpstream, Socket, assert_echoes, open, until_closed};

on_both! {
    revocation_closes_all_connections_of_a_user_within_two_seconds;
    logout_closes_connections_of_the_session;
}

/// Number of WebSockets, and of event streams.
const MANY: usize = 200;

/// `Origin` of the browsers. Every server has it as `server.public_origin`.
pub(super) const ORIGIN: &str = "http://app.localhost:8080";

async fn new_deployment(location: DatabaseLocation, upstream: &EchoUpstream) -> TestDeployment {
    let mut deployment = TestDeployment::new(location).await;
    deployment.set("server.public_origin", ORIGIN);
    // No access token expires during the test.
    deployment.set("tokens.access_ttl", "10m");
    deployment.forward_to(upstream.url());
    deployment.user("ann@example.com", "user").await;
    deployment
}

pub(super) async fn websocket(server: SocketAddr, browser: &SocketBrowser) -> Socket {
    let cookies = browser.cookie_header();
    let (mut socket, _) = open(server, "/", &[("origin", ORIGIN), ("cookie", &cookies)]).await.unwrap();
    assert_echoes(&mut socket).await;
    socket
}

pub(super) async fn events(server: SocketAddr, browser: &SocketBrowser) -> TcpStream {
    let mut socket = TcpStream::connect(server).await.unwrap();
    let cookies = browser.cookie_header();
    let request = format!("GET /events HTTP/1.1\r\nHost: {server}\r\nCookie: {cookies}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.windows(11).any(|part| part == b"data: begun") {
        assert!(socket.read_buf(&mut read).await.unwrap() > 0, "{}", String::from_utf8_lossy(&read));
    }
    socket
}

async fn metrics(server: &ServerProcess) -> String {
    let response = SocketBrowser::default().get(server.admin, "/metrics").await;
    String::from_utf8(response.body).unwrap()
}

/// Reads to the end, and returns the times of the last byte and of the end.
pub(super) async fn read_until_closed(mut socket: TcpStream) -> (FairInstant, FairInstant) {
    let mut buffer = vec![0; 4_096];
    let mut last = FairInstant::now();
    while let Ok(1..) = socket.read(&mut buffer).await {
        last = FairInstant::now();
    }
    (last, FairInstant::now())
}

async fn revocation_closes_all_connections_of_a_user_within_two_seconds(location: DatabaseLocation) {
    let upstream = EchoUpstream::start().await;
    let deployment = new_deployment(location, &upstream).await;
    // Replicas need a shared database server.
    let servers = if deployment.is_embedded() {
        vec![deployment.serve().await]
    } else {
        vec![deployment.serve().await, deployment.serve().await]
    };
    let ann = SocketBrowser::signed_in(servers[0].public, "ann@example.com").await;
    let address = |n: usize| servers[n % servers.len()].public;
    let sockets = join_all((0..MANY).map(|n| websocket(address(n), &ann))).await;
    let streams = join_all((0..MANY).map(|n| events(address(n), &ann))).await;
    for kind in ["websocket", "events"] {
        let open = format!("sekisho_streams{{kind=\"{kind}\"}} {}\n", MANY / servers.len());
        until("all connections to be open", async || {
            metrics(&servers[0]).await.contains(&open).then_some(())
        })
        .await;
    }

    let closing = sockets
        .into_iter()
        .map(|mut socket| tokio::spawn(async move { (until_closed(&mut socket).await, FairInstant::now()) }));
    let closing: Vec<_> = closing.collect();
    let breaking: Vec<_> =
        streams.into_iter().map(|socket| tokio::spawn(read_until_closed(socket))).collect();
    let start = FairInstant::now();
    deployment.run(&["session", "revoke", "--user", "ann@example.com"]).await.done();
    let done = start.elapsed();

    let (mut slowest, mut last_byte) = ([Duration::ZERO; 2], Duration::ZERO);
    for socket in closing {
        let (closed, at): (Closed, _) = timeout(PROCESS_TIMEOUT, socket).await.unwrap().unwrap();
        assert_eq!(closed, Some((4401, "revoked".to_owned())));
        slowest[0] = slowest[0].max(at - start);
    }
    for stream in breaking {
        let (last, at) = timeout(PROCESS_TIMEOUT, stream).await.unwrap().unwrap();
        slowest[1] = slowest[1].max(at - start);
        last_byte = last_byte.max(last - start);
    }
    println!(
        "{} servers: the command took {done:?}, the last of {MANY} WebSockets was closed after {:?}, of {MANY} event \
         streams after {:?}, whose last byte came after {last_byte:?}",
        servers.len(),
        slowest[0],
        slowest[1]
    );
    // The limits include the time of the command itself, which starts and opens the database first.
    let limit = Duration::from_secs(2);
    assert!(slowest[0] < limit + done && slowest[1] < limit + done, "{slowest:?}");
    assert!(last_byte < Duration::from_secs(1) + done, "{last_byte:?}");
    wait_until_counted(&servers[0], MANY / servers.len()).await;
    for server in servers {
        server.stop().await;
    }
}

/// Waits until the metrics of a server count `number` closed connections of each kind, and none open.
async fn wait_until_counted(server: &ServerProcess, number: usize) {
    let closed =
        |kind: &str| format!("sekisho_streams_closed_total{{kind=\"{kind}\",event=\"revoked\"}} {number}\n");
    until("all closed connections to be counted", async || {
        let text = metrics(server).await;
        let none_open = ["websocket", "events"].map(|kind| format!("sekisho_streams{{kind=\"{kind}\"}} 0\n"));
        let all = [closed("websocket"), closed("events")].into_iter().chain(none_open);
        all.into_iter().all(|line| text.contains(&line)).then_some(())
    })
    .await;
}

async fn logout_closes_connections_of_the_session(location: DatabaseLocation) {
    let upstream = EchoUpstream::start().await;
    let deployment = new_deployment(location, &upstream).await;
    let server = deployment.serve().await;
    let mut ann = SocketBrowser::signed_in(server.public, "ann@example.com").await;
    let other = SocketBrowser::signed_in(server.public, "ann@example.com").await;
    let mut unaffected = websocket(server.public, &other).await;
    let (mut socket, stream) = (websocket(server.public, &ann).await, events(server.public, &ann).await);
    let start = FairInstant::now();
    let request = http::Request::post("/auth/logout").header("origin", ORIGIN);
    assert_eq!(
        ann.send(server.public, request.body(axum::body::Body::empty()).unwrap()).await.unwrap().status,
        204
    );
    let closed = timeout(PROCESS_TIMEOUT, until_closed(&mut socket)).await.unwrap();
    assert_eq!(closed, Some((4401, "logged_out".to_owned())));
    timeout(PROCESS_TIMEOUT, read_until_closed(stream)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_echoes(&mut unaffected).await;
}

/// Connections close at the absolute expiry of their session, at most half a second early.
#[tokio::test]
async fn connection_ends_at_the_absolute_expiry() {
    let upstream = EchoUpstream::start().await;
    let mut deployment = new_deployment(db::sqlite_location().await.unwrap(), &upstream).await;
    deployment.set("tokens.access_ttl", "2s");
    deployment.set("session.absolute_ttl", "6s");
    let server = deployment.serve().await;
    let start = Instant::now();
    let ann = SocketBrowser::signed_in(server.public, "ann@example.com").await;
    let signed_in = FairInstant::now();
    let (mut socket, stream) = (websocket(server.public, &ann).await, events(server.public, &ann).await);
    let (closed, broken) = tokio::join!(until_closed(&mut socket), read_until_closed(stream));
    let took = start.elapsed();
    assert_eq!(closed, Some((4401, "absolute_expired".to_owned())));
    // The jitter closes connections by up to a tenth of the lifetime earlier.
    assert!(took >= Duration::from_millis(5_300), "{took:?}");
    assert!(broken.0 - signed_in < Duration::from_secs(7), "{took:?}");
}

#[tokio::test]
async fn shutdown_closes_websockets_first() {
    let mut upstream = EchoUpstream::start().await;
    let deployment = new_deployment(db::sqlite_location().await.unwrap(), &upstream).await;
    let server = deployment.serve().await;
    let ann = SocketBrowser::signed_in(server.public, "ann@example.com").await;
    let mut socket = websocket(server.public, &ann).await;
    let mut stuck = websocket(server.public, &ann).await;
    let start = FairInstant::now();
    server.terminate();
    assert_eq!(until_closed(&mut socket).await, Some((1001, String::new())));
    assert_eq!(upstream.closed().await, Some((1001, String::new())));
    // `stuck` never answers the Close frame.
    assert_eq!(server.ended().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(until_closed(&mut stuck).await, Some((1001, String::new())));
}
