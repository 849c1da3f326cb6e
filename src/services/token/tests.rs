//! Sign-in, verification and termination. The tests of refreshes are in `refresh`.

use std::collections::HashSet;
use std::time::Duration;

use secrecy::SecretString;

use super::*;
use crate::identity::{NoClaims, Roles};
use crate::models::user::{PasswordOrigin, Role, User, UserId};
use crate::services::memory::MemoryStore;
use crate::services::store::{PasswordChange, UserStore};
use crate::services::test_support::{
    ACCESS_TTL, BEYOND_GRACE, TestClient, TokensFixture, USER, foreign_keys, poll_once, rejected,
    rejected_and_cleared, sign_in,
};

const SECOND: Duration = Duration::from_secs(1);

fn verify(fixture: &TokensFixture, client: &TestClient) -> Result<Verified, VerifyError> {
    fixture.tokens.verify(client.access.as_deref().expect("an access token"))
}

// Sign-in.

#[tokio::test]
async fn sign_in_issues_valid_tokens() {
    let fixture = TokensFixture::new();
    let issued = fixture.tokens.sign_in(sign_in(SessionKind::Browser)).await.expect("a session");
    let verified = fixture.tokens.verify(&issued.tokens.access_token).expect("valid");
    assert_eq!(verified.identity, issued.tokens.identity);
    assert_eq!(&*verified.identity.subject, USER.to_string());
    assert_eq!(verified.identity.session, issued.session.id);
    assert!(!verified.refresh_due);
    let SessionSettings { idle_ttl, absolute_ttl, .. } = *fixture.tokens.settings();
    assert_eq!(issued.session.expires_at() - fixture.now(), ACCESS_TTL + idle_ttl);
    assert_eq!(issued.tokens.max_age, absolute_ttl + Duration::from_secs(86_400));
}

#[tokio::test]
async fn sign_in_terminates_the_replaced_session() {
    let (fixture, before) = TokensFixture::with_expired_access_token().await;
    fixture.refresh(&before).await.expect("a rotation, whose result is kept");
    let replaces = fixture.tokens.identify_session(Some(&before.refresh), None);
    assert_eq!(replaces, Some(before.session));
    let again = SessionRequest { replaces, ..sign_in(SessionKind::Browser) };
    let issued = fixture.tokens.sign_in(again).await.expect("a session");
    assert_ne!(issued.session.id, before.session);
    assert_eq!(fixture.rejection(&before).await, rejected(SessionEvent::LoggedOut), "it was terminated");
}

#[tokio::test]
async fn oldest_session_is_displaced() {
    let fixture =
        TokensFixture::with_settings(SessionSettings { max_per_user: 2, ..SessionSettings::default() });
    let mut clients = Vec::new();
    for _ in 0..3 {
        fixture.advance(SECOND);
        clients.push(fixture.browser().await);
    }
    assert_eq!(fixture.rejection(&clients[0]).await, rejected(SessionEvent::Displaced), "it was displaced");
    let live = fixture.tokens.sessions_of(USER).await.expect("the store responds");
    assert_eq!(live.iter().map(|row| row.id).collect::<Vec<_>>(), [clients[2].session, clients[1].session]);
}

/// Inserts a user. Returns the store and the hash of the user's password.
async fn insert_user(fixture: &TokensFixture) -> (MemoryStore, SecretString) {
    let hash = SecretString::from("$2b$12$of-a-password");
    let store = fixture.store.current();
    store.insert_users(&[user(USER, &hash)]).await.expect("a user");
    (store, hash)
}

fn user(id: UserId, hash: &SecretString) -> User {
    User {
        id,
        email: "taro@example.jp".into(),
        name: None,
        hashed_password: hash.clone(),
        password_origin: PasswordOrigin::Own,
        role: Role::User,
        disabled_at: None,
        created_at: time::macros::datetime!(2026-01-01 00:00 UTC),
    }
}

