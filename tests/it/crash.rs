//! `kill -9` at any moment causes no sign-out.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::db::DatabaseLocation;
use crate::support::iterations::{rng_for, rounds};
use crate::support::process::on_both;
use crate::support::process::{PROCESS_TIMEOUT, TestDeployment};
use crate::support::socket_browser::SocketBrowser;

on_both! { kill_causes_no_sign_out; }

/// Kills the server at a random moment within a second after a refresh, `SEKISHO_TEST_CRASHES` times.
async fn kill_causes_no_sign_out(location: DatabaseLocation) {
    let round_count = rounds("SEKISHO_TEST_CRASHES", 3);
    let mut random = rng_for("crashes");
    let deployment = TestDeployment::new(location).await;
    deployment.user("ann@example.com", "user").await;
    let mut server = deployment.serve().await;
    let mut pages = Vec::new();
    for nth in 0..PAGES {
        let browser = SocketBrowser::signed_in(server.public, "ann@example.com").await;
        pages.push(PollingPage { browser, drops_access_token: nth % 2 == 0 });
    }
    for round in 1..=round_count {
        let (rotated, mut rotations) = mpsc::unbounded_channel();
        let polling: JoinSet<_> =
            pages.into_iter().map(|page| page.poll(server.public, rotated.clone())).collect();
        let first = timeout(PROCESS_TIMEOUT, rotations.recv()).await;
        first.expect("a rotation").unwrap();
        // After one second, the grace period, pages without an access token rotate again.
        let moment = Duration::from_micros(random.u64(..1_000_000));
        // Real time: the server process is not controlled by the test.
        tokio::time::sleep(moment).await;
        server.kill().await;
        pages = polling.join_all().await;
        println!("round {round}: killed {moment:?} after the first of {} rotations", rotations.len() + 1);

        server = deployment.serve().await;
        for page in &mut pages {
            let response = page.browser.get(server.public, "/auth/session").await;
            let event = response.header("x-session-event");
            assert_eq!(response.status, 200, "round {round}, {moment:?}: {event:?}\n{}", server.log());
        }
    }
    server.stop().await;
}

/// A page that polls.
struct PollingPage {
    browser: SocketBrowser,
    /// Drops the access token before each request, so that each request is a refresh, and a rotation after
    /// the grace period.
    drops_access_token: bool,
}

impl PollingPage {
    /// Polls until the server is gone, reports each rotation, and returns the page with its cookies.
    async fn poll(mut self, server: SocketAddr, rotated: mpsc::UnboundedSender<()>) -> Self {
        let mut ticks = tokio::time::interval(Duration::from_millis(25));
        loop {
            ticks.tick().await;
            if self.drops_access_token {
                self.browser.cookies.remove("__Host-access_token");
            }
            let request = Request::get("/auth/session").body(Body::empty()).unwrap();
            let Ok(response) = self.browser.send(server, request).await else { return self };
            let event = response.header("x-session-event");
            assert_eq!(response.status, 200, "{event:?}");
            if event == Some("rotated") {
                rotated.send(()).unwrap();
            }
        }
    }
}

const PAGES: usize = 12;
