//! Time that passes when a test says so.

use std::time::Duration;

/// The clock, stopped: it moves by hand alone. (A paused one would leap ahead of the sockets; it
/// does not while something blocks.)
pub(crate) struct PausedClock {
    _held: std::sync::mpsc::Sender<()>,
}

impl PausedClock {
    pub(crate) fn new() -> Self {
        tokio::time::pause();
        let (hold, held) = std::sync::mpsc::channel();
        tokio::task::spawn_blocking(move || held.recv());
        Self { _held: hold }
    }

    pub(crate) async fn advance_millis(&self, millis: u64) {
        tokio::time::advance(Duration::from_millis(millis)).await;
    }

    pub(crate) async fn advance(&self, seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }
}
