//! Two servers on one database, behind a load balancer that alternates between them.

use std::net::SocketAddr;

use axum::body::Body;
use axum::http::Request;
use futures_util::future::join_all;

use crate::support::db::DatabaseLocation;
use crate::support::iterations::rng_for;
use crate::support::process::{TestDeployment, on_both, until};
use crate::support::socket_browser::SocketBrowser;

on_both! {
    two_replicas_rotate_replay_and_reject_alike;
}

async fn two_replicas_rotate_replay_and_reject_alike(location: DatabaseLocation) {
    let deployment = TestDeployment::new(location).await;
    deployment.user("ann@example.com", "user").await;
    let (one, other) = tokio::join!(deployment.serve(), deployment.serve());
    let servers = [one.public, other.public];
    let mut random = rng_for("two servers");

    let mut ann = SocketBrowser::signed_in(servers[0], "ann@example.com").await;
    let thief = ann.clone();
    for _ in 0..2 {
        rotate(&mut ann, servers, &mut random).await;
    }
    assert_refused(&thief, servers[1], "reuse_detected").await;
    assert_refused_everywhere(&ann, servers, "reuse_detected").await;

    ann = SocketBrowser::signed_in(servers[1], "ann@example.com").await;
    rotate(&mut ann, servers, &mut random).await;
    let copy = ann.clone();
    let request = Request::post("/auth/logout").body(Body::empty()).unwrap();
    assert_eq!(ann.send(servers[0], request).await.unwrap().status, 204);
    assert!(ann.cookies.is_empty());
    assert_refused_everywhere(&copy, servers, "logged_out").await;
    one.stop().await;
    other.stop().await;
}

/// Sends concurrent refreshes to both servers until one of them has rotated. The browser continues with the
/// cookies of any response.
async fn rotate(browser: &mut SocketBrowser, servers: [SocketAddr; 2], random: &mut fastrand::Rng) {
    until("a rotation", async || {
        browser.cookies.remove(ACCESS);
        let requests = servers.iter().cycle().take(8).map(|&server| {
            let mut tab = browser.clone();
            async move {
                let response = tab.get(server, "/auth/session").await;
                (tab, response)
            }
        });
        let mut results = join_all(requests).await;
        for (_, response) in &results {
            assert_eq!(response.status, 200, "{response:?}");
        }
        let rotations = results.iter().filter(|(_, response)| response.event() == Some("rotated")).count();
        assert!(rotations <= 1, "{rotations} rotations");
        *browser = results.swap_remove(random.usize(..results.len())).0;
        (rotations == 1).then_some(())
    })
    .await;
}

/// Polls until the request is rejected. A server may share a cached refresh for a moment, and polls
/// revocations periodically.
async fn assert_refused(browser: &SocketBrowser, server: SocketAddr, event: &str) {
    let response = until("a rejection", async || {
        Some(browser.clone().get(server, "/auth/session").await).filter(|response| response.status != 200)
    });
    response.await.problem(401, event);
}

/// Checks both with and without the access token.
async fn assert_refused_everywhere(browser: &SocketBrowser, servers: [SocketAddr; 2], event: &str) {
    let mut refresh_only = browser.clone();
    refresh_only.cookies.remove(ACCESS);
    for server in servers {
        assert_refused(browser, server, event).await;
        assert_refused(&refresh_only, server, event).await;
    }
}

const ACCESS: &str = "__Host-access_token";
