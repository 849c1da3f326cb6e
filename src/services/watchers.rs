//! Notifies long-lived connections of the end of their session.
//!
//! A WebSocket or an event stream presents no token again after it was opened, so it subscribes to its
//! session. Terminations come from [`Revocations`](super::revocations::Revocations). Expiry is
//! computed from the row, which is read at the start and again at the idle expiry, since each use
//! postpones that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::{Semaphore, watch};

use super::store::{SessionStore, StoreError};
use super::store_runtime::StoreRuntime;
use crate::clock::Clock;
use crate::models::session::{Session, SessionEnd, SessionId};
use crate::session_event::SessionEvent;

/// The watched sessions and their subscribers.
pub(crate) struct Watchers {
    senders: Mutex<HashMap<SessionId, watch::Sender<Option<SessionEvent>>>>,
    store: Arc<dyn SessionStore>,
    clock: Arc<dyn Clock>,
    runtime: StoreRuntime,
    /// Limits concurrent reads of rows. When a thousand browsers reconnect at once, the store must stay
    /// available for refreshes.
    read_permits: Semaphore,
}

impl Watchers {
    /// Creates an empty set. Rows are read from `store`, on the current runtime if there is one.
    pub(crate) fn new(store: Arc<dyn SessionStore>, clock: Arc<dyn Clock>) -> Self {
        let read_permits = Semaphore::new(MAX_CONCURRENT_READS);
        Self { senders: Mutex::default(), store, clock, runtime: StoreRuntime::current(), read_permits }
    }

    /// Subscribes to the end of a session.
    pub(crate) fn subscribe(self: &Arc<Self>, session: SessionId) -> Watcher {
        let mut senders = self.senders.lock();
        let sender = senders.entry(session).or_insert_with(|| watch::Sender::new(None));
        Watcher { receiver: Some(sender.subscribe()), session, watchers: Arc::clone(self) }
    }

    /// Notifies the subscribers of terminated sessions.
    pub(crate) fn notify<'a>(&self, terminated: impl IntoIterator<Item = (&'a SessionId, &'a SessionEnd)>) {
        let mut senders = self.senders.lock();
        if senders.is_empty() {
            return;
        }
        for (session, end) in terminated {
            if let Some(sender) = senders.remove(session) {
                sender.send_replace(Some(end.reason.event()));
            }
        }
    }

    /// Notifies all subscribers.
    pub(crate) fn notify_all(&self, event: SessionEvent) {
        for (_, sender) in self.senders.lock().drain() {
            sender.send_replace(Some(event));
        }
    }

    /// Waits until the session has ended by its row: expired, or terminated so long ago that the
    /// revocation list no longer includes it. Reads are retried while the store fails.
    pub(crate) async fn wait_until_expired(&self, session: SessionId) -> SessionEvent {
        let clock = &*self.clock;
        let mut jitter = None;
        loop {
            let Some(row) = self.read(session).await else { return SessionEvent::UnknownSession };
            let now = clock.now();
            if let Some((event, _)) = row.termination(now) {
                return event;
            }
            let jitter = *jitter.get_or_insert_with(|| expiry_jitter(&row, now));
            let absolute_expires_at = row.absolute_expires_at - jitter;
            if row.idle_expires_at >= absolute_expires_at {
                sleep_until(absolute_expires_at, clock).await;
                return SessionEvent::AbsoluteExpired;
            }
            sleep_until(row.idle_expires_at, clock).await;
        }
    }

    async fn read(&self, session: SessionId) -> Option<Session> {
        let mut delay = MIN_RETRY_DELAY;
        loop {
            // The semaphore is never closed, so this does not fail.
            let permit = self.read_permits.acquire().await;
            let found = self.find(session).await;
            drop(permit);
            match found {
                Ok(row) => return row,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(%session, error, "cannot read a watched session");
                }
            }
            tokio::time::sleep(delay).await;
            delay = (2 * delay).min(MAX_RETRY_DELAY);
        }
    }

    async fn find(&self, session: SessionId) -> Result<Option<Session>, StoreError> {
        let store = Arc::clone(&self.store);
        let found = self.runtime.run(async move { store.find_session(session).await }).await;
        found.map_err(StoreError::unavailable)?
    }
}

/// A subscription to the end of a session. Dropping it unsubscribes.
pub(crate) struct Watcher {
    receiver: Option<watch::Receiver<Option<SessionEvent>>>,
    session: SessionId,
    watchers: Arc<Watchers>,
}

impl Watcher {
    /// Waits for the notification.
    pub(crate) async fn recv(&mut self) -> SessionEvent {
        if let Some(receiver) = &mut self.receiver
            && let Ok(event) = receiver.wait_for(Option::is_some).await
            && let Some(event) = *event
        {
            return event;
        }
        // The sender is gone, so no notification can follow.
        std::future::pending().await
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut senders = self.watchers.senders.lock();
        self.receiver = None;
        if senders.get(&self.session).is_some_and(|sender| sender.receiver_count() == 0) {
            senders.remove(&self.session);
        }
    }
}

/// Time before the absolute expiry at which connections of the session are closed. It spreads the
/// closing of sessions that were created at the same time. The first byte of the random session id
/// serves as the random number.
fn expiry_jitter(row: &Session, now: OffsetDateTime) -> Duration {
    let remaining = (row.absolute_expires_at - now).unsigned_abs();
    let max = MAX_EXPIRY_JITTER.min(remaining / 10);
    max * u32::from(row.id.0.as_bytes()[0]) / 256
}

/// Sleeps until the clock reaches `at`.
async fn sleep_until(at: OffsetDateTime, clock: &dyn Clock) {
    loop {
        let remaining = at - clock.now();
        if !remaining.is_positive() {
            return;
        }
        // Timers stop while the machine is suspended, and the clock may be set.
        tokio::time::sleep(remaining.unsigned_abs().min(CLOCK_CHECK_INTERVAL)).await;
    }
}

/// Maximum number of rows read at the same time.
const MAX_CONCURRENT_READS: usize = 4;

/// Delay before the first retry of a failed read. It doubles up to [`MAX_RETRY_DELAY`].
const MIN_RETRY_DELAY: Duration = Duration::from_millis(500);

const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);

/// Maximum spread of sessions that expire at the same time.
const MAX_EXPIRY_JITTER: Duration = Duration::from_secs(5);

/// Maximum time between two checks of the clock while waiting for an expiry.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
