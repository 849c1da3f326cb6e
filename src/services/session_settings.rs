//! Lifetimes and limits of sessions.

use std::time::Duration;

/// Lifetimes and limits of sessions and their tokens.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Lifetime of an access token.
    pub access_ttl: Duration,
    /// Time that a session stays valid after its last access token has expired.
    pub idle_ttl: Duration,
    /// Maximum lifetime of a session, however often it is refreshed.
    pub absolute_ttl: Duration,
    /// Grace period in which a replaced token may still arrive from an honest client; see
    /// [`rotation`](super::rotation).
    pub grace: Duration,
    /// Maximum number of live sessions of a user. A sign-in beyond it terminates the oldest.
    pub max_per_user: u32,
    /// Rejects valid access tokens while the revocation list is stale.
    pub refuse_on_store_loss: bool,
}

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
