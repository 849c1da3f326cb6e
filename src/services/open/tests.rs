use super::*;
use crate::clock::ManualClock;
use crate::layer::{TokenService, VerifyError};
use crate::models::session::EndReason;
use crate::services::keys::{Algorithm, KeyMaterial};
use crate::services::memory::MemoryStore;
use crate::services::store::SessionStore as _;
use crate::services::test_support::USER;
use crate::services::token::{IssuedSession, SessionRequest};
use crate::session_event::SessionEvent;

/// The processes that share a store.
struct Deployment {
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    key: KeyMaterial,
}

impl Deployment {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let key = KeyMaterial::generate(1, Algorithm::Hs256, clock.now()).expect("random bytes");
        Self { store: Arc::default(), clock, key }
    }

    /// Starts a process with this key and issuer.
    async fn start_with(&self, key: &KeyMaterial, issuer: &str) -> Result<Tokens, OpenTokensError> {
        let builder = Tokens::builder().signing_key(key.clone()).issuer(issuer).clock(self.clock.clone());
        builder.open(self.store.clone()).await
    }

    async fn start(&self) -> Tokens {
        self.start_with(&self.key, "sekisho").await.expect("the same issuer and key")
    }
}

async fn sign_in(tokens: &Tokens) -> IssuedSession {
    tokens.sign_in(SessionRequest::new(USER, "ann@example.org")).await.expect("a session")
}

#[tokio::test(start_paused = true)]
async fn process_with_another_issuer_or_key_is_refused() {
    let deployment = Deployment::new();
    let _first = deployment.start().await;
    let error = deployment.start_with(&deployment.key, "other").await.expect_err("another issuer");
    let message = "issuer is \"other\", but the store was set up with \"sekisho\"";
    assert!(error.to_string().starts_with(message), "{error}");
    let other = KeyMaterial::generate(1, Algorithm::Hs256, deployment.clock.now()).expect("random bytes");
    let error = deployment.start_with(&other, "sekisho").await.expect_err("another key");
    assert!(matches!(error, OpenTokensError::Key(1)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn session_that_another_process_ends_is_refused_within_a_second() {
    let deployment = Deployment::new();
    let one = deployment.start().await;
    let other = deployment.start().await;
    let issued = sign_in(&one).await;
    let end = |id| {
        let other = other.clone();
        async move { other.end(id, EndReason::Revoked, &Default::default()).await.expect("the store responds") }
    };
    assert!(end(issued.session.id).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let verified = one.verify(&issued.tokens.access_token).map(drop);
    assert_eq!(verified, Err(VerifyError::Ended(SessionEvent::Revoked)));

    one.stop().await.expect("the store responds");
    let issued = sign_in(&one).await;
    assert!(end(issued.session.id).await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(one.verify(&issued.tokens.access_token).is_ok(), "the poller still runs");
}

#[tokio::test(start_paused = true)]
async fn start_reads_ended_sessions_and_terminates_expired_ones() {
    let deployment = Deployment::new();
    let first = deployment.start().await;
    let ended = sign_in(&first).await;
    first.end(ended.session.id, EndReason::Revoked, &Default::default()).await.expect("terminated");
    first.stop().await.expect("the store responds");
    let second = deployment.start().await;
    let verified = second.verify(&ended.tokens.access_token).map(drop);
    assert_eq!(verified, Err(VerifyError::Ended(SessionEvent::Revoked)));

    let idle = sign_in(&second).await;
    second.stop().await.expect("the store responds");
    deployment.clock.advance(Duration::from_secs(15 * 86_400));
    let _third = deployment.start().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let row = deployment.store.find_session(idle.session.id).await.expect("the store responds");
    let reason = row.and_then(|row| row.end).map(|end| end.reason);
    assert_eq!(reason, Some(EndReason::IdleExpired));
}

#[tokio::test(start_paused = true)]
async fn stop_writes_what_was_deferred() {
    let deployment = Deployment::new();
    let tokens = deployment.start().await;
    let issued = sign_in(&tokens).await;
    deployment.clock.advance(Duration::from_secs(120));
    tokens.verify(&issued.tokens.access_token).expect("valid");
    tokens.stop().await.expect("the store responds");
    let row = deployment.store.find_session(issued.session.id).await.expect("the store responds");
    assert!(row.is_some_and(|row| row.settled_by.is_some()), "the use was not confirmed");
}

#[tokio::test(start_paused = true)]
async fn tasks_end_with_the_last_clone() {
    let deployment = Deployment::new();
    let tokens = deployment.start().await;
    drop(tokens.clone());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(Arc::strong_count(&deployment.store) > 1, "a clone remains");
    drop(tokens);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(Arc::strong_count(&deployment.store), 1);
}

/// Without the row of an ended session, a new process would accept its access tokens again.
#[tokio::test(start_paused = true)]
async fn retention_outside_of_its_limits_is_refused() {
    let deployment = Deployment::new();
    let new = || Tokens::builder().signing_key(deployment.key.clone());
    let at_least =
        "keep_ended: expected at least 18m 5s, the sum of access_ttl, leeway, twice grace and a minute";
    for (builder, message) in [
        (new().keep_ended(Duration::ZERO), at_least),
        (new().keep_ended(Duration::MAX), "keep_ended: expected at most 3652d 12h"),
        (new().keep_audit(Some(Duration::MAX)), "keep_audit: expected at most 3652d 12h"),
    ] {
        let error = builder.open(deployment.store.clone()).await.expect_err("outside of its limits");
        assert_eq!(error.to_string(), message);
    }
}

#[tokio::test(start_paused = true)]
async fn key_is_required() {
    let error = Tokens::builder().open(Arc::new(MemoryStore::default())).await.expect_err("no key");
    assert!(error.to_string().starts_with("secret: expected a secret or keys"), "{error}");
}