#[tokio::test]
async fn user_changed_since_the_password_check_is_not_signed_in() {
    let fixture = TokensFixture::new();
    let (store, hash) = insert_user(&fixture).await;
    let checked = SessionRequest { hashed_password: Some(&hash), ..sign_in(SessionKind::Browser) };
    fixture.tokens.sign_in(checked.clone()).await.expect("the user is unchanged");

    let new = SecretString::from("$2b$12$of-another");
    let ending = fixture.tokens.termination(EndReason::PasswordChanged, &ClientInfo::default());
    let change = PasswordChange { user: USER, old: None, new: &new, keep: None, termination: &ending };
    store.change_password(&change).await.expect("the store responds");
    let error = fixture.tokens.sign_in(checked).await.expect_err("the password was changed");
    assert!(matches!(error, SignInError::Refused));

    store.disable_user(USER, &ending).await.expect("the store responds");
    let checked = SessionRequest { hashed_password: Some(&new), ..sign_in(SessionKind::Browser) };
    assert!(matches!(fixture.tokens.sign_in(checked).await, Err(SignInError::Refused)));
}

#[tokio::test]
async fn new_user_of_the_same_address_has_a_separate_session() {
    let fixture = TokensFixture::new();
    let (store, hash) = insert_user(&fixture).await;
    let checked = SessionRequest { hashed_password: Some(&hash), ..sign_in(SessionKind::Browser) };
    let old = TestClient::new(&fixture.tokens.sign_in(checked.clone()).await.expect("a session"));

    let namesake = UserId(uuid::Uuid::from_u128(8));
    let deleted = fixture.tokens.termination(EndReason::UserDeleted, &ClientInfo::default());
    store.delete_user(USER, &deleted).await.expect("the store responds");
    store.insert_users(&[user(namesake, &hash)]).await.expect("a user");
    let new = SessionRequest { subject: namesake.into(), ..checked };
    let new = TestClient::new(&fixture.tokens.sign_in(new).await.expect("a session"));

    fixture.advance(ACCESS_TTL);
    assert_eq!(fixture.rejection(&old).await, rejected_and_cleared(SessionEvent::UserDeleted));
    let renewed = fixture.refresh(&new).await.expect("a refresh").tokens;
    assert_eq!(&*renewed.identity.subject, namesake.to_string());
    assert_eq!(&*fixture.read(old.access.as_deref()).identity.subject, USER.to_string());
}

#[tokio::test]
async fn failing_store_neither_creates_nor_terminates_sessions() {
    let (fixture, client) = TokensFixture::with_browser().await;
    fixture.store.set_unavailable(true);
    let error = fixture.tokens.sign_in(sign_in(SessionKind::Browser)).await.expect_err("it is unavailable");
    assert!(matches!(error, SignInError::Store(StoreError::Unavailable(_))));
    assert!(fixture.tokens.end(client.session, EndReason::LoggedOut, &ClientInfo::default()).await.is_err());
    fixture.store.set_unavailable(false);
    assert!(fixture.terminate(&client, EndReason::LoggedOut).await);
    let again = fixture.terminate(&client, EndReason::Revoked).await;
    assert!(!again, "it was terminated before");
}

#[tokio::test]
async fn session_and_token_ids_are_unique() {
    let fixture = TokensFixture::new();
    let mut ids = HashSet::new();
    for _ in 0..1_000 {
        let client = fixture.browser().await;
        ids.insert(client.session.0);
        ids.insert(fixture.id(&client).0);
    }
    assert_eq!(ids.len(), 2_000);
}

// Subjects and claims.

fn claims(plan: &str) -> Claims {
    Claims::new(&serde_json::json!({"plan": plan})).expect("claims")
}

/// Signs in a user of the application with a number and claims.
async fn sign_in_with_claims(fixture: &TokensFixture, plan: &str) -> IssuedSession {
    let sign_in = SessionRequest { claims: claims(plan), ..SessionRequest::new(42, "ann@example.org") };
    fixture.tokens.sign_in(sign_in).await.expect("a session")
}

#[tokio::test]
async fn claims_travel_in_the_access_token_and_survive_refreshes() {
    let fixture = TokensFixture::new();
    let issued = sign_in_with_claims(&fixture, "team").await;
    assert_eq!(issued.tokens.identity.claims, claims("team"));
    let mut client = TestClient::new(&issued);
    for _ in 0..3 {
        let identity = verify(&fixture, &client).expect("valid").identity;
        assert_eq!((identity.subject.parse(), identity.claims), (Ok(42), claims("team")));
        fixture.rotate(&mut client).await;
    }
    let live = fixture.tokens.sessions_of(42).await.expect("the store responds");
    assert_eq!(live.iter().map(|row| row.id).collect::<Vec<_>>(), [client.session]);
}

