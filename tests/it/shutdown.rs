//! Graceful shutdown of the process.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use http::{Request, Response};
use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::lifecycle::{self, open_route};
use crate::support::db;
use crate::support::fair_clock::FairInstant;
use crate::support::process::{PROCESS_TIMEOUT, TestDeployment, signal, until};
use crate::support::socket_browser::SocketBrowser;
use crate::support::upstream::{GatedUpstream, Upstream};

async fn is_closed(address: SocketAddr) -> bool {
    let error_kind = TcpStream::connect(address).await.err().map(|error| error.kind());
    error_kind == Some(io::ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn shutdown_finishes_requests_and_refuses_new_ones() {
    let mut upstream = GatedUpstream::start().await;
    let deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    deployment.forward_to(upstream.url());
    deployment.user("ann@example.com", "user").await;
    let server = deployment.serve().await;
    let (public, admin) = (server.public, server.admin);
    let mut browser = SocketBrowser::signed_in(public, "ann@example.com").await;

    let in_flight = tokio::spawn(async move { browser.get(public, "/slow").await });
    upstream.arrived(1).await;
    server.terminate();
    until("the public port to be closed", async || is_closed(public).await.then_some(())).await;
    // The admin listener stays open until the end.
    let response = SocketBrowser::default().get(admin, "/readyz").await;
    assert_eq!((response.status.as_u16(), response.body.as_slice()), (503, &b"shutting down\n"[..]));
    assert!(!in_flight.is_finished());
    upstream.release(1);

    let response = in_flight.await.unwrap();
    assert_eq!((response.status.as_u16(), response.body.as_slice()), (200, GatedUpstream::ANSWER.as_bytes()));
    assert_eq!(server.ended().await.code(), Some(0));
    assert!(is_closed(admin).await);
}

/// During `drain_delay` requests are served, while `/readyz` already reports 503.
#[tokio::test]
async fn drain_delay_serves_requests_while_readyz_is_503() {
    let upstream = Upstream::responding_with(|_| Response::new("well".into())).await;
    let deployment = TestDeployment::without_keys(db::sqlite_location().await.unwrap());
    deployment
        .write("sekisho.toml", &lifecycle::config("drain_delay = '3s'", &open_route("/", &upstream.url())));
    let server = deployment.serve().await;
    let (public, admin) = (server.public, server.admin);
    let mut browser = SocketBrowser::default();
    assert_eq!(browser.status(admin, "/readyz").await, 200);
    let terminated_at = Instant::now();
    server.terminate();
    until("/readyz to report 503", async || (browser.status(admin, "/readyz").await == 503).then_some(()))
        .await;
    assert_eq!(browser.status(admin, "/healthz").await, 200);
    // A new connection for each request.
    let mut served = 0;
    until("the public port to be closed", async || {
        if is_closed(public).await {
            return Some(());
        }
        if let Ok(response) = browser.send(public, Request::get("/").body(Body::empty()).unwrap()).await {
            assert_eq!(response.status, 200);
            served += 1;
        }
        None
    })
    .await;
    assert!(
        served > 0 && terminated_at.elapsed() >= Duration::from_secs(3),
        "{served} {:?}",
        terminated_at.elapsed()
    );
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn second_signal_stops_at_once() {
    let mut upstream = GatedUpstream::start().await;
    let deployment = TestDeployment::without_keys(db::sqlite_location().await.unwrap());
    deployment.write("sekisho.toml", &lifecycle::config("", &open_route("/", &upstream.url())));
    let server = deployment.serve().await;
    let public = server.public;
    let in_flight = tokio::spawn(async move {
        SocketBrowser::default().send(public, Request::get("/").body(Body::empty()).unwrap()).await.is_err()
    });
    upstream.arrived(1).await;
    server.terminate();
    server.wait_for_log("shutting down", 1).await;
    // SIGHUP does not count as a second signal.
    server.hang_up();
    let terminated_at = FairInstant::now();
    server.terminate();
    let (status, log) = server.wait_with_log().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.lines().last().unwrap().contains("second shutdown signal"), "{log}");
    assert!(terminated_at.elapsed() < Duration::from_secs(15), "much less than server.drain");
    assert!(in_flight.await.unwrap(), "the request was aborted");
}

#[tokio::test]
async fn sighup_interrupts_neither_start_nor_shutdown() {
    // A database server that accepts connections and never responds.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut deployment = TestDeployment::without_keys(db::sqlite_location().await.unwrap());
    deployment.set("database.url", &format!("postgres://nobody@{}/none", silent.local_addr().unwrap()));
    let mut starting = deployment.command(&["serve"]).spawn().unwrap();
    let (connection, _) = timeout(PROCESS_TIMEOUT, silent.accept()).await.unwrap().unwrap();
    signal(&starting, Signal::HUP);
    drop((connection, silent));
    let status = timeout(PROCESS_TIMEOUT, starting.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1), "no database: {status}");

    let mut upstream = GatedUpstream::start().await;
    let deployment = TestDeployment::without_keys(db::sqlite_location().await.unwrap());
    deployment.write("sekisho.toml", &lifecycle::config("", &open_route("/", &upstream.url())));
    let server = deployment.serve().await;
    let public = server.public;
    let in_flight = tokio::spawn(async move { SocketBrowser::default().status(public, "/").await });
    upstream.arrived(1).await;
    server.terminate();
    server.wait_for_log("shutting down", 1).await;
    server.hang_up();
    upstream.release(1);
    assert_eq!(in_flight.await.unwrap(), 200);
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn idle_connection_does_not_delay_shutdown() {
    let deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    let server = deployment.serve().await;
    let idle = TcpStream::connect(server.public).await.unwrap();
    let mut browser = SocketBrowser::default();
    // A served request shows that the idle connection has been accepted too.
    assert_eq!(browser.status(server.public, "/auth/session").await, 401);
    server.stop().await;
    drop(idle);
}

#[tokio::test]
async fn sessions_survive_a_restart() {
    let deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    deployment.user("ann@example.com", "user").await;
    let server = deployment.serve().await;
    let mut browser = SocketBrowser::signed_in(server.public, "ann@example.com").await;
    server.stop().await;
    let server = deployment.serve().await;
    assert_eq!(browser.status(server.public, "/auth/session").await, 200);
    server.stop().await;
}
