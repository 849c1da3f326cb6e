//! Two servers on one database are one to a browser: behind a load balancer its requests go now
//! here, now there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use futures_util::future::join_all;

use crate::support::db::Place;
use crate::support::http::Answer;
use crate::support::process::{Site, on_both, until};
use crate::support::rounds::any_below;
use crate::support::wire_browser::Browser;

on_both! {
    two_servers_rotate_replay_and_refuse_as_one;
}

async fn two_servers_rotate_replay_and_refuse_as_one(place: Place) {
    let site = Site::new(place).await;
    site.user("ann@example.com", "user").await;
    let (one, other) = tokio::join!(site.serve(), site.serve());
    let servers = [one.public, other.public];

    let mut ann = Browser::signed_in(servers[0], "ann@example.com").await;
    let mut thief = ann.clone();
    for _ in 0..2 {
        rotate(&mut ann, servers).await;
    }
    let answer = thief.get(servers[1], "/auth/session").await;
    assert_refused(&answer, "reuse_detected");
    assert_refused_everywhere(&mut ann, servers, "reuse_detected").await;

    ann = Browser::signed_in(servers[1], "ann@example.com").await;
    rotate(&mut ann, servers).await;
    let mut copy = ann.clone();
    let request = Request::post("/auth/logout").body(Body::empty()).unwrap();
    assert_eq!(ann.send(servers[0], request).await.unwrap().status, 204);
    assert!(ann.cookies.is_empty());
    assert_refused_everywhere(&mut copy, servers, "logged_out").await;
    one.stop().await;
    other.stop().await;
}

/// Asks both servers, with the refresh token alone, until one of them has rotated. Whatever the
/// others are answered, any one of the answers will do for the next request.
async fn rotate(browser: &mut Browser, servers: [SocketAddr; 2]) {
    until("a rotation", async || {
        browser.cookies.remove(ACCESS);
        let asked = servers.iter().cycle().take(8).map(|&server| {
            let mut tab = browser.clone();
            async move {
                let answer = tab.get(server, "/auth/session").await;
                (tab, answer)
            }
        });
        let mut answered = join_all(asked).await;
        for (_, answer) in &answered {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let rotations = answered.iter().filter(|(_, answer)| answer.event() == Some("rotated")).count();
        assert!(rotations <= 1, "{rotations} at once");
        *browser = answered.swap_remove(any_below(answered.len())).0;
        (rotations == 1).then_some(())
    })
    .await;
}

/// The access token within a second, the refresh token at once.
async fn assert_refused_everywhere(browser: &mut Browser, servers: [SocketAddr; 2], event: &str) {
    let began = Instant::now();
    for server in servers {
        let mut forgetful = browser.clone();
        forgetful.cookies.remove(ACCESS);
        assert_refused(&forgetful.get(server, "/auth/session").await, event);
    }
    for server in servers {
        let refused = until("the end to be known", async || {
            Some(browser.get(server, "/movies").await).filter(|answer| answer.status == 401)
        });
        assert_refused(&refused.await, event);
    }
    assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[track_caller]
fn assert_refused(answer: &Answer, event: &str) {
    answer.problem(401, event);
    assert!(answer.set_cookies().is_empty(), "{answer:?}");
}

const ACCESS: &str = "__Host-access_token";
