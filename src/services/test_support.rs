//! What the tests of sessions share: a store that can be watched, held up and broken, a clock that
//! is moved by hand, and jars that hold tokens.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use uuid::Uuid;

use super::jwt::{AccessToken, AccessTokens};
use super::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys, SigningKey};
use super::memory::MemoryStore;
use super::store::{
    AuditStore, InsertOutcome, NewSession, Rotation, SessionFilter, SessionStore, SessionTermination,
    StoreError, TokenUse,
};
use super::token::{IssuedSession, SessionRequest, SessionSettings, Tokens};
use crate::client_info::ClientInfo;
use crate::clock::{Clock, ManualClock};
use crate::identity::Roles;
use crate::layer::{RefreshError, RefreshRequest};
use crate::models::audit::AuditEntry;
use crate::models::session::{Session, SessionEnd, SessionId, SessionKind, TokenId};
use crate::models::user::UserId;
use crate::session_event::SessionEvent;

pub(super) const USER: UserId = UserId(Uuid::from_u128(7));

/// Just over the grace by the whole seconds of a JWT: a token of this age is surely old.
pub(super) const BEYOND_GRACE: Duration = Duration::from_secs(62);

/// The default lifetime of an access token.
pub(super) const ACCESS_TTL: Duration = Duration::from_secs(15 * 60);

/// Tokens over a [`InstrumentedStore`], and the hands that move them.
pub(super) struct TokensFixture {
    pub(super) tokens: Tokens,
    pub(super) store: Arc<InstrumentedStore>,
    pub(super) clock: Arc<ManualClock>,
    first_key: KeyMaterial,
}

/// What a browser or client holds.
#[derive(Clone, Debug)]
pub(super) struct TestClient {
    pub(super) access: Option<String>,
    pub(super) refresh: String,
    pub(super) session: SessionId,
    pub(super) kind: SessionKind,
}

impl TokensFixture {
    pub(super) fn new() -> Self {
        Self::with(SessionSettings::default())
    }

    pub(super) fn with(settings: SessionSettings) -> Self {
        let (store, clock) = (Arc::new(InstrumentedStore::default()), Arc::new(ManualClock::default()));
        let first_key = key_material(1, &clock);
        let tokens = Tokens::new(
            Arc::clone(&store) as Arc<dyn SessionStore>,
            Arc::new(SharedKeys::new(ring([&first_key]))),
            AccessTokens::default(),
            settings,
            Arc::clone(&clock) as Arc<dyn Clock>,
        );
        Self { tokens, store, clock, first_key }
    }

    /// Another replica: the same store, keys and clock, and a memory of its own.
    pub(super) fn replica(&self) -> Self {
        let tokens = Tokens::new(
            Arc::clone(&self.store) as Arc<dyn SessionStore>,
            Arc::clone(self.tokens.keys()),
            AccessTokens::default(),
            self.tokens.settings().clone(),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
        );
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        Self { tokens, store, clock, first_key: self.first_key.clone() }
    }

    /// Adds a key, which signs from now on.
    pub(super) fn rotate_keys(&self) {
        self.tokens.keys().replace(ring([&self.first_key, &key_material(2, &self.clock)]));
    }

    /// Signs in and forgets which calls that took.
    pub(super) async fn sign_in(&self, kind: SessionKind) -> TestClient {
        let issued = self.tokens.sign_in(sign_in(kind)).await.expect("a session");
        self.store.calls();
        TestClient::of(&issued)
    }

    pub(super) async fn browser(&self) -> TestClient {
        self.sign_in(SessionKind::Browser).await
    }

    pub(super) async fn renew(&self, jar: &TestClient) -> Result<IssuedSession, RefreshError> {
        self.tokens.refresh_session(jar.request(), jar.kind).await
    }

    /// Renews, expects that it comes by `event`, and puts the fresh tokens into the jar.
    #[track_caller]
    pub(super) fn renewed(&self, jar: &mut TestClient, event: SessionEvent) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let issued = self.renew(jar).await.unwrap_or_else(|error| panic!("{caller}: {error}"));
            assert_eq!(issued.tokens.event, event, "{caller}");
            *jar = TestClient::of(&issued);
        }
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// Moves the clock.
    pub(super) fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    pub(super) async fn row(&self, jar: &TestClient) -> Session {
        self.store.current().find_session(jar.session).await.expect("an answer").expect("the row")
    }

    /// Puts the row back, as a backup would: whatever was written since is lost.
    pub(super) async fn restore(&self, row: &Session) {
        let store = MemoryStore::default();
        let new = NewSession { session: row, hashed_password: None, replaces: None, max_per_user: 1 };
        store.insert_session(&new).await.expect("an answer");
        self.store.replace(store);
    }

    pub(super) fn read(&self, access_token: Option<&str>) -> AccessToken {
        self.tokens.inner.issuer.read_access(access_token.expect("an access token")).expect("one of ours")
    }

    pub(super) fn id(&self, jar: &TestClient) -> TokenId {
        self.read(jar.access.as_deref()).id
    }
}

