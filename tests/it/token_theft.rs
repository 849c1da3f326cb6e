//! Replay of stolen tokens after their successors are confirmed, `SEKISHO_TEST_THEFTS` times: each terminates
//! its session on every replica within a second, and no other session.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use sekisho::app::App;
use sekisho::layer::{RefreshError, RefreshRequest, RefreshedSession, TokenService, VerifyError};
use sekisho::models::audit::AuditEvent;
use sekisho::models::session::{EndReason, Session, SessionId};
use sekisho::models::user::UserId;
use sekisho::services::token::SessionRequest;
use sekisho::session_event::SessionEvent;
use uuid::Uuid;

use crate::revocations::refusal;
use crate::support::app::{PAST_GRACE, TestApp, on_each_database, send};
use crate::support::browser::{ACCESS, REFRESH};
use crate::support::db::TestDatabase;
use crate::support::fair_clock::FairInstant;
use crate::support::http::{get, with};
use crate::support::iterations::rounds;

on_each_database! {
    reuse_terminates_its_session_on_all_replicas_and_no_other
}

async fn reuse_terminates_its_session_on_all_replicas_and_no_other(fresh: TestDatabase) {
    let thefts = rounds("SEKISHO_TEST_THEFTS", 20);
    let app = TestApp::with_database(fresh).await;
    let replicas = [app.app.clone(), app.replica().await];
    // Each user has two sessions; the tokens of the first one are stolen.
    let sessions = confirmed_sessions(&app, &replicas, 2 * thefts).await;
    let (stolen, others): (Vec<_>, Vec<_>) = sessions.iter().partition(|held| held.nth % 2 == 0);
    let before = rows(&app, &others).await;
    for replica in &replicas {
        replica.tokens.revocations().load().await.unwrap();
        tokio::spawn(replica.tokens.revocations().clone().run_poller());
    }

    let present = stolen.iter().map(|held| present(held, &replicas));
    let refused: Vec<Duration> = stream::iter(present).buffer_unordered(AT_ONCE).collect().await;

    let ends: Vec<_> = rows(&app, &stolen).await.into_iter().map(|row| row.end.unwrap().reason).collect();
    assert_eq!(ends, vec![EndReason::ReuseDetected; thefts]);
    assert_eq!(rows(&app, &others).await, before);
    let reuse = AuditEvent::Ended(EndReason::ReuseDetected);
    let (caught, left_alone) = ([reuse, AuditEvent::Login], [AuditEvent::Login]);
    let of_stolen = stolen.iter().map(|held| (held, &caught[..]));
    for (held, expected) in of_stolen.chain(others.iter().map(|held| (held, &left_alone[..]))) {
        let trail = app.fresh.stores.sessions.session_audit(held.session, 10).await.unwrap();
        let events: Vec<_> = trail.iter().map(|entry| entry.event).collect();
        assert_eq!(events, expected, "session {}", held.nth);
    }
    for (held, replica) in others.iter().flat_map(|held| replicas.iter().map(move |one| (held, one))) {
        assert!(replica.tokens.verify(&held.current.access_token).is_ok(), "session {}", held.nth);
    }
    app.expire();
    for held in others {
        let renewal = replicas[0].tokens.refresh(request(&held.current)).await;
        assert_eq!(renewal.unwrap().event, SessionEvent::Rotated, "session {}", held.nth);
    }
    let slowest = refused.iter().max().unwrap();
    println!("{thefts} thefts, each refused at both replicas after {slowest:?} at most");
}

/// A session with its owner's current tokens and the previous ones.
struct StolenSession {
    nth: usize,
    session: SessionId,
    old: RefreshedSession,
    current: RefreshedSession,
}

/// Creates sessions that were refreshed once, at either replica, and whose new generation is confirmed.
async fn confirmed_sessions(app: &TestApp, replicas: &[App; 2], count: usize) -> Vec<StolenSession> {
    let mut signed_in = Vec::new();
    for nth in 0..count {
        let user = UserId(Uuid::from_u128(nth as u128 / 2));
        let issued = replicas[0].tokens.sign_in(SessionRequest::new(user, "ann@example.com")).await.unwrap();
        signed_in.push(issued);
    }
    app.expire();
    let mut sessions = Vec::new();
    for (nth, issued) in signed_in.into_iter().enumerate() {
        let (session, old) = (issued.session.id, issued.tokens);
        let current = replicas[nth / 2 % 2].tokens.refresh(request(&old)).await.unwrap();
        assert_eq!(current.event, SessionEvent::Rotated);
        sessions.push(StolenSession { nth, session, old, current });
    }
    app.clock.advance(PAST_GRACE);
    for held in &sessions {
        assert!(replicas[held.nth / 4 % 2].tokens.verify(&held.current.access_token).is_ok());
    }
    replicas[1].tokens.flush_deferred().await.unwrap();
    for held in &sessions {
        app.flush_until(held.session, |row| row.settled_by.is_some()).await;
    }
    sessions
}

/// Replays the old tokens, for every third session without the access token. Returns the time from the
/// response until both replicas reject the current tokens.
async fn present(held: &StolenSession, replicas: &[App; 2]) -> Duration {
    let StolenSession { nth, old, current, .. } = held;
    let access = format!("{ACCESS}={}; ", old.access_token);
    let access = if nth % 3 == 0 { "" } else { &access };
    let cookies = format!("{access}{REFRESH}={}", old.refresh_token);
    let answer = send(&replicas[nth / 8 % 2], with(get("/auth/session"), "cookie", &cookies)).await;
    let answered = FairInstant::now();
    answer.problem(401, "reuse_detected");
    for replica in replicas {
        let refused = refusal(&replica.tokens, &current.access_token).await;
        assert_eq!(refused, VerifyError::Ended(SessionEvent::ReuseDetected), "session {nth}");
    }
    let took = answered.elapsed();
    assert!(took <= Duration::from_secs(1), "session {nth}: {took:?}");
    for replica in replicas {
        let refused = replica.tokens.refresh(request(current)).await.map(|_| ());
        let reuse = RefreshError::SessionEnded { event: SessionEvent::ReuseDetected, clear_cookies: false };
        assert_eq!(refused, Err(reuse), "session {nth}");
    }
    took
}

async fn rows(app: &TestApp, held: &[&StolenSession]) -> Vec<Session> {
    let mut rows = Vec::new();
    for held in held {
        rows.push(app.row(held.session).await);
    }
    rows
}

fn request(held: &RefreshedSession) -> RefreshRequest {
    RefreshRequest {
        refresh_token: held.refresh_token.clone(),
        access_token: Some(held.access_token.clone()),
        ..RefreshRequest::default()
    }
}

/// Number of concurrent replays.
const AT_ONCE: usize = 10;
