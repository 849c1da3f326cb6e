//! From sign-in to the end, but for renewals: their tests are in `renewal`.

use std::collections::HashSet;
use std::time::Duration;

use secrecy::SecretString;

use super::*;
use crate::models::user::{Role, User};
use crate::services::memory::MemoryStore;
use crate::services::store::{PasswordChange, UserStore};
use crate::services::test_support::{
    ACCESS_TTL, BEYOND_GRACE, TestClient, TokensFixture, USER, foreign_keys, sign_in,
};

const SECOND: Duration = Duration::from_secs(1);

fn verify(scene: &TokensFixture, jar: &TestClient) -> Result<Verified, VerifyError> {
    scene.tokens.verify(jar.access.as_deref().expect("an access token"))
}

// Signing in.

#[tokio::test]
async fn a_sign_in_gives_tokens_that_work() {
    let scene = TokensFixture::new();
    let issued = scene.tokens.sign_in(sign_in(SessionKind::Browser)).await.expect("a session");
    let verified = scene.tokens.verify(&issued.tokens.access_token).expect("valid");
    assert_eq!(verified.identity, issued.tokens.identity);
    assert_eq!(&*verified.identity.subject, USER.to_string());
    assert_eq!(verified.identity.session, issued.session.id);
    assert!(!verified.renew);
    let expires_at = issued.session.expires_at();
    assert_eq!(expires_at - scene.now(), issued.tokens.max_age);
    assert_eq!(issued.tokens.max_age, ACCESS_TTL + scene.tokens.settings().idle_ttl);
}

#[tokio::test]
async fn rule_3_a_sign_in_ends_the_session_whose_tokens_came_with_it() {
    let scene = TokensFixture::new();
    let before = scene.browser().await;
    scene.advance(ACCESS_TTL);
    scene.tokens.refresh_session(before.request(), before.kind).await.expect("a rotation, remembered");
    let replaces = scene.tokens.identify_session(Some(&before.refresh), None);
    assert_eq!(replaces, Some(before.session));
    let again = SessionRequest { replaces, ..sign_in(SessionKind::Browser) };
    let issued = scene.tokens.sign_in(again).await.expect("a session");
    assert_ne!(issued.session.id, before.session);
    let error = scene.renew(&before).await.map(drop).expect_err("it has ended");
    assert_eq!(error, RefreshError::Over { event: SessionEvent::LoggedOut, clear: false });
}

#[tokio::test]
async fn the_oldest_session_gives_way() {
    let scene = TokensFixture::with(SessionSettings { max_per_user: 2, ..SessionSettings::default() });
    let mut jars = Vec::new();
    for _ in 0..3 {
        scene.advance(SECOND);
        jars.push(scene.browser().await);
    }
    let error = scene.renew(&jars[0]).await.map(drop).expect_err("it gave way");
    assert_eq!(error, RefreshError::Over { event: SessionEvent::Displaced, clear: false });
    let live = scene.tokens.live_sessions(USER).await.expect("an answer");
    assert_eq!(live.iter().map(|row| row.id).collect::<Vec<_>>(), [jars[2].session, jars[1].session]);
}

/// A store that knows one user, and the hash of its password.
async fn with_a_user(scene: &TokensFixture) -> (MemoryStore, SecretString) {
    let hash = SecretString::from("$2b$12$of-a-password");
    let store = scene.store.current();
    store.insert_users(&[user(USER, &hash)]).await.expect("a user");
    (store, hash)
}

fn user(id: UserId, hash: &SecretString) -> User {
    User {
        id,
        email: "taro@example.jp".into(),
        name: None,
        hashed_password: hash.clone(),
        role: Role::User,
        disabled_at: None,
        created_at: time::macros::datetime!(2026-01-01 00:00 UTC),
    }
}

#[tokio::test]
async fn rule_8_who_changed_since_the_password_was_checked_is_not_signed_in() {
    let scene = TokensFixture::new();
    let (store, hash) = with_a_user(&scene).await;
    let checked = SessionRequest { hashed_password: Some(&hash), ..sign_in(SessionKind::Browser) };
    scene.tokens.sign_in(checked.clone()).await.expect("nothing has changed");

    let new = SecretString::from("$2b$12$of-another");
    let ending = scene.tokens.termination(EndReason::PasswordChanged, &ClientInfo::default());
    let change = PasswordChange { user: USER, old: None, new: &new, keep: None, ending: &ending };
    store.change_password(&change).await.expect("an answer");
    let error = scene.tokens.sign_in(checked).await.expect_err("another password by now");
    assert!(matches!(error, SignInError::Refused));

    store.disable_user(USER, &ending).await.expect("an answer");
    let checked = SessionRequest { hashed_password: Some(&new), ..sign_in(SessionKind::Browser) };
    assert!(matches!(scene.tokens.sign_in(checked).await, Err(SignInError::Refused)));
}

