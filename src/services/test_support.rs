//! Test support: a store that can be observed, blocked and made unavailable, a manual clock, and clients
//! that hold tokens.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use uuid::Uuid;

use super::jwt::{AccessToken, AccessTokens, JwtSettings};
use super::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys, SigningKey};
use super::memory::MemoryStore;
use super::store::{
    AuditStore, EndedSessions, EndedSince, InsertOutcome, NewSession, Rotation, SessionFilter, SessionStore,
    SessionTermination, SessionUse, StoreError, TokenUse,
};
use super::token::{IssuedSession, SessionRequest, SessionSettings, Tokens};
use crate::client_info::ClientInfo;
use crate::clock::{Clock, ManualClock};
use crate::identity::{Claims, Roles, Subject};
use crate::layer::{RefreshError, RefreshRequest};
use crate::models::audit::AuditEntry;
use crate::models::session::{EndReason, Session, SessionId, SessionKind, TokenId};
use crate::models::user::UserId;
use crate::session_event::SessionEvent;

pub(super) const USER: UserId = UserId(Uuid::from_u128(7));

/// Age beyond the grace period and the confirmation age, including the second by which a JWT's time of issue
/// is rounded down.
pub(super) const BEYOND_GRACE: Duration = Duration::from_secs(102);

/// Default lifetime of an access token.
pub(super) const ACCESS_TTL: Duration = Duration::from_secs(15 * 60);

/// [`Tokens`] over a [`TestStore`] and a [`ManualClock`].
pub(super) struct TokensFixture {
    pub(super) tokens: Tokens,
    pub(super) store: Arc<TestStore>,
    pub(super) clock: Arc<ManualClock>,
    first_key: KeyMaterial,
}

/// The tokens that a browser or another client holds.
#[derive(Clone, Debug)]
pub(super) struct TestClient {
    pub(super) access: Option<String>,
    pub(super) refresh: String,
    pub(super) session: SessionId,
    pub(super) kind: SessionKind,
}

impl TokensFixture {
    pub(super) fn new() -> Self {
        Self::with_settings(SessionSettings::default())
    }

    pub(super) fn with_settings(settings: SessionSettings) -> Self {
        let store = Arc::new(TestStore::default());
        let clock = Arc::new(ManualClock::default());
        let first_key = key_material(1, &clock);
        let keys = Arc::new(SharedKeys::new(ring([&first_key])));
        let tokens = Tokens::new(store.clone(), keys, AccessTokens::default(), settings, clock.clone());
        Self { tokens, store, clock, first_key }
    }

    /// Creates a fixture with one browser session.
    pub(super) async fn with_browser() -> (Self, TestClient) {
        let fixture = Self::new();
        let client = fixture.browser().await;
        (fixture, client)
    }

    /// Creates a fixture with one browser session, whose access token has expired.
    pub(super) async fn with_expired_access_token() -> (Self, TestClient) {
        let (fixture, client) = Self::with_browser().await;
        fixture.advance(ACCESS_TTL);
        (fixture, client)
    }

    /// Creates another replica, which shares the store, the keys and the clock.
    pub(super) fn replica(&self) -> Self {
        self.replica_with(AccessTokens::default(), self.tokens.settings().clone())
    }

    /// Creates a replica with another lifetime of access tokens.
    pub(super) fn replica_with_access_ttl(&self, access_ttl: Duration) -> Self {
        let access = AccessTokens::new(JwtSettings { access_ttl, ..JwtSettings::default() });
        self.replica_with(access, SessionSettings { access_ttl, ..self.tokens.settings().clone() })
    }

    fn replica_with(&self, access: AccessTokens, settings: SessionSettings) -> Self {
        let keys = self.tokens.keys().clone();
        let store = self.store.clone();
        let clock = self.clock.clone();
        let tokens = Tokens::new(store.clone(), keys, access, settings, clock.clone());
        Self { tokens, store, clock, first_key: self.first_key.clone() }
    }

    /// Adds a key, which becomes the signing key.
    pub(super) fn rotate_keys(&self) {
        self.tokens.keys().replace(ring([&self.first_key, &key_material(2, &self.clock)]));
    }

    /// Signs in, and clears the recorded store calls.
    pub(super) async fn sign_in(&self, kind: SessionKind) -> TestClient {
        let issued = self.tokens.sign_in(sign_in(kind)).await.expect("a session");
        self.store.take_calls();
        TestClient::new(&issued)
    }

    pub(super) async fn browser(&self) -> TestClient {
        self.sign_in(SessionKind::Browser).await
    }

    pub(super) async fn refresh(&self, client: &TestClient) -> Result<IssuedSession, RefreshError> {
        self.tokens.refresh_session(client.request(), client.kind).await
    }

