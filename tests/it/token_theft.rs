//! Replay of stolen tokens after their successors are confirmed, `SEKISHO_TEST_THEFTS` times: each terminates
//! its session on every replica within a second, and no other session.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use sekisho::app::App;
use sekisho::layer::{RefreshError, RefreshRequest, RefreshedSession, TokenService, VerifyError};
use sekisho::models::audit::AuditEvent;
use sekisho::models::session::{EndReason, Session, SessionId};
use sekisho::services::token::SessionRequest;
use sekisho::session_event::SessionEvent;
use uuid::Uuid;

use crate::revocations::wait_for_rejection;
use crate::support::app::{PAST_GRACE, TestApp, on_each_database, send};
use crate::support::browser::{ACCESS, REFRESH};
use crate::support::db::TestDatabase;
use crate::support::fair_clock::FairInstant;
use crate::support::http::{get, with};
use crate::support::iterations::rounds;

on_each_database! {
    reuse_terminates_its_session_on_all_replicas_and_no_other
}

async fn reuse_terminates_its_session_on_all_replicas_and_no_other(database: TestDatabase) {
    let thefts = rounds("SEKISHO_TEST_THEFTS", 20);
    let app = TestApp::with_database(database).await;
    let replicas = [app.app.clone(), app.replica().await];
    // Each user has two sessions; the tokens of the first one are stolen.
    let sessions = confirmed_sessions(&app, &replicas, 2 * thefts).await;
    let (stolen, others): (Vec<_>, Vec<_>) = sessions.iter().partition(|tokens| tokens.nth % 2 == 0);
    let before = rows(&app, &others).await;
    for replica in &replicas {
        replica.tokens.revocations().load().await.unwrap();
        tokio::spawn(replica.tokens.revocations().clone().run_poller());
    }

    let replays = stolen.iter().map(|tokens| replay_old_tokens(tokens, &replicas));
    let delays: Vec<Duration> = stream::iter(replays).buffer_unordered(CONCURRENCY).collect().await;

    let ends: Vec<_> = rows(&app, &stolen).await.into_iter().map(|row| row.end.unwrap().reason).collect();
    assert_eq!(ends, vec![EndReason::ReuseDetected; thefts]);
    assert_eq!(rows(&app, &others).await, before);
    let reuse = AuditEvent::Ended(EndReason::ReuseDetected);
    let (caught, unaffected) = ([reuse, AuditEvent::Login], [AuditEvent::Login]);
    let of_stolen = stolen.iter().map(|tokens| (tokens, &caught[..]));
    for (tokens, expected) in of_stolen.chain(others.iter().map(|tokens| (tokens, &unaffected[..]))) {
        let trail = app.fresh.stores.sessions.session_audit(tokens.session, 10).await.unwrap();
        let events: Vec<_> = trail.iter().map(|entry| entry.event).collect();
        assert_eq!(events, expected, "session {}", tokens.nth);
    }
    for (tokens, replica) in others.iter().flat_map(|tokens| replicas.iter().map(move |one| (tokens, one))) {
        assert!(replica.tokens.verify(&tokens.current.access_token).is_ok(), "session {}", tokens.nth);
    }
    app.expire();
    for tokens in others {
        let refresh = replicas[0].tokens.refresh(request(&tokens.current)).await;
        assert_eq!(refresh.unwrap().event, SessionEvent::Rotated, "session {}", tokens.nth);
    }
    let slowest = delays.iter().max().unwrap();
    println!("{thefts} replays, each rejected at both replicas after at most {slowest:?}");
}

/// A session with its owner's current tokens and the previous ones.
struct SessionTokens {
    nth: usize,
    session: SessionId,
    old: RefreshedSession,
    current: RefreshedSession,
}

/// Creates sessions that were refreshed once, at either replica, and whose new generation is confirmed.
async fn confirmed_sessions(app: &TestApp, replicas: &[App; 2], count: usize) -> Vec<SessionTokens> {
    let mut signed_in = Vec::new();
    for nth in 0..count {
        let user = Uuid::from_u128(nth as u128 / 2);
        let issued = replicas[0].tokens.sign_in(SessionRequest::new(user, "ann@example.com")).await.unwrap();
        signed_in.push(issued);
    }
    app.expire();
    let mut sessions = Vec::new();
    for (nth, issued) in signed_in.into_iter().enumerate() {
        let (session, old) = (issued.session.id, issued.tokens);
        let current = replicas[nth / 2 % 2].tokens.refresh(request(&old)).await.unwrap();
        assert_eq!(current.event, SessionEvent::Rotated);
        sessions.push(SessionTokens { nth, session, old, current });
    }
    app.clock.advance(PAST_GRACE);
    for tokens in &sessions {
        assert!(replicas[tokens.nth / 4 % 2].tokens.verify(&tokens.current.access_token).is_ok());
    }
    replicas[1].tokens.flush_deferred().await.unwrap();
    for tokens in &sessions {
        app.flush_until(tokens.session, |row| row.settled_by.is_some()).await;
    }
    sessions
}

/// Replays the old tokens, for every third session without the access token. Returns the time from the
/// response until both replicas reject the current tokens.
async fn replay_old_tokens(tokens: &SessionTokens, replicas: &[App; 2]) -> Duration {
    let SessionTokens { nth, old, current, .. } = tokens;
    let access = format!("{ACCESS}={}; ", old.access_token);
    let access = if nth % 3 == 0 { "" } else { &access };
    let cookies = format!("{access}{REFRESH}={}", old.refresh_token);
    let response = send(&replicas[nth / 8 % 2], with(get("/auth/session"), "cookie", &cookies)).await;
    let start = FairInstant::now();
    response.problem(401, "reuse_detected");
    for replica in replicas {
        let error = wait_for_rejection(&replica.tokens, &current.access_token).await;
        assert_eq!(error, VerifyError::Ended(SessionEvent::ReuseDetected), "session {nth}");
    }
    let took = start.elapsed();
    assert!(took <= Duration::from_secs(1), "session {nth}: {took:?}");
    for replica in replicas {
        let error = replica.tokens.refresh(request(current)).await.map(|_| ());
        let reuse = RefreshError::SessionEnded { event: SessionEvent::ReuseDetected, clear_cookies: false };
        assert_eq!(error, Err(reuse), "session {nth}");
    }
    took
}

async fn rows(app: &TestApp, tokens: &[&SessionTokens]) -> Vec<Session> {
    let mut rows = Vec::new();
    for tokens in tokens {
        rows.push(app.row(tokens.session).await);
    }
    rows
}

fn request(tokens: &RefreshedSession) -> RefreshRequest {
    RefreshRequest {
        refresh_token: tokens.refresh_token.clone(),
        access_token: Some(tokens.access_token.clone()),
        ..RefreshRequest::default()
    }
}

/// Number of concurrent replays.
const CONCURRENCY: usize = 10;
