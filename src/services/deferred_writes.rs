//! Deferred (write-behind) writes: store writes that no request waits for.
//!
//! | write | use |
//! |---|---|
//! | confirmed uses of access tokens | reuse detection; see [`rotation`](super::rotation) |
//! | uses of sessions: replays, and what clients send on open connections | `sessions.replays`, the idle expiry |
//! | audit entries that belong to no session's start or end | failed sign-ins, unknown tokens, rollbacks |
//!
//! Writes are buffered for [`FLUSH_DELAY`] and written in batches. A crash loses the buffer. A later
//! use confirms its generation and postpones the idle expiry again, but replay counts and audit entries are lost.

mod buffer;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use self::buffer::{Batch, Buffer, FlushNeeded, UnwrittenUse, first_use_on_thread};
use super::revocations::Revocations;
use super::rotation::is_concurrent_use;
use super::session_settings::SessionSettings;
use super::store::{SessionStore, SessionTermination, SessionUse, StoreError, TokenUse};
use super::store_runtime::StoreRuntime;
use crate::client_info::ClientInfo;
use crate::clock::Clock;
use crate::models::audit::AuditEntry;
use crate::models::session::{EndReason, Session, SessionId};
use crate::session_event::SessionEvent;

/// Time that writes are collected before a flush.
const FLUSH_DELAY: Duration = Duration::from_millis(250);

/// Time between a failed flush and the next one.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// The write-behind buffer and its flush. Cheap to clone.
#[derive(Clone)]
pub(super) struct DeferredWrites(Arc<Inner>);

struct Inner {
    buffer: Buffer,
    store: Arc<dyn SessionStore>,
    clock: Arc<dyn Clock>,
    revocations: Arc<Revocations>,
    runtime: StoreRuntime,
    settings: SessionSettings,
    is_closed: AtomicBool,
}

impl DeferredWrites {
    pub(super) fn new(
        store: Arc<dyn SessionStore>,
        clock: Arc<dyn Clock>,
        revocations: Arc<Revocations>,
        runtime: StoreRuntime,
        settings: SessionSettings,
    ) -> Self {
        let buffer = Buffer::default();
        let is_closed = AtomicBool::new(false);
        Self(Arc::new(Inner { buffer, store, clock, revocations, runtime, settings, is_closed }))
    }

    /// Ends scheduled flushes and retries, so that nothing holds the store.
    pub(super) fn close(&self) {
        self.0.is_closed.store(true, Ordering::Relaxed);
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed.load(Ordering::Relaxed)
    }

    /// Records a confirmed use, once per thread. `client` is evaluated only if it is recorded.
    pub(super) fn record_token_use(&self, token: TokenUse, client: &dyn Fn() -> ClientInfo) {
        if first_use_on_thread(token.token) {
            self.schedule_flush(self.0.buffer.record_token_use(token, client()), FLUSH_DELAY);
        }
    }

    /// Records a use of the session by a replay.
    pub(super) fn record_replay(&self, session: SessionId) {
        self.schedule_flush(self.0.buffer.record_replay(session, self.0.clock.now()), FLUSH_DELAY);
    }

    /// Records a use of the session on an open connection, at most once in each
    /// [`SessionSettings::use_interval`].
    pub(super) fn record_session_use(&self, session: SessionId) {
        let interval = self.0.settings.use_interval();
        let needed = self.0.buffer.record_session_use(session, self.0.clock.now(), interval);
        self.schedule_flush(needed, FLUSH_DELAY);
    }

    /// Records an audit entry.
    pub(super) fn push_audit(&self, entry: AuditEntry) {
        self.schedule_flush(self.0.buffer.push_audit(entry), FLUSH_DELAY);
    }

    /// Records an audit entry about a refresh token of an unknown key or session. Such entries are
    /// rate-limited.
    pub(super) fn push_unknown_token(&self, entry: AuditEntry) {
        self.schedule_flush(self.0.buffer.push_unknown_token(entry), FLUSH_DELAY);
    }

    /// Number of writes dropped since the start because the buffer was full.
    pub(super) fn dropped(&self) -> u64 {
        self.0.buffer.dropped()
    }

