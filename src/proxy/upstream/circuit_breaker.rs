//! Passive health of an upstream: outlier ejection and a circuit breaker.
//!
//! An upstream is *up* until [`eject_after`](UpstreamSettings::eject_after) consecutive requests, or two
//! consecutive health checks, have failed. A request fails if it cannot connect, if the response head does
//! not arrive in time, or if the response is malformed or truncated before its head is complete. A response
//! with status 500 or 503 is not a failure.
//!
//! A failing upstream is *ejected*: it gets no requests for a while, then one at a time, a half-open *probe*.
//! A response to a probe brings the upstream back, with a slow start.
//!
//! If it was connecting that failed, the circuit is *open* as well. An ejected upstream still gets requests
//! when no other one is up, but one with an open circuit gets probes only, so that other requests fail at
//! once.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::settings::UpstreamSettings;
use crate::proxy::idle_timer::to_millis;

/// The health of one upstream. Read for every request, but written only when it changes.
pub(super) struct CircuitBreaker {
    eject_after: u32,
    eject_for: Duration,
    slow_start: Duration,
    created_at: Instant,
    /// Number of consecutive failures.
    failures: AtomicU32,
    /// Number of consecutive failures to connect.
    connect_failures: AtomicU32,
    /// True while the health checks fail.
    is_checked_down: AtomicBool,
    /// End of the ejection, in milliseconds after `created_at`.
    ejected_until: AtomicU64,
    /// Number of previous ejections in quick succession.
    ejections: AtomicU32,
    has_probe: AtomicBool,
    /// Start of the slow start, in milliseconds after `created_at`. 0 after it has ended.
    recovered_at: AtomicU64,
}

/// The kind of a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection could not be made.
    Connection,
    /// The response is missing, late or malformed.
    Response,
}

/// The effect of a success or failure on the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Ejected,
    None,
    Recovered,
}

