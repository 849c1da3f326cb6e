//! Event streams whose clients do not read: hyper does not poll their bodies, so they are aborted from
//! outside.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::db::sqlite_location;
use crate::support::fair_clock::FairInstant;
use crate::support::process::{PROCESS_TIMEOUT, ServerProcess, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;
use crate::support::upstream::{listen, read_head};

/// Starts an upstream that sends events as fast as they are read.
async fn start_event_upstream() -> SocketAddr {
    listen(|mut socket| async move {
        read_head(&mut socket).await;
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        let mut written = socket.write_all(head).await;
        let events = b"data: tick\n\n".repeat(1_000);
        while written.is_ok() {
            written = socket.write_all(&events).await;
        }
    })
    .await
}

async fn new_deployment() -> (TestDeployment, ServerProcess, SocketBrowser) {
    let mut deployment = TestDeployment::new(sqlite_location().await.unwrap()).await;
    deployment.set("tokens.access_ttl", "10m");
    deployment.forward_to(format!("http://{}", start_event_upstream().await));
    deployment.user("ann@example.com", "user").await;
    let server = deployment.serve().await;
    let ann = SocketBrowser::signed_in(server.public, "ann@example.com").await;
    (deployment, server, ann)
}

/// Returns the numbers of open event streams and of closed ones.
async fn streams(server: &ServerProcess) -> (usize, usize) {
    let response = SocketBrowser::default().get(server.admin, "/metrics").await;
    let text = String::from_utf8(response.body).unwrap();
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |number| number.trim().parse().unwrap())
    };
    (
        number("sekisho_streams{kind=\"events\"}"),
        number("sekisho_streams_closed_total{kind=\"events\",event=\"revoked\"}"),
    )
}

/// Revokes the session, and returns the start and the duration of the command.
async fn revoke(deployment: &TestDeployment) -> (FairInstant, Duration) {
    let start = FairInstant::now();
    deployment.run(&["session", "revoke", "--user", "ann@example.com"]).await.done();
    (start, start.elapsed())
}

/// Requests an event stream and does not read it.
async fn open_unread_stream(server: SocketAddr, browser: &SocketBrowser) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    let mut socket = socket.connect(server).await.unwrap();
    let request = format!("GET /events HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", browser.cookie_header());
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

#[tokio::test]
async fn unread_event_stream_is_reset_when_its_session_ends() {
    const MANY: usize = 20;
    let (deployment, server, ann) = new_deployment().await;
    let mut sockets = Vec::new();
    for _ in 0..MANY {
        sockets.push(open_unread_stream(server.public, &ann).await);
    }
    until("the streams", async || (streams(&server).await.0 == MANY).then_some(())).await;
    let (start, command) = revoke(&deployment).await;
    for socket in sockets {
        // A reset also discards data in flight.
        until("the end", async || socket.take_error().unwrap()).await;
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2) + command, "{took:?}, of which the command took {command:?}");
    until("all closed streams to be counted", async || (streams(&server).await == (0, MANY)).then_some(()))
        .await;
    server.stop().await;
}

/// A front proxy that speaks HTTP/2 sends requests of several sessions on one connection.
#[tokio::test]
async fn only_the_unread_http2_stream_is_reset() {
    let (deployment, server, ann) = new_deployment().await;
    let socket = TcpStream::connect(server.public).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let request = |path: &str| {
        let request = Request::get(format!("http://{}{path}", server.public));
        request.header("cookie", ann.cookie_header()).body(()).unwrap()
    };
    let (response, _) = client.send_request(request("/events"), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let (start, command) = revoke(&deployment).await;
    until("the stream to end", async || (streams(&server).await == (0, 1)).then_some(())).await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2) + command, "{took:?}, of which the command took {command:?}");
    let mut body = response.into_body();
    let end = loop {
        match timeout(PROCESS_TIMEOUT, body.data()).await.unwrap() {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end.unwrap().unwrap_err().reason(), Some(h2::Reason::CANCEL));
    let (response, _) = client.send_request(request("/healthy"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 401);
    server.stop().await;
}