impl TestClient {
    pub(super) fn of(issued: &IssuedSession) -> Self {
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
            of: None,
            client: ClientInfo::default(),
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

fn key_material(number: u8, clock: &ManualClock) -> KeyMaterial {
    KeyMaterial::generate(number, Algorithm::Hs256, clock.now()).expect("random bytes")
}

fn ring<'m>(materials: impl IntoIterator<Item = &'m KeyMaterial>) -> KeyRing {
    let keys = materials.into_iter().map(|material| SigningKey::new(material).expect("a key"));
    KeyRing::new(keys.collect(), Duration::ZERO).expect("a ring")
}

/// Keys of which no [`TokensFixture`] knows.
pub(super) fn foreign_keys(number: u8, clock: &ManualClock) -> KeyRing {
    ring([&key_material(number, clock)])
}

/// A [`MemoryStore`] that remembers what it was asked, can be held up, and can be down.
#[derive(Default)]
pub(super) struct InstrumentedStore {
    current: Mutex<MemoryStore>,
    calls: Mutex<Vec<&'static str>>,
    rotations: Mutex<Vec<Session>>,
    gate: Arc<RwLock<()>>,
    down: AtomicBool,
}

impl InstrumentedStore {
    /// The calls since this was asked last.
    pub(super) fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.calls.lock().expect("no panic while it is held"))
    }

    /// The rows as all rotations so far left them.
    pub(super) fn rotations(&self) -> Vec<Session> {
        self.rotations.lock().expect("no panic while it is held").clone()
    }

    /// Keeps every call waiting until the guard is dropped.
    pub(super) async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.gate).write_owned().await
    }

    /// Answers no call any more, or again.
    pub(super) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// The store behind, which is neither held up nor down.
    pub(super) fn current(&self) -> MemoryStore {
        self.current.lock().expect("no panic while it is held").clone()
    }

    pub(super) fn replace(&self, store: MemoryStore) {
        *self.current.lock().expect("no panic while it is held") = store;
    }

    async fn asked(&self, call: &'static str) -> Result<MemoryStore, StoreError> {
        self.calls.lock().expect("no panic while it is held").push(call);
        let _open = self.gate.read().await;
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable(io::Error::other("down, for a test")));
        }
        Ok(self.current())
    }
}

#[async_trait]
impl SessionStore for InstrumentedStore {
    async fn insert_session(&self, new: &NewSession<'_>) -> Result<InsertOutcome, StoreError> {
        self.asked("insert_session").await?.insert_session(new).await
    }

    async fn rotate(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        let row = self.asked("rotate").await?.rotate(rotation).await?;
        self.rotations.lock().expect("no panic while it is held").extend(row.clone());
        Ok(row)
    }

    async fn catch_up(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        self.asked("catch_up").await?.catch_up(rotation).await
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.asked("find_session").await?.find_session(id).await
    }

    async fn confirm_generation(&self, tokens: &[TokenUse]) -> Result<Vec<Session>, StoreError> {
        self.asked("settle").await?.confirm_generation(tokens).await
    }

    async fn count_replays(&self, counts: &[(SessionId, u64)]) -> Result<(), StoreError> {
        self.asked("count_replays").await?.count_replays(counts).await
    }

    async fn end_session(&self, id: SessionId, ending: &SessionTermination) -> Result<bool, StoreError> {
        self.asked("end_session").await?.end_session(id, ending).await
    }

    async fn end_sessions(
        &self,
        which: &SessionFilter,
        ending: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        self.asked("end_sessions").await?.end_sessions(which, ending).await
    }

    async fn live_sessions(&self, user: UserId, now: OffsetDateTime) -> Result<Vec<Session>, StoreError> {
        self.asked("live_sessions").await?.live_sessions(user, now).await
    }

    async fn list_sessions(
        &self,
        which: &SessionFilter,
        live_at: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<Session>, StoreError> {
        self.asked("list_sessions").await?.list_sessions(which, live_at, limit).await
    }

    async fn ended_since(&self, since: OffsetDateTime) -> Result<Vec<(SessionId, SessionEnd)>, StoreError> {
        self.asked("ended_since").await?.ended_since(since).await
    }

    async fn end_expired(
        &self,
        from: SessionId,
        most: u32,
        expired_by: OffsetDateTime,
    ) -> Result<Option<SessionId>, StoreError> {
        self.asked("end_expired").await?.end_expired(from, most, expired_by).await
    }

    async fn purge_sessions(&self, before: OffsetDateTime, most: u32) -> Result<u64, StoreError> {
        self.asked("purge_sessions").await?.purge_sessions(before, most).await
    }

    async fn database_time(&self) -> Result<OffsetDateTime, StoreError> {
        self.asked("store_time").await?.database_time().await
    }
}

#[async_trait]
impl AuditStore for InstrumentedStore {
    async fn record(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        self.asked("record").await?.record(entries).await
    }

    async fn session_audit(&self, session: SessionId, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        self.asked("audit_of").await?.session_audit(session, limit).await
    }

    async fn purge_audit(&self, before: OffsetDateTime, most: u32) -> Result<u64, StoreError> {
        self.asked("purge_audit").await?.purge_audit(before, most).await
    }
}