#[tokio::test]
async fn updated_claims_hold_from_the_next_refresh() {
    let fixture = TokensFixture::new();
    let mut client = TestClient::new(&sign_in_with_claims(&fixture, "free").await);
    let update = async |claims: &Claims| {
        let value: serde_json::Value = claims.get().expect("JSON");
        fixture.tokens.update_claims(client.session, &value).await.expect("the store responds")
    };
    assert!(update(&claims("team")).await);
    assert_eq!(verify(&fixture, &client).expect("valid").identity.claims, claims("free"));
    fixture.advance(ACCESS_TTL);
    let refreshed = fixture.refresh(&client).await.expect("a refresh").tokens;
    assert_eq!((refreshed.event, refreshed.identity.claims), (SessionEvent::Rotated, claims("team")));

    // The result of that refresh would be shared for some seconds.
    assert!(update(&claims("large")).await);
    let again = fixture.refresh(&client).await.expect("a refresh").tokens;
    assert_eq!((again.event, again.identity.claims), (SessionEvent::Replayed, claims("large")));
    assert!(update(&Claims::default()).await, "null removes them");
    fixture.expect_refresh(&mut client, SessionEvent::Replayed).await;
    assert!(verify(&fixture, &client).expect("valid").identity.claims.is_none());
}

#[tokio::test]
async fn claims_of_an_ended_session_are_not_replaced() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let update = async |session| {
        let updated = fixture.tokens.update_claims(session, &NoClaims).await;
        updated.expect("the store responds")
    };
    assert!(!update(SessionId(uuid::Uuid::from_u128(1))).await, "no session");
    assert!(fixture.terminate(&client, EndReason::Revoked).await);
    assert!(!update(client.session).await);
    let expired = fixture.browser().await;
    fixture.advance(fixture.tokens.settings().absolute_ttl);
    assert!(!update(expired.session).await);
}

#[tokio::test]
async fn token_that_no_cookie_holds_is_not_issued() {
    let fixture = TokensFixture::new();
    let roles = |len| Roles::new(["x".repeat(len)]).expect("a role");
    let request = |len| SessionRequest { roles: roles(len), ..sign_in(SessionKind::Browser) };
    let error = fixture.tokens.sign_in(request(3_000)).await.expect_err("too long");
    assert!(matches!(error, SignInError::TokenTooLong(4_001..)), "{error:?}");
    assert!(error.to_string().contains("cookies hold 4000"), "{error}");
    assert!(fixture.store.take_calls().is_empty());

    let session = fixture.tokens.sign_in(request(2_500)).await.expect("a session").session;
    let long = serde_json::json!({"a": "x".repeat(500)});
    let error = fixture.tokens.update_claims(session.id, &long).await.expect_err("too long");
    assert!(matches!(error, UpdateClaimsError::Token(SignInError::TokenTooLong(_))), "{error:?}");
    let error = fixture.tokens.update_claims(session.id, "text").await.expect_err("not an object");
    assert!(matches!(error, UpdateClaimsError::Invalid(InvalidClaims::NotAnObject)), "{error:?}");
    let row = fixture.store.current().find_session(session.id).await.expect("the store responds");
    assert_eq!(row, Some(session));
}

// Verification.

#[tokio::test]
async fn refresh_is_due_a_tenth_of_the_lifetime_before_expiry() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let expires_at = fixture.read(client.access.as_deref()).identity.expires_at;
    let tenth = (expires_at - fixture.now()) / 10;
    fixture.clock.set(expires_at - tenth - SECOND);
    assert!(!verify(&fixture, &client).expect("valid").refresh_due);
    fixture.clock.set(expires_at - tenth);
    assert!(verify(&fixture, &client).expect("still valid").refresh_due);
}

#[tokio::test]
async fn access_token_is_valid_until_expiry_plus_leeway() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let expires_at = fixture.read(client.access.as_deref()).identity.expires_at;
    fixture.clock.set(expires_at + 5 * SECOND - Duration::from_micros(1));
    assert!(verify(&fixture, &client).is_ok());
    fixture.clock.set(expires_at + 5 * SECOND);
    assert_eq!(verify(&fixture, &client).map(drop), Err(VerifyError::Expired));
}

