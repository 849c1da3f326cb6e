//! The time, injected.
//!
//! Every decision about a session asks a [`Clock`], so tests move time by hand instead of
//! sleeping. Times are UTC and cut to whole microseconds, which is what both databases keep.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

/// Tells what time it is.
pub trait Clock: Send + Sync + 'static {
    /// The present time, in UTC, cut to whole microseconds.
    fn now(&self) -> OffsetDateTime;

    /// [`now`](Self::now) in [`micros`], for what every request asks: to make a date costs more than to read
    /// the clock. Before 1970 it may be 0.
    fn now_micros(&self) -> i64 {
        micros(self.now())
    }
}

/// Microseconds since 1970.
#[must_use]
pub fn micros(at: OffsetDateTime) -> i64 {
    at.unix_timestamp() * 1_000_000 + i64::from(at.microsecond())
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
        let now = OffsetDateTime::now_utc();
        whole_microseconds(now)
    }

    fn now_micros(&self) -> i64 {
        #[expect(clippy::disallowed_methods, reason = "the same clock")]
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // A machine that believes to be in another age has the wrong time either way.
        since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// A clock that stands still until it is told to move, for tests.
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
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: OffsetDateTime) -> Self {
        Self(Mutex::new(whole_microseconds(start)))
    }

    /// Moves the clock forward by `by`.
    pub fn advance(&self, by: Duration) {
        *self.shown() += by;
    }

    /// Sets the clock to `now`, forward or back.
    pub fn set(&self, now: OffsetDateTime) {
        *self.shown() = whole_microseconds(now);
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, OffsetDateTime> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    /// Starts at an arbitrary fixed time, 2026-01-01 00:00:00 UTC.
    fn default() -> Self {
        Self::new(time::macros::datetime!(2026-01-01 00:00 UTC))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        *self.shown()
    }
}

fn whole_microseconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(at.microsecond() * 1_000).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_ask_say_the_same() {
        let (before, number, after) = (SystemClock.now(), SystemClock.now_micros(), SystemClock.now());
        assert!((micros(before)..=micros(after)).contains(&number));
        let clock = ManualClock::new(time::macros::datetime!(1969-12-31 23:59:59.999_999 UTC));
        assert_eq!(clock.now_micros(), -1);
    }
}
