//! Graceful shutdown: requests in flight complete.

use std::future::ready;
use std::time::{Duration, Instant};

use sekisho::server::{ServerLimits, serve};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::db;
use crate::support::process::{PROCESS_TIMEOUT, TestDeployment, until};
use crate::support::test_server::{
    GET, TestServer, answer, ask, get1, get2, read_until_closed, send_and_read, short_drain,
};

#[tokio::test]
async fn queued_connections_are_served_on_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut sockets = Vec::new();
    for _ in 0..10 {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(GET.as_bytes()).await.unwrap();
        sockets.push(socket);
    }
    let (server, _seen) = TestServer::start(1, short_drain());
    // Shutdown starts before any connection has been accepted.
    let serving = tokio::spawn(serve(listener, server.script.service(), short_drain(), ready(())));
    for socket in &mut sockets {
        let response = answer(socket).await;
        assert!(
            response.starts_with("HTTP/1.1 200 OK\r\n") && response.contains("connection: close"),
            "{response}"
        );
    }
    drop(sockets);
    tokio::time::timeout(PROCESS_TIMEOUT, serving).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn requests_in_flight_finish_with_connection_close() {
    let (server, mut seen) = TestServer::start(2, short_drain());
    let mut socket = server.connect().await;
    socket.write_all(get1("/slow").as_bytes()).await.unwrap();
    let mut client = server.http2().await;
    let open = tokio::spawn(async move {
        let response = ask(&mut client, get2("/slow")).await.unwrap();
        // The connection accepts no further request.
        (response, ask(&mut client, get2("/")).await.unwrap_err())
    });
    seen.recv().await;
    seen.recv().await;
    let (address, script) = (server.address, server.script.clone());
    let draining = tokio::spawn(async move {
        server.threads.drain().await;
        server.threads.join().await;
    });
    until("the port to be closed", async || TcpStream::connect(address).await.is_err().then_some(())).await;
    script.release();
    let response = read_until_closed(&mut socket).await;
    assert!(response.contains("connection: close\r\n") && response.ends_with("at last"), "{response}");
    let ((status, _, body), error) = open.await.unwrap();
    assert_eq!((status, body.as_str()), (200, "at last"));
    assert!(error.is_go_away() || error.is_io(), "{error}");
    draining.await.unwrap();
}

#[tokio::test]
async fn idle_connection_gets_a_grace_period_on_shutdown() {
    let (server, _seen) = TestServer::start(1, short_drain());
    let mut idle = server.connect().await;
    let mut other = server.connect().await;
    assert!(send_and_read(&mut idle, GET).await.contains("200 OK"));
    assert!(send_and_read(&mut other, GET).await.contains("200 OK"));
    let address = server.address;
    let draining = tokio::spawn(async move { server.threads.drain().await });
    until("the port to be closed", async || TcpStream::connect(address).await.is_err().then_some(())).await;
    let response = send_and_read(&mut idle, GET).await;
    assert!(
        response.starts_with("HTTP/1.1 200 OK") && response.contains("connection: close\r\n"),
        "{response}"
    );
    // A connection without a request is closed after the grace period.
    assert_eq!(read_until_closed(&mut other).await, "");
    drop((idle, other));
    tokio::time::timeout(PROCESS_TIMEOUT, draining).await.unwrap().unwrap();
}

/// hyper alone would close both connections: it regards one as idle and has read part of a request on the
/// other.
#[tokio::test]
async fn partially_received_request_is_answered_on_shutdown() {
    let (server, _seen) = TestServer::start(1, short_drain());
    let (mut begun, mut first, mut idle) =
        (server.connect().await, server.connect().await, server.connect().await);
    assert!(send_and_read(&mut begun, GET).await.contains("200 OK"));
    assert!(send_and_read(&mut idle, GET).await.contains("200 OK"));
    begun.write_all(b"G").await.unwrap();
    first.write_all(b"GET / HT").await.unwrap();
    let draining = tokio::spawn(async move { server.threads.drain().await });
    // Idle connections are closed at this point.
    assert_eq!(read_until_closed(&mut idle).await, "");
    for (socket, rest) in [(&mut begun, &GET[1..]), (&mut first, &GET[8..])] {
        let response = send_and_read(socket, rest).await;
        assert!(
            response.starts_with("HTTP/1.1 200 OK") && response.contains("connection: close\r\n"),
            "{response}"
        );
    }
    drop((begun, first, idle));
    tokio::time::timeout(PROCESS_TIMEOUT, draining).await.unwrap().unwrap();
}

