//! Who waits for the end of which session.
//!
//! A connection that stays open (a WebSocket, an event stream) holds no token that could be refused, so
//! it is told. Ends come from [`RevocationList`](super::revocations::RevocationList), which learns of them all within a second;
//! expiry comes from the row, read when the watch begins and again when the session would be idle too
//! long, for that time moves with every renewal. Nobody who doesn't watch pays for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Semaphore, watch};

use super::store::StoreError;
use crate::clock::Clock;
use crate::models::session::{Session, SessionEnd, SessionId};
use crate::session_event::SessionEvent;

/// The sessions that are watched.
pub(crate) struct Watchers {
    watched: Mutex<HashMap<SessionId, watch::Sender<Option<SessionEvent>>>>,
    /// To read rows with: a thousand browsers that come back at once must leave the store to renewals.
    readers: Semaphore,
}

impl Default for Watchers {
    fn default() -> Self {
        Self { watched: Mutex::default(), readers: Semaphore::new(READERS) }
    }
}

impl Watchers {
    /// Watches a session from now on.
    pub(crate) fn add(self: &Arc<Self>, session: SessionId) -> Watcher {
        let mut watched = self.lock();
        let sender = watched.entry(session).or_insert_with(|| watch::Sender::new(None));
        Watcher { told: Some(sender.subscribe()), session, watchers: Arc::clone(self) }
    }

    /// Tells those who watch these sessions.
    pub(crate) fn tell<'a>(&self, ended: impl IntoIterator<Item = (&'a SessionId, &'a SessionEnd)>) {
        let mut watched = self.lock();
        if watched.is_empty() {
            return;
        }
        for (session, end) in ended {
            if let Some(watchers) = watched.remove(session) {
                watchers.send_replace(Some(end.reason.event()));
            }
        }
    }

    /// Tells all who watch.
    pub(crate) fn tell_all(&self, event: SessionEvent) {
        for (_, watchers) in self.lock().drain() {
            watchers.send_replace(Some(event));
        }
    }

    /// Waits until the session is over by what its row says: expired, or ended so long ago that
    /// nobody tells of it any more. As long as the store doesn't answer it is asked again and again.
    pub(crate) async fn wait_until_expired<F>(
        &self,
        session: SessionId,
        find: impl Fn() -> F,
        clock: &dyn Clock,
    ) -> SessionEvent
    where
        F: Future<Output = Result<Option<Session>, StoreError>>,
    {
        let mut early = None;
        loop {
            let Some(row) = self.read(session, &find).await else { return SessionEvent::UnknownSession };
            let now = clock.now();
            if let Some((event, _)) = row.termination(now) {
                return event;
            }
            let early = *early.get_or_insert_with(|| expiry_jitter(&row, now));
            let absolute = row.absolute_expires_at - early;
            if row.idle_expires_at >= absolute {
                sleep_until(absolute, clock).await;
                return SessionEvent::AbsoluteExpired;
            }
            sleep_until(row.idle_expires_at, clock).await;
        }
    }

    async fn read<F>(&self, session: SessionId, find: impl Fn() -> F) -> Option<Session>
    where
        F: Future<Output = Result<Option<Session>, StoreError>>,
    {
        let mut pause = PAUSE;
        loop {
            // An error means that the semaphore was closed, which nobody does.
            let permit = self.readers.acquire().await;
            let answer = find().await;
            drop(permit);
            match answer {
                Ok(row) => return row,
                Err(error) => {
                    tracing::debug!(%session, error = &error as &dyn std::error::Error, "a watched session was not read");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, watch::Sender<Option<SessionEvent>>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who watches a session. Dropping it ends the watch.
pub(crate) struct Watcher {
    told: Option<watch::Receiver<Option<SessionEvent>>>,
    session: SessionId,
    watchers: Arc<Watchers>,
}

impl Watcher {
    /// Waits until it is told of the session's end.
    pub(crate) async fn recv(&mut self) -> SessionEvent {
        let Some(told) = &mut self.told else { return std::future::pending().await };
        let event = told.wait_for(Option::is_some).await.ok().and_then(|event| *event);
        match event {
            Some(event) => event,
            // Nobody can tell any more: the watchers are gone.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut watched = self.watchers.lock();
        self.told = None;
        if watched.get(&self.session).is_some_and(|watchers| watchers.receiver_count() == 0) {
            watched.remove(&self.session);
        }
    }
}

/// By how much sooner than at its absolute expiry the session counts as over: those of people who all
/// signed in at nine need not end in the same moment. Ids are random, so they tell who goes when.
fn expiry_jitter(row: &Session, now: OffsetDateTime) -> Duration {
    let left = (row.absolute_expires_at - now).unsigned_abs();
    let most = SPREAD.min(left / 10);
    most * u32::from(row.id.0.as_bytes()[0]) / 256
}

/// Waits until it is `at`.
async fn sleep_until(at: OffsetDateTime, clock: &dyn Clock) {
    loop {
        let left = at - clock.now();
        if !left.is_positive() {
            return;
        }
        // Timers stand still while a machine sleeps, and clocks are set.
        tokio::time::sleep(left.unsigned_abs().min(LOOK_AT_CLOCK)).await;
    }
}

/// How many rows are read at a time.
const READERS: usize = 4;

/// How long the store is left in peace when it hasn't answered: at first, and at most.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How far sessions that expire in the same moment are spread.
const SPREAD: Duration = Duration::from_secs(5);

const LOOK_AT_CLOCK: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
