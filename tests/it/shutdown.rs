//! Told to stop, the server lets what is under way end.

use std::io;

use tokio::net::TcpStream;

use crate::support::db;
use crate::support::process::{Site, until};
use crate::support::upstream::Held;
use crate::support::wire_browser::Browser;

#[tokio::test]
async fn a_request_under_way_ends_and_new_ones_are_refused() {
    let mut upstream = Held::start().await;
    let site = Site::new(db::sqlite_place().await.unwrap()).await;
    site.forward_to(upstream.url());
    site.user("ann@example.com", "user").await;
    let server = site.serve().await;
    let (public, admin) = (server.public, server.admin);
    let mut browser = Browser::signed_in(public, "ann@example.com").await;

    let under_way = tokio::spawn(async move { browser.get(public, "/slow").await });
    upstream.arrived(1).await;
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
    upstream.release(1);

    let answer = under_way.await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (200, Held::ANSWER.as_bytes()));
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