/// The partial request is in hyper's buffer, and the socket is empty.
#[tokio::test]
async fn partially_pipelined_request_is_answered_on_shutdown() {
    let (server, mut seen) = TestServer::start(1, short_drain());
    let mut socket = server.connect().await;
    assert!(send_and_read(&mut socket, &format!("{GET}{}", &GET[..8])).await.contains("200 OK"));
    let mut idle = server.connect().await;
    assert!(send_and_read(&mut idle, GET).await.contains("200 OK"));
    let draining = tokio::spawn(async move { server.threads.drain().await });
    // Idle connections are closed at this point.
    assert_eq!(read_until_closed(&mut idle).await, "");
    let response = send_and_read(&mut socket, &GET[8..]).await;
    assert!(
        response.starts_with("HTTP/1.1 200 OK") && response.contains("connection: close\r\n"),
        "{response}"
    );
    assert_eq!(read_until_closed(&mut socket).await, "");
    tokio::time::timeout(PROCESS_TIMEOUT, draining).await.unwrap().unwrap();
    assert_eq!(std::iter::from_fn(|| seen.try_recv().ok()).count(), 3);
}

#[tokio::test]
async fn shutdown_deadline_aborts_remaining_requests() {
    let limits = ServerLimits { drain: Duration::from_millis(300), ..ServerLimits::default() };
    let (server, mut seen) = TestServer::start(2, limits);
    let mut socket = server.connect().await;
    socket.write_all(get1("/slow").as_bytes()).await.unwrap();
    seen.recv().await;
    let start = Instant::now();
    server.threads.drain().await;
    assert!(start.elapsed() >= limits.drain);
    server.threads.join().await;
    assert_eq!(read_until_closed(&mut socket).await, "");
}

/// Clients that send one request after another, each on its own connection. Each connection ends with
/// `Connection: close` in its last response, and no request is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_under_load_cuts_no_request() {
    let deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    for _ in 0..3 {
        let server = deployment.serve().await;
        let public = server.public;
        let (report, mut responses) = tokio::sync::mpsc::unbounded_channel();
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let report = report.clone();
                tokio::spawn(async move {
                    let mut socket = TcpStream::connect(public).await.unwrap();
                    loop {
                        let response = send_and_read(&mut socket, &get1("/auth/session")).await;
                        assert!(response.starts_with("HTTP/1.1 401"), "cut: {response:?}");
                        let _ = report.send(());
                        if response.contains("connection: close\r\n") {
                            return;
                        }
                    }
                })
            })
            .collect();
        for _ in 0..100 {
            responses.recv().await;
        }
        server.terminate();
        for client in clients {
            client.await.unwrap();
        }
        assert_eq!(server.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn two_processes_may_share_the_ports() {
    let mut deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    let first = deployment.serve().await;
    deployment.set("server.listen", &first.public.to_string());
    deployment.set("admin.listen", &first.admin.to_string());
    let Err(error) = deployment.start().await else { panic!("the port is in use") };
    let message = error.fails(1);
    assert!(message.contains("server.listen") && message.contains("is in use"), "{message}");
    first.stop().await;

    deployment.set("server.reuse_port", "true");
    let old = deployment.serve().await;
    let new = deployment.serve().await;
    assert_eq!((old.public, old.admin), (new.public, new.admin));
    old.stop().await;
    for address in [new.public, new.admin] {
        let response = send_and_read(&mut TcpStream::connect(address).await.unwrap(), &get1("/none")).await;
        assert!(response.starts_with("HTTP/1.1 404"), "{response}");
    }
    new.stop().await;
}
