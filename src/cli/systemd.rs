//! What the service manager is told, where it asks for it (`NOTIFY_SOCKET`, sd_notify(3)).

use std::time::Duration;

use sd_notify::NotifyState;

/// Requests are served.
pub(super) fn notify_ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The configuration is being read again. [`reloaded`] must follow.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "this system has no clock"),
    }
}

/// It was read, and this came of it.
pub(super) fn reloaded(outcome: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(outcome)]);
}

/// The end has begun.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Shows that the process is alive for as long as it runs, if that is watched (`WatchdogSec=`).
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

/// Costs one datagram, or nothing where nobody asks.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(error = &error as &dyn std::error::Error, "the service manager could not be told");
    }
}
