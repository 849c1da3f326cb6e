//! The audit log: one entry for each act, with its client.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use sekisho::models::audit::{AuditEntry, AuditEvent};
use sekisho::models::session::{EndReason, SessionId};
use serde_json::json;
use sqlx::Connection;

use crate::support::app::{PASSWORD, PAST_GRACE, TestApp, on_each_database};
use crate::support::browser::Browser;
use crate::support::db::TestDatabase;

on_each_database! {
    each_act_is_one_audit_entry
    stolen_refresh_token_records_both_clients
    confirmed_use_by_two_clients_records_both
    lost_rotations_are_audited
    tokens_of_unknown_sessions_are_audited_once_a_second
    audit_entry_contains_the_request_id
}

/// The number of entries is the number of acts.
async fn each_act_is_one_audit_entry(database: TestDatabase) {
    let app = TestApp::with(database, &[("login.registration", "open")]).await;
    let mut ann = app.browser();
    let account = json!({"email": "ann@example.com", "password": PASSWORD});
    assert_eq!(ann.post("/auth/register", &account).await.status, StatusCode::CREATED);
    let wrong = json!({"email": "ann@example.com", "password": "not at all, I'm afraid"});
    let unknown = json!({"email": "bob@example.com", "password": PASSWORD});
    for credentials in [wrong, unknown] {
        assert_eq!(ann.post("/auth/login", &credentials).await.status, StatusCode::UNAUTHORIZED);
    }
    let mut others = [app.browser(), app.browser()];
    for browser in others.iter_mut().chain([&mut ann]) {
        browser.sign_in("ann@example.com").await;
    }
    let change = json!({"current_password": PASSWORD, "new_password": "another nine umbrellas hum"});
    assert_eq!(ann.post("/auth/password", &change).await.status, StatusCode::OK);
    for _ in 0..3 {
        app.expire();
        assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
    }
    ann.post("/auth/logout", &json!({})).await;
    ann.post("/auth/logout", &json!({})).await;

    app.app.tokens.flush_deferred().await.unwrap();
    let counted = [
        ("logged_out", 1),
        ("login", 3),
        ("login_failed", 2),
        // The change itself and the two terminated sessions.
        ("password_changed", 3),
        ("registered", 1),
    ];
    assert_eq!(count(&app).await, counted.map(|(event, count)| (event.to_owned(), count)).into());
}

async fn stolen_refresh_token_records_both_clients(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    let mut thief = ann.clone().with_client([203, 0, 113, 9], "curl/8");
    app.expire();
    ann.get("/auth/session").await;
    app.clock.advance(PAST_GRACE);
    ann.get("/auth/session").await;
    app.flush_until(session, |row| row.settled_by.is_some()).await;
    thief.get("/auth/session").await.problem(401, "reuse_detected");

    let entry = end_of(&app, session, EndReason::ReuseDetected).await;
    assert_eq!((entry.presented, entry.held), (Some(1), Some(2)));
    assert_eq!(side(&entry.by), ("203.0.113.9".to_owned(), "curl/8".to_owned()));
    assert_eq!(side(&entry.holder), ("192.0.2.7".to_owned(), "Browser/1.0".to_owned()));
}

async fn confirmed_use_by_two_clients_records_both(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    let mut thief = ann.clone().with_client([203, 0, 113, 9], "curl/8");
    app.expire();
    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
    assert_eq!(thief.get("/auth/session").await.event(), Some("replayed"));
    app.clock.advance(PAST_GRACE);
    ann.get("/auth/session").await;
    app.flush_until(session, |row| row.settled_by.is_some()).await;
    thief.get("/auth/session").await;
    app.flush_until(session, |row| row.end.is_some()).await;

    let entry = end_of(&app, session, EndReason::ReuseDetected).await;
    assert_eq!((entry.presented, entry.held), (Some(2), Some(2)));
    assert_eq!(side(&entry.by), ("203.0.113.9".to_owned(), "curl/8".to_owned()));
    assert_eq!(side(&entry.holder), ("192.0.2.7".to_owned(), "Browser/1.0".to_owned()));
}

async fn lost_rotations_are_audited(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    let mut expected = Vec::new();
    for lost in [1, 3] {
        let before = app.row(session).await.generation;
        for _ in 0..lost {
            app.expire();
            assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
        }
        app.sql(&format!("UPDATE {{sessions}} SET generation = {before}")).await;
        app.expire();
        assert_eq!(ann.get("/auth/session").await.event(), Some("caught_up"));
        if lost > 1 {
            expected.push((Some(before + lost), Some(before)));
        }
    }
    app.app.tokens.flush_deferred().await.unwrap();
    let trail = app.fresh.stores.sessions.session_audit(session, 10).await.unwrap();
    let caught_up = trail.into_iter().filter(|entry| entry.event == AuditEvent::CaughtUp);
    let caught_up: Vec<_> = caught_up.map(|entry| (entry.presented, entry.held)).collect();
    assert_eq!(caught_up, expected, "a single lost rotation is not audited");
}

async fn tokens_of_unknown_sessions_are_audited_once_a_second(database: TestDatabase) {
    let (app, ann, _) = signed_in(database).await;
    app.sql("DELETE FROM {sessions}").await;
    app.expire();
    for _ in 0..50 {
        let mut jar = ann.clone();
        jar.get("/auth/session").await.problem(401, "unknown_session");
    }
    app.app.tokens.flush_deferred().await.unwrap();
    let counts = count(&app).await;
    // Limited to one entry a second. A slow machine may take several seconds.
    let unknown = counts.get("unknown_session").copied().unwrap_or_default();
    assert!((1..=5).contains(&unknown), "{counts:?}");
}

async fn audit_entry_contains_the_request_id(database: TestDatabase) {
    let (app, mut ann, session) = signed_in(database).await;
    let response = ann.post("/auth/logout", &json!({})).await;
    let entry = end_of(&app, session, EndReason::LoggedOut).await;
    assert_eq!(entry.by.request_id.as_deref(), response.headers["x-request-id"].to_str().ok());
    assert!(ann.jar.is_empty());
}

async fn signed_in(database: TestDatabase) -> (TestApp, Browser, SessionId) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let mut ann = app.browser();
    let session = ann.sign_in("ann@example.com").await;
    (app, ann, session)
}

/// Returns the only entry about the end of the session.
async fn end_of(app: &TestApp, session: SessionId, reason: EndReason) -> AuditEntry {
    let trail = app.fresh.stores.sessions.session_audit(session, 100).await.unwrap();
    let ends = trail.into_iter().filter(|entry| entry.event == AuditEvent::Ended(reason));
    let ends: Vec<_> = ends.collect();
    let [end] = &ends[..] else { panic!("one entry: {ends:?}") };
    end.clone()
}

fn side(client: &sekisho::client_info::ClientInfo) -> (String, String) {
    (client.address.unwrap().to_string(), client.user_agent.clone().unwrap())
}

/// Returns the number of entries of each event.
async fn count(app: &TestApp) -> BTreeMap<String, i64> {
    const SQL: &str = "SELECT event, count(*) FROM audit GROUP BY event";
    let url = app.fresh.url();
    let counts: Vec<(String, i64)> = if url.starts_with("sqlite") {
        let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::query_as(SQL).fetch_all(&mut connection).await.unwrap()
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query("SET search_path = myapi").execute(&mut connection).await.unwrap();
        sqlx::query_as(SQL).fetch_all(&mut connection).await.unwrap()
    };
    counts.into_iter().collect()
}
