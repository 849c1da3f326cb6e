//! Sessions that have ended, known to every replica within a second, so that their access tokens are
//! refused although they have not expired.
//!
//! Polling is the authority: every [`POLL`], for what has ended since the last look, overlapping by
//! half the grace and a transaction's time-outs, since clocks differ and commits come late. A NOTIFY
//! only wakes the poller sooner. At the start, after any gap, and now and then, all is loaded that
//! ended so recently that an access token of it may still be good.
//!
//! Reading takes no lock: the list is replaced as a whole.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::store::{SessionStore, StoreError};
use super::watchers::Watchers;
use crate::clock::Clock;
use crate::models::session::{SessionEnd, SessionId};
use crate::session_event::SessionEvent;

/// How often the store is asked what has ended.
pub(crate) const POLL: Duration = Duration::from_millis(400);

/// A feed that is older than this is lost.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(1);

/// How long after the time that it names an end may be committed: what a store gives a transaction, and
/// the wait before it.
const COMMITTED_WITHIN: Duration = Duration::from_secs(15);

/// How often all is loaded anew. A commit may stall for longer than any time-out says, as on a standby
/// that must confirm it.
const LOAD_ALL: Duration = Duration::from_secs(30);

/// A look that brought more than this may be followed by another such one, which has its time.
const MANY: usize = 10_000;

/// How long the store is left in peace after a look, however often the feed is woken.
const PAUSE: Duration = Duration::from_millis(50);

/// How long loading all may take. After a mass revocation it may be much.
const LOADED_WITHIN: Duration = Duration::from_secs(8);

/// The sessions that have ended lately.
pub(crate) struct RevocationList {
    ended: ArcSwap<HashMap<SessionId, SessionEnd>>,
    /// Held by writers, so that none undoes another's work.
    writing: Mutex<()>,
    watchers: Arc<Watchers>,
    wake: Notify,
    /// Tells those who wait for it of each look.
    looked: Notify,
    started: Instant,
    /// Until when the feed was complete, in microseconds after `started`; 0 without a feed, as in an
    /// application of one process.
    complete_until: AtomicU64,
    /// How long after its end an access token of a session may still be good.
    horizon: Duration,
    overlap: Duration,
}

impl RevocationList {
    pub(crate) fn new(horizon: Duration, grace: Duration) -> Self {
        Self {
            ended: ArcSwap::default(),
            writing: Mutex::default(),
            watchers: Arc::default(),
            wake: Notify::new(),
            looked: Notify::new(),
            started: Instant::now(),
            complete_until: AtomicU64::new(0),
            horizon,
            overlap: grace / 2 + COMMITTED_WITHIN,
        }
    }

    /// How the session ended, if it did so lately.
    pub(crate) fn find(&self, session: SessionId) -> Option<SessionEnd> {
        self.ended.load().get(&session).copied()
    }

