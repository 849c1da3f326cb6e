//! Concurrent requests, lost responses, crashed browsers, and stolen tokens.

use std::time::Duration;

use sekisho::models::session::{EndReason, SessionId};
use serde_json::Value;

use crate::support::app::{ACCESS_TTL, PAST_GRACE, TestApp, on_each_database};
use crate::support::browser::{ACCESS, Browser, REFRESH};
use crate::support::db::TestDatabase;
use crate::support::http::{TestResponse, get};

on_each_database! {
    responses_of_tabs_may_arrive_in_any_order
    rotation_completes_when_the_request_is_cancelled
    lost_responses_cause_no_sign_out
    crashed_browser_may_return_with_old_cookies
    replay_keeps_the_generation
    replays_are_counted
    old_token_is_reuse_after_its_successor_is_confirmed
    token_two_generations_old_is_reuse
    concurrent_clients_are_detected_at_the_next_refresh
    concurrent_clients_are_detected_by_confirmed_use
    thief_is_detected_when_it_refreshes_first
    refresh_token_without_access_token_is_reuse_after_rotation
    refresh_token_alone_is_replayed_for_one_client
    refresh_of_a_young_access_token_is_a_replay
    lost_rotation_is_caught_up
    restored_backup_is_caught_up
    unknown_session_keeps_its_cookies
}

async fn responses_of_tabs_may_arrive_in_any_order(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    for round in 0..12 {
        app.expire();
        let mut responses =
            ann.get_concurrently(&["/auth/session", "/movies", "/auth/sessions", "/movies/1"]).await;
        responses.rotate_left(round % 4);
        // Cookies are stored in order of arrival, so access and refresh token may be of different responses.
        for response in &responses {
            ann.store_cookies(response);
        }
        app.clock.advance(PAST_GRACE);
        assert_eq!(ann.get("/auth/session").await.event(), None, "round {round}");
    }
    let row = app.flush_until(session, |row| row.settled_by.is_some()).await;
    assert_eq!((row.rotations, row.end), (12, None));
}

async fn rotation_completes_when_the_request_is_cancelled(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    app.expire();
    for _ in 0..20 {
        let mut request = Box::pin(ann.send_and_drop(get("/auth/session")));
        let _ = futures_util::poll!(&mut request);
        drop(request);
    }
    assert_eq!(ann.get("/auth/session").await.status, 200);
    let row = app.row(session).await;
    assert_eq!((row.generation, row.rotations), (2, 1));
}

async fn lost_responses_cause_no_sign_out(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    for lost in [0, 1, 2, 5, 0, 3, 1, 0, 8] {
        app.expire();
        for nth in 0..lost {
            let response = ann.send_and_drop(get("/auth/session")).await;
            assert_eq!(response.status, 200, "response {nth} of {lost} to be lost");
            app.clock.advance(Duration::from_secs(if nth % 2 == 0 { 2 } else { 400 }));
        }
        let response = ann.get("/auth/session").await;
        let event = if lost == 0 { "rotated" } else { "replayed" };
        assert_eq!((response.status.as_u16(), response.event()), (200, Some(event)), "after {lost} lost");
    }
    assert_eq!(app.row(session).await.rotations, 9, "one rotation for each refresh, despite lost responses");
}

async fn crashed_browser_may_return_with_old_cookies(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    for seconds in [0, 1, 29, 45] {
        app.expire();
        let on_disk = ann.jar.clone();
        assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
        app.clock.advance(Duration::from_secs(seconds));
        assert_eq!(ann.get("/auth/session").await.event(), None);
        app.app.tokens.flush_deferred().await.unwrap();
        ann.jar = on_disk;
        // The browser restarts days later.
        app.clock.advance(Duration::from_secs(3 * 86_400));
        assert_eq!(ann.get("/auth/session").await.event(), Some("replayed"), "after {seconds} s");
        app.clock.advance(PAST_GRACE);
        assert_eq!(ann.get("/auth/session").await.event(), None);
        app.flush_until(session, |row| row.settled_by.is_some()).await;
    }
    assert_eq!(app.row(session).await.end, None);
}

