//! Tabs that a browser restores at once, after the access token or the session has ended.

use futures_util::future::join_all;
use sekisho::models::user::Role;

use super::{assert_redirected, navigation, start};
use crate::support::gateway::{SessionCookies, post};

const TABS: usize = 10;

fn target(tab: usize) -> String {
    format!("/app/tab?number={tab}")
}

#[tokio::test]
async fn tabs_restored_after_expiry_stay_signed_in() {
    let (gateway, mut upstream) = start("").await;
    let cookies = gateway.signed_in(Role::User).await.line();
    gateway.expire();
    let requests = (0..TABS).map(|tab| gateway.ask(navigation(&target(tab)).header("cookie", &cookies)));
    for response in join_all(requests).await {
        assert_eq!(response.status, 200);
        assert!(SessionCookies::of(&response).is_some(), "{:?}", response.event());
    }
    let mut seen: Vec<_> = join_all_targets(&mut upstream).await;
    seen.sort();
    assert_eq!(seen, (0..TABS).map(target).collect::<Vec<_>>());
}

async fn join_all_targets(upstream: &mut crate::support::upstream::Upstream) -> Vec<String> {
    let mut targets = Vec::new();
    for _ in 0..TABS {
        targets.push(upstream.seen().await.target);
    }
    targets
}

#[tokio::test]
async fn tabs_restored_after_the_end_of_the_session_keep_their_own_way_back() {
    let (gateway, mut upstream) = start("").await;
    let cookies = gateway.signed_in(Role::User).await.line();
    assert_eq!(gateway.ask(post("/auth/logout").header("cookie", &cookies)).await.status, 204);
    gateway.expire();
    let requests = (0..TABS).map(|tab| gateway.ask(navigation(&target(tab)).header("cookie", &cookies)));
    for (tab, response) in join_all(requests).await.iter().enumerate() {
        assert_redirected(response, &format!("/auth/sign-in?next=%2Fapp%2Ftab%3Fnumber%3D{tab}"));
        assert_eq!(response.event(), Some("logged_out"));
    }
    assert!(upstream.has_no_more_requests());

    // One sign-in is enough for all: each sign-in page of a signed-in browser leads on to its `next`.
    let cookies = gateway.signed_in_again().await.line();
    for tab in 0..TABS {
        let sign_in = format!("/auth/sign-in?next=%2Fapp%2Ftab%3Fnumber%3D{tab}");
        let response = gateway.ask(navigation(&sign_in).header("cookie", &cookies)).await;
        assert_eq!(response.status, 303);
        assert_eq!(response.header("location"), Some(&*target(tab)));
    }
}