    /// Refreshes, and returns the error.
    pub(super) async fn rejection(&self, client: &TestClient) -> RefreshError {
        self.refresh(client)
            .await
            .map(|issued| issued.tokens.event)
            .expect_err("the session is not refreshed")
    }

    /// Terminates the session. Returns `false` if it was terminated before.
    pub(super) async fn terminate(&self, client: &TestClient, reason: EndReason) -> bool {
        let terminated = self.tokens.end(client.session, reason, &ClientInfo::default()).await;
        terminated.expect("the store responds")
    }

    /// Revokes the sessions that match `filter`. Returns their number.
    pub(super) async fn revoke(&self, filter: SessionFilter) -> usize {
        let revoked = self.tokens.end_matching(&filter, EndReason::Revoked, &ClientInfo::default()).await;
        revoked.expect("the store responds").len()
    }

    /// Refreshes, expects `event`, and gives the client its new tokens.
    #[track_caller]
    pub(super) fn expect_refresh(
        &self,
        client: &mut TestClient,
        event: SessionEvent,
    ) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let issued = self.refresh(client).await.unwrap_or_else(|error| panic!("{caller}: {error}"));
            assert_eq!(issued.tokens.event, event, "{caller}");
            *client = TestClient::new(&issued);
        }
    }

    /// Lets the access token expire, then refreshes and expects a rotation.
    #[track_caller]
    pub(super) fn rotate(&self, client: &mut TestClient) -> impl Future<Output = ()> {
        self.advance(ACCESS_TTL);
        self.expect_refresh(client, SessionEvent::Rotated)
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// Advances the clock.
    pub(super) fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    pub(super) async fn row(&self, client: &TestClient) -> Session {
        self.store.current().find_session(client.session).await.expect("the store responds").expect("the row")
    }

    /// Replaces the store by one with this row only, as the restoration of a backup does.
    pub(super) async fn restore(&self, row: &Session) {
        let store = MemoryStore::default();
        let new = NewSession { session: row, hashed_password: None, replaces: None, max_per_user: 1 };
        store.insert_session(&new).await.expect("the store responds");
        self.store.replace(store);
    }

    pub(super) fn read(&self, access_token: Option<&str>) -> AccessToken {
        self.tokens
            .inner
            .issuer
            .read_access(access_token.expect("an access token"))
            .expect("a token of this service")
    }

    pub(super) fn id(&self, client: &TestClient) -> TokenId {
        self.read(client.access.as_deref()).id
    }
}

impl TestClient {
    pub(super) fn new(issued: &IssuedSession) -> Self {
        Self {
            access: Some(issued.tokens.access_token.clone()),
            refresh: issued.tokens.refresh_token.clone(),
            session: issued.session.id,
            kind: issued.session.kind,
        }
    }

    pub(super) fn without_access(&self) -> Self {
        Self { access: None, ..self.clone() }
    }

    pub(super) fn request(&self) -> RefreshRequest {
        RefreshRequest {
            refresh_token: self.refresh.clone(),
            access_token: self.access.clone(),
            ..RefreshRequest::default()
        }
    }
}

pub(super) fn sign_in(kind: SessionKind) -> SessionRequest<'static> {
    SessionRequest {
        roles: Roles::new(["user"]).expect("a role"),
        kind,
        ..SessionRequest::new(USER, "taro@example.jp")
    }
}

pub(super) fn rejected(event: SessionEvent) -> RefreshError {
    RefreshError::SessionEnded { event, clear_cookies: false }
}

pub(super) fn rejected_and_cleared(event: SessionEvent) -> RefreshError {
    RefreshError::SessionEnded { event, clear_cookies: true }
}

/// Polls a future once, without a waker.
pub(super) fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn key_material(number: u8, clock: &ManualClock) -> KeyMaterial {
    KeyMaterial::generate(number, Algorithm::Hs256, clock.now()).expect("random bytes")
}

/// Returns a ring of keys that sign as soon as they are known.
pub(super) fn ring<'m>(materials: impl IntoIterator<Item = &'m KeyMaterial>) -> KeyRing {
    let keys = materials.into_iter().map(|material| SigningKey::new(material).expect("a key"));
    KeyRing::new(keys.collect(), Duration::ZERO).expect("a ring")
}

/// Returns keys that no [`TokensFixture`] has.
pub(super) fn foreign_keys(number: u8, clock: &ManualClock) -> KeyRing {
    ring([&key_material(number, clock)])
}

/// A [`MemoryStore`] that records calls, and can be blocked and made unavailable.
#[derive(Default)]
pub(super) struct TestStore {
    current: Mutex<MemoryStore>,
    calls: Mutex<Vec<&'static str>>,
    rotations: Mutex<Vec<Session>>,
    gate: Arc<RwLock<()>>,
    time: Mutex<Option<OffsetDateTime>>,
    unavailable: AtomicBool,
}

