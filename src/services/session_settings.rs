//! Lifetimes and limits of sessions.

use std::time::Duration;

use time::OffsetDateTime;

/// Lifetimes and limits of sessions and their tokens.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Lifetime of an access token.
    pub access_ttl: Duration,
    /// Time that a session stays valid after its last access token has expired: a session ends this time plus
    /// [`access_ttl`](Self::access_ttl) after its last use.
    pub idle_ttl: Duration,
    /// Maximum lifetime of a session, however often it is refreshed.
    pub absolute_ttl: Duration,
    /// Grace period in which a replaced token may still arrive from an honest client; see
    /// [`rotation`](super::rotation).
    pub grace: Duration,
    /// Maximum number of live sessions of a user, of each [kind](crate::models::session::SessionKind). A sign-in beyond
    /// it terminates the oldest of its kind.
    pub max_per_user: u32,
    /// Rejects valid access tokens while the revocation list is stale.
    pub refuse_on_store_loss: bool,
}

impl SessionSettings {
    /// Idle expiry of a session that was last used at `used_at`: issued, refreshed, or used as
    /// [`SessionStore::record_uses`](super::store::SessionStore::record_uses) records.
    pub(super) fn idle_expiry(&self, used_at: OffsetDateTime) -> OffsetDateTime {
        used_at + self.access_ttl + self.idle_ttl
    }

    /// Minimum time between two recorded uses of a session on connections that stay open: a minute, or a tenth
    /// of a short idle lifetime.
    pub(super) fn use_interval(&self) -> Duration {
        MAX_USE_INTERVAL.min(self.idle_ttl / 10)
    }
}

const MAX_USE_INTERVAL: Duration = Duration::from_secs(60);

impl Default for SessionSettings {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            access_ttl: Duration::from_secs(15 * 60),
            idle_ttl: 14 * DAY,
            absolute_ttl: 90 * DAY,
            grace: Duration::from_secs(60),
            max_per_user: 50,
            refuse_on_store_loss: false,
        }
    }
}
