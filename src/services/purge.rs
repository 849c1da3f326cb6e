//! Forgetting, once an hour: sessions that expired are ended, which the audit is told; then what ended,
//! or was written into the audit, too long ago is deleted.
//!
//! Every replica does so, for several at once do each other no harm. It goes in small steps, and after
//! each it waits for as long as that took: a replica's purge leaves at least half of the time to requests.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::store::{SessionStore, StoreError};
use crate::clock::Clock;
use crate::models::session::SessionId;

/// Ends what expired, and deletes what is old.
#[derive(Clone)]
pub struct Purge {
    store: Arc<dyn SessionStore>,
    clock: Arc<dyn Clock>,
    keep: RetentionPolicy,
}

/// How long what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// The row of a session, after its end.
    pub ended: Duration,
    /// An entry of the audit; `None`: for ever.
    pub audit: Option<Duration>,
    /// A session that has expired is not ended before this much longer: another replica's clock may
    /// say that it still lives.
    pub grace: Duration,
}

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeStats {
    /// Rows of sessions.
    pub sessions: u64,
    /// Entries of the audit.
    pub entries: u64,
}

impl Purge {
    /// A purge of `store` that keeps what `keep` says.
    #[must_use]
    pub fn new(store: Arc<dyn SessionStore>, clock: Arc<dyn Clock>, keep: RetentionPolicy) -> Self {
        Self { store, clock, keep }
    }

    /// Purges now and every hour, for ever. One that fails is tried again at its next time.
    pub async fn run(self) {
        loop {
            match self.run_once().await {
                Ok(PurgeStats { sessions: 0, entries: 0 }) => {}
                Ok(PurgeStats { sessions, entries }) => tracing::info!(sessions, entries, "purged"),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "not everything old was purged");
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Purges once.
    ///
    /// # Errors
    ///
    /// If the store does not answer, or does not allow it. What was done is done.
    pub async fn run_once(&self) -> Result<PurgeStats, StoreError> {
        let now = self.clock.now();
        // Each by itself: one that can't be done must not keep the others from it.
        let expired = self.end_expired(now - self.keep.grace).await;
        let sessions = self.delete(now - self.keep.ended, Table::Sessions).await;
        let entries = match self.keep.audit {
            Some(keep) => self.delete(now - keep, Table::Audit).await,
            None => Ok(0),
        };
        expired?;
        Ok(PurgeStats { sessions: sessions?, entries: entries? })
    }

    async fn end_expired(&self, expired_by: OffsetDateTime) -> Result<(), StoreError> {
        let mut from = SessionId(Uuid::nil());
        while let Some(last) = throttled(self.store.end_expired(from, AT_ONCE, expired_by)).await? {
            from = last;
        }
        Ok(())
    }

    async fn delete(&self, before: OffsetDateTime, table: Table) -> Result<u64, StoreError> {
        let mut deleted = 0;
        loop {
            let some = match table {
                Table::Sessions => throttled(self.store.purge_sessions(before, AT_ONCE)).await?,
                Table::Audit => throttled(self.store.purge_audit(before, AT_ONCE)).await?,
            };
            deleted += some;
            if some == 0 {
                return Ok(deleted);
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Table {
    Sessions,
    Audit,
}

/// Does `work`, and then nothing for as long as it took.
async fn throttled<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let began = Instant::now();
    let done = work.await?;
    tokio::time::sleep(began.elapsed()).await;
    Ok(done)
}

/// How often is purged.
const INTERVAL: Duration = Duration::from_secs(3_600);

/// How many rows are looked at or deleted in one step: so few that SQLite, where one writes at a time, has
/// done it in some milliseconds.
const AT_ONCE: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::RefreshError;
    use crate::models::audit::AuditEvent;
    use crate::models::session::EndReason;
    use crate::services::store::AuditStore as _;
    use crate::services::test_support::TokensFixture;
    use crate::session_event::SessionEvent;

    const DAY: Duration = Duration::from_secs(86_400);

    fn purge(scene: &TokensFixture) -> Purge {
        let keep =
            RetentionPolicy { ended: 30 * DAY, audit: Some(365 * DAY), grace: Duration::from_secs(60) };
        Purge::new(scene.store.clone(), scene.clock.clone(), keep)
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_session_is_ended_then_forgotten_and_last_the_audit_of_it() {
        let scene = TokensFixture::new();
        let jar = scene.browser().await;
        let expired_at = scene.row(&jar).await.idle_expires_at;
        scene.advance(15 * DAY);
        assert_eq!(purge(&scene).run_once().await.expect("an answer"), PurgeStats::default());
        let end = scene.row(&jar).await.end.expect("ended");
        assert_eq!((end.at, end.reason), (expired_at, EndReason::IdleExpired));
        let refused = scene.renew(&jar).await.map(drop).expect_err("over");
        assert_eq!(refused, RefreshError::Over { event: SessionEvent::IdleExpired, clear: true });

        scene.advance(31 * DAY);
        assert_eq!(
            purge(&scene).run_once().await.expect("an answer"),
            PurgeStats { sessions: 1, entries: 0 }
        );
        let refused = scene.renew(&jar).await.map(drop).expect_err("no such session any more");
        assert_eq!(refused, RefreshError::Over { event: SessionEvent::UnknownSession, clear: false });
        let trail = scene.store.current().session_audit(jar.session, 10).await.expect("an answer");
        let events: Vec<_> = trail.iter().map(|entry| entry.event).collect();
        assert_eq!(events, [AuditEvent::Ended(EndReason::IdleExpired), AuditEvent::Login]);

        scene.advance(365 * DAY);
        assert_eq!(purge(&scene).run_once().await.expect("an answer").entries, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_a_slow_clock_still_renews_is_not_ended() {
        let scene = TokensFixture::new();
        let jar = scene.browser().await;
        let left = scene.row(&jar).await.idle_expires_at - scene.now();
        scene.advance(left.unsigned_abs() + Duration::from_secs(15));
        purge(&scene).run_once().await.expect("an answer");
        assert_eq!(scene.row(&jar).await.end, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_purge_that_failed_is_tried_again_in_an_hour() {
        let scene = TokensFixture::new();
        let jar = scene.browser().await;
        scene.advance(15 * DAY);
        scene.store.set_down(true);
        let running = tokio::spawn(purge(&scene).run());
        tokio::time::sleep(INTERVAL / 2).await;
        scene.store.set_down(false);
        assert_eq!(scene.row(&jar).await.end, None);
        tokio::time::sleep(INTERVAL).await;
        assert!(scene.row(&jar).await.end.is_some());
        running.abort();
    }
}
