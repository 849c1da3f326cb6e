//! An in-memory store whose calls wait until the test lets them continue.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use sekisho::identity::{Claims, Subject};
use sekisho::models::audit::AuditEntry;
use sekisho::models::session::{Session, SessionId};
use sekisho::services::memory::MemoryStore;
use sekisho::services::store::{
    AuditStore, EndedSessions, EndedSince, InsertOutcome, NewSession, Rotation, SessionFilter, SessionStore,
    SessionTermination, SessionUse, StoreError, TokenUse,
};
use time::OffsetDateTime;
use tokio::sync::oneshot;

/// Each call of a refresh or a termination waits twice: before it is executed and before it returns.
#[derive(Default)]
pub(super) struct GatedStore {
    pub(super) inner: MemoryStore,
    gates: Mutex<Vec<oneshot::Sender<bool>>>,
    /// Number of times a call has reached a gate.
    arrivals: AtomicU32,
}

impl GatedStore {
    /// Returns the number of waiting calls.
    pub(super) fn waiting(&self) -> usize {
        let mut gates = self.gates.lock().unwrap();
        gates.retain(|gate| !gate.is_closed());
        gates.len()
    }

    pub(super) fn arrivals(&self) -> u32 {
        self.arrivals.load(Ordering::SeqCst)
    }

    /// Lets a waiting call continue, or makes it fail.
    pub(super) fn open_gate(&self, gate: usize, succeeds: bool) {
        let gate = self.gates.lock().unwrap().remove(gate);
        gate.send(succeeds).unwrap();
    }

    async fn gate(&self) -> Result<(), StoreError> {
        let (open, opened) = oneshot::channel();
        self.gates.lock().unwrap().push(open);
        self.arrivals.fetch_add(1, Ordering::SeqCst);
        match opened.await {
            Ok(true) => Ok(()),
            _ => Err(StoreError::unavailable(io::Error::other("unavailable in a test"))),
        }
    }

    async fn gated<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.gate().await?;
        let result = work.await;
        self.gate().await?;
        result
    }
}

#[async_trait]
impl SessionStore for GatedStore {
    async fn rotate(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        self.gated(self.inner.rotate(rotation)).await
    }

    async fn catch_up(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        self.gated(self.inner.catch_up(rotation)).await
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.gated(self.inner.find_session(id)).await
    }

    async fn end_session(&self, id: SessionId, ending: &SessionTermination) -> Result<bool, StoreError> {
        self.gated(self.inner.end_session(id, ending)).await
    }

    async fn insert_session(&self, new: &NewSession<'_>) -> Result<InsertOutcome, StoreError> {
        self.gated(self.inner.insert_session(new)).await
    }

    // The remaining calls do not wait.

    async fn confirm_generation(&self, tokens: &[TokenUse]) -> Result<Vec<Session>, StoreError> {
        self.inner.confirm_generation(tokens).await
    }

    async fn record_uses(&self, uses: &[SessionUse], now: OffsetDateTime) -> Result<(), StoreError> {
        self.inner.record_uses(uses, now).await
    }

    async fn set_claims(
        &self,
        id: SessionId,
        claims: &Claims,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        self.inner.set_claims(id, claims, now).await
    }

    async fn end_session_list(
        &self,
        ids: &[SessionId],
        termination: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        self.inner.end_session_list(ids, termination).await
    }

    async fn end_sessions(
        &self,
        which: &SessionFilter,
        ending: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        self.inner.end_sessions(which, ending).await
    }

    async fn live_sessions(&self, user: &Subject, now: OffsetDateTime) -> Result<Vec<Session>, StoreError> {
        self.inner.live_sessions(user, now).await
    }

    async fn list_sessions(
        &self,
        which: &SessionFilter,
        live_at: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<Session>, StoreError> {
        self.inner.list_sessions(which, live_at, limit).await
    }

    async fn ended_since(&self, since: EndedSince) -> Result<EndedSessions, StoreError> {
        self.inner.ended_since(since).await
    }

    async fn end_expired(
        &self,
        from: SessionId,
        most: u32,
        expired_by: OffsetDateTime,
    ) -> Result<Option<SessionId>, StoreError> {
        self.inner.end_expired(from, most, expired_by).await
    }

    async fn purge_sessions(&self, before: OffsetDateTime, most: u32) -> Result<u64, StoreError> {
        self.inner.purge_sessions(before, most).await
    }

    async fn max_key_number(&self) -> Result<Option<u8>, StoreError> {
        self.inner.max_key_number().await
    }

    async fn database_time(&self) -> Result<OffsetDateTime, StoreError> {
        self.inner.database_time().await
    }
}

#[async_trait]
impl AuditStore for GatedStore {
    async fn record(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        self.inner.record(entries).await
    }

    async fn session_audit(&self, session: SessionId, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        self.inner.session_audit(session, limit).await
    }

    async fn purge_audit(&self, before: OffsetDateTime, most: u32) -> Result<u64, StoreError> {
        self.inner.purge_audit(before, most).await
    }
}