    /// Writes the buffer to the store, and terminates sessions in which it finds token reuse.
    ///
    /// # Errors
    ///
    /// If the store fails. What could not be written stays in the buffer, and a retry is scheduled.
    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        let buffer = &self.0.buffer;
        let Batch { token_uses, session_uses } = buffer.take_batch();
        let confirmed = self.confirm(&token_uses).await;
        if confirmed.is_err() {
            let unwritten = Batch { token_uses, ..Batch::default() };
            self.schedule_flush(buffer.restore_batch(unwritten), RETRY_DELAY);
        }
        let recorded = self.write_session_uses(&session_uses).await;
        if recorded.is_err() {
            let unwritten = Batch { session_uses, ..Batch::default() };
            self.schedule_flush(buffer.restore_batch(unwritten), RETRY_DELAY);
        }
        let audited = self.write_audit().await;
        confirmed.and(recorded).and(audited)
    }

    /// Schedules a flush after `delay`, if one is needed and there is a runtime to run it.
    fn schedule_flush(&self, needed: FlushNeeded, delay: Duration) {
        if !needed.0 || self.is_closed() {
            return;
        }
        let Some(runtime) = self.0.runtime.handle() else {
            self.0.buffer.defer_flush();
            return;
        };
        let writes = self.clone();
        runtime.spawn(async move {
            tokio::time::sleep(delay).await;
            if writes.is_closed() {
                return;
            }
            if let Err(error) = writes.flush().await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "deferred writes failed, will retry");
            }
        });
    }

    async fn confirm(&self, token_uses: &HashMap<TokenUse, ClientInfo>) -> Result<(), StoreError> {
        if token_uses.is_empty() {
            return Ok(());
        }
        let tokens: Vec<_> = token_uses.keys().copied().collect();
        for row in self.0.store.confirm_generation(&tokens).await? {
            if is_concurrent_use(&row) {
                let conflicting = token_uses.iter().find(|(token, _)| is_conflicting_use(token, &row));
                self.terminate_on_reuse(&row, conflicting.map(|(_, client)| client.clone())).await?;
            }
        }
        Ok(())
    }

    async fn terminate_on_reuse(&self, row: &Session, client: Option<ClientInfo>) -> Result<(), StoreError> {
        tracing::warn!(
            session = %row.id, user = %row.subject, generation = row.generation,
            used_by = client.as_ref().map(tracing::field::display), held_by = %row.client,
            session_event = %SessionEvent::ReuseDetected,
            "session terminated: two access tokens of one generation are in use"
        );
        let now = self.0.clock.now();
        let termination = SessionTermination {
            presented: Some(row.generation),
            ..SessionTermination::new(now, EndReason::ReuseDetected, client.unwrap_or_default())
        };
        self.0.revocations.terminate(row.id, &termination).await.map(drop)
    }

    async fn write_session_uses(&self, uses: &HashMap<SessionId, UnwrittenUse>) -> Result<(), StoreError> {
        if uses.is_empty() {
            return Ok(());
        }
        let settings = &self.0.settings;
        let uses = uses.iter().map(|(&session, &UnwrittenUse { replays, last })| SessionUse {
            session,
            replays,
            idle_expires_at: settings.idle_expiry(last),
        });
        let uses: Vec<_> = uses.collect();
        self.0.store.record_uses(&uses, self.0.clock.now()).await
    }

    async fn write_audit(&self) -> Result<(), StoreError> {
        loop {
            let entries = self.0.buffer.take_audit();
            if entries.is_empty() {
                return Ok(());
            }
            if let Err(error) = self.0.store.record(&entries).await {
                self.schedule_flush(self.0.buffer.restore_audit(entries), RETRY_DELAY);
                return Err(error);
            }
        }
    }
}

/// Returns `true` if `token` is a token of the row's generation other than the one that confirmed it.
fn is_conflicting_use(token: &TokenUse, row: &Session) -> bool {
    (token.session, token.generation) == (row.id, row.generation) && row.settled_by != Some(token.token)
}
