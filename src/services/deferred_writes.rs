//! What is written to the store off the requests' path: which access tokens are in lasting use, how
//! often refresh tokens were replayed, and what the audit should know that changed no session.
//!
//! Notes are gathered for [`DELAY`] and written in one batch. A crash loses those that wait: a later token
//! settles its own generation, but counts of replays and entries of the audit (failed sign-ins, tokens
//! that name nothing, a store that was rolled back) are gone.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::client_info::ClientInfo;
use crate::models::audit::AuditEntry;
use crate::models::session::{SessionId, TokenId};
use crate::services::store::TokenUse;

/// How long notes are gathered before they are written.
pub(crate) const DELAY: Duration = Duration::from_millis(250);

/// How long a writer waits after the store did not answer.
pub(crate) const RETRY: Duration = Duration::from_secs(2);

/// The audit has at most one entry in this time about tokens that name nothing.
const ONE_UNKNOWN_IN: Duration = Duration::from_secs(1);

/// How many notes are kept while the store does not answer; beyond, new ones are dropped.
const MOST: usize = 100_000;

/// How many of the notes may be for the audit.
const MOST_ENTRIES: usize = 10_000;

/// How many entries of the audit are written at once.
const ENTRIES_AT_ONCE: usize = 500;

/// Notes that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct DeferredWrites {
    waiting: Mutex<Buffer>,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Buffer {
    batch: Batch,
    /// For the audit.
    entries: Vec<AuditEntry>,
    writer_is_due: bool,
    unknown_at: Option<Instant>,
}

/// Notes to be written together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Which tokens are in lasting use, and who was seen to use each.
    pub(crate) lasting: HashMap<TokenUse, ClientInfo>,
    pub(crate) replays: HashMap<SessionId, u64>,
}

/// Whether a writer must be started for what was noted.
#[must_use]
pub(crate) struct FlushNeeded(pub(crate) bool);

impl DeferredWrites {
    /// Notes that a token is in lasting use.
    pub(crate) fn record_token_use(&self, seen: TokenUse, client: ClientInfo) -> FlushNeeded {
        self.note(|batch| {
            batch.lasting.entry(seen).or_insert(client);
        })
    }

    /// Notes a replay.
    pub(crate) fn replay(&self, session: SessionId) -> FlushNeeded {
        self.note(|batch| *batch.replays.entry(session).or_default() += 1)
    }

    /// Notes what happened, for the audit.
    pub(crate) fn push_audit(&self, entry: AuditEntry) -> FlushNeeded {
        self.note_entries(|entries| entries.push(entry))
    }

    /// Takes some entries of the audit, no more than are written at once.
    pub(crate) fn take_entries(&self) -> Vec<AuditEntry> {
        let entries = &mut self.lock().entries;
        let some = entries.len().min(ENTRIES_AT_ONCE);
        entries.drain(..some).collect()
    }

    /// Puts entries back that could not be written.
    pub(crate) fn put_entries_back(&self, mut unwritten: Vec<AuditEntry>) -> FlushNeeded {
        self.note_entries(|entries| {
            unwritten.append(entries);
            *entries = unwritten;
        })
    }

    /// Notes that a refresh token came which names nothing here. Anyone can send as many of them as
    /// they like, so the audit has one in a second; the log has all.
    pub(crate) fn unknown(&self, entry: AuditEntry) -> FlushNeeded {
        let mut waiting = self.lock();
        let now = Instant::now();
        if waiting.unknown_at.is_some_and(|last| now - last < ONE_UNKNOWN_IN) {
            return FlushNeeded(false);
        }
        waiting.unknown_at = Some(now);
        drop(waiting);
        self.push_audit(entry)
    }

    /// How often notes were dropped because too many waited.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Takes all notes but the entries of the audit.
    pub(crate) fn take(&self) -> Batch {
        let mut waiting = self.lock();
        waiting.writer_is_due = false;
        mem::take(&mut waiting.batch)
    }

    /// Puts notes back that could not be written.
    pub(crate) fn put_back(&self, batch: Batch) -> FlushNeeded {
        self.note(|waiting| {
            waiting.lasting.extend(batch.lasting);
            for (session, count) in batch.replays {
                *waiting.replays.entry(session).or_default() += count;
            }
        })
    }

    /// No writer could be started: the next note asks for one again.
    pub(crate) fn defer_flush(&self) {
        self.lock().writer_is_due = false;
    }

    fn note(&self, add: impl FnOnce(&mut Batch)) -> FlushNeeded {
        let mut waiting = self.lock();
        let batch = &mut waiting.batch;
        if batch.len() < MOST {
            add(batch);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        FlushNeeded(!mem::replace(&mut waiting.writer_is_due, true))
    }

    /// Entries have a quota of their own: they must not keep out what finds thieves.
    fn note_entries(&self, add: impl FnOnce(&mut Vec<AuditEntry>)) -> FlushNeeded {
        let mut waiting = self.lock();
        let entries = &mut waiting.entries;
        add(entries);
        let beyond = entries.len().saturating_sub(MOST_ENTRIES);
        entries.truncate(MOST_ENTRIES);
        self.lost.fetch_add(beyond as u64, Ordering::Relaxed);
        FlushNeeded(!mem::replace(&mut waiting.writer_is_due, true))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Buffer> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    fn len(&self) -> usize {
        self.lasting.len() + self.replays.len()
    }
}

/// Whether this thread sees the token in lasting use for the first time, as far as it remembers.
///
/// Each thread has a table of its own, so that a valid token needs no lock. The table forgets: a
/// token noted twice is written twice, which changes nothing.
pub(crate) fn first_use_on_thread(token: TokenId) -> bool {
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

    fn lasting(token: u128) -> TokenUse {
        TokenUse { session: SESSION, generation: 1, token: TokenId(Uuid::from_u128(token)) }
    }

    #[test]
    fn one_writer_is_started_for_a_batch() {
        let notes = DeferredWrites::default();
        assert!(notes.record_token_use(lasting(1), ClientInfo::default()).0);
        assert!(!notes.record_token_use(lasting(2), ClientInfo::default()).0);
        assert!(!notes.replay(SESSION).0);
        assert_eq!(notes.take().len(), 3);
        assert!(notes.replay(SESSION).0, "the next batch needs a writer again");
    }

    #[test]
    fn what_could_not_be_written_is_kept() {
        let notes = DeferredWrites::default();
        let _ = notes.replay(SESSION);
        let _ = notes.record_token_use(lasting(1), ClientInfo::default());
        let batch = notes.take();
        let _ = notes.replay(SESSION);
        let _ = notes.put_back(batch);
        let batch = notes.take();
        assert_eq!(batch.replays[&SESSION], 2);
        assert_eq!(batch.lasting.len(), 1);
    }

    #[test]
    fn a_thread_notes_a_token_once() {
        let (one, other) = (TokenId(Uuid::from_u128(77)), TokenId(Uuid::from_u128(78)));
        assert!(first_use_on_thread(one));
        assert!(first_use_on_thread(other));
        assert!(!first_use_on_thread(one));
        let elsewhere = std::thread::spawn(move || first_use_on_thread(one));
        assert!(elsewhere.join().expect("the thread ends"));
    }
}
