//! The in-memory buffer of deferred writes.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::client_info::ClientInfo;
use crate::models::audit::AuditEntry;
use crate::models::session::{SessionId, TokenId};
use crate::services::store::TokenUse;

/// Minimum time between two audit entries about tokens of unknown keys or sessions.
const UNKNOWN_TOKEN_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of uses of tokens and sessions. Beyond it, new ones are dropped.
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
    recently_used: RecentlyUsed,
}

/// The sessions whose use was recorded in the present interval.
#[derive(Debug, Default)]
struct RecentlyUsed {
    sessions: HashSet<SessionId>,
    interval_began: Option<Instant>,
}

/// Uses of a session that are not written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnwrittenUse {
    pub(super) replays: u64,
    /// Time of the last one.
    pub(super) last: OffsetDateTime,
}

/// Uses of tokens and sessions that are written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Confirmed uses, each with the client that used the token first.
    pub(super) token_uses: HashMap<TokenUse, ClientInfo>,
    /// Uses of sessions.
    pub(super) session_uses: HashMap<SessionId, UnwrittenUse>,
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

    /// Adds a use by a replay.
    pub(super) fn record_replay(&self, session: SessionId, now: OffsetDateTime) -> FlushNeeded {
        self.update_batch(|batch| batch.add_session_use(session, UnwrittenUse { replays: 1, last: now }))
    }

    /// Adds a use on an open connection, unless one was added in the same interval.
    pub(super) fn record_session_use(
        &self,
        session: SessionId,
        now: OffsetDateTime,
        interval: Duration,
    ) -> FlushNeeded {
        if !self.pending.lock().recently_used.insert(session, interval) {
            return FlushNeeded(false);
        }
        self.update_batch(|batch| batch.add_session_use(session, UnwrittenUse { replays: 0, last: now }))
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
        let mut pending = self.pending.lock();
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
        let entries = &mut self.pending.lock().audit;
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

    /// Takes all uses of tokens and sessions.
    pub(super) fn take_batch(&self) -> Batch {
        let mut pending = self.pending.lock();
        pending.flush_scheduled = false;
        mem::take(&mut pending.batch)
    }

    /// Puts a batch back after a failed write.
    pub(super) fn restore_batch(&self, unwritten: Batch) -> FlushNeeded {
        self.update_batch(|batch| {
            batch.token_uses.extend(unwritten.token_uses);
            for (session, unwritten) in unwritten.session_uses {
                batch.add_session_use(session, unwritten);
            }
        })
    }

    /// Leaves the flush to the next write, because there is no runtime to run it.
    pub(super) fn defer_flush(&self) {
        self.pending.lock().flush_scheduled = false;
    }

    /// Number of writes dropped at capacity since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn update_batch(&self, update: impl FnOnce(&mut Batch)) -> FlushNeeded {
        let mut pending = self.pending.lock();
        let batch = &mut pending.batch;
        if batch.token_uses.len() + batch.session_uses.len() < BATCH_CAPACITY {
            update(batch);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        FlushNeeded(!mem::replace(&mut pending.flush_scheduled, true))
    }

    /// Audit entries have a capacity of their own: a backlog of them must not displace confirmed
    /// uses, by which reuse is detected.
    fn update_audit(&self, update: impl FnOnce(&mut Vec<AuditEntry>)) -> FlushNeeded {
        let mut pending = self.pending.lock();
        let entries = &mut pending.audit;
        update(entries);
        let excess = entries.len().saturating_sub(AUDIT_CAPACITY);
        entries.truncate(AUDIT_CAPACITY);
        self.dropped.fetch_add(excess as u64, Ordering::Relaxed);
        FlushNeeded(!mem::replace(&mut pending.flush_scheduled, true))
    }
}

impl Batch {
    fn add_session_use(&mut self, session: SessionId, added: UnwrittenUse) {
        let uses = self.session_uses.entry(session).or_insert(UnwrittenUse { replays: 0, ..added });
        uses.replays += added.replays;
        uses.last = uses.last.max(added.last);
    }
}

impl RecentlyUsed {
    /// Returns `true` if the session was not inserted in the present interval.
    fn insert(&mut self, session: SessionId, interval: Duration) -> bool {
        if self.interval_began.is_none_or(|began| began.elapsed() >= interval) {
            self.sessions.clear();
            self.interval_began = Some(Instant::now());
        }
        self.sessions.insert(session)
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
    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn token_use(token: u128) -> TokenUse {
        TokenUse { session: SESSION, generation: 1, token: TokenId(Uuid::from_u128(token)) }
    }

    #[test]
    fn first_write_of_a_batch_requests_a_flush() {
        let buffer = Buffer::default();
        assert!(buffer.record_token_use(token_use(1), ClientInfo::default()).0);
        assert!(!buffer.record_token_use(token_use(2), ClientInfo::default()).0);
        assert!(!buffer.record_replay(SESSION, NOW).0);
        let batch = buffer.take_batch();
        assert_eq!((batch.token_uses.len(), batch.session_uses.len()), (2, 1));
        assert!(buffer.record_replay(SESSION, NOW).0, "the next batch requests another flush");
    }

    #[test]
    fn restored_batch_is_merged_with_later_writes() {
        let buffer = Buffer::default();
        let _ = buffer.record_replay(SESSION, NOW);
        let _ = buffer.record_token_use(token_use(1), ClientInfo::default());
        let batch = buffer.take_batch();
        let _ = buffer.record_replay(SESSION, NOW);
        let _ = buffer.restore_batch(batch);
        let batch = buffer.take_batch();
        assert_eq!(batch.session_uses[&SESSION].replays, 2);
        assert_eq!(batch.token_uses.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn use_on_a_connection_is_added_once_in_each_interval() {
        let buffer = Buffer::default();
        let other = SessionId(Uuid::max());
        let mut added = Vec::new();
        for (seconds, session) in
            [(0, SESSION), (1, SESSION), (0, other), (58, SESSION), (1, SESSION), (59, other)]
        {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            let _ = buffer.record_session_use(session, NOW, Duration::from_secs(60));
            added.push(buffer.take_batch().session_uses.contains_key(&session));
        }
        assert_eq!(added, [true, false, true, false, true, true]);
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
