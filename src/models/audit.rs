//! Audit log: one row for each event that affects access. Rows are added and eventually purged, but never
//! changed.

use time::OffsetDateTime;

use super::session::{EndReason, Session, SessionId};
use crate::client_info::ClientInfo;
use crate::identity::Subject;
use crate::session_event::SessionEvent;

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Time of the event.
    pub at: OffsetDateTime,
    /// Event.
    pub event: AuditEvent,
    /// Affected user.
    pub user: Option<Subject>,
    /// Affected session.
    pub session: Option<SessionId>,
    /// Generation of the presented token.
    pub presented: Option<u32>,
    /// Current generation of the session.
    pub held: Option<u32>,
    /// Number of the signing key.
    pub key_number: Option<u8>,
    /// Client that caused the event, with its request id.
    pub by: ClientInfo,
    /// Client that requested the current generation, without a request id. For token reuse, this is the
    /// other client.
    pub holder: ClientInfo,
}

impl AuditEntry {
    /// Creates an entry without user, session, generations and key.
    #[must_use]
    pub fn new(at: OffsetDateTime, event: AuditEvent, by: ClientInfo) -> Self {
        Self {
            at,
            event,
            user: None,
            session: None,
            presented: None,
            held: None,
            key_number: None,
            by,
            holder: ClientInfo::default(),
        }
    }

    /// Creates the entry for a new session.
    #[must_use]
    pub fn login(session: &Session) -> Self {
        Self {
            user: Some(session.subject.clone()),
            session: Some(session.id),
            held: Some(session.generation),
            ..Self::new(session.created_at, AuditEvent::Login, session.client.clone())
        }
    }
}

/// An event that affects access.
///
/// Refreshes and replays are counted in the row of the session instead, so that a refresh writes one row
/// only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditEvent {
    /// The session row was more than one generation behind the presented token, for example after a database
    /// rollback, and caught up.
    CaughtUp,
    /// A session was terminated. Without a session: all sessions of the user were terminated for this
    /// reason.
    Ended(EndReason),
    /// A signing key was removed.
    KeyRetired,
    /// A signing key was added.
    KeyRotated,
    /// A user signed in.
    Login,
    /// A sign-in failed.
    LoginFailed,
    /// A user registered.
    Registered,
    /// A refresh token named an unknown key.
    UnknownKey,
    /// The session of a valid refresh token is not in the database.
    UnknownSession,
}

impl AuditEvent {
    /// Returns the name stored in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CaughtUp => SessionEvent::CaughtUp.as_str(),
            Self::Ended(reason) => reason.as_str(),
            Self::KeyRetired => "key_retired",
            Self::KeyRotated => "key_rotated",
            Self::Login => "login",
            Self::LoginFailed => "login_failed",
            Self::Registered => "registered",
            Self::UnknownKey => SessionEvent::UnknownKey.as_str(),
            Self::UnknownSession => SessionEvent::UnknownSession.as_str(),
        }
    }

    /// Returns the event with a stored name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        const OTHERS: [AuditEvent; 8] = [
            AuditEvent::CaughtUp,
            AuditEvent::KeyRetired,
            AuditEvent::KeyRotated,
            AuditEvent::Login,
            AuditEvent::LoginFailed,
            AuditEvent::Registered,
            AuditEvent::UnknownKey,
            AuditEvent::UnknownSession,
        ];
        let other = OTHERS.into_iter().find(|event| event.as_str() == word);
        other.or_else(|| EndReason::from_word(word).map(Self::Ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let ends = EndReason::ALL.map(AuditEvent::Ended);
        let others =
            [AuditEvent::CaughtUp, AuditEvent::KeyRetired, AuditEvent::KeyRotated, AuditEvent::Login];
        let more = [AuditEvent::LoginFailed, AuditEvent::Registered, AuditEvent::UnknownKey];
        for event in ends.into_iter().chain(others).chain(more).chain([AuditEvent::UnknownSession]) {
            assert_eq!(AuditEvent::from_word(event.as_str()), Some(event));
        }
        assert_eq!(AuditEvent::from_word("rotated"), None);
    }
}