async fn replay_keeps_the_generation(database: TestDatabase) {
    let (app, ann, session) = signed_in(database).await;
    app.expire();
    let tokens = async || {
        let mut tab = ann.clone();
        tab.get("/auth/session").await;
        (tab.token(ACCESS), tab.token(REFRESH))
    };
    let (first, second, third) = (tokens().await, tokens().await, tokens().await);
    assert_eq!(first.1, second.1);
    assert_eq!(second.1, third.1);
    assert_ne!(first.0, second.0, "access tokens differ");
    assert_ne!(second.0, third.0);
    assert_eq!(app.row(session).await.generation, 2);
}

async fn replays_are_counted(database: TestDatabase) {
    let (app, ann, session) = signed_in(database).await;
    app.expire();
    for _ in 0..8 {
        assert_eq!(ann.send_and_drop(get("/auth/session")).await.status, 200);
    }
    let row = app.flush_until(session, |row| row.replays >= 7).await;
    assert_eq!((row.rotations, row.replays), (1, 7));
}

async fn old_token_is_reuse_after_its_successor_is_confirmed(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    let mut bob = app.signed_in("bob@example.com").await;
    let thief = ann.clone().with_client([203, 0, 113, 66], "Thief/0.1");
    app.expire();
    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
    app.clock.advance(PAST_GRACE);
    assert_eq!(ann.get("/auth/session").await.event(), None);
    app.flush_until(session, |row| row.settled_by.is_some()).await;

    let response = thief.send_and_drop(get("/auth/session")).await;
    response.problem(401, "reuse_detected");
    assert_eq!(response.event(), Some("reuse_detected"));
    assert!(response.set_cookies().is_empty(), "not cleared within the grace period");
    assert_eq!(app.row(session).await.end.map(|end| end.reason), Some(EndReason::ReuseDetected));
    app.expire();
    let response = ann.get("/auth/session").await;
    response.problem(401, "reuse_detected");
    assert!(ann.jar.is_empty(), "the owner's cookies are cleared");
    assert_eq!(bob.get("/auth/session").await.status, 200, "other sessions are unaffected");
    ann.sign_in("ann@example.com").await;
    assert_eq!(ann.get("/auth/session").await.status, 200);
}

async fn token_two_generations_old_is_reuse(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    let old = ann.clone();
    for _ in 0..2 {
        app.expire();
        assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
    }
    assert_eq!(app.row(session).await.settled_by, None, "no confirmed use");
    old.send_and_drop(get("/auth/session")).await.problem(401, "reuse_detected");
    assert_eq!(app.row(session).await.end.map(|end| end.reason), Some(EndReason::ReuseDetected));
}

/// While all clients refresh only expired tokens, no use is confirmed.
async fn concurrent_clients_are_detected_at_the_next_refresh(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    let mut thief = ann.clone();
    app.expire();
    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
    assert_eq!(thief.get("/auth/session").await.event(), Some("replayed"), "indistinguishable from a tab");
    assert_eq!(thief.token(REFRESH), ann.token(REFRESH));
    app.expire();
    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
    thief.get("/auth/session").await.problem(401, "reuse_detected");
    assert_eq!(app.row(session).await.end.map(|end| end.reason), Some(EndReason::ReuseDetected));
}

async fn concurrent_clients_are_detected_by_confirmed_use(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    let mut thief = ann.clone();
    app.expire();
    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
    assert_eq!(thief.get("/auth/session").await.event(), Some("replayed"));
    app.clock.advance(PAST_GRACE);
    assert_eq!(ann.get("/auth/session").await.event(), None);
    app.flush_until(session, |row| row.settled_by.is_some()).await;
    assert_eq!(thief.get("/auth/session").await.status, 200, "valid until the deferred write");
    let row = app.flush_until(session, |row| row.end.is_some()).await;
    assert_eq!(row.end.map(|end| end.reason), Some(EndReason::ReuseDetected));
    app.expire();
    ann.get("/auth/session").await.problem(401, "reuse_detected");
    thief.get("/auth/session").await.problem(401, "reuse_detected");
}

async fn thief_is_detected_when_it_refreshes_first(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    let mut thief = ann.clone();
    app.expire();
    assert_eq!(thief.get("/auth/session").await.event(), Some("rotated"));
    app.clock.advance(PAST_GRACE);
    assert_eq!(thief.get("/auth/session").await.event(), None);
    app.flush_until(session, |row| row.settled_by.is_some()).await;
    ann.get("/auth/session").await.problem(401, "reuse_detected");
    app.expire();
    thief.get("/auth/session").await.problem(401, "reuse_detected");
}

