//! A clock for upper bounds on the time that the gateway takes.
//!
//! A loaded machine delays the test and the gateway alike. This clock does not count such delays: a thread
//! sleeps for short times, and a sleep that ends late adds nothing. With more runnable threads than cores a sleep
//! counts in proportion, because what needs the processor takes so much longer; the scheduler itself wakes sleepers
//! in time. On an idle machine the bound is as strict as with a normal clock.

use std::fs;
use std::num::NonZero;
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
    /// The part of a core that a runnable thread gets, from 0 to 1.
    share: f64,
}

impl Clock {
    /// Returns the time since the last tick as it counts: nothing if the next one is late.
    fn since_last_tick(&self) -> Duration {
        let tick = Some(self.last_tick.elapsed()).filter(|tick| *tick <= MAX_TICK);
        tick.unwrap_or_default().mul_f64(self.share)
    }

    fn tick(&mut self) {
        self.counted += self.since_last_tick();
        self.last_tick = Instant::now();
        self.share = share_of_core();
    }
}

/// Returns the part of a core that a runnable thread gets at present: 1 unless there are more of them than cores.
///
/// The fourth field of `/proc/loadavg` has the number of runnable threads of the machine (proc_loadavg(5)).
fn share_of_core() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let runnable = text.split(' ').nth(3).and_then(|field| field.split('/').next()?.parse().ok());
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    runnable
        .filter(|runnable: &usize| *runnable > cores)
        .map_or(1.0, |runnable| cores as f64 / runnable as f64)
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
        Mutex::new(Clock { last_tick: Instant::now(), counted: Duration::ZERO, share: 1.0 })
    });
    clock.lock().unwrap_or_else(PoisonError::into_inner)
}