#[tokio::test]
async fn t_12_a_new_user_of_the_same_name_is_not_the_old_one() {
    let scene = TokensFixture::new();
    let (store, hash) = with_a_user(&scene).await;
    let checked = SessionRequest { hashed_password: Some(&hash), ..sign_in(SessionKind::Browser) };
    let old = TestClient::of(&scene.tokens.sign_in(checked.clone()).await.expect("a session"));

    let namesake = UserId(uuid::Uuid::from_u128(8));
    let deleted = scene.tokens.termination(EndReason::UserDeleted, &ClientInfo::default());
    store.delete_user(USER, &deleted).await.expect("an answer");
    store.insert_users(&[user(namesake, &hash)]).await.expect("a user");
    let new = SessionRequest { user: namesake, ..checked };
    let new = TestClient::of(&scene.tokens.sign_in(new).await.expect("a session"));

    scene.advance(ACCESS_TTL);
    let error = scene.renew(&old).await.map(drop).expect_err("the user is gone");
    assert_eq!(error, RefreshError::Over { event: SessionEvent::UserDeleted, clear: true });
    let renewed = scene.renew(&new).await.expect("a renewal").tokens;
    assert_eq!(&*renewed.identity.subject, namesake.to_string());
    assert_eq!(&*scene.read(old.access.as_deref()).identity.subject, USER.to_string());
}

#[tokio::test]
async fn a_failing_store_signs_nobody_in_or_out() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.store.set_down(true);
    let error = scene.tokens.sign_in(sign_in(SessionKind::Browser)).await.expect_err("it is down");
    assert!(matches!(error, SignInError::Store(StoreError::Unavailable(_))));
    assert!(scene.tokens.terminate(jar.session, EndReason::LoggedOut, &ClientInfo::default()).await.is_err());
    scene.store.set_down(false);
    assert!(
        scene
            .tokens
            .terminate(jar.session, EndReason::LoggedOut, &ClientInfo::default())
            .await
            .expect("an answer")
    );
    let again = scene
        .tokens
        .terminate(jar.session, EndReason::Revoked, &ClientInfo::default())
        .await
        .expect("an answer");
    assert!(!again, "it has ended already");
}

#[tokio::test]
async fn t_15_no_two_sessions_or_tokens_share_an_id() {
    let scene = TokensFixture::new();
    let mut ids = HashSet::new();
    for _ in 0..1_000 {
        let jar = scene.browser().await;
        ids.insert(jar.session.0);
        ids.insert(scene.id(&jar).0);
    }
    assert_eq!(ids.len(), 2_000);
}

// Checking.

#[tokio::test]
async fn rule_5_renewal_starts_a_tenth_of_the_lifetime_before_expiry() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    let expires_at = scene.read(jar.access.as_deref()).identity.expires_at;
    let tenth = (expires_at - scene.now()) / 10;
    scene.clock.set(expires_at - tenth - SECOND);
    assert!(!verify(&scene, &jar).expect("valid").renew);
    scene.clock.set(expires_at - tenth);
    assert!(verify(&scene, &jar).expect("still valid").renew);
}

#[tokio::test]
async fn an_access_token_is_good_until_its_expiry_and_the_leeway() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    let expires_at = scene.read(jar.access.as_deref()).identity.expires_at;
    scene.clock.set(expires_at + 5 * SECOND - Duration::from_micros(1));
    assert!(verify(&scene, &jar).is_ok());
    scene.clock.set(expires_at + 5 * SECOND);
    assert_eq!(verify(&scene, &jar).map(drop), Err(VerifyError::Expired));
}

#[tokio::test]
async fn lifetimes_are_spread_so_that_tokens_do_not_expire_together() {
    let scene = TokensFixture::new();
    let mut lifetimes = HashSet::new();
    for _ in 0..200 {
        let jar = scene.browser().await;
        let lifetime = scene.read(jar.access.as_deref()).identity.expires_at - scene.now();
        let shortest = ACCESS_TTL.mul_f64(0.95).saturating_sub(SECOND);
        assert!((shortest..=ACCESS_TTL).contains(&lifetime.unsigned_abs()), "{lifetime}");
        lifetimes.insert(lifetime);
    }
    assert!(lifetimes.len() > 20, "only {} lifetimes", lifetimes.len());
}