/// Also while the owner's refresh is cached for concurrent requests.
async fn refresh_token_without_access_token_is_reuse_after_rotation(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    let mut thief = ann.clone();
    thief.jar.remove(ACCESS);
    app.expire();
    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
    thief.get("/auth/session").await.problem(401, "reuse_detected");
    assert_eq!(app.row(session).await.end.map(|end| end.reason), Some(EndReason::ReuseDetected));
}

async fn refresh_token_alone_is_replayed_for_one_client(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    app.expire();
    ann.jar.remove(ACCESS);
    for event in ["rotated", "replayed", "replayed"] {
        let response = ann.send_and_drop(get("/auth/session")).await;
        assert_eq!((response.status.as_u16(), response.event()), (200, Some(event)));
        app.clock.advance(ACCESS_TTL);
    }
    assert_eq!(app.row(session).await.rotations, 1);
}

async fn refresh_of_a_young_access_token_is_a_replay(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    for (seconds, event) in [(62, "rotated"), (50, "replayed"), (20, "replayed"), (62, "rotated")] {
        app.clock.advance(Duration::from_secs(seconds));
        let response = ann.post("/auth/refresh", &Value::Null).await;
        assert_eq!((response.status.as_u16(), response.event()), (200, Some(event)), "after {seconds} s");
    }
    assert_eq!(app.row(session).await.rotations, 2);
}

async fn lost_rotation_is_caught_up(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    app.expire();
    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
    app.sql("UPDATE {sessions} SET generation = 1, rotations = 0").await;
    app.expire();
    let response = ann.get("/auth/session").await;
    assert_eq!((response.status.as_u16(), response.event()), (200, Some("caught_up")));
    assert_eq!(response.set_cookies().len(), 2);
    assert_eq!(app.row(session).await.generation, 3, "no generation is used twice");
    app.expire();
    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
}

async fn restored_backup_is_caught_up(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    app.sql("CREATE TABLE backup AS SELECT * FROM {sessions}").await;
    for _ in 0..5 {
        app.expire();
        assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
        app.clock.advance(PAST_GRACE);
        ann.get("/auth/session").await;
        app.flush_until(session, |row| row.settled_by.is_some()).await;
    }
    app.sql("DELETE FROM {sessions}").await;
    app.sql("INSERT INTO {sessions} SELECT * FROM backup").await;
    assert_eq!(app.row(session).await.generation, 1);

    let app = app.restart().await;
    let mut ann = ann.with_service(app.app.public.clone());
    assert_eq!(ann.get("/auth/session").await.event(), None);
    app.expire();
    let (before, responses) = (ann.clone(), ann.get_concurrently(&["/auth/session"; 20]).await);
    assert!(responses.iter().all(|response| response.status == 200), "{responses:?}");
    assert_eq!(events(&responses, "caught_up"), 1);
    assert_eq!(events(&responses, "replayed"), 19);
    assert_eq!(app.row(session).await.generation, 7);
    ann.store_cookies(&responses[0]);
    assert_eq!(before.send_and_drop(get("/auth/session")).await.event(), Some("replayed"));
    app.expire();
    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
}

async fn unknown_session_keeps_its_cookies(database: TestDatabase) {
    let (app, mut ann, _) = signed_in(database).await;
    app.sql("CREATE TABLE backup AS SELECT * FROM {sessions}").await;
    app.sql("DELETE FROM {sessions}").await;
    app.expire();
    for _ in 0..2 {
        let response = ann.get("/movies").await;
        response.problem(401, "unknown_session");
        assert_eq!(response.event(), Some("unknown_session"));
        assert!(response.set_cookies().is_empty(), "it may be the wrong database");
        app.clock.advance(ACCESS_TTL);
    }
    app.sql("INSERT INTO {sessions} SELECT * FROM backup").await;
    assert_eq!(ann.get("/movies").await.event(), Some("rotated"), "the right database again");
}

async fn signed_in(database: TestDatabase) -> (TestApp, Browser, SessionId) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let mut ann = app.browser();
    let session = ann.sign_in("ann@example.com").await;
    (app, ann, session)
}

fn events(responses: &[TestResponse], event: &str) -> usize {
    responses.iter().filter(|response| response.event() == Some(event)).count()
}
