//! The hourly purge: terminates expired sessions, then deletes old sessions and audit entries.
//!
//! Terminating an expired session writes its audit entry. Every replica runs the purge; concurrent runs
//! are harmless. It works in small batches and pauses after each for as long as the batch took, so that
//! at least half of the time is left to requests.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::store::{SessionStore, StoreError};
use crate::clock::Clock;
use crate::models::session::SessionId;

/// Terminates expired sessions, and deletes old sessions and audit entries.
#[derive(Clone)]
pub struct Purge {
    store: Arc<dyn SessionStore>,
    clock: Arc<dyn Clock>,
    retention: RetentionPolicy,
}

/// Retention of sessions and audit entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Retention of a session after its termination.
    pub ended: Duration,
    /// Retention of an audit entry. `None` keeps all entries.
    pub audit: Option<Duration>,
    /// Time after its expiry at which a session is terminated. By the clock of another replica it may
    /// still be live.
    pub grace: Duration,
}

/// Number of rows that a purge deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeStats {
    /// Sessions.
    pub sessions: u64,
    /// Audit entries.
    pub entries: u64,
}

impl Purge {
    /// Creates a purge of `store`.
    #[must_use]
    pub fn new(store: Arc<dyn SessionStore>, clock: Arc<dyn Clock>, retention: RetentionPolicy) -> Self {
        Self { store, clock, retention }
    }

    /// Purges now and then every hour. A failed purge is retried at the next interval.
    pub async fn run(self) {
        loop {
            match self.run_once().await {
                Ok(PurgeStats { sessions: 0, entries: 0 }) => {}
                Ok(PurgeStats { sessions, entries }) => tracing::info!(sessions, entries, "purge completed"),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "purge failed");
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Purges once.
    ///
    /// # Errors
    ///
    /// If the store fails. Batches that were completed stay deleted.
    pub async fn run_once(&self) -> Result<PurgeStats, StoreError> {
        let now = self.clock.now();
        // A failing step must not keep the others from running.
        let expired = self.terminate_expired(now - self.retention.grace).await;
        let ended_before = now - self.retention.ended;
        let sessions = delete_all(|| self.store.purge_sessions(ended_before, BATCH_LIMIT)).await;
        let entries = match self.retention.audit {
            Some(retention) => delete_all(|| self.store.purge_audit(now - retention, BATCH_LIMIT)).await,
            None => Ok(0),
        };
        expired?;
        Ok(PurgeStats { sessions: sessions?, entries: entries? })
    }

    async fn terminate_expired(&self, expired_by: OffsetDateTime) -> Result<(), StoreError> {
        let mut from = SessionId(Uuid::nil());
        while let Some(last) = throttled(self.store.end_expired(from, BATCH_LIMIT, expired_by)).await? {
            from = last;
        }
        Ok(())
    }
}

/// Deletes batches until one is empty. Returns the number of rows.
async fn delete_all<F>(delete_batch: impl Fn() -> F) -> Result<u64, StoreError>
where
    F: Future<Output = Result<u64, StoreError>>,
{
    let mut deleted = 0;
    loop {
        let count = throttled(delete_batch()).await?;
        if count == 0 {
            return Ok(deleted);
        }
        deleted += count;
    }
}

/// Runs `batch`, then sleeps for as long as it took.
async fn throttled<T>(batch: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let began = Instant::now();
    let result = batch.await?;
    tokio::time::sleep(began.elapsed()).await;
    Ok(result)
}

/// Time between two purges.
const INTERVAL: Duration = Duration::from_secs(3_600);

/// Maximum number of rows per batch. SQLite has a single writer, so a batch must take milliseconds.
const BATCH_LIMIT: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::audit::AuditEvent;
    use crate::models::session::EndReason;
    use crate::services::store::AuditStore as _;
    use crate::services::test_support::{TokensFixture, rejected, rejected_and_cleared};
    use crate::session_event::SessionEvent;

    const DAY: Duration = Duration::from_secs(86_400);

    async fn run_once(fixture: &TokensFixture) -> PurgeStats {
        purge(fixture).run_once().await.expect("the store responds")
    }

    fn purge(fixture: &TokensFixture) -> Purge {
        let retention =
            RetentionPolicy { ended: 30 * DAY, audit: Some(365 * DAY), grace: Duration::from_secs(60) };
        Purge::new(fixture.store.clone(), fixture.clock.clone(), retention)
    }

    #[tokio::test(start_paused = true)]
    async fn expired_session_is_terminated_then_deleted_and_its_audit_entries_last() {
        let (fixture, client) = TokensFixture::with_browser().await;
        let expired_at = fixture.row(&client).await.idle_expires_at;
        fixture.advance(15 * DAY);
        assert_eq!(run_once(&fixture).await, PurgeStats::default());
        let end = fixture.row(&client).await.end.expect("terminated");
        assert_eq!((end.at, end.reason), (expired_at, EndReason::IdleExpired));
        assert_eq!(fixture.rejection(&client).await, rejected_and_cleared(SessionEvent::IdleExpired));

        fixture.advance(31 * DAY);
        assert_eq!(run_once(&fixture).await, PurgeStats { sessions: 1, entries: 0 });
        assert_eq!(fixture.rejection(&client).await, rejected(SessionEvent::UnknownSession));
        let trail = fixture.store.current().session_audit(client.session, 10).await;
        let events: Vec<_> = trail.expect("the store responds").iter().map(|entry| entry.event).collect();
        assert_eq!(events, [AuditEvent::Ended(EndReason::IdleExpired), AuditEvent::Login]);

        fixture.advance(365 * DAY);
        assert_eq!(run_once(&fixture).await.entries, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn session_within_the_purge_grace_is_not_terminated() {
        let (fixture, client) = TokensFixture::with_browser().await;
        let left = fixture.row(&client).await.idle_expires_at - fixture.now();
        fixture.advance(left.unsigned_abs() + Duration::from_secs(15));
        run_once(&fixture).await;
        assert_eq!(fixture.row(&client).await.end, None);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_purge_is_retried_after_an_hour() {
        let (fixture, client) = TokensFixture::with_browser().await;
        fixture.advance(15 * DAY);
        fixture.store.set_unavailable(true);
        let running = tokio::spawn(purge(&fixture).run());
        tokio::time::sleep(INTERVAL / 2).await;
        fixture.store.set_unavailable(false);
        assert_eq!(fixture.row(&client).await.end, None);
        tokio::time::sleep(INTERVAL).await;
        assert!(fixture.row(&client).await.end.is_some());
        running.abort();
    }
}