#[tokio::test]
async fn an_access_token_of_an_unknown_key_is_noticed() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.tokens.keys().replace(foreign_keys(9, &scene.clock));
    assert_eq!(verify(&scene, &jar).map(drop), Err(VerifyError::UnknownKey));
    // It returns at once: the notice was kept.
    scene.tokens.keys().unknown_noticed().await;
}

#[tokio::test]
async fn access_tokens_of_an_older_key_go_on_after_a_rotation() {
    let scene = TokensFixture::new();
    let old = scene.browser().await;
    scene.rotate_keys();
    let new = scene.browser().await;
    assert!(verify(&scene, &old).is_ok());
    assert!(verify(&scene, &new).is_ok());
    assert_ne!(old.access.unwrap().split('.').next(), new.access.unwrap().split('.').next());
}

#[tokio::test]
async fn the_session_of_expired_and_outdated_tokens_is_known() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    let other = scene.browser().await;
    scene.advance(10 * ACCESS_TTL);
    let (access, refresh) = (jar.access.as_deref(), Some(jar.refresh.as_str()));
    assert_eq!(scene.tokens.identify_session(refresh, None), Some(jar.session));
    assert_eq!(scene.tokens.identify_session(None, access), Some(jar.session));
    assert_eq!(scene.tokens.identify_session(Some("forged"), access), Some(jar.session));
    assert_eq!(scene.tokens.identify_session(Some(&other.refresh), access), Some(other.session));
    assert_eq!(scene.tokens.identify_session(Some("forged"), Some("forged")), None);
}

// Settling.

#[tokio::test]
async fn a_token_in_lasting_use_settles_its_generation_once() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    for _ in 0..61 {
        verify(&scene, &jar).expect("valid");
        scene.advance(SECOND);
    }
    verify(&scene, &jar).expect("valid");
    scene.tokens.flush_deferred().await.expect("an answer");
    assert!(scene.store.calls().is_empty(), "61 s by whole seconds may be 60 s");
    scene.advance(SECOND);
    verify(&scene, &jar).expect("valid");
    verify(&scene, &jar).expect("valid");
    scene.tokens.flush_deferred().await.expect("an answer");
    scene.tokens.flush_deferred().await.expect("an answer");
    assert_eq!(scene.store.calls(), ["settle"]);
    assert_eq!(scene.row(&jar).await.settled_by, Some(scene.id(&jar)));
}

#[tokio::test(start_paused = true)]
async fn notes_are_written_by_themselves_within_a_second() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(BEYOND_GRACE);
    verify(&scene, &jar).expect("valid");
    assert!(scene.store.calls().is_empty(), "off the request's path");
    tokio::time::sleep(SECOND).await;
    assert_eq!(scene.row(&jar).await.settled_by, Some(scene.id(&jar)));
}

#[tokio::test(start_paused = true)]
async fn notes_survive_a_failing_store() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(SECOND);
    scene.renew(&jar).await.expect("a replay");
    scene.advance(BEYOND_GRACE);
    verify(&scene, &jar).expect("valid");
    scene.store.set_down(true);
    assert!(scene.tokens.flush_deferred().await.is_err());
    tokio::time::sleep(60 * SECOND).await;
    scene.store.set_down(false);
    tokio::time::sleep(SECOND).await;
    let row = scene.row(&jar).await;
    assert_eq!((row.settled_by, row.replays), (Some(scene.id(&jar)), 1), "written by themselves");
}

#[test]
fn what_was_noted_without_a_runtime_is_written_with_a_later_note() {
    let scene = TokensFixture::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let (jar, other) = runtime().unwrap().block_on(async { (scene.browser().await, scene.browser().await) });
    scene.advance(BEYOND_GRACE);
    verify(&scene, &jar).expect("valid");
    runtime().unwrap().block_on(async {
        verify(&scene, &other).expect("valid");
        tokio::time::sleep(SECOND).await;
        assert!(scene.row(&other).await.settled_by.is_some());
        assert!(scene.row(&jar).await.settled_by.is_some());
    });
}

