//! Notifications for systemd, see sd_notify(3). Without `NOTIFY_SOCKET` they have no effect.

use std::time::Duration;

use sd_notify::NotifyState;

/// Reports that the server accepts requests.
pub(super) fn notify_ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// Reports the start of a reload. [`reloaded`] must follow.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot read the monotonic clock")
        }
    }
}

/// Reports the end of a reload with its outcome.
pub(super) fn reloaded(outcome: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(outcome)]);
}

/// Reports the start of the shutdown.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Returns a task that sends keep-alive notifications, if the unit sets `WatchdogSec=`.
pub(super) fn watchdog() -> Option<impl Future<Output = ()>> {
    let period = sd_notify::watchdog_enabled().filter(|period| *period > Duration::ZERO)?;
    Some(async move {
        let mut ticks = tokio::time::interval(period / 2);
        loop {
            ticks.tick().await;
            notify(&[NotifyState::Watchdog]);
        }
    })
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot notify the service manager");
    }
}