impl CircuitBreaker {
    pub(super) fn new(settings: &UpstreamSettings) -> Self {
        Self {
            eject_after: settings.eject_after.max(1),
            eject_for: settings.eject_for,
            slow_start: settings.slow_start,
            created_at: Instant::now(),
            failures: AtomicU32::new(0),
            connect_failures: AtomicU32::new(0),
            is_checked_down: AtomicBool::new(false),
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            has_probe: AtomicBool::new(false),
            recovered_at: AtomicU64::new(0),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < self.eject_after && !self.is_checked_down()
    }

    fn is_checked_down(&self) -> bool {
        self.is_checked_down.load(Ordering::Relaxed)
    }

    /// Returns `true` if connecting fails, so that only probes are sent.
    pub(super) fn is_open(&self) -> bool {
        self.connect_failures.load(Ordering::Relaxed) >= self.eject_after
    }

    /// Returns `true` if the ejection has ended and the upstream is to be probed.
    pub(super) fn is_probe_due(&self, now: Instant) -> bool {
        !self.is_up() && !self.is_checked_down() && self.millis(now) >= self.ejected_until()
    }

    /// End of the current or last ejection, in milliseconds.
    pub(super) fn ejected_until(&self) -> u64 {
        self.ejected_until.load(Ordering::Relaxed)
    }

    /// Claims the probe. Returns `false` while another request holds it.
    pub(super) fn try_begin_probe(&self) -> bool {
        !self.has_probe.swap(true, Ordering::Acquire)
    }

    pub(super) fn end_probe(&self) {
        self.has_probe.store(false, Ordering::Release);
    }

    /// Decides at random whether the upstream takes part in a choice, in proportion to its current share.
    pub(super) fn admits_slow_start(&self, now: Instant) -> bool {
        let share = self.share(now);
        share >= 1.0 || fastrand::f64() < share
    }

    /// The upstream's share of requests, which grows from 0.1 to 1 during the slow start.
    fn share(&self, now: Instant) -> f64 {
        let recovered_at = self.recovered_at.load(Ordering::Relaxed);
        if recovered_at == 0 {
            return 1.0;
        }
        let elapsed = Duration::from_millis(self.millis(now).saturating_sub(recovered_at));
        if elapsed >= self.slow_start {
            self.recovered_at.store(0, Ordering::Relaxed);
            return 1.0;
        }
        elapsed.div_duration_f64(self.slow_start).max(0.1)
    }

    /// Records that a response head has been received.
    pub(super) fn record_success(&self) -> Transition {
        // Writes only on a change, so that the cache line stays shared between cores.
        if self.failures.load(Ordering::Relaxed) == 0 && self.connect_failures.load(Ordering::Relaxed) == 0 {
            return Transition::None;
        }
        self.connect_failures.store(0, Ordering::Relaxed);
        let failures = self.failures.swap(0, Ordering::Relaxed);
        if failures < self.eject_after || self.is_checked_down() {
            return Transition::None;
        }
        self.begin_slow_start(Instant::now());
        Transition::Recovered
    }

    pub(super) fn record_failure(&self, failure: Failure, now: Instant) -> Transition {
        match failure {
            Failure::Connection => _ = self.connect_failures.fetch_add(1, Ordering::Relaxed),
            Failure::Response => self.connect_failures.store(0, Ordering::Relaxed),
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let probe_failed = failures > self.eject_after && self.millis(now) >= self.ejected_until();
        if failures == self.eject_after || probe_failed { self.eject(now) } else { Transition::None }
    }

    /// Records the state that consecutive health checks agree on.
    pub(super) fn record_health_check(&self, is_healthy: bool, now: Instant) -> Transition {
        let was_checked_down = self.is_checked_down.swap(!is_healthy, Ordering::Relaxed);
        // A successful check has connected, which closes the circuit.
        let closes_circuit = is_healthy && self.is_open();
        if was_checked_down || closes_circuit {
            if !is_healthy {
                return Transition::None;
            }
            self.connect_failures.store(0, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
            self.begin_slow_start(now);
            return Transition::Recovered;
        }
        if is_healthy { Transition::None } else { Transition::Ejected }
    }

    fn begin_slow_start(&self, now: Instant) {
        self.recovered_at.store(self.millis(now).max(1), Ordering::Relaxed);
    }

    /// Ejects the upstream, for twice as long as before if the previous ejection ended recently.
    fn eject(&self, now: Instant) -> Transition {
        let now = self.millis(now);
        let previous_end = self.ejected_until();
        let base = to_millis(self.eject_for);
        let is_recent = now.saturating_sub(previous_end) < base.saturating_mul(6) && previous_end > 0;
        let ejections = if is_recent { self.ejections.load(Ordering::Relaxed) + 1 } else { 0 };
        let duration = base.saturating_mul(1 << ejections.min(16)).min(to_millis(MAX_EJECTION)).max(base);
        // Jitter, so that replicas do not probe at the same time.
        let duration = duration - fastrand::u64(0..=duration / 5);
        let end = now.saturating_add(duration);
        // Of concurrent failures only one ejects.
        let exchange =
            self.ejected_until.compare_exchange(previous_end, end, Ordering::Relaxed, Ordering::Relaxed);
        if exchange.is_err() {
            return Transition::None;
        }
        self.ejections.store(ejections, Ordering::Relaxed);
        Transition::Ejected
    }

    fn millis(&self, instant: Instant) -> u64 {
        to_millis(instant.saturating_duration_since(self.created_at))
    }
}

const MAX_EJECTION: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn circuit_breaker() -> (CircuitBreaker, Instant) {
        let settings = UpstreamSettings { eject_after: 3, ..UpstreamSettings::default() };
        let breaker = CircuitBreaker::new(&settings);
        let now = breaker.created_at + Duration::from_secs(1);
        (breaker, now)
    }

    fn fail(breaker: &CircuitBreaker, times: u32, failure: Failure, now: Instant) -> Vec<Transition> {
        (0..times).map(|_| breaker.record_failure(failure, now)).collect()
    }

    #[tokio::test]
    async fn consecutive_failures_eject_the_upstream() {
        let (breaker, now) = circuit_breaker();
        assert_eq!(fail(&breaker, 2, Failure::Response, now), [Transition::None; 2]);
        assert_eq!(breaker.record_success(), Transition::None);
        assert!(breaker.is_up());
        let transitions = fail(&breaker, 4, Failure::Response, now);
        assert_eq!(transitions, [Transition::None, Transition::None, Transition::Ejected, Transition::None]);
        assert!(!breaker.is_up() && !breaker.is_open() && !breaker.is_probe_due(now));
        assert!(!breaker.is_probe_due(now + Duration::from_secs(7)), "at least four fifths of ten seconds");
        assert!(breaker.is_probe_due(now + Duration::from_secs(10)));
        assert_eq!(breaker.record_success(), Transition::Recovered);
        assert!(breaker.is_up());
    }

    #[tokio::test]
    async fn failed_probes_eject_for_longer() {
        let (breaker, mut now) = circuit_breaker();
        fail(&breaker, 3, Failure::Connection, now);
        assert!(breaker.is_open());
        let mut durations = Vec::new();
        for _ in 0..8 {
            durations.push(breaker.ejected_until() - breaker.millis(now));
            now = breaker.created_at + Duration::from_millis(breaker.ejected_until());
            assert_eq!(breaker.record_failure(Failure::Connection, now), Transition::Ejected);
        }
        for (duration, max) in durations.iter().zip([10, 20, 40, 80, 160, 300, 300, 300]) {
            assert!((max * 800..=max * 1000).contains(duration), "{durations:?}");
        }
        breaker.record_success();
        now += Duration::from_secs(3600);
        fail(&breaker, 3, Failure::Connection, now);
        assert!(breaker.ejected_until() - breaker.millis(now) <= 10_000, "an old ejection does not count");
    }

    #[tokio::test]
    async fn response_failure_keeps_the_circuit_closed() {
        let (breaker, now) = circuit_breaker();
        fail(&breaker, 2, Failure::Connection, now);
        fail(&breaker, 1, Failure::Response, now);
        assert!(!breaker.is_up() && !breaker.is_open());
    }

    #[tokio::test]
    async fn share_grows_during_slow_start() {
        let (breaker, now) = circuit_breaker();
        assert!((breaker.share(now) - 1.0).abs() < 1e-9);
        assert_eq!(breaker.record_health_check(false, now), Transition::Ejected);
        assert_eq!(breaker.record_health_check(true, now), Transition::Recovered);
        let shares = [0, 2, 5, 9, 10].map(|seconds| breaker.share(now + Duration::from_secs(seconds)));
        for (share, expected) in shares.iter().zip([0.1, 0.2, 0.5, 0.9, 1.0]) {
            assert!((share - expected).abs() < 1e-9, "{shares:?}");
        }
    }

    #[tokio::test]
    async fn health_checks_override_requests() {
        let (breaker, now) = circuit_breaker();
        assert_eq!(breaker.record_health_check(true, now), Transition::None);
        assert_eq!(breaker.record_health_check(false, now), Transition::Ejected);
        assert_eq!(breaker.record_health_check(false, now), Transition::None);
        fail(&breaker, 1, Failure::Response, now);
        assert_eq!(breaker.record_success(), Transition::None);
        assert!(!breaker.is_up() && !breaker.is_probe_due(now + Duration::from_secs(60)));
        assert_eq!(breaker.record_health_check(true, now), Transition::Recovered);
        // A successful check closes an open circuit.
        fail(&breaker, 3, Failure::Connection, now);
        assert_eq!(breaker.record_health_check(true, now), Transition::Recovered);
        assert!(breaker.is_up());
        // It does not clear response failures.
        fail(&breaker, 3, Failure::Response, now);
        assert_eq!(breaker.record_health_check(true, now), Transition::None);
        assert!(!breaker.is_up());
    }
}
