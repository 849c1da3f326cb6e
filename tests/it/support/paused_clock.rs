//! tokio's clock, advanced by the test.

use std::time::Duration;

/// Stops tokio's clock until it is dropped.
///
/// tokio advances a paused clock while all tasks are idle, which would outrun the sockets. It does not
/// while a blocking task runs, so one is kept.
pub(crate) struct PausedClock {
    _blocking_task: std::sync::mpsc::Sender<()>,
}

impl PausedClock {
    pub(crate) fn new() -> Self {
        tokio::time::pause();
        let (stop, stopped) = std::sync::mpsc::channel();
        tokio::task::spawn_blocking(move || stopped.recv());
        Self { _blocking_task: stop }
    }

    pub(crate) async fn advance_millis(&self, millis: u64) {
        tokio::time::advance(Duration::from_millis(millis)).await;
    }

    pub(crate) async fn advance(&self, seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }
}