    /// Adds sessions that are known to have ended; the first end of each stays. Returns the new ones.
    pub(crate) fn add(
        &self,
        ended: impl IntoIterator<Item = (SessionId, SessionEnd)>,
        now: OffsetDateTime,
    ) -> Vec<SessionId> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.ended.load();
        let new: HashMap<_, _> =
            ended.into_iter().filter(|(session, _)| !known.contains_key(session)).collect();
        let forgotten = |end: &SessionEnd| now - end.at > self.horizon + self.overlap;
        if new.is_empty() && !known.values().any(forgotten) {
            return Vec::new();
        }
        let added = new.keys().copied().collect();
        let kept = known.iter().filter(|(_, end)| !forgotten(end)).map(|(session, end)| (*session, *end));
        let told = new.clone();
        self.ended.store(Arc::new(kept.chain(new).collect()));
        self.watchers.tell(&told);
        added
    }

    /// Those who are told of each end.
    pub(crate) fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    /// As long as the feed is lost, tells all who watch that nobody can vouch for their sessions. For
    /// ever.
    pub(crate) async fn notify_when_stale(&self) {
        loop {
            tokio::time::sleep(POLL / 2).await;
            if self.is_stale() {
                self.watchers.tell_all(SessionEvent::StoreUnavailable);
            }
        }
    }

    /// Makes the feed look at once.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Whether the feed runs and has not been complete for longer than [`LOST_AFTER`].
    pub(crate) fn is_stale(&self) -> bool {
        match self.complete_until.load(Ordering::Relaxed) {
            0 => false,
            complete => self.started.elapsed() > Duration::from_micros(complete) + LOST_AFTER,
        }
    }

    /// Waits until everything is known here that had ended before this was called. However many wait, it
    /// is one look; while the feed is lost nobody is told, so callers bring their own patience. Without a
    /// feed there is nothing to wait for.
    pub(crate) async fn sync(&self) {
        let asked = micros(self.started.elapsed());
        loop {
            let looked = self.looked.notified();
            let complete = self.complete_until.load(Ordering::Acquire);
            if complete == 0 || complete > asked {
                return;
            }
            self.wake();
            looked.await;
        }
    }

    /// Loads all that ended within the horizon.
    pub(crate) async fn load(
        &self,
        store: &dyn SessionStore,
        clock: &dyn Clock,
    ) -> Result<PollResult, StoreError> {
        let since = clock.now() - self.horizon - self.overlap;
        self.load_since(since, LOADED_WITHIN, store, clock).await
    }

    /// Follows the store for ever, telling `each` of sessions that have ended.
    pub(crate) async fn run_poller(
        &self,
        store: &dyn SessionStore,
        clock: &dyn Clock,
        each: impl Fn(&[SessionId]),
    ) {
        let mut last_complete: Option<OffsetDateTime> = None;
        let (mut within, mut all_at) = (LOST_AFTER, Instant::now());
        loop {
            let began = clock.now();
            let loaded = match last_complete {
                // One that takes longer has lost the feed: a connection that was cut silently would
                // never answer, and another one may.
                Some(complete) if all_at.elapsed() < LOAD_ALL => {
                    self.load_since(complete - self.overlap, within, store, clock).await
                }
                _ => {
                    all_at = Instant::now();
                    self.load(store, clock).await
                }
            };
            match loaded {
                Ok(PollResult { found, added }) => {
                    within = if found > MANY { LOADED_WITHIN } else { LOST_AFTER };
                    last_complete = Some(began);
                    each(&added);
                }
                Err(error) => {
                    // What ended meanwhile may be older than the overlap: load all when it answers.
                    if last_complete.take().is_some() {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "the feed of ended sessions is interrupted"
                        );
                        continue;
                    }
                }
            }
            self.wait().await;
        }
    }

    /// Until it is time to look again.
    async fn wait(&self) {
        let woken = async {
            tokio::time::sleep(PAUSE).await;
            self.wake.notified().await;
        };
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = woken => {}
        }
    }

    async fn load_since(
        &self,
        since: OffsetDateTime,
        within: Duration,
        store: &dyn SessionStore,
        clock: &dyn Clock,
    ) -> Result<PollResult, StoreError> {
        let began = micros(self.started.elapsed());
        let answer = tokio::time::timeout(within, store.ended_since(since)).await;
        let ended = answer.map_err(StoreError::unavailable)??;
        let found = ended.len();
        let added = self.add(ended, clock.now());
        self.complete_until.store(began.max(1), Ordering::Release);
        self.looked.notify_waiters();
        Ok(PollResult { found, added })
    }
}

/// What one look at the store came to.
#[derive(Debug)]
pub(crate) struct PollResult {
    /// How many ends it told of.
    found: usize,
    /// The sessions that were not known to have ended.
    added: Vec<SessionId>,
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
    use crate::services::test_support::{InstrumentedStore, TokensFixture};

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
    const GRACE: Duration = Duration::from_secs(60);
    const HORIZON: Duration = Duration::from_secs(965);

    fn ended(id: u128, seconds_ago: u64) -> (SessionId, SessionEnd) {
        let end = SessionEnd { at: NOW - Duration::from_secs(seconds_ago), reason: EndReason::Revoked };
        (SessionId(Uuid::from_u128(id)), end)
    }

    #[tokio::test]
    async fn what_is_added_is_found_and_told_once() {
        let ends = RevocationList::new(HORIZON, GRACE);
        let (session, end) = ended(1, 5);
        assert_eq!(ends.find(session), None);
        assert_eq!(ends.add([(session, end)], NOW), [session]);
        assert_eq!(ends.add([(session, end)], NOW), []);
        assert_eq!(ends.find(session), Some(end));
    }

    #[tokio::test]
    async fn the_first_reason_stays() {
        let ends = RevocationList::new(HORIZON, GRACE);
        let (session, first) = ended(1, 5);
        ends.add([(session, first)], NOW);
        ends.add([(session, SessionEnd { reason: EndReason::LoggedOut, ..first })], NOW);
        assert_eq!(ends.find(session), Some(first));
    }

