//! Told to stop, the server lets what is under way end.

use std::io;
use std::sync::Arc;

use axum_core::body::Body;
use http::Response;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use crate::support::db;
use crate::support::process::{Site, until};
use crate::support::upstream::{listen, serve};
use crate::support::wire_browser::Browser;

/// An upstream that says when a request has arrived, and answers when it may.
async fn slow_upstream() -> (String, mpsc::UnboundedReceiver<()>, Arc<Notify>) {
    let (tell, arrived) = mpsc::unbounded_channel();
    let may_answer = Arc::new(Notify::new());
    let gate = Arc::clone(&may_answer);
    let address = listen(move |socket| {
        let (tell, gate) = (tell.clone(), Arc::clone(&gate));
        serve(socket, move |_| {
            let (tell, gate) = (tell.clone(), Arc::clone(&gate));
            async move {
                tell.send(()).unwrap();
                gate.notified().await;
                Response::new(Body::from("late but whole"))
            }
        })
    })
    .await;
    (format!("http://{address}"), arrived, may_answer)
}

#[tokio::test]
async fn a_request_under_way_ends_and_new_ones_are_refused() {
    let (upstream, mut arrived, may_answer) = slow_upstream().await;
    let site = Site::new(db::sqlite_place().await.unwrap()).await;
    site.forward_to(upstream);
    site.user("ann@example.com", "user").await;
    let server = site.serve().await;
    let (public, admin) = (server.public, server.admin);
    let mut browser = Browser::signed_in(public, "ann@example.com").await;

    let under_way = tokio::spawn(async move { browser.get(public, "/slow").await });
    arrived.recv().await.unwrap();
    server.terminate();
    until("both ports to be closed", async || {
        let closed = async |address| {
            let refused = TcpStream::connect(address).await.err().map(|error| error.kind());
            refused == Some(io::ErrorKind::ConnectionRefused)
        };
        (closed(public).await && closed(admin).await).then_some(())
    })
    .await;
    assert!(!under_way.is_finished());
    may_answer.notify_one();

    let answer = under_way.await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (200, &b"late but whole"[..]));
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_connection_without_a_request_does_not_hold_it_up() {
    let site = Site::new(db::sqlite_place().await.unwrap()).await;
    let server = site.serve().await;
    let idle = TcpStream::connect(server.public).await.unwrap();
    let mut browser = Browser::default();
    // One that was answered, so that the idle one has been accepted too.
    assert_eq!(browser.status(server.public, "/auth/session").await, 401);
    server.stop().await;
    drop(idle);
}

#[tokio::test]
async fn who_was_signed_in_before_is_signed_in_after() {
    let site = Site::new(db::sqlite_place().await.unwrap()).await;
    site.user("ann@example.com", "user").await;
    let server = site.serve().await;
    let mut browser = Browser::signed_in(server.public, "ann@example.com").await;
    server.stop().await;
    let server = site.serve().await;
    assert_eq!(browser.status(server.public, "/auth/session").await, 200);
    server.stop().await;
}
