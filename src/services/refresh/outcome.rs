//! The outcome of a refresh, as shared between requests.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::models::session::Session;
use crate::session_event::SessionEvent;

/// Outcome of refreshing one generation of a session.
#[derive(Clone, Debug)]
pub(in crate::services) enum RefreshOutcome {
    /// The session is live: its row, and the event that refreshed it.
    Live(Arc<Session>, SessionEvent),
    /// The session was terminated, has expired, or does not exist.
    Ended {
        /// The reason.
        event: SessionEvent,
        /// The time at which it ended, if it did.
        since: Option<OffsetDateTime>,
    },
}