    #[tokio::test]
    async fn an_end_is_forgotten_when_no_token_can_be_good_any_more() {
        let ends = RevocationList::new(HORIZON, GRACE);
        let (old, recent) = (ended(1, 0), ended(2, 0));
        ends.add([old], NOW);
        let later = NOW + HORIZON + ends.overlap + Duration::from_secs(1);
        ends.add([(recent.0, SessionEnd { at: later, ..recent.1 })], later);
        assert_eq!(ends.find(old.0), None);
        assert!(ends.find(recent.0).is_some());
    }

    /// An end is of the time at which its transaction began, and a commit may stall.
    #[tokio::test(start_paused = true)]
    async fn an_end_that_is_committed_very_late_is_found_all_the_same() {
        let ends = RevocationList::new(HORIZON, GRACE);
        let (store, clock) = (InstrumentedStore::default(), ManualClock::new(NOW));
        let late = async {
            tokio::time::sleep(LOAD_ALL / 2).await;
            let scene = TokensFixture::new();
            let jar = scene.browser().await;
            let (_, end) = ended(0, 120);
            let row = crate::models::session::Session { end: Some(end), ..scene.row(&jar).await };
            scene.restore(&row).await;
            store.replace(scene.store.current());
            tokio::time::sleep(LOAD_ALL / 4).await;
            let overlooked = ends.find(jar.session);
            tokio::time::sleep(LOAD_ALL / 2).await;
            (overlooked, ends.find(jar.session), end)
        };
        let (overlooked, found, end) = tokio::select! {
            () = ends.run_poller(&store, &clock, |_| ()) => unreachable!("it follows for ever"),
            found = late => found,
        };
        assert_eq!((overlooked, found), (None, Some(end)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_must_know_waits_for_one_look() {
        let ends = RevocationList::new(HORIZON, GRACE);
        ends.sync().await;
        let (store, clock) = (InstrumentedStore::default(), ManualClock::new(NOW));
        ends.load(&store, &clock).await.expect("an answer");
        store.calls();
        let following = ends.run_poller(&store, &clock, |_| ());
        let waiting = async {
            // After the first look of the feed, which was asked for by nobody.
            tokio::time::sleep(PAUSE / 2).await;
            let began = Instant::now();
            tokio::join!(ends.sync(), ends.sync(), ends.sync());
            began.elapsed()
        };
        let took = tokio::select! {
            () = following => unreachable!("it follows for ever"),
            took = waiting => took,
        };
        assert_eq!(took, PAUSE / 2, "sooner than the next poll");
        assert_eq!(store.calls(), ["ended_since"; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_older_than_a_second_is_lost() {
        use crate::services::memory::MemoryStore;

        let ends = RevocationList::new(HORIZON, GRACE);
        assert!(!ends.is_stale(), "without a feed there is nothing to lose");
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (store, clock) = (MemoryStore::default(), ManualClock::new(NOW));
        ends.load(&store, &clock).await.expect("an answer");
        tokio::time::sleep(LOST_AFTER).await;
        assert!(!ends.is_stale());
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(ends.is_stale());
    }

    /// A feed that runs, over a store that tells when it is asked.
    fn followed(store: &Arc<InstrumentedStore>) -> (Arc<RevocationList>, tokio::task::JoinHandle<()>) {
        let ends = Arc::new(RevocationList::new(HORIZON, GRACE));
        let (feed, store) = (Arc::clone(&ends), Arc::clone(store));
        let following = async move { feed.run_poller(&*store, &ManualClock::new(NOW), |_| ()).await };
        (ends, tokio::spawn(following))
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_that_is_woken_looks_sooner() {
        let store = Arc::new(InstrumentedStore::default());
        let (ends, _feed) = followed(&store);
        tokio::time::sleep(POLL / 2).await;
        assert_eq!(store.calls().len(), 1, "at the start");
        ends.wake();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(store.calls().len(), 1, "at once");
        for _ in 0..1_000 {
            ends.wake();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(store.calls().len() <= 20, "and no more often than the store can bear");
        tokio::time::sleep(10 * POLL).await;
        assert_eq!(store.calls().len(), 10, "by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_is_never_answered_is_given_up() {
        let store = Arc::new(InstrumentedStore::default());
        let (ends, _feed) = followed(&store);
        tokio::time::sleep(POLL / 2).await;
        let held = store.hold().await;
        tokio::time::sleep(POLL / 2 + LOST_AFTER - Duration::from_millis(1)).await;
        assert!(ends.is_stale(), "and said so");
        assert_eq!(store.calls().len(), 2, "the second waits");
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(store.calls().len(), 1, "another one, at once");
        drop(held);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!ends.is_stale());
    }
}
