//! Events of a session, notification of its end, and reports of its use.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use crate::identity::SessionId;

/// An event of a session: what was done to it, or why a request was rejected.
///
/// The same word is the value of `X-Session-Event`, the log field, the metric label and the audit entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The session has reached its absolute lifetime.
    AbsoluteExpired,
    /// The token proved that the database had lost its last writes, and its generation was adopted.
    CaughtUp,
    /// The session was terminated because the user had too many.
    Displaced,
    /// The session has reached the last generation that a refresh token can represent.
    Exhausted,
    /// The session was not used within its idle lifetime.
    IdleExpired,
    /// The user signed out.
    LoggedOut,
    /// A cookie or token was not issued by this service, or occurs twice.
    Malformed,
    /// The request has no usable token.
    Missing,
    /// The session was terminated by a change of the password.
    PasswordChanged,
    /// The refresh token had already been rotated, within the grace period. The new tokens were sent again.
    Replayed,
    /// A refresh token was used after its replacement: two clients have the session.
    ReuseDetected,
    /// An operator terminated the session.
    Revoked,
    /// The session was terminated by a change of the user's role.
    RoleChanged,
    /// The session was refreshed with new tokens.
    Rotated,
    /// The session store is not available, and nothing was changed.
    StoreUnavailable,
    /// The token is signed with an unknown key.
    UnknownKey,
    /// The session is not in this database.
    UnknownSession,
    /// The user no longer exists.
    UserDeleted,
    /// The user is disabled.
    UserDisabled,
}

impl SessionEvent {
    /// All events, in alphabetical order.
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

    /// Parses the word of an event.
    #[must_use]
    pub fn parse(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str().as_bytes() == word)
    }

    /// Returns the word of the event.
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

/// Notifies of the end of a session, for connections that stay open on its behalf.
///
/// Implemented for closures of the same signature.
pub trait SessionEndWatcher: Send + Sync + 'static {
    /// Waits for the end of a session at any replica and returns its cause.
    ///
    /// The future is ready at once if the session has already ended. Dropping it stops the watch.
    ///
    /// Depending on the configuration, the cause may be
    /// [`StoreUnavailable`](SessionEvent::StoreUnavailable): the session can no longer be checked.
    fn watch(&self, session: SessionId) -> SessionEndFuture;
}

/// Future of [`SessionEndWatcher::watch`].
pub type SessionEndFuture = Pin<Box<dyn Future<Output = SessionEvent> + Send>>;

impl<F: Fn(SessionId) -> SessionEndFuture + Send + Sync + 'static> SessionEndWatcher for F {
    fn watch(&self, session: SessionId) -> SessionEndFuture {
        self(session)
    }
}

/// Records that clients use their sessions on connections that stay open.
///
/// A session that is not used expires. Requests record their use themselves, with their tokens. A WebSocket or a
/// long upload presents no token again, so its use is what the client sends.
pub trait SessionUseRecorder: Send + Sync + 'static {
    /// Records that the client uses the session at present. It does not wait for the store.
    fn record_use(&self, session: SessionId);

    /// Minimum time between two calls of [`record_use`](Self::record_use) for one connection. The expiry is
    /// accurate to about twice this time.
    fn interval(&self) -> Duration;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_in_order() {
        for (index, event) in SessionEvent::ALL.into_iter().enumerate() {
            assert_eq!(SessionEvent::parse(event.as_str().as_bytes()), Some(event));
            assert_eq!(event as usize, index, "{event}");
        }
        assert_eq!(SessionEvent::ALL.last(), Some(&SessionEvent::UserDisabled), "ALL lacks an event");
        assert_eq!(SessionEvent::parse(b"rotatedd"), None);
    }
}