/// B2: after a restart with a shorter lifetime, or on a replica that has it already, a token of the former lifetime
/// is not accepted beyond the time for which ended sessions are known.
#[tokio::test]
async fn shorter_lifetime_applies_to_tokens_of_the_former_one() {
    let fixture = TokensFixture::new();
    let (mut honest, revoked) = (fixture.browser().await, fixture.browser().await);
    assert!(fixture.terminate(&revoked, EndReason::Revoked).await);
    // Beyond the horizon of the new lifetime and its overlap, before the tokens' own expiry.
    fixture.advance(Duration::from_secs(300));
    let restarted = fixture.replica_with_access_ttl(Duration::from_secs(120));
    restarted.tokens.revocations().load().await.expect("the store responds");
    assert_eq!(verify(&restarted, &revoked).map(drop), Err(VerifyError::Expired));
    assert_eq!(restarted.rejection(&revoked).await, rejected_and_cleared(SessionEvent::Revoked));

    assert_eq!(verify(&restarted, &honest).map(drop), Err(VerifyError::Expired), "it is refreshed");
    restarted.expect_refresh(&mut honest, SessionEvent::Rotated).await;
    assert!(verify(&restarted, &honest).is_ok() && verify(&fixture, &honest).is_ok());
}

/// B2: a replica that still has the longer lifetime knows ended sessions for as long.
#[tokio::test]
async fn longer_lifetime_extends_the_revocation_list() {
    let fixture = TokensFixture::new();
    let client = fixture.browser().await;
    assert!(fixture.terminate(&client, EndReason::Revoked).await);
    fixture.advance(Duration::from_secs(600));
    let longer = fixture.replica_with_access_ttl(Duration::from_secs(3_600));
    longer.tokens.revocations().load().await.expect("the store responds");
    assert_eq!(verify(&longer, &client).map(drop), Err(VerifyError::Ended(SessionEvent::Revoked)));
}

#[tokio::test]
async fn lifetimes_have_jitter() {
    let fixture = TokensFixture::new();
    let mut lifetimes = HashSet::new();
    for _ in 0..200 {
        let client = fixture.browser().await;
        let lifetime = fixture.read(client.access.as_deref()).identity.expires_at - fixture.now();
        let shortest = ACCESS_TTL.mul_f64(0.95).saturating_sub(SECOND);
        assert!((shortest..=ACCESS_TTL).contains(&lifetime.unsigned_abs()), "{lifetime}");
        lifetimes.insert(lifetime);
    }
    assert!(lifetimes.len() > 20, "only {} lifetimes", lifetimes.len());
}

#[tokio::test]
async fn unknown_key_of_an_access_token_is_noticed() {
    let (fixture, client) = TokensFixture::with_browser().await;
    fixture.tokens.keys().replace(foreign_keys(9, &fixture.clock));
    assert_eq!(verify(&fixture, &client).map(drop), Err(VerifyError::UnknownKey));
    // Returns at once, because the notification is kept.
    fixture.tokens.keys().unknown_key().await;
}

#[tokio::test]
async fn access_tokens_stay_valid_after_a_key_rotation() {
    let (fixture, old) = TokensFixture::with_browser().await;
    fixture.rotate_keys();
    let new = fixture.browser().await;
    assert!(verify(&fixture, &old).is_ok());
    assert!(verify(&fixture, &new).is_ok());
    assert_ne!(old.access.unwrap().split('.').next(), new.access.unwrap().split('.').next());
}

#[tokio::test]
async fn expired_and_replaced_tokens_identify_their_session() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let other = fixture.browser().await;
    fixture.advance(10 * ACCESS_TTL);
    let (access, refresh) = (client.access.as_deref(), Some(client.refresh.as_str()));
    assert_eq!(fixture.tokens.identify_session(refresh, None), Some(client.session));
    assert_eq!(fixture.tokens.identify_session(None, access), Some(client.session));
    assert_eq!(fixture.tokens.identify_session(Some("forged"), access), Some(client.session));
    assert_eq!(fixture.tokens.identify_session(Some(&other.refresh), access), Some(other.session));
    assert_eq!(fixture.tokens.identify_session(Some("forged"), Some("forged")), None);
}

// Confirmed use.

#[tokio::test]
async fn confirmed_use_is_recorded_once() {
    let (fixture, client) = TokensFixture::with_browser().await;
    for _ in 0..101 {
        verify(&fixture, &client).expect("valid");
        fixture.advance(SECOND);
    }
    verify(&fixture, &client).expect("valid");
    fixture.tokens.flush_deferred().await.expect("the store responds");
    assert!(fixture.store.take_calls().is_empty(), "rounded to whole seconds, 101 s may be 100 s");
    fixture.advance(SECOND);
    verify(&fixture, &client).expect("valid");
    verify(&fixture, &client).expect("valid");
    fixture.tokens.flush_deferred().await.expect("the store responds");
    fixture.tokens.flush_deferred().await.expect("the store responds");
    assert_eq!(fixture.store.take_calls(), ["confirm_generation"]);
    assert_eq!(fixture.row(&client).await.settled_by, Some(fixture.id(&client)));
}

