//! Whether an upstream is well, as far as its answers and its checks tell.
//!
//! An upstream is *up* until it has failed [`eject_after`](super::UpstreamSettings::eject_after) times
//! in a row, or two checks in a row have. Failures are connections that can't be made, answers that
//! don't begin in time, and answers that are no HTTP or break off before they begin. A 500 or 503
//! of its own is an answer like any other.
//!
//! Then it is *ejected*: for a while it is left alone, and after that it gets one request at a time,
//! its *trial*. The first answer brings it back. Where it was the connections that failed, its
//! circuit is *open* besides: even if all other upstreams are gone too, it gets no more than trials,
//! so that nobody waits for what will fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{Upstream, UpstreamSettings};

/// Read at every request; written when something goes wrong, and when it ends.
pub(super) struct CircuitBreaker {
    eject_after: u32,
    eject_for: Duration,
    slow_start: Duration,
    since: Instant,
    /// In a row.
    failures: AtomicU32,
    /// Of these, in a row, the connections that could not be made.
    unreachable: AtomicU32,
    /// Whether its checks say that it isn't well.
    checked_down: AtomicBool,
    /// When it may be tried again, in milliseconds after `since`.
    ejected_until: AtomicU64,
    /// How often it was ejected with little time in between.
    ejections: AtomicU32,
    on_trial: AtomicBool,
    /// When it came back, in milliseconds after `since`; 0 is long ago.
    returned_at: AtomicU64,
}

/// What went wrong with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No answer, or none that can be read.
    Answer,
    /// No connection.
    Connection,
}

/// What a new failure or success has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Ejected,
    None,
    Returned,
}

impl CircuitBreaker {
    pub(super) fn new(settings: &UpstreamSettings) -> Self {
        Self {
            eject_after: settings.eject_after.max(1),
            eject_for: settings.eject_for,
            slow_start: settings.slow_start,
            since: Instant::now(),
            failures: AtomicU32::new(0),
            unreachable: AtomicU32::new(0),
            checked_down: AtomicBool::new(false),
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            on_trial: AtomicBool::new(false),
            returned_at: AtomicU64::new(0),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < self.eject_after && !self.is_checked_down()
    }

    pub(super) fn is_checked_down(&self) -> bool {
        self.checked_down.load(Ordering::Relaxed)
    }

    /// Whether it can't be connected to, so that only trials make sense.
    pub(super) fn is_open(&self) -> bool {
        self.unreachable.load(Ordering::Relaxed) >= self.eject_after
    }

    /// Whether its time away is over, and a trial is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.is_up() && !self.is_checked_down() && self.millis(now) >= self.ejected_until()
    }

    /// When it was, or will be, due for a trial.
    pub(super) fn ejected_until(&self) -> u64 {
        self.ejected_until.load(Ordering::Relaxed)
    }

    /// Whether it takes part in this choice: less often while it is new.
    pub(super) fn admits_slow_start(&self, now: Instant) -> bool {
        let share = self.share(now);
        share >= 1.0 || fastrand::f64() < share
    }

    /// How much of its full share of requests it gets, from a tenth to 1.
    fn share(&self, now: Instant) -> f64 {
        let returned_at = self.returned_at.load(Ordering::Relaxed);
        if returned_at == 0 {
            return 1.0;
        }
        let passed = Duration::from_millis(self.millis(now).saturating_sub(returned_at));
        if passed >= self.slow_start {
            self.returned_at.store(0, Ordering::Relaxed);
            return 1.0;
        }
        passed.div_duration_f64(self.slow_start).max(0.1)
    }

    /// An answer has begun.
    pub(super) fn succeed(&self) -> Transition {
        // Written only where it changes something: the line stays in every core's cache.
        if self.failures.load(Ordering::Relaxed) == 0 && self.unreachable.load(Ordering::Relaxed) == 0 {
            return Transition::None;
        }
        self.unreachable.store(0, Ordering::Relaxed);
        let failures = self.failures.swap(0, Ordering::Relaxed);
        if failures < self.eject_after || self.is_checked_down() {
            return Transition::None;
        }
        self.returned(Instant::now());
        Transition::Returned
    }

