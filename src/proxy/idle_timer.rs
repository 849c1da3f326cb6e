//! The idle timeout of a body.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Limits the time without data while a body is awaited.
///
/// The timer is allocated on the first wait. Most bodies arrive at once and never need it.
pub(super) struct IdleTimer {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl IdleTimer {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, is_running: false }
    }

    pub(super) fn stop(&mut self) {
        self.is_running = false;
    }

    /// Starts the timer unless it is running. Ready once it has run for the limit without a stop.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.limit)));
        if !self.is_running {
            sleep.as_mut().reset(Instant::now() + self.limit);
            self.is_running = true;
        }
        sleep.as_mut().poll(cx)
    }
}

/// Returns a duration in whole milliseconds.
pub(super) fn to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
