//! The audit: one row for each thing that happened to somebody's access. Rows are added, and one day
//! purged; none is ever changed.

use time::OffsetDateTime;

use super::session::{EndReason, Session, SessionId};
use super::user::UserId;
use crate::client_info::ClientInfo;
use crate::session_event::SessionEvent;

/// What happened, when, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: OffsetDateTime,
    /// What.
    pub event: AuditEvent,
    /// To which user.
    pub user: Option<UserId>,
    /// To which session.
    pub session: Option<SessionId>,
    /// The generation of the token that was presented.
    pub presented: Option<u32>,
    /// The generation that the session was at.
    pub held: Option<u32>,
    /// With which signing key.
    pub key_number: Option<u8>,
    /// Who did it, and in which request.
    pub by: ClientInfo,
    /// Who had asked for the generation that the session was at: where two clients are involved, the
    /// other one. (Without the request.)
    pub holder: ClientInfo,
}

impl AuditEntry {
    /// An entry that says no more than this.
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

    /// That this session has begun.
    #[must_use]
    pub fn login(session: &Session) -> Self {
        Self {
            user: Some(session.user_id),
            session: Some(session.id),
            held: Some(session.generation),
            ..Self::new(session.created_at, AuditEvent::Login, session.client.clone())
        }
    }
}

/// What may happen to somebody's access.
///
/// Renewals and replays are not among them: the session's row counts them, so that a renewal touches
/// one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditEvent {
    /// The database had lost more than one rotation of a session, which was taken over all the same:
    /// it was rolled back.
    CaughtUp,
    /// A session ended; or, where no session is named, what happened to a user that ends all sessions
    /// of that user's.
    Ended(EndReason),
    /// A signing key was dropped.
    KeyRetired,
    /// A signing key was added.
    KeyRotated,
    /// A user signed in: a session began.
    Login,
    /// Somebody failed to sign in.
    LoginFailed,
    /// Somebody made an account.
    Registered,
    /// A refresh token came that is signed by a key that isn't there.
    UnknownKey,
    /// A refresh token of ours came whose session isn't in the database.
    UnknownSession,
}

impl AuditEvent {
    /// The word in the database.
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

    /// The event of this word.
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
    fn every_word_is_read_as_the_event_that_writes_it() {
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
