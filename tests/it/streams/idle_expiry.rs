//! Idle expiry of sessions that only open connections use, with real processes and times.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::processes::{ORIGIN, events, read_until_closed, websocket};
use crate::support::db::DatabaseLocation;
use crate::support::process::{PROCESS_TIMEOUT, TestDeployment, on_both, until};
use crate::support::proxy_server::channel_body;
use crate::support::socket_browser::SocketBrowser;
use crate::support::upstream::Upstream;
use crate::support::websocket::{Closed, EchoUpstream, Socket, assert_echoes, until_closed};

on_both! {
    session_lives_while_a_websocket_has_data_of_the_client;
    session_lives_while_an_upload_goes_on;
}

/// Time after which an unused session has expired: the lifetimes of the access token and of the idle session.
const IDLE: Duration = Duration::from_secs(6);

/// Time between two messages of a client.
const PAUSE: Duration = Duration::from_millis(400);

async fn new_deployment(location: DatabaseLocation, upstream: String) -> TestDeployment {
    let mut deployment = TestDeployment::new(location).await;
    deployment.set("server.public_origin", ORIGIN);
    deployment.set("session.grace", "1s");
    deployment.set("tokens.access_ttl", "3s");
    deployment.set("session.idle_ttl", "3s");
    deployment.forward_to(upstream);
    deployment.user("ann@example.com", "user").await;
    deployment
}

/// Expects fresh cookies, which a response has only if it is quick enough.
async fn expect_fresh_cookies(browser: &mut SocketBrowser, server: SocketAddr) {
    until("a response with fresh cookies", async || {
        let response = browser.get(server, "/auth/session").await;
        assert!(response.status == 200 && response.event().is_some(), "{response:?}");
        (response.set_cookies().len() == 2).then_some(())
    })
    .await;
}

/// B10: data of the client keeps a session alive, and with it the silent WebSocket of the same session at another
/// replica. A session idles out whose client only sends pings and pongs, or only reads events.
async fn session_lives_while_a_websocket_has_data_of_the_client(location: DatabaseLocation) {
    let upstream = EchoUpstream::start().await;
    let deployment = new_deployment(location, upstream.url()).await;
    let server = deployment.serve().await;
    // Replicas need a shared database server.
    let replica = if deployment.is_embedded() { None } else { Some(deployment.serve().await) };
    let address = server.public;
    let other_address = replica.as_ref().map_or(address, |replica| replica.public);
    let mut ann = SocketBrowser::signed_in(address, "ann@example.com").await;
    let mut idle = SocketBrowser::signed_in(address, "ann@example.com").await;
    let mut busy = websocket(address, &ann).await;
    let mut silent = websocket(other_address, &ann).await;
    let pinging = tokio::spawn(ping_until_closed(websocket(address, &idle).await));
    let stream = tokio::spawn(read_until_closed(events(address, &idle).await));

    let start = Instant::now();
    while start.elapsed() < IDLE * 2 {
        assert_echoes(&mut busy).await;
        sleep(PAUSE).await;
    }
    assert_echoes(&mut silent).await;
    let closed = timeout(PROCESS_TIMEOUT, pinging).await.unwrap().unwrap();
    assert_eq!(closed, Some((4401, "idle_expired".to_owned())));
    timeout(PROCESS_TIMEOUT, stream).await.unwrap().unwrap();
    idle.get(address, "/auth/session").await.problem(401, "idle_expired");

    // The next request has fresh cookies.
    expect_fresh_cookies(&mut ann, address).await;
    for socket in [&mut busy, &mut silent] {
        let closed = timeout(PROCESS_TIMEOUT, until_closed(socket)).await.unwrap();
        assert_eq!(closed, Some((4401, "idle_expired".to_owned())));
    }
}

/// Sends pings, and reads until the connection closes.
async fn ping_until_closed(mut socket: Socket) -> Closed {
    let mut closed = None;
    loop {
        match timeout(PAUSE, socket.next()).await {
            Err(_) => {
                // It may be closed.
                let _ = socket.send(Message::Ping("ping".into())).await;
                let _ = socket.send(Message::Pong("pong".into())).await;
            }
            Ok(Some(Ok(Message::Close(Some(frame))))) => {
                closed = Some((frame.code.into(), frame.reason.to_string()));
            }
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(_)) | None) => return closed,
        }
    }
}

/// B10: the body of a request that takes longer than the idle lifetime.
async fn session_lives_while_an_upload_goes_on(location: DatabaseLocation) {
    let mut upstream = Upstream::start().await;
    let deployment = new_deployment(location, upstream.url()).await;
    let server = deployment.serve().await;
    let mut ann = SocketBrowser::signed_in(server.public, "ann@example.com").await;
    let (feed, body) = channel_body();
    let request = Request::post("/upload").header("origin", ORIGIN).body(body).unwrap();
    // More than `server.min_body_rate`.
    let piece: &'static str = "piece ".repeat(200).leak();
    let upload = async {
        let start = Instant::now();
        while start.elapsed() < IDLE * 2 {
            feed.send(piece).unwrap();
            sleep(PAUSE).await;
        }
        drop(feed);
    };
    let (response, ()) = tokio::join!(ann.send(server.public, request), upload);
    assert_eq!(response.unwrap().status, 200);
    assert!(upstream.seen().await.length >= 10 * piece.len());
    expect_fresh_cookies(&mut ann, server.public).await;

    sleep(IDLE).await;
    let request = Request::get("/auth/session").body(Body::empty()).unwrap();
    ann.send(server.public, request).await.unwrap().problem(401, "idle_expired");
}
