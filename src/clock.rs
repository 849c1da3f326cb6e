//! An injected source of time.
//!
//! Every decision about a session uses a [`Clock`], so that tests advance time instead of sleeping. Times
//! are UTC, truncated to whole microseconds, which is the precision of both databases.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;

/// A source of the current time.
pub trait Clock: Send + Sync + 'static {
    /// Returns the current time in UTC, truncated to whole microseconds.
    fn now(&self) -> OffsetDateTime;

    /// Returns [`now`](Self::now) in [`micros`]. Before 1970 the result may be 0.
    ///
    /// For use on every request: building a date costs more than reading the clock.
    fn now_micros(&self) -> i64 {
        micros(self.now())
    }
}

/// Returns the microseconds since 1970.
#[must_use]
pub fn micros(at: OffsetDateTime) -> i64 {
    at.unix_timestamp() * 1_000_000 + i64::from(at.microsecond())
}

/// The system clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
        let now = OffsetDateTime::now_utc();
        truncate_to_micros(now)
    }

    fn now_micros(&self) -> i64 {
        #[expect(clippy::disallowed_methods, reason = "the same clock")]
        let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // Out of range only if the system clock is badly wrong.
        elapsed.map_or(0, |elapsed| i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
    }
}

/// A clock that continues from a time of another clock, such as the database's.
#[derive(Clone, Copy, Debug)]
pub struct ContinuedClock {
    start: OffsetDateTime,
    started: Instant,
}

impl ContinuedClock {
    /// Creates a clock that shows `start`.
    #[must_use]
    pub fn new(start: OffsetDateTime) -> Self {
        Self { start, started: Instant::now() }
    }
}

impl Clock for ContinuedClock {
    fn now(&self) -> OffsetDateTime {
        truncate_to_micros(self.start + self.started.elapsed())
    }
}

/// A clock that is advanced by hand, for tests.
///
/// ```
/// use std::time::Duration;
/// use sekisho::clock::{Clock, ManualClock};
///
/// let clock = ManualClock::default();
/// let start = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now() - start, Duration::from_secs(60));
/// ```
#[derive(Debug)]
pub struct ManualClock(Mutex<OffsetDateTime>);

impl ManualClock {
    /// Creates a clock that shows `start`.
    #[must_use]
    pub fn new(start: OffsetDateTime) -> Self {
        Self(Mutex::new(truncate_to_micros(start)))
    }

    /// Advances the clock by `duration`.
    pub fn advance(&self, duration: Duration) {
        *self.lock() += duration;
    }

    /// Sets the clock to `now`, which may be in its past.
    pub fn set(&self, now: OffsetDateTime) {
        *self.lock() = truncate_to_micros(now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, OffsetDateTime> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    /// Creates a clock that shows an arbitrary fixed time, 2026-01-01 00:00:00 UTC.
    fn default() -> Self {
        Self::new(time::macros::datetime!(2026-01-01 00:00 UTC))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        *self.lock()
    }
}

fn truncate_to_micros(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(at.microsecond() * 1_000).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_and_now_micros_agree() {
        let before = SystemClock.now();
        let now = SystemClock.now_micros();
        let after = SystemClock.now();
        assert!((micros(before)..=micros(after)).contains(&now));
        let clock = ManualClock::new(time::macros::datetime!(1969-12-31 23:59:59.999_999 UTC));
        assert_eq!(clock.now_micros(), -1);
    }
}
