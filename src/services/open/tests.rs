use super::*;
use crate::clock::ManualClock;
use crate::layer::{TokenService, VerifyError};
use crate::models::session::EndReason;
use crate::services::jwt::{AccessTokens, JwtSettings};
use crate::services::keys::{Algorithm, KeyMaterial, SharedKeys};
use crate::services::memory::MemoryStore;
use crate::services::store::SessionStore as _;
use crate::services::test_support::{USER, ring};
use crate::services::token::{IssuedSession, SessionRequest, SessionSettings};
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

    /// Starts a process with another key or issuer, if given.
    async fn start(
        &self,
        key: Option<&KeyMaterial>,
        issuer: &str,
    ) -> Result<(Tokens, TokenTasks), OpenTokensError> {
        let opened = OpenedStore::with_clock(self.store.clone(), self.clock.clone());
        let keys = Arc::new(SharedKeys::new(ring([key.unwrap_or(&self.key)])));
        let access = AccessTokens::new(JwtSettings { issuer: issuer.to_owned(), ..JwtSettings::default() });
        let settings = SessionSettings::default();
        let retention = RetentionPolicy::new(settings.grace);
        let tokens = Tokens::new(self.store.clone(), keys, access, settings, opened.clock());
        let tasks = opened.run(&tokens, retention).await?;
        Ok((tokens, tasks))
    }

    async fn start_same(&self) -> (Tokens, TokenTasks) {
        self.start(None, "sekisho").await.expect("the same settings and keys")
    }
}

async fn sign_in(tokens: &Tokens) -> IssuedSession {
    tokens.sign_in(SessionRequest::new(USER, "ann@example.org")).await.expect("a session")
}

#[tokio::test(start_paused = true)]
async fn process_with_another_issuer_or_key_is_refused() {
    let deployment = Deployment::new();
    let _first = deployment.start_same().await;
    let error = deployment.start(None, "other").await.expect_err("another issuer");
    let message = "issuer is \"other\", but the store was set up with \"sekisho\"";
    assert!(error.to_string().starts_with(message), "{error}");
    let other = KeyMaterial::generate(1, Algorithm::Hs256, deployment.clock.now()).expect("random bytes");
    let error = deployment.start(Some(&other), "sekisho").await.expect_err("another key");
    assert!(matches!(error, OpenTokensError::Key(1)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn session_that_another_process_ends_is_refused_within_a_second() {
    let deployment = Deployment::new();
    let (one, one_tasks) = deployment.start_same().await;
    let (other, _other_tasks) = deployment.start_same().await;
    let issued = sign_in(&one).await;
    let end = |id| {
        let other = other.clone();
        async move {
            other.terminate(id, EndReason::Revoked, &Default::default()).await.expect("the store responds")
        }
    };
    assert!(end(issued.session.id).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let verified = one.verify(&issued.tokens.access_token).map(drop);
    assert_eq!(verified, Err(VerifyError::Ended(SessionEvent::Revoked)));

    one_tasks.stop(&one).await.expect("the store responds");
    let issued = sign_in(&one).await;
    assert!(end(issued.session.id).await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(one.verify(&issued.tokens.access_token).is_ok(), "the poller still runs");
}

#[tokio::test(start_paused = true)]
async fn start_reads_ended_sessions_and_terminates_expired_ones() {
    let deployment = Deployment::new();
    let (first, tasks) = deployment.start_same().await;
    let ended = sign_in(&first).await;
    first.terminate(ended.session.id, EndReason::Revoked, &Default::default()).await.expect("terminated");
    tasks.stop(&first).await.expect("the store responds");
    let (second, tasks) = deployment.start_same().await;
    let verified = second.verify(&ended.tokens.access_token).map(drop);
    assert_eq!(verified, Err(VerifyError::Ended(SessionEvent::Revoked)));

    let idle = sign_in(&second).await;
    tasks.stop(&second).await.expect("the store responds");
    deployment.clock.advance(Duration::from_secs(15 * 86_400));
    let (_third, _tasks) = deployment.start_same().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let row = deployment.store.find_session(idle.session.id).await.expect("the store responds");
    let reason = row.and_then(|row| row.end).map(|end| end.reason);
    assert_eq!(reason, Some(EndReason::IdleExpired));
}

#[tokio::test(start_paused = true)]
async fn stop_writes_what_was_deferred() {
    let deployment = Deployment::new();
    let (tokens, tasks) = deployment.start_same().await;
    let issued = sign_in(&tokens).await;
    deployment.clock.advance(Duration::from_secs(120));
    tokens.verify(&issued.tokens.access_token).expect("valid");
    tasks.stop(&tokens).await.expect("the store responds");
    let row = deployment.store.find_session(issued.session.id).await.expect("the store responds");
    assert!(row.is_some_and(|row| row.settled_by.is_some()), "the use was not confirmed");
}
