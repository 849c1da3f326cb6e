//! The revocation list: sessions terminated recently, here or by another replica.
//!
//! An access token stays valid until it expires. So that a terminated session's access tokens are
//! rejected before that, every process keeps the list in memory, at most a second behind the store.
//!
//! The poller queries the store every 400 ms for sessions terminated since its last query, by the store's
//! time as that query returned it. Queries overlap by half the grace period and 15 s, since clocks differ
//! and commits arrive late. PostgreSQL's NOTIFY only makes it poll sooner. On startup, after a failed
//! query, when the store's time has gone back, and every 30 s, it loads all sessions whose access tokens
//! may still be valid: by the time at which the store recorded the termination, and by the session time of the
//! termination, since the store's clock may have been set ahead in between.
//!
//! Sessions stay in the list for a duration of this process's monotonic clock, whatever their times.
//!
//! Lookups take no lock: writers replace the whole map.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::refresh::outcome::RefreshOutcome;
use super::session_settings::SessionSettings;
use super::single_flight::SingleFlight;
use super::store::{EndedSince, SessionStore, SessionTermination, StoreError};
use super::watchers::Watchers;
use crate::clock::Clock;
use crate::models::session::{SessionEnd, SessionId};
use crate::session_event::{SessionEndFuture, SessionEvent};

/// Time between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(400);

/// Age beyond which the list is stale. It is also the timeout of a poll: one that takes longer has
/// probably lost its connection silently, and the next uses another.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// Maximum time between a termination's timestamp and its commit: the store's transaction timeout and
/// the wait for a connection.
const MAX_COMMIT_DELAY: Duration = Duration::from_secs(15);

/// Time between two full loads. Commits can stall longer than any timeout, for example while a
/// synchronous standby is unavailable.
const FULL_LOAD_INTERVAL: Duration = Duration::from_secs(30);

/// Number of rows beyond which the next poll gets [`FULL_LOAD_TIMEOUT`], since it may return as many.
const LARGE_POLL: usize = 10_000;

/// Minimum time between two polls, however often [`Revocations::poll_now`] is called.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Allowance for the estimate of the store's time, for a full load.
const MAX_TIME_ERROR: Duration = Duration::from_secs(1);

/// Timeout of a full load. After a mass revocation there are many rows.
const FULL_LOAD_TIMEOUT: Duration = Duration::from_secs(8);

/// Terminates sessions, and lists those terminated recently.
pub struct Revocations {
    store: Arc<dyn SessionStore>,
    clock: Arc<dyn Clock>,
    /// Refresh results that must not be shared after a termination.
    flights: SingleFlight<RefreshOutcome>,
    list: ArcSwap<HashMap<SessionId, ListEntry>>,
    /// Serializes writers of `list`.
    write_lock: Mutex<()>,
    /// The last complete poll.
    cursor: Mutex<Option<Cursor>>,
    watchers: Arc<Watchers>,
    poll_requested: Notify,
    polled: Notify,
    started: Instant,
    /// Time up to which the list is complete, in microseconds since `started`. 0 if nothing was
    /// polled, as in an application of a single process.
    complete_until: AtomicU64,
    /// Notifies of [`is_stale`](Self::is_stale), a fraction of a second late.
    staleness: watch::Sender<bool>,
    /// Time after a termination for which an access token of the session may still be valid.
    horizon: Duration,
    overlap: Duration,
    refuse_on_store_loss: bool,
}

/// A session in the list.
#[derive(Clone, Copy)]
struct ListEntry {
    end: SessionEnd,
    added_at: Instant,
}

/// The point from which the next poll continues.
#[derive(Clone, Copy)]
struct Cursor {
    /// The time of the store, which dates terminations whatever the clock of the process that writes them.
    store_time: OffsetDateTime,
    read_at: Instant,
    position: Option<i64>,
}

/// A poll whose sessions were added to the list.
struct Poll {
    /// Microseconds from the start of the process to that of the poll, or to the earlier time up to which its
    /// sessions are complete.
    began: u64,
    rows: usize,
    cursor: Cursor,
}

