//! A store in memory that does nothing, and says nothing, before somebody lets it.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use sekisho::models::audit::AuditEntry;
use sekisho::models::session::{Session, SessionEnd, SessionId};
use sekisho::models::user::UserId;
use sekisho::services::memory::MemoryStore;
use sekisho::services::store::{
    AuditStore, InsertOutcome, NewSession, Rotation, SessionFilter, SessionStore, SessionTermination,
    StoreError, TokenUse,
};
use time::OffsetDateTime;
use tokio::sync::oneshot;

/// Each renewal's and each end's call waits twice: before it is done, and before its answer is heard.
#[derive(Default)]
pub(super) struct GatedStore {
    pub(super) behind: MemoryStore,
    gates: Mutex<Vec<oneshot::Sender<bool>>>,
    /// How often something has come to a gate.
    arrivals: AtomicU32,
}

impl GatedStore {
    /// How many calls wait.
    pub(super) fn waiting(&self) -> usize {
        let mut gates = self.gates.lock().unwrap();
        gates.retain(|gate| !gate.is_closed());
        gates.len()
    }

    pub(super) fn arrivals(&self) -> u32 {
        self.arrivals.load(Ordering::SeqCst)
    }

    /// Lets one call go on, or makes it fail where it is.
    pub(super) fn open(&self, gate: usize, fine: bool) {
        let gate = self.gates.lock().unwrap().remove(gate);
        gate.send(fine).unwrap();
    }

    async fn gate(&self) -> Result<(), StoreError> {
        let (open, opened) = oneshot::channel();
        self.gates.lock().unwrap().push(open);
        self.arrivals.fetch_add(1, Ordering::SeqCst);
        match opened.await {
            Ok(true) => Ok(()),
            _ => Err(StoreError::unavailable(io::Error::other("down, for a test"))),
        }
    }

    async fn between<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.gate().await?;
        let done = work.await;
        self.gate().await?;
        done
    }
}

#[async_trait]
impl SessionStore for GatedStore {
    async fn rotate(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        self.between(self.behind.rotate(rotation)).await
    }

    async fn catch_up(&self, rotation: &Rotation<'_>) -> Result<Option<Session>, StoreError> {
        self.between(self.behind.catch_up(rotation)).await
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.between(self.behind.find_session(id)).await
    }

    async fn end_session(&self, id: SessionId, ending: &SessionTermination) -> Result<bool, StoreError> {
        self.between(self.behind.end_session(id, ending)).await
    }

    async fn insert_session(&self, new: &NewSession<'_>) -> Result<InsertOutcome, StoreError> {
        self.between(self.behind.insert_session(new)).await
    }

    // What follows is not raced here.

    async fn confirm_generation(&self, tokens: &[TokenUse]) -> Result<Vec<Session>, StoreError> {
        self.behind.confirm_generation(tokens).await
    }

    async fn count_replays(&self, counts: &[(SessionId, u64)]) -> Result<(), StoreError> {
        self.behind.count_replays(counts).await
    }

    async fn end_sessions(
        &self,
        which: &SessionFilter,
        ending: &SessionTermination,
    ) -> Result<Vec<SessionId>, StoreError> {
        self.behind.end_sessions(which, ending).await
    }

    async fn live_sessions(&self, user: UserId, now: OffsetDateTime) -> Result<Vec<Session>, StoreError> {
        self.behind.live_sessions(user, now).await
    }

    async fn list_sessions(
        &self,
        which: &SessionFilter,
        live_at: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<Session>, StoreError> {
        self.behind.list_sessions(which, live_at, limit).await
    }

    async fn ended_since(&self, since: OffsetDateTime) -> Result<Vec<(SessionId, SessionEnd)>, StoreError> {
        self.behind.ended_since(since).await
    }

    async fn end_expired(
        &self,
        from: SessionId,
        most: u32,
        expired_by: OffsetDateTime,
    ) -> Result<Option<SessionId>, StoreError> {
        self.behind.end_expired(from, most, expired_by).await
    }

    async fn purge_sessions(&self, before: OffsetDateTime, most: u32) -> Result<u64, StoreError> {
        self.behind.purge_sessions(before, most).await
    }

    async fn database_time(&self) -> Result<OffsetDateTime, StoreError> {
        self.behind.database_time().await
    }
}

#[async_trait]
impl AuditStore for GatedStore {
    async fn record(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        self.behind.record(entries).await
    }

    async fn session_audit(&self, session: SessionId, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        self.behind.session_audit(session, limit).await
    }

    async fn purge_audit(&self, before: OffsetDateTime, most: u32) -> Result<u64, StoreError> {
        self.behind.purge_audit(before, most).await
    }
}
