//! Lost responses (`SEKISHO_TEST_CUTS`): the connection is cut after the rotation is committed, and the
//! browser continues with its old cookies.

use std::net::SocketAddr;
use std::time::Duration;

use sekisho::models::session::SessionId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::app::{PASSWORD, PAST_GRACE, TestApp, on_each_database};
use crate::support::db::TestDatabase;
use crate::support::iterations::{rng_for, rounds};
use crate::support::process::PROCESS_TIMEOUT;
use crate::support::socket_browser::SocketBrowser;
use crate::support::upstream::GatedUpstream;

on_each_database! {
    lost_response_causes_no_sign_out
}

async fn lost_response_causes_no_sign_out(database: TestDatabase) {
    let cuts = rounds("SEKISHO_TEST_CUTS", 30);
    let mut random = rng_for("cuts");
    let mut upstream = GatedUpstream::start().await;
    let app = TestApp::with_upstream(&upstream.url(), database).await;
    app.user("ann@example.com").await;
    let server = app.listen().await;
    let mut ann = SocketBrowser::default();
    let response = ann.sign_in(server, "ann@example.com", PASSWORD).await;
    let session = response.json()["session_id"].as_str().unwrap().parse().unwrap();
    for cut in 1..=cuts {
        app.expire();
        match cut % 3 {
            0 => cut_before_the_response(&ann, server, &mut upstream).await,
            1 => cut_after_the_commit(&ann, server, &app, session).await,
            _ => cut_within_the_head(&ann, server, &mut random).await,
        }
        let later = [0, 2, 62, 20 * 60, 60 * 60][random.usize(..5)];
        app.clock.advance(Duration::from_secs(later));
        let response = ann.get(server, "/auth/session").await;
        let observed = (response.status.as_u16(), response.event(), response.set_cookies().len());
        assert_eq!(observed, (200, Some("replayed"), 2), "cut {cut}, {later} s later");
        let row = app.row(session).await;
        assert_eq!((row.generation as usize, row.rotations as usize), (cut + 1, cut));
        assert_eq!(row.end, None, "cut {cut}");
        if random.bool() {
            app.clock.advance(PAST_GRACE);
            assert_eq!(ann.get(server, "/auth/session").await.event(), None, "cut {cut}");
            app.flush_until(session, |row| row.settled_by.is_some()).await;
        }
    }
    println!("{cuts} lost responses, no sign-out");
}

/// The upstream has received the request, so the rotation is committed; the response waits for the upstream.
async fn cut_before_the_response(browser: &SocketBrowser, server: SocketAddr, upstream: &mut GatedUpstream) {
    let socket = send_request(browser, server, "/orders").await;
    upstream.arrived(1).await;
    drop(socket);
}

/// Cuts as soon as the row has changed, before or during the response.
async fn cut_after_the_commit(
    browser: &SocketBrowser,
    server: SocketAddr,
    app: &TestApp,
    session: SessionId,
) {
    let before = app.row(session).await.generation;
    let socket = send_request(browser, server, "/auth/session").await;
    let committed = async {
        while app.row(session).await.generation == before {
            tokio::task::yield_now().await;
        }
    };
    timeout(PROCESS_TIMEOUT, committed).await.expect("a rotation");
    drop(socket);
}

/// Cuts within the response header.
async fn cut_within_the_head(browser: &SocketBrowser, server: SocketAddr, random: &mut fastrand::Rng) {
    let mut socket = send_request(browser, server, "/auth/session").await;
    let mut bytes = vec![0; 1 + random.usize(..800)];
    socket.read_exact(&mut bytes).await.unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains("\r\n\r\n"), "the head ends there");
}

/// Sends a request with this browser's cookies, and does not read the response.
async fn send_request(browser: &SocketBrowser, server: SocketAddr, path: &str) -> TcpStream {
    let cookies: Vec<_> = browser.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nCookie: {}\r\n\r\n", cookies.join("; "));
    let mut socket = TcpStream::connect(server).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}