    pub(super) fn fail(&self, failure: Failure, now: Instant) -> Transition {
        match failure {
            Failure::Answer => self.unreachable.store(0, Ordering::Relaxed),
            Failure::Connection => _ = self.unreachable.fetch_add(1, Ordering::Relaxed),
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let trial_failed = failures > self.eject_after && self.millis(now) >= self.ejected_until();
        if failures == self.eject_after || trial_failed { self.eject(now) } else { Transition::None }
    }

    /// What its checks have come to say, unless they said so before.
    pub(super) fn check(&self, is_well: bool, now: Instant) -> Transition {
        let was_down = self.checked_down.swap(!is_well, Ordering::Relaxed);
        // It is there, so what kept others from connecting is over.
        let was_open = is_well && self.is_open();
        if was_down || was_open {
            if !is_well {
                return Transition::None;
            }
            self.unreachable.store(0, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
            self.returned(now);
            return Transition::Returned;
        }
        if is_well { Transition::None } else { Transition::Ejected }
    }

    fn returned(&self, now: Instant) {
        self.returned_at.store(self.millis(now).max(1), Ordering::Relaxed);
    }

    fn eject(&self, now: Instant) -> Transition {
        let (now, before) = (self.millis(now), self.ejected_until());
        let first = millis(self.eject_for);
        let soon = now.saturating_sub(before) < first.saturating_mul(6) && before > 0;
        let ejections = if soon { self.ejections.load(Ordering::Relaxed) + 1 } else { 0 };
        let length = first.saturating_mul(1 << ejections.min(16)).min(millis(LONGEST)).max(first);
        // Spread, so that replicas don't all come back at once.
        let length = length - fastrand::u64(0..=length / 5);
        let until = now.saturating_add(length);
        let ours = self.ejected_until.compare_exchange(before, until, Ordering::Relaxed, Ordering::Relaxed);
        if ours.is_err() {
            return Transition::None;
        }
        self.ejections.store(ejections, Ordering::Relaxed);
        Transition::Ejected
    }

    fn millis(&self, instant: Instant) -> u64 {
        millis(instant.saturating_duration_since(self.since))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Leave to send one request to an upstream that is not up. There is one at a time.
pub(super) struct ProbePermit(Arc<Upstream>);

impl ProbePermit {
    pub(super) fn of(upstream: &Arc<Upstream>) -> Option<Self> {
        let taken = upstream.health.on_trial.swap(true, Ordering::Acquire);
        (!taken).then(|| Self(Arc::clone(upstream)))
    }
}

impl Drop for ProbePermit {
    fn drop(&mut self) {
        self.0.health.on_trial.store(false, Ordering::Release);
    }
}

/// An upstream is never left alone for longer.
const LONGEST: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> (CircuitBreaker, Instant) {
        let settings = UpstreamSettings { eject_after: 3, ..UpstreamSettings::default() };
        let health = CircuitBreaker::new(&settings);
        let now = health.since + Duration::from_secs(1);
        (health, now)
    }

    fn fail(health: &CircuitBreaker, times: u32, failure: Failure, now: Instant) -> Vec<Transition> {
        (0..times).map(|_| health.fail(failure, now)).collect()
    }

    #[tokio::test]
    async fn failures_in_a_row_eject() {
        let (health, now) = health();
        assert_eq!(fail(&health, 2, Failure::Answer, now), [Transition::None; 2]);
        assert_eq!(health.succeed(), Transition::None);
        assert!(health.is_up());
        let changes = fail(&health, 4, Failure::Answer, now);
        assert_eq!(changes, [Transition::None, Transition::None, Transition::Ejected, Transition::None]);
        assert!(!health.is_up() && !health.is_open() && !health.is_due(now));
        assert!(!health.is_due(now + Duration::from_secs(7)), "at least four fifths of ten seconds");
        assert!(health.is_due(now + Duration::from_secs(10)));
        assert_eq!(health.succeed(), Transition::Returned);
        assert!(health.is_up());
    }

    #[tokio::test]
    async fn a_trial_that_fails_ejects_for_longer() {
        let (health, mut now) = health();
        fail(&health, 3, Failure::Connection, now);
        assert!(health.is_open());
        let mut lengths = Vec::new();
        for _ in 0..8 {
            lengths.push(health.ejected_until() - health.millis(now));
            now = health.since + Duration::from_millis(health.ejected_until());
            assert_eq!(health.fail(Failure::Connection, now), Transition::Ejected);
        }
        for (length, longest) in lengths.iter().zip([10, 20, 40, 80, 160, 300, 300, 300]) {
            assert!((longest * 800..=longest * 1000).contains(length), "{lengths:?}");
        }
        health.succeed();
        now += Duration::from_secs(3600);
        fail(&health, 3, Failure::Connection, now);
        assert!(health.ejected_until() - health.millis(now) <= 10_000, "long ago is forgotten");
    }

    #[tokio::test]
    async fn one_answer_shows_that_it_can_be_reached() {
        let (health, now) = health();
        fail(&health, 2, Failure::Connection, now);
        fail(&health, 1, Failure::Answer, now);
        assert!(!health.is_up() && !health.is_open());
    }

    #[tokio::test]
    async fn it_comes_back_slowly() {
        let (health, now) = health();
        assert!((health.share(now) - 1.0).abs() < 1e-9);
        assert_eq!(health.check(false, now), Transition::Ejected);
        assert_eq!(health.check(true, now), Transition::Returned);
        let shares: Vec<_> =
            [0, 2, 5, 9, 10].iter().map(|passed| health.share(now + Duration::from_secs(*passed))).collect();
        for (share, expected) in shares.iter().zip([0.1, 0.2, 0.5, 0.9, 1.0]) {
            assert!((share - expected).abs() < 1e-9, "{shares:?}");
        }
    }

    #[tokio::test]
    async fn checks_have_a_say_of_their_own() {
        let (health, now) = health();
        assert_eq!(health.check(true, now), Transition::None);
        assert_eq!(health.check(false, now), Transition::Ejected);
        assert_eq!(health.check(false, now), Transition::None);
        fail(&health, 1, Failure::Answer, now);
        assert_eq!(health.succeed(), Transition::None);
        assert!(!health.is_up() && !health.is_due(now + Duration::from_secs(60)));
        assert_eq!(health.check(true, now), Transition::Returned);
        // What can't be connected to is there after all.
        fail(&health, 3, Failure::Connection, now);
        assert_eq!(health.check(true, now), Transition::Returned);
        assert!(health.is_up());
        // What doesn't answer is no better for it.
        fail(&health, 3, Failure::Answer, now);
        assert_eq!(health.check(true, now), Transition::None);
        assert!(!health.is_up());
    }
}
