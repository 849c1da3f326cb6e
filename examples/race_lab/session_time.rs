//! The session time of the gateways, estimated from the access tokens that they issue.

use std::sync::atomic::{AtomicI64, Ordering};

use sekisho::clock::{Clock, SystemClock};

/// The session time of a deployment.
///
/// A token was issued in the second of its `iat`, which is over when the token arrives. So the largest difference is
/// the best estimate.
#[derive(Debug, Default)]
pub(crate) struct SessionTime {
    /// Milliseconds by which session time is ahead of the lab's clock.
    ahead: AtomicI64,
}

impl SessionTime {
    /// Records the `iat` of a token that has just arrived.
    pub(crate) fn record(&self, issued_at: i64) {
        self.ahead.fetch_max(issued_at * 1_000 - now_millis(), Ordering::Relaxed);
    }

    /// Forgets a second, by which session time may go back if all gateways were stopped.
    pub(crate) fn record_cold_start(&self) {
        self.ahead.fetch_sub(1_000, Ordering::Relaxed);
    }

    /// Returns the present session time in milliseconds since 1970.
    pub(crate) fn now_millis(&self) -> i64 {
        now_millis() + self.ahead.load(Ordering::Relaxed)
    }

    /// Returns the seconds by which session time is ahead of the lab's clock.
    pub(crate) fn ahead_seconds(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed) / 1_000
    }
}

fn now_millis() -> i64 {
    SystemClock.now_micros() / 1_000
}