#[tokio::test(start_paused = true)]
async fn deferred_writes_are_flushed_within_a_second() {
    let (fixture, client) = TokensFixture::with_browser().await;
    fixture.advance(BEYOND_GRACE);
    verify(&fixture, &client).expect("valid");
    assert!(fixture.store.take_calls().is_empty(), "no request waits for it");
    tokio::time::sleep(SECOND).await;
    assert_eq!(fixture.row(&client).await.settled_by, Some(fixture.id(&client)));
}

#[tokio::test(start_paused = true)]
async fn deferred_writes_survive_a_failing_store() {
    let (fixture, client) = TokensFixture::with_browser().await;
    fixture.advance(SECOND);
    fixture.refresh(&client).await.expect("a replay");
    fixture.advance(BEYOND_GRACE);
    verify(&fixture, &client).expect("valid");
    fixture.store.set_unavailable(true);
    assert!(fixture.tokens.flush_deferred().await.is_err());
    tokio::time::sleep(60 * SECOND).await;
    fixture.store.set_unavailable(false);
    tokio::time::sleep(SECOND).await;
    let row = fixture.row(&client).await;
    assert_eq!((row.settled_by, row.replays), (Some(fixture.id(&client)), 1), "flushed by the retry");
}

#[test]
fn writes_without_a_runtime_are_flushed_with_a_later_write() {
    let fixture = TokensFixture::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let (client, other) =
        runtime().unwrap().block_on(async { (fixture.browser().await, fixture.browser().await) });
    fixture.advance(BEYOND_GRACE);
    verify(&fixture, &client).expect("valid");
    runtime().unwrap().block_on(async {
        verify(&fixture, &other).expect("valid");
        tokio::time::sleep(SECOND).await;
        assert!(fixture.row(&other).await.settled_by.is_some());
        assert!(fixture.row(&client).await.settled_by.is_some());
    });
}

/// Creates a session with confirmed uses of two access tokens of one generation.
async fn with_two_confirmed_uses(kind: SessionKind) -> (TokensFixture, TestClient) {
    let fixture = TokensFixture::new();
    let client = fixture.sign_in(kind).await;
    let second = TestClient::new(&fixture.refresh(&client).await.expect("a replay"));
    fixture.advance(BEYOND_GRACE);
    for client in [&client, &second] {
        verify(&fixture, client).expect("valid");
        fixture.tokens.flush_deferred().await.expect("the store responds");
    }
    (fixture, client)
}

#[tokio::test]
async fn second_confirmed_use_terminates_a_browser_session() {
    let (fixture, client) = with_two_confirmed_uses(SessionKind::Browser).await;
    assert_eq!(fixture.row(&client).await.end.map(|end| end.reason), Some(EndReason::ReuseDetected));
    assert_eq!(fixture.rejection(&client).await, rejected(SessionEvent::ReuseDetected), "it was terminated");
}

#[tokio::test]
async fn second_confirmed_use_is_allowed_in_client_sessions() {
    let (fixture, client) = with_two_confirmed_uses(SessionKind::Client).await;
    assert_eq!(fixture.row(&client).await.end, None);
    fixture.refresh(&client).await.expect("a rotation");
}

/// Without a poller too, as in an application of a single process.
#[tokio::test]
async fn sessions_terminated_by_a_sign_in_are_rejected_at_once() {
    let fixture =
        TokensFixture::with_settings(SessionSettings { max_per_user: 1, ..SessionSettings::default() });
    let first = fixture.browser().await;
    let request = SessionRequest { replaces: Some(first.session), ..sign_in(SessionKind::Browser) };
    let second = TestClient::new(&fixture.tokens.sign_in(request).await.expect("a session"));
    let third = fixture.browser().await;
    let verified = |client| verify(&fixture, client).map(drop);
    assert_eq!(verified(&first), Err(VerifyError::Ended(SessionEvent::LoggedOut)));
    assert_eq!(verified(&second), Err(VerifyError::Ended(SessionEvent::Displaced)));
    assert_eq!(verified(&third), Ok(()));
}