/// Two access tokens of one generation in use.
async fn in_lasting_use_twice(kind: SessionKind) -> (TokensFixture, TestClient) {
    let scene = TokensFixture::new();
    let jar = scene.sign_in(kind).await;
    let second = TestClient::of(&scene.renew(&jar).await.expect("a replay"));
    scene.advance(BEYOND_GRACE);
    for jar in [&jar, &second] {
        verify(&scene, jar).expect("valid");
        scene.tokens.flush_deferred().await.expect("an answer");
    }
    (scene, jar)
}

#[tokio::test]
async fn a_second_lasting_token_ends_a_browsers_session() {
    let (scene, jar) = in_lasting_use_twice(SessionKind::Browser).await;
    assert_eq!(scene.row(&jar).await.end.map(|end| end.reason), Some(EndReason::ReuseDetected));
    let error = scene.renew(&jar).await.map(drop).expect_err("it has ended");
    assert_eq!(error, RefreshError::Over { event: SessionEvent::ReuseDetected, clear: false });
}

#[tokio::test]
async fn a_client_may_keep_several_tokens_in_lasting_use() {
    let (scene, jar) = in_lasting_use_twice(SessionKind::Client).await;
    assert_eq!(scene.row(&jar).await.end, None);
    scene.renew(&jar).await.expect("a rotation");
}

/// Also without a feed, as in an application that has the store for itself.
#[tokio::test]
async fn sessions_that_a_sign_in_ends_are_refused_at_once() {
    let scene = TokensFixture::with(SessionSettings { max_per_user: 1, ..SessionSettings::default() });
    let first = scene.browser().await;
    let anew = SessionRequest { replaces: Some(first.session), ..sign_in(SessionKind::Browser) };
    let second = TestClient::of(&scene.tokens.sign_in(anew).await.expect("a session"));
    let third = scene.browser().await;
    let verified = |jar: &TestClient| scene.tokens.verify(jar.access.as_deref().expect("a token")).map(drop);
    assert_eq!(verified(&first), Err(VerifyError::Ended(SessionEvent::LoggedOut)));
    assert_eq!(verified(&second), Err(VerifyError::Ended(SessionEvent::Displaced)));
    assert_eq!(verified(&third), Ok(()));
}

#[tokio::test]
async fn an_end_that_another_brought_about_is_known_once_it_is_asked_for() {
    let scene = TokensFixture::new();
    let (jar, elsewhere) = (scene.browser().await, scene.replica());
    assert!(
        elsewhere
            .tokens
            .terminate(jar.session, EndReason::Revoked, &ClientInfo::default())
            .await
            .expect("an answer")
    );
    let access = jar.access.as_deref().expect("a token");
    assert!(scene.tokens.verify(access).is_ok(), "nobody has told it");
    assert!(
        !scene
            .tokens
            .terminate(jar.session, EndReason::LoggedOut, &ClientInfo::default())
            .await
            .expect("an answer")
    );
    assert_eq!(scene.tokens.verify(access).map(drop), Err(VerifyError::Ended(SessionEvent::Revoked)));
}

/// A backlog for the audit neither keeps out what finds thieves, nor is too much to be written.
#[tokio::test]
async fn what_waits_for_the_audit_is_bounded_and_written_in_parts() {
    let scene = TokensFixture::new();
    let mut jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    scene.renewed(&mut jar, SessionEvent::Rotated).await;
    scene.store.set_down(true);
    for _ in 0..10_700 {
        scene.tokens.audit().record_failed_login(None, &ClientInfo::default());
    }
    assert_eq!(scene.tokens.dropped_writes(), 700);
    scene.advance(BEYOND_GRACE);
    scene.tokens.verify(jar.access.as_deref().expect("a token")).expect("valid");
    assert!(scene.tokens.flush_deferred().await.is_err());
    scene.store.set_down(false);
    scene.store.calls();
    scene.tokens.flush_deferred().await.expect("an answer");
    assert_eq!(scene.store.calls().iter().filter(|call| **call == "record").count(), 20);
    assert!(scene.row(&jar).await.settled_by.is_some());
}

#[tokio::test]
async fn an_end_runs_to_its_end_when_its_caller_hangs_up() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    let held = scene.store.hold().await;
    let by = ClientInfo::default();
    let mut ending = Box::pin(scene.tokens.terminate(jar.session, EndReason::LoggedOut, &by));
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(ending.as_mut().poll(cx))).await;
    assert!(polled.is_pending());
    drop(ending);
    drop(held);
    while verify(&scene, &jar).is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(verify(&scene, &jar).map(drop), Err(VerifyError::Ended(SessionEvent::LoggedOut)));
}