impl Revocations {
    /// Creates an empty list. `leeway` is the clock skew that access tokens are verified with.
    pub(super) fn new(
        store: Arc<dyn SessionStore>,
        clock: Arc<dyn Clock>,
        flights: SingleFlight<RefreshOutcome>,
        settings: &SessionSettings,
        leeway: Duration,
    ) -> Self {
        let watchers = Arc::new(Watchers::new(Arc::clone(&store), Arc::clone(&clock)));
        Self {
            store,
            clock,
            flights,
            list: ArcSwap::default(),
            write_lock: Mutex::default(),
            cursor: Mutex::default(),
            watchers,
            poll_requested: Notify::new(),
            polled: Notify::new(),
            started: Instant::now(),
            complete_until: AtomicU64::new(0),
            staleness: watch::Sender::new(false),
            horizon: settings.access_ttl + leeway + settings.grace,
            overlap: settings.grace / 2 + MAX_COMMIT_DELAY,
            refuse_on_store_loss: settings.refuse_on_store_loss,
        }
    }

    /// Loads all sessions whose access tokens may still be valid. A replica does so before it is
    /// ready.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn load(&self) -> Result<(), StoreError> {
        self.load_all().await.map(drop)
    }

    /// Polls the store until the future is dropped. Sessions terminated by other replicas are rejected
    /// here within a second.
    ///
    /// A single process that terminates sessions only through its own
    /// [`Tokens`](super::token::Tokens) needs no poller.
    pub async fn run_poller(self: Arc<Self>) {
        tokio::join!(self.poll(), self.monitor_staleness());
    }

    /// Makes the poller poll without waiting for its interval.
    pub fn poll_now(&self) {
        self.poll_requested.notify_one();
    }

    /// Returns `true` if the poller runs and its last complete poll began more than a second ago.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        match self.complete_until.load(Ordering::Relaxed) {
            0 => false,
            complete => self.started.elapsed() > Duration::from_micros(complete) + STALE_AFTER,
        }
    }

    /// Waits until the list is stale.
    pub async fn wait_until_stale(&self) {
        // This cannot fail while `self` holds the sender.
        let _ = self.staleness.subscribe().wait_for(|is_stale| *is_stale).await;
    }

    /// Adds sessions that the caller has terminated in the store. From here on their tokens are
    /// rejected, and their watchers notified.
    pub fn mark_terminated(&self, sessions: &[SessionId], end: SessionEnd) {
        self.add(sessions.iter().map(|&session| (session, end)));
        self.flights.forget_sessions(sessions);
    }

    /// Terminates a session in the store and adds it to the list. Returns `false` if there is none, or
    /// it was terminated before.
    pub(super) async fn terminate(
        &self,
        session: SessionId,
        termination: &SessionTermination,
    ) -> Result<bool, StoreError> {
        let terminated = self.store.end_session(session, termination).await?;
        if terminated {
            self.mark_terminated(&[session], termination.end());
        }
        Ok(terminated)
    }

    /// Returns the end of a session that was terminated recently.
    pub(super) fn find(&self, session: SessionId) -> Option<SessionEnd> {
        self.list.load().get(&session).map(|entry| entry.end)
    }

    /// Waits until the list includes all terminations that were committed before the call.
    ///
    /// Concurrent callers share one poll. The call does not return while the store fails, so callers
    /// need a timeout. Without a poller it returns at once.
    pub(super) async fn sync(&self) {
        let called_at = micros(self.started.elapsed());
        loop {
            let polled = self.polled.notified();
            let complete = self.complete_until.load(Ordering::Acquire);
            if complete == 0 || complete > called_at {
                return;
            }
            self.poll_now();
            polled.await;
        }
    }

    /// Waits for the end of a session; see
    /// [`SessionEndWatcher`](crate::session_event::SessionEndWatcher).
    pub(super) fn watch(self: &Arc<Self>, session: SessionId) -> SessionEndFuture {
        let revocations = Arc::clone(self);
        // Subscribe before the lookup, so that no termination in between is missed.
        let mut watcher = self.watchers.subscribe(session);
        Box::pin(async move {
            if let Some(end) = revocations.find(session) {
                return end.reason.event();
            }
            tokio::select! {
                event = watcher.recv() => event,
                event = revocations.watchers.wait_until_expired(session) => event,
            }
        })
    }

    /// Adds terminations, and drops those added too long ago to matter. The first end of a session stays.
    /// Returns the sessions that were not listed before.
    fn add(&self, terminated: impl IntoIterator<Item = (SessionId, SessionEnd)>) -> Vec<SessionId> {
        let _guard = self.write_lock.lock();
        let list = self.list.load();
        let new: HashMap<_, _> =
            terminated.into_iter().filter(|(session, _)| !list.contains_key(session)).collect();
        let now = Instant::now();
        let outdated = |entry: &ListEntry| now - entry.added_at > self.horizon + self.overlap;
        if new.is_empty() && !list.values().any(outdated) {
            return Vec::new();
        }
        let added = new.keys().copied().collect();
        let kept =
            list.iter().filter(|(_, entry)| !outdated(entry)).map(|(session, entry)| (*session, *entry));
        let entries = new.iter().map(|(session, end)| (*session, ListEntry { end: *end, added_at: now }));
        self.list.store(Arc::new(kept.chain(entries).collect()));
        self.watchers.notify(&new);
        added
    }

    /// Notifies those who wait for a stale list. If sessions must not be used unchecked, all watchers are notified.
    async fn monitor_staleness(&self) {
        loop {
            tokio::time::sleep(POLL_INTERVAL / 2).await;
            let is_stale = self.is_stale();
            self.staleness.send_if_modified(|known| std::mem::replace(known, is_stale) != is_stale);
            if is_stale && self.refuse_on_store_loss {
                self.watchers.notify_all(SessionEvent::StoreUnavailable);
            }
        }
    }

    async fn poll(&self) {
        let mut last_full_load: Option<Instant> = None;
        let mut timeout = STALE_AFTER;
        let mut has_failed = false;
        loop {
            let is_full = last_full_load.is_none_or(|loaded| loaded.elapsed() >= FULL_LOAD_INTERVAL);
            let polled = if is_full {
                last_full_load = Some(Instant::now());
                self.load_all().await.map(Some)
            } else {
                self.load_new(timeout).await
            };
            match polled {
                Ok(Some(rows)) => {
                    timeout = if rows > LARGE_POLL { FULL_LOAD_TIMEOUT } else { STALE_AFTER };
                    has_failed = false;
                }
                Ok(None) => {
                    tracing::warn!("the database's clock went back, reloading the revocation list");
                    last_full_load = None;
                    continue;
                }
                Err(error) => {
                    // Terminations committed during an outage may be older than the overlap, so the
                    // next poll is a full load. After the first failure it follows at once.
                    last_full_load = None;
                    if !std::mem::replace(&mut has_failed, true) {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(error, "revocation poll failed");
                        continue;
                    }
                }
            }
            self.wait_for_next_poll().await;
        }
    }

    async fn wait_for_next_poll(&self) {
        let requested = async {
            tokio::time::sleep(MIN_POLL_INTERVAL).await;
            self.poll_requested.notified().await;
        };
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = requested => {}
        }
    }

    /// Adds all sessions whose access tokens may still be valid. Returns the number of rows.
    async fn load_all(&self) -> Result<usize, StoreError> {
        let last = *self.cursor.lock();
        let local_time = self.clock.now();
        let store_time = last.map_or(local_time, |cursor| cursor.store_time + cursor.read_at.elapsed());
        // The store's clock may have been set ahead after it recorded a termination.
        let session_time = Some(local_time - self.horizon - self.overlap);
        // By the earlier of both clocks: the store's may have gone back.
        let mut now = store_time.min(local_time);
        loop {
            let time = now - self.horizon - self.overlap - MAX_TIME_ERROR;
            let position = last.and_then(|cursor| cursor.position);
            let since = EndedSince { time, session_time, position };
            let poll = self.query(since, FULL_LOAD_TIMEOUT).await?;
            if poll.cursor.store_time + MAX_TIME_ERROR >= now {
                return Ok(self.complete(poll));
            }
            // The store's time is earlier than it was thought to be.
            now = poll.cursor.store_time;
        }
    }

    /// Adds the sessions terminated since the last poll. Returns the number of rows, or `None` if the
    /// store's time went back: then the list is incomplete until all are loaded.
    async fn load_new(&self, timeout: Duration) -> Result<Option<usize>, StoreError> {
        let Some(last) = *self.cursor.lock() else { return Ok(None) };
        let time = last.store_time - self.overlap;
        let since = EndedSince { position: last.position, ..EndedSince::time(time) };
        let poll = self.query(since, timeout).await?;
        Ok((poll.cursor.store_time >= last.store_time).then(|| self.complete(poll)))
    }

    /// Adds terminations from the store, without a claim that the list is complete.
    async fn query(&self, since: EndedSince, timeout: Duration) -> Result<Poll, StoreError> {
        let called_at = micros(self.started.elapsed());
        let read_at = Instant::now();
        let ended = tokio::time::timeout(timeout, self.store.ended_since(since)).await;
        let ended = ended.map_err(StoreError::unavailable)??;
        let began = called_at.saturating_sub(micros(ended.age));
        let rows = ended.sessions.len();
        let added = self.add(ended.sessions);
        self.flights.forget_sessions(&added);
        let cursor = Cursor { store_time: ended.store_time, read_at, position: ended.position };
        Ok(Poll { began, rows, cursor })
    }

    /// Records that the list is complete up to the start of a poll. Returns the poll's number of rows.
    fn complete(&self, poll: Poll) -> usize {
        *self.cursor.lock() = Some(poll.cursor);
        self.complete_until.store(poll.began.max(1), Ordering::Release);
        self.polled.notify_waiters();
        poll.rows
    }

    #[cfg(test)]
    pub(super) fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revocations").field("stale", &self.is_stale()).finish_non_exhaustive()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;
    use crate::clock::ManualClock;
    use crate::models::session::EndReason;
    use crate::services::test_support::{TestStore, TokensFixture};

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

    fn new_revocations(store: &Arc<TestStore>) -> Arc<Revocations> {
        let settings = SessionSettings::default();
        let clock = Arc::new(ManualClock::new(NOW));
        let flights = SingleFlight::new(Duration::ZERO, clock.clone());
        let leeway = Duration::from_secs(5);
        let store = Arc::clone(store) as Arc<dyn SessionStore>;
        Arc::new(Revocations::new(store, clock, flights, &settings, leeway))
    }

    /// Returns the output of `future`, which runs next to the poller.
    async fn while_polling<F: Future>(revocations: &Arc<Revocations>, future: F) -> F::Output {
        tokio::select! {
            () = Arc::clone(revocations).run_poller() => unreachable!("the poller does not return"),
            output = future => output,
        }
    }

    fn ended(id: u128, seconds_ago: u64) -> (SessionId, SessionEnd) {
        let end = SessionEnd { at: NOW - Duration::from_secs(seconds_ago), reason: EndReason::Revoked };
        (SessionId(Uuid::from_u128(id)), end)
    }

    #[tokio::test]
    async fn added_session_is_found_and_returned_once() {
        let revocations = new_revocations(&Arc::default());
        let (session, end) = ended(1, 5);
        assert_eq!(revocations.find(session), None);
        assert_eq!(revocations.add([(session, end)]), [session]);
        assert_eq!(revocations.add([(session, end)]), []);
        assert_eq!(revocations.find(session), Some(end));
    }

    #[tokio::test]
    async fn first_end_of_a_session_stays() {
        let revocations = new_revocations(&Arc::default());
        let (session, first) = ended(1, 5);
        revocations.add([(session, first)]);
        revocations.add([(session, SessionEnd { reason: EndReason::LoggedOut, ..first })]);
        assert_eq!(revocations.find(session), Some(first));
    }

    #[tokio::test(start_paused = true)]
    async fn entry_is_dropped_beyond_the_horizon() {
        let revocations = new_revocations(&Arc::default());
        // The time of an end has no influence: the clock that it was read from may be wrong.
        let (old, recent) = (ended(1, 3_600), ended(2, 3_600));
        revocations.add([old]);
        tokio::time::sleep(revocations.horizon + revocations.overlap).await;
        revocations.add([recent]);
        assert_eq!(revocations.find(old.0), Some(old.1));
        tokio::time::sleep(Duration::from_secs(1)).await;
        revocations.add([ended(3, 0)]);
        assert_eq!(revocations.find(old.0), None);
        assert_eq!(revocations.find(recent.0), Some(recent.1));
    }

    /// The timestamp is taken when the transaction begins, and its commit may stall.
    #[tokio::test(start_paused = true)]
    async fn late_commit_is_found_by_a_full_load() {
        let store: Arc<TestStore> = Arc::default();
        store.set_time(NOW);
        let revocations = new_revocations(&store);
        let late = async {
            tokio::time::sleep(FULL_LOAD_INTERVAL / 2).await;
            let (fixture, client) = TokensFixture::with_browser().await;
            let (_, end) = ended(0, 120);
            let row = crate::models::session::Session { end: Some(end), ..fixture.row(&client).await };
            fixture.restore(&row).await;
            store.replace(fixture.store.current());
            tokio::time::sleep(FULL_LOAD_INTERVAL / 4).await;
            let missed = revocations.find(client.session);
            tokio::time::sleep(FULL_LOAD_INTERVAL / 2).await;
            (missed, revocations.find(client.session), end)
        };
        let (missed, found, end) = while_polling(&revocations, late).await;
        assert_eq!((missed, found), (None, Some(end)));
    }

    /// Terminates a session at a time of the store's clock, as a command does.
    async fn terminate_at(store: &TestStore, at: OffsetDateTime) -> SessionId {
        let (fixture, client) = TokensFixture::with_browser().await;
        let end = SessionEnd { at, reason: EndReason::Revoked };
        let row = crate::models::session::Session { end: Some(end), ..fixture.row(&client).await };
        fixture.restore(&row).await;
        store.replace(fixture.store.current());
        client.session
    }

    /// B5: the clocks of process and store differ, and the store's goes back.
    #[tokio::test(start_paused = true)]
    async fn terminations_follow_the_store_clock_also_when_it_goes_back() {
        let store = Arc::default();
        let revocations = new_revocations(&store);
        let follow = async {
            for minutes in [30, 60, 20 * 24 * 60] {
                let store_time = NOW - Duration::from_secs(minutes * 60);
                store.set_time(store_time);
                let session = terminate_at(&store, store_time).await;
                tokio::time::sleep(POLL_INTERVAL + MIN_POLL_INTERVAL).await;
                assert!(revocations.find(session).is_some(), "{minutes} minutes behind");
                assert!(!revocations.is_stale());
            }
        };
        store.set_time(NOW);
        while_polling(&revocations, follow).await;
    }

    /// B5: the list is complete only after a full load by the new time.
    #[tokio::test(start_paused = true)]
    async fn list_is_incomplete_until_it_is_reloaded_after_the_clock_went_back() {
        let store = Arc::new(TestStore::default());
        store.set_time(NOW);
        let revocations = new_revocations(&store);
        revocations.load().await.expect("loaded");
        store.set_time(NOW - Duration::from_secs(60));
        tokio::time::sleep(2 * STALE_AFTER).await;
        assert!(revocations.load_new(STALE_AFTER).await.expect("polled").is_none());
        assert!(revocations.is_stale());
        revocations.load().await.expect("loaded");
        assert!(!revocations.is_stale());
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_syncs_share_one_poll() {
        let store = Arc::default();
        let revocations = new_revocations(&store);
        revocations.sync().await;
        revocations.load().await.expect("loaded");
        store.take_calls();
        let waiting = async {
            // After the first poll, which no call requested.
            tokio::time::sleep(MIN_POLL_INTERVAL / 2).await;
            let began = Instant::now();
            tokio::join!(revocations.sync(), revocations.sync(), revocations.sync());
            began.elapsed()
        };
        let took = while_polling(&revocations, waiting).await;
        assert_eq!(took, MIN_POLL_INTERVAL / 2, "sooner than the poll interval");
        assert_eq!(store.take_calls(), ["ended_since"; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn list_is_stale_a_second_after_its_last_poll() {
        let revocations = new_revocations(&Arc::default());
        assert!(!revocations.is_stale(), "nothing was polled");
        tokio::time::sleep(Duration::from_secs(5)).await;
        revocations.load().await.expect("loaded");
        tokio::time::sleep(STALE_AFTER).await;
        assert!(!revocations.is_stale());
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(revocations.is_stale());
    }

    fn spawn_poller(store: &Arc<TestStore>) -> (Arc<Revocations>, tokio::task::JoinHandle<()>) {
        let revocations = new_revocations(store);
        let poller = tokio::spawn(Arc::clone(&revocations).run_poller());
        (revocations, poller)
    }

    #[tokio::test(start_paused = true)]
    async fn requested_poll_does_not_wait_for_the_interval() {
        let store = Arc::new(TestStore::default());
        let (revocations, _poller) = spawn_poller(&store);
        tokio::time::sleep(POLL_INTERVAL / 2).await;
        assert_eq!(store.take_calls().len(), 1, "at the start");
        revocations.poll_now();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(store.take_calls().len(), 1, "requested");
        for _ in 0..1_000 {
            revocations.poll_now();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(store.take_calls().len() <= 20, "at most once per minimum interval");
        tokio::time::sleep(10 * POLL_INTERVAL).await;
        assert_eq!(store.take_calls().len(), 10, "once per interval");
    }

    #[tokio::test(start_paused = true)]
    async fn poll_without_response_times_out() {
        let store = Arc::new(TestStore::default());
        let (revocations, _poller) = spawn_poller(&store);
        tokio::time::sleep(POLL_INTERVAL / 2).await;
        let held = store.block().await;
        tokio::time::sleep(POLL_INTERVAL / 2 + STALE_AFTER - Duration::from_millis(1)).await;
        assert!(revocations.is_stale(), "reported");
        assert_eq!(store.take_calls().len(), 2, "the second waits");
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(store.take_calls().len(), 1, "another one follows");
        drop(held);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!revocations.is_stale());
    }
}