#[tokio::test]
async fn terminate_learns_of_termination_by_another_replica() {
    let fixture = TokensFixture::new();
    let (client, elsewhere) = (fixture.browser().await, fixture.replica());
    assert!(elsewhere.terminate(&client, EndReason::Revoked).await);
    assert!(verify(&fixture, &client).is_ok(), "it has not polled");
    assert!(!fixture.terminate(&client, EndReason::LoggedOut).await);
    assert_eq!(verify(&fixture, &client).map(drop), Err(VerifyError::Ended(SessionEvent::Revoked)));
}

/// A backlog of audit entries does not displace confirmed uses, and is written in chunks.
#[tokio::test]
async fn audit_backlog_is_limited_and_written_in_chunks() {
    let (fixture, mut client) = TokensFixture::with_expired_access_token().await;
    fixture.expect_refresh(&mut client, SessionEvent::Rotated).await;
    fixture.store.set_unavailable(true);
    for _ in 0..10_700 {
        fixture.tokens.audit().record_failed_login(None, &ClientInfo::default());
    }
    assert_eq!(fixture.tokens.dropped_writes(), 700);
    fixture.advance(BEYOND_GRACE);
    verify(&fixture, &client).expect("valid");
    assert!(fixture.tokens.flush_deferred().await.is_err());
    fixture.store.set_unavailable(false);
    fixture.store.take_calls();
    fixture.tokens.flush_deferred().await.expect("the store responds");
    assert_eq!(fixture.store.take_calls().iter().filter(|call| **call == "record").count(), 20);
    assert!(fixture.row(&client).await.settled_by.is_some());
}

#[tokio::test]
async fn termination_completes_when_the_caller_is_dropped() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let blocked = fixture.store.block().await;
    let by = ClientInfo::default();
    let mut terminating = Box::pin(fixture.tokens.end(client.session, EndReason::LoggedOut, &by));
    assert!(poll_once(terminating.as_mut()).is_pending());
    drop(terminating);
    drop(blocked);
    while verify(&fixture, &client).is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(verify(&fixture, &client).map(drop), Err(VerifyError::Ended(SessionEvent::LoggedOut)));
}

#[tokio::test]
async fn sign_in_completes_when_the_caller_is_dropped() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let blocked = fixture.store.block().await;
    let again = SessionRequest { replaces: Some(client.session), ..sign_in(SessionKind::Browser) };
    let mut signing_in = Box::pin(fixture.tokens.sign_in(again));
    assert!(poll_once(signing_in.as_mut()).is_pending());
    drop(signing_in);
    drop(blocked);
    while verify(&fixture, &client).is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(verify(&fixture, &client).map(drop), Err(VerifyError::Ended(SessionEvent::LoggedOut)));
}

#[tokio::test(start_paused = true)]
async fn stopped_tokens_make_no_store_calls() {
    let (fixture, client) = TokensFixture::with_browser().await;
    fixture.advance(BEYOND_GRACE);
    verify(&fixture, &client).expect("valid");
    fixture.store.set_unavailable(true);
    assert!(fixture.tokens.stop().await.is_err());
    fixture.store.take_calls();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(fixture.store.take_calls(), [""; 0]);
}

/// A8: the number of store calls does not depend on the number of sessions.
#[tokio::test]
async fn list_of_sessions_is_terminated_with_a_few_store_calls() {
    let fixture = TokensFixture::new();
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(fixture.browser().await);
    }
    assert!(fixture.terminate(&clients[0], EndReason::Revoked).await);
    let unknown = (0..600).map(|n| SessionId(uuid::Uuid::from_u128(n)));
    let ids: Vec<_> = clients.iter().map(|client| client.session).chain(unknown).collect();
    fixture.store.take_calls();
    let terminated = fixture.tokens.end_list(ids, EndReason::LoggedOut, &ClientInfo::default()).await;
    assert_eq!(terminated.expect("the store responds").len(), 39);
    assert_eq!(fixture.store.take_calls(), ["end_session_list", "find_session", "find_session"]);
    for client in &clients {
        assert!(verify(&fixture, client).is_err());
    }
    let nothing = fixture.tokens.end_list(Vec::new(), EndReason::LoggedOut, &ClientInfo::default()).await;
    assert!(nothing.expect("the store is not called").is_empty());
    assert!(fixture.store.take_calls().is_empty());
}
