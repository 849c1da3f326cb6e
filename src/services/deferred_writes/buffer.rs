//! The in-memory buffer of deferred writes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::client_info::ClientInfo;
use crate::models::audit::AuditEntry;
use crate::models::session::{SessionId, TokenId};
use crate::services::store::TokenUse;

/// Minimum time between two audit entries about tokens of unknown keys or sessions.
const UNKNOWN_TOKEN_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of token uses and replay counts. Beyond it, new ones are dropped.
const BATCH_CAPACITY: usize = 100_000;

/// Maximum number of audit entries. Beyond it, new ones are dropped.
const AUDIT_CAPACITY: usize = 10_000;

/// Maximum number of audit entries in one store call.
const MAX_AUDIT_CHUNK: usize = 500;

/// Writes that wait for the next flush.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    pending: Mutex<Pending>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Pending {
    batch: Batch,
    audit: Vec<AuditEntry>,
    flush_scheduled: bool,
    last_unknown_token: Option<Instant>,
}

/// Confirmed uses and replay counts that are written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Confirmed uses, each with the client that used the token first.
    pub(super) token_uses: HashMap<TokenUse, ClientInfo>,
    /// Number of replays of each session.
    pub(super) replays: HashMap<SessionId, u64>,
}

/// True if the caller must schedule a flush.
#[must_use]
pub(super) struct FlushNeeded(pub(super) bool);

impl Buffer {
    /// Adds a confirmed use.
    pub(super) fn record_token_use(&self, token: TokenUse, client: ClientInfo) -> FlushNeeded {
        self.update_batch(|batch| {
            batch.token_uses.entry(token).or_insert(client);
        })
    }

    /// Counts a replay.
    pub(super) fn record_replay(&self, session: SessionId) -> FlushNeeded {
        self.update_batch(|batch| *batch.replays.entry(session).or_default() += 1)
    }

    /// Adds an audit entry.
    pub(super) fn push_audit(&self, entry: AuditEntry) -> FlushNeeded {
        self.update_audit(|entries| entries.push(entry))
    }

    /// Adds an audit entry about a refresh token of an unknown key or session.
    ///
    /// Clients can send any number of them, so at most one entry per [`UNKNOWN_TOKEN_INTERVAL`] is
    /// kept.
    pub(super) fn push_unknown_token(&self, entry: AuditEntry) -> FlushNeeded {
        let mut pending = self.lock();
        let now = Instant::now();
        if pending.last_unknown_token.is_some_and(|last| now - last < UNKNOWN_TOKEN_INTERVAL) {
            return FlushNeeded(false);
        }
        pending.last_unknown_token = Some(now);
        drop(pending);
        self.push_audit(entry)
    }

    /// Takes as many audit entries as one store call writes.
    pub(super) fn take_audit(&self) -> Vec<AuditEntry> {
        let entries = &mut self.lock().audit;
        let count = entries.len().min(MAX_AUDIT_CHUNK);
        entries.drain(..count).collect()
    }

    /// Puts audit entries back in front of the others after a failed write.
    pub(super) fn restore_audit(&self, mut unwritten: Vec<AuditEntry>) -> FlushNeeded {
        self.update_audit(|entries| {
            unwritten.append(entries);
            *entries = unwritten;
        })
    }

    /// Takes all confirmed uses and replay counts.
    pub(super) fn take_batch(&self) -> Batch {
        let mut pending = self.lock();
        pending.flush_scheduled = false;
        mem::take(&mut pending.batch)
    }

    /// Puts a batch back after a failed write.
    pub(super) fn restore_batch(&self, unwritten: Batch) -> FlushNeeded {
        self.update_batch(|batch| {
            batch.token_uses.extend(unwritten.token_uses);
            for (session, count) in unwritten.replays {
                *batch.replays.entry(session).or_default() += count;
            }
        })
    }

    /// Leaves the flush to the next write, because there is no runtime to run it.
    pub(super) fn defer_flush(&self) {
        self.lock().flush_scheduled = false;
    }

    /// Number of writes dropped at capacity since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn update_batch(&self, update: impl FnOnce(&mut Batch)) -> FlushNeeded {
        let mut pending = self.lock();
        let batch = &mut pending.batch;
        if batch.token_uses.len() + batch.replays.len() < BATCH_CAPACITY {
            update(batch);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        FlushNeeded(!mem::replace(&mut pending.flush_scheduled, true))
    }

    /// Audit entries have a capacity of their own: a backlog of them must not displace confirmed
    /// uses, by which reuse is detected.
    fn update_audit(&self, update: impl FnOnce(&mut Vec<AuditEntry>)) -> FlushNeeded {
        let mut pending = self.lock();
        let entries = &mut pending.audit;
        update(entries);
        let excess = entries.len().saturating_sub(AUDIT_CAPACITY);
        entries.truncate(AUDIT_CAPACITY);
        self.dropped.fetch_add(excess as u64, Ordering::Relaxed);
        FlushNeeded(!mem::replace(&mut pending.flush_scheduled, true))
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns `true` the first time that this thread sees a confirmed use of the token.
///
/// Each thread has a fixed-size table of its own, so that verifying a token takes no lock. The table
/// evicts entries; a use that is recorded twice is harmless.
pub(super) fn first_use_on_thread(token: TokenId) -> bool {
    const SLOTS: usize = 1_024;
    thread_local! {
        static SEEN: RefCell<Vec<u128>> = RefCell::new(vec![0; SLOTS]);
    }
    let token = token.0.as_u128();
    let slot = (token % SLOTS as u128) as usize;
    SEEN.with_borrow_mut(|seen| mem::replace(&mut seen[slot], token) != token)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const SESSION: SessionId = SessionId(Uuid::nil());

    fn token_use(token: u128) -> TokenUse {
        TokenUse { session: SESSION, generation: 1, token: TokenId(Uuid::from_u128(token)) }
    }

    #[test]
    fn first_write_of_a_batch_requests_a_flush() {
        let buffer = Buffer::default();
        assert!(buffer.record_token_use(token_use(1), ClientInfo::default()).0);
        assert!(!buffer.record_token_use(token_use(2), ClientInfo::default()).0);
        assert!(!buffer.record_replay(SESSION).0);
        let batch = buffer.take_batch();
        assert_eq!((batch.token_uses.len(), batch.replays.len()), (2, 1));
        assert!(buffer.record_replay(SESSION).0, "the next batch requests another flush");
    }

    #[test]
    fn restored_batch_is_merged_with_later_writes() {
        let buffer = Buffer::default();
        let _ = buffer.record_replay(SESSION);
        let _ = buffer.record_token_use(token_use(1), ClientInfo::default());
        let batch = buffer.take_batch();
        let _ = buffer.record_replay(SESSION);
        let _ = buffer.restore_batch(batch);
        let batch = buffer.take_batch();
        assert_eq!(batch.replays[&SESSION], 2);
        assert_eq!(batch.token_uses.len(), 1);
    }

    #[test]
    fn first_use_is_reported_once_per_thread() {
        let one = TokenId(Uuid::from_u128(77));
        let other = TokenId(Uuid::from_u128(78));
        assert!(first_use_on_thread(one));
        assert!(first_use_on_thread(other));
        assert!(!first_use_on_thread(one));
        let on_another_thread = std::thread::spawn(move || first_use_on_thread(one));
        assert!(on_another_thread.join().expect("the thread ends"));
    }
}
