//! What happened to a session, in one word, and who watches for its end.

use std::fmt;
use std::pin::Pin;

use crate::identity::SessionId;

/// What the session machinery did, or why it refused: one word for the answer's
/// `X-Session-Event`, the log field, the metric label and the audit row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionEvent {
    /// Beyond its absolute lifetime.
    AbsoluteExpired,
    /// The database had lost its last writes; the token presented proved it, and was taken over.
    CaughtUp,
    /// Ended because the user had too many sessions.
    Displaced,
    /// Ended at the last generation that a refresh token can hold.
    Exhausted,
    /// Not renewed for too long.
    IdleExpired,
    /// Ended by the user.
    LoggedOut,
    /// A cookie or token that isn't one of ours, or came twice.
    Malformed,
    /// No usable token came with the request.
    Missing,
    /// Ended because the password was changed.
    PasswordChanged,
    /// The refresh token had been rotated already, which is not held against it.
    Replayed,
    /// A refresh token was presented that its owner has replaced: two clients hold the session.
    ReuseDetected,
    /// Ended by an operator.
    Revoked,
    /// Ended because the user's role was changed.
    RoleChanged,
    /// Renewed.
    Rotated,
    /// The store can't be asked; nothing was decided.
    StoreUnavailable,
    /// Signed with a key that we don't hold.
    UnknownKey,
    /// No such session in this database.
    UnknownSession,
    /// The user no longer exists.
    UserDeleted,
    /// The user may not sign in.
    UserDisabled,
}

impl SessionEvent {
    /// All of them, in the order of their words.
    pub const ALL: [Self; 19] = [
        Self::AbsoluteExpired,
        Self::CaughtUp,
        Self::Displaced,
        Self::Exhausted,
        Self::IdleExpired,
        Self::LoggedOut,
        Self::Malformed,
        Self::Missing,
        Self::PasswordChanged,
        Self::Replayed,
        Self::ReuseDetected,
        Self::Revoked,
        Self::RoleChanged,
        Self::Rotated,
        Self::StoreUnavailable,
        Self::UnknownKey,
        Self::UnknownSession,
        Self::UserDeleted,
        Self::UserDisabled,
    ];

    /// The event of this word.
    #[must_use]
    pub fn parse(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str().as_bytes() == word)
    }

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AbsoluteExpired => "absolute_expired",
            Self::CaughtUp => "caught_up",
            Self::Displaced => "displaced",
            Self::Exhausted => "exhausted",
            Self::IdleExpired => "idle_expired",
            Self::LoggedOut => "logged_out",
            Self::Malformed => "malformed",
            Self::Missing => "missing",
            Self::PasswordChanged => "password_changed",
            Self::Replayed => "replayed",
            Self::ReuseDetected => "reuse_detected",
            Self::Revoked => "revoked",
            Self::RoleChanged => "role_changed",
            Self::Rotated => "rotated",
            Self::StoreUnavailable => "store_unavailable",
            Self::UnknownKey => "unknown_key",
            Self::UnknownSession => "unknown_session",
            Self::UserDeleted => "user_deleted",
            Self::UserDisabled => "user_disabled",
        }
    }
}

impl fmt::Display for SessionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Tells when a session ends, to those who keep a connection open in its name.
///
/// Closures of the same shape do so too.
pub trait SessionEndWatcher: Send + Sync + 'static {
    /// Waits for the session's end, anywhere, and says how it came about. One that has ended already
    /// is told of at once. Dropping the future ends the watch.
    ///
    /// The end may also be that the session can't be vouched for any more
    /// ([`StoreUnavailable`](SessionEvent::StoreUnavailable)), if so it is set up.
    fn watch(&self, session: SessionId) -> SessionEndFuture;
}

/// The answer to [`SessionEndWatcher::watch`].
pub type SessionEndFuture = Pin<Box<dyn Future<Output = SessionEvent> + Send>>;

impl<F> SessionEndWatcher for F
where
    F: Fn(SessionId) -> SessionEndFuture + Send + Sync + 'static,
{
    fn watch(&self, session: SessionId) -> SessionEndFuture {
        self(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_its_word() {
        for (nth, event) in SessionEvent::ALL.into_iter().enumerate() {
            assert_eq!(SessionEvent::parse(event.as_str().as_bytes()), Some(event));
            assert_eq!(event as usize, nth, "{event}");
        }
        assert_eq!(SessionEvent::ALL.last(), Some(&SessionEvent::UserDisabled), "none is left out");
        assert_eq!(SessionEvent::parse(b"rotatedd"), None);
    }
}
