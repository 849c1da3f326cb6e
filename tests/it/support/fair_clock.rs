//! A clock for upper bounds on the time that the gateway takes.
//!
//! A loaded machine delays the test and the gateway alike. This clock does not count such delays: a thread
//! sleeps for short times, and a sleep that ends late adds nothing. On an idle machine the bound is as
//! strict as with a normal clock.

use std::ops::Sub;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Length of a sleep.
const TICK: Duration = Duration::from_millis(5);

/// Longest sleep that is counted.
const MAX_TICK: Duration = Duration::from_millis(25);

/// An instant on the fair clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FairInstant(Duration);

impl FairInstant {
    pub(crate) fn now() -> Self {
        let clock = clock();
        Self(clock.counted + clock.since_last_tick())
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now() - self
    }
}

impl Sub for FairInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

struct Clock {
    last_tick: Instant,
    counted: Duration,
}

impl Clock {
    /// Returns the time since the last tick, or zero if the next one is late.
    fn since_last_tick(&self) -> Duration {
        Some(self.last_tick.elapsed()).filter(|tick| *tick <= MAX_TICK).unwrap_or_default()
    }

    fn tick(&mut self) {
        self.counted += self.since_last_tick();
        self.last_tick = Instant::now();
    }
}

/// Starts the clock on first use.
fn clock() -> MutexGuard<'static, Clock> {
    static CLOCK: OnceLock<Mutex<Clock>> = OnceLock::new();
    let clock = CLOCK.get_or_init(|| {
        #[expect(
            clippy::disallowed_methods,
            reason = "a thread of its own, which measures the machine's stalls"
        )]
        thread::spawn(|| {
            loop {
                thread::sleep(TICK);
                clock().tick();
            }
        });
        Mutex::new(Clock { last_tick: Instant::now(), counted: Duration::ZERO })
    });
    clock.lock().unwrap_or_else(PoisonError::into_inner)
}
