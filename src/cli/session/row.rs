//! Rows of session lists.

use serde::Serialize;
use time::OffsetDateTime;

use crate::cli::output::{self, TableRow};
use crate::models::session::Session;
use crate::session_event::SessionEvent;
use crate::user_agent::DeviceName;

/// A row of `sekisho session list`.
#[derive(Clone, Debug, Serialize)]
pub struct SessionRow {
    /// The session id.
    pub id: String,
    /// The e-mail address of the user.
    pub email: String,
    /// `browser` or `client`.
    pub kind: &'static str,
    /// `live`, or the reason for its end as in `X-Session-Event`.
    pub state: &'static str,
    /// A description of `state`.
    pub state_in_words: &'static str,
    /// The time of sign-in.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// The time of the last rotation.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
    /// The time of its expiry, or of its end.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// The client address of the last rotation.
    pub address: Option<String>,
    /// The user agent of the last rotation.
    pub user_agent: Option<String>,
}

impl SessionRow {
    /// Returns the row of `session` at the time `now`.
    #[must_use]
    pub fn new(session: &Session, now: OffsetDateTime) -> Self {
        let termination = session.termination(now);
        Self {
            id: session.id.to_string(),
            email: session.email.clone(),
            kind: session.kind.as_str(),
            state: termination.map_or("live", |(event, _)| event.as_str()),
            state_in_words: termination.map_or("live", |(event, _)| describe_event(event)),
            created_at: session.created_at,
            last_seen_at: session.rotated_at,
            expires_at: termination.map_or_else(|| session.expires_at(), |(_, since)| since),
            address: session.client.address.map(|address| address.to_string()),
            user_agent: session.client.user_agent.clone(),
        }
    }
}

impl TableRow for SessionRow {
    const HEAD: &'static [&'static str] = &["ID", "EMAIL", "STATE", "LAST SEEN", "ADDRESS", "DEVICE"];
    const CUT: &'static [usize] = &[1, 5];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.email.clone(),
            self.state_in_words.to_owned(),
            output::minute(self.last_seen_at),
            self.address.clone().unwrap_or_default(),
            DeviceName::from_user_agent(self.user_agent.as_deref()).to_string(),
        ]
    }
}

/// Describes the event that ended a session.
fn describe_event(event: SessionEvent) -> &'static str {
    match event {
        SessionEvent::AbsoluteExpired => "maximum age reached",
        SessionEvent::Displaced => "too many sessions",
        SessionEvent::Exhausted => "generations exhausted",
        SessionEvent::IdleExpired => "idle for too long",
        SessionEvent::LoggedOut => "signed out",
        SessionEvent::PasswordChanged => "password changed",
        SessionEvent::ReuseDetected => "token reuse detected",
        SessionEvent::Revoked => "revoked",
        SessionEvent::RoleChanged => "role changed",
        SessionEvent::UserDeleted => "user deleted",
        SessionEvent::UserDisabled => "user disabled",
        other => other.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::session::EndReason;

    #[test]
    fn every_reason_has_a_description() {
        for reason in EndReason::ALL {
            assert!(!describe_event(reason.event()).contains('_'), "{reason:?}");
        }
    }
}