impl TestStore {
    /// Returns the calls since the previous `take_calls`.
    pub(super) fn take_calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.calls.lock())
    }

    /// Returns the rows after each rotation so far.
    pub(super) fn rotations(&self) -> Vec<Session> {
        self.rotations.lock().clone()
    }

    /// Blocks all calls until the guard is dropped.
    pub(super) async fn block(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.gate).write_owned().await
    }

    /// Makes all calls fail, or succeed again.
    pub(super) fn set_unavailable(&self, unavailable: bool) {
        self.unavailable.store(unavailable, Ordering::SeqCst);
    }

    /// Sets the time of the database, and makes `ended_since` return no position, as a database with a clock does.
    pub(super) fn set_time(&self, time: OffsetDateTime) {
        *self.time.lock() = Some(time);
    }

    /// Returns the inner store, which is neither blocked nor unavailable.
    pub(super) fn current(&self) -> MemoryStore {
        self.current.lock().clone()
    }

    pub(super) fn replace(&self, store: MemoryStore) {
        *self.current.lock() = store;
    }

    async fn call(&self, call: &'static str) -> Result<MemoryStore, StoreError> {
        self.calls.lock().push(call);
        let _permit = self.gate.read().await;
        if self.unavailable.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable(io::Error::other("unavailable for a test")));
        }
        Ok(self.current())
    }
}

#[async_trait]
impl SessionStore for TestStore {
    async fn insert_session(&self, new: &NewSession<'_>) -> Result<InsertOutcome, StoreError> {
        self.call("insert_session").await?.insert_session(new).await
    }

    async fn rotate(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        let row = self.call("rotate").await?.rotate(rotation).await?;
        self.rotations.lock().extend(row.clone());
        Ok(row)
    }

    async fn catch_up(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        self.call("catch_up").await?.catch_up(rotation).await
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.call("find_session").await?.find_session(id).await
    }

    async fn confirm_generation(&self, tokens: &[TokenUse]) -> Result<Vec<Session>, StoreError> {
        self.call("confirm_generation").await?.confirm_generation(tokens).await
    }

    async fn record_uses(&self, uses: &[SessionUse], now: OffsetDateTime) -> Result<(), StoreError> {
        self.call("record_uses").await?.record_uses(uses, now).await
    }

    async fn set_claims(
        &self,
        id: SessionId,
        claims: &Claims,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        self.call("set_claims").await?.set_claims(id, claims, now).await
    }

    async fn end_session(&self, id: SessionId, termination: &SessionTermination) -> Result<bool, StoreError> {
        self.call("end_session").await?.end_session(id, termination).await
    }

    async fn end_session_list(
        &self,
        ids: &[SessionId],
        termination: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        self.call("end_session_list").await?.end_session_list(ids, termination).await
    }

    async fn end_sessions(
        &self,
        filter: &SessionFilter,
        termination: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        self.call("end_sessions").await?.end_sessions(filter, termination).await
    }

    async fn live_sessions(&self, user: &Subject, now: OffsetDateTime) -> Result<Vec<Session>, StoreError> {
        self.call("live_sessions").await?.live_sessions(user, now).await
    }

    async fn list_sessions(
        &self,
        filter: &SessionFilter,
        live_at: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<Session>, StoreError> {
        self.call("list_sessions").await?.list_sessions(filter, live_at, limit).await
    }

    async fn ended_since(&self, since: EndedSince) -> Result<EndedSessions, StoreError> {
        let ended = self.call("ended_since").await?.ended_since(since).await?;
        let time = *self.time.lock();
        let Some(store_time) = time else { return Ok(ended) };
        Ok(EndedSessions { store_time, position: None, ..ended })
    }

    async fn end_expired(
        &self,
        from: SessionId,
        limit: u32,
        expired_by: OffsetDateTime,
    ) -> Result<Option<SessionId>, StoreError> {
        self.call("end_expired").await?.end_expired(from, limit, expired_by).await
    }

    async fn purge_sessions(&self, before: OffsetDateTime, limit: u32) -> Result<u64, StoreError> {
        self.call("purge_sessions").await?.purge_sessions(before, limit).await
    }

    async fn max_key_number(&self) -> Result<Option<u8>, StoreError> {
        self.call("max_key_number").await?.max_key_number().await
    }

    async fn database_time(&self) -> Result<OffsetDateTime, StoreError> {
        let database_time = self.call("database_time").await?.database_time().await?;
        let time = *self.time.lock();
        Ok(time.unwrap_or(database_time))
    }
}

#[async_trait]
impl AuditStore for TestStore {
    async fn record(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        self.call("record").await?.record(entries).await
    }

    async fn session_audit(&self, session: SessionId, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        self.call("session_audit").await?.session_audit(session, limit).await
    }

    async fn purge_audit(&self, before: OffsetDateTime, limit: u32) -> Result<u64, StoreError> {
        self.call("purge_audit").await?.purge_audit(before, limit).await
    }
}
