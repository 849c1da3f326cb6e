//! An injected source of time.
//!
//! Every decision about a session uses a [`Clock`], so that tests advance time instead of sleeping. Times
//! are UTC, truncated to whole microseconds, which is the precision of both databases.

use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
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

    /// Returns the time of the system's clock, which may step. It is for comparisons with the clocks of others:
    /// logs, certificates, and tokens for upstreams.
    fn wall(&self) -> OffsetDateTime {
        self.now()
    }

    /// Returns the time, in [`micros`], at which this clock was last set to a time that may be too late.
    /// Durations that began before it may be shorter than they seem.
    fn set_at_micros(&self) -> i64 {
        i64::MIN
    }
}

/// Returns the microseconds since 1970.
#[must_use]
pub fn micros(at: OffsetDateTime) -> i64 {
    at.unix_timestamp() * 1_000_000 + i64::from(at.microsecond())
}

/// Returns a duration in microseconds.
#[must_use]
pub fn duration_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Returns the time that many [`micros`] after 1970, or the closest that there is.
#[must_use]
pub fn from_micros(micros: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH.saturating_add(time::Duration::microseconds(micros))
}

/// The system clock, which steps when it is set. Sessions need one that does not: a [`ContinuedClock`], or
/// session time.
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

/// The time since the machine was started, as a time after 1970. It never steps, and it advances while the
/// machine is suspended.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> OffsetDateTime {
        from_micros(self.now_micros())
    }

    #[cfg(all(any(feature = "postgres", feature = "server", feature = "sqlite"), target_os = "linux"))]
    fn now_micros(&self) -> i64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
    }

    /// Other systems have no such clock: the time since the first call.
    #[cfg(not(all(any(feature = "postgres", feature = "server", feature = "sqlite"), target_os = "linux")))]
    fn now_micros(&self) -> i64 {
        static FIRST_CALL: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let elapsed = FIRST_CALL.get_or_init(Instant::now).elapsed();
        i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
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
pub struct ManualClock(Mutex<ManualTime>);

#[derive(Debug)]
struct ManualTime {
    now: OffsetDateTime,
    set_at: Option<OffsetDateTime>,
}

impl ManualClock {
    /// Creates a clock that shows `start`.
    #[must_use]
    pub fn new(start: OffsetDateTime) -> Self {
        Self(Mutex::new(ManualTime { now: truncate_to_micros(start), set_at: None }))
    }

    /// Advances the clock by `duration`.
    pub fn advance(&self, duration: Duration) {
        self.0.lock().now += duration;
    }

    /// Sets the clock to `now`, which may be in its past.
    pub fn set(&self, now: OffsetDateTime) {
        self.0.lock().now = truncate_to_micros(now);
    }

    /// Sets the time that [`set_at_micros`](Clock::set_at_micros) returns.
    pub fn mark_set_at(&self, set_at: OffsetDateTime) {
        self.0.lock().set_at = Some(set_at);
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
        self.0.lock().now
    }

    fn set_at_micros(&self) -> i64 {
        self.0.lock().set_at.map_or(i64::MIN, micros)
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
