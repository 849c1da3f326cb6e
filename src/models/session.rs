//! Sessions. Each is one row, which refreshes update in place.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::client_info::ClientInfo;
pub use crate::identity::SessionId;
use crate::identity::{Claims, Roles, Subject};
use crate::session_event::SessionEvent;

/// Id of an access token (`jti`): 16 random bytes, formatted as a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(pub Uuid);

/// Kind of a session. A refresh token is valid only for the kind of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionKind {
    /// A browser with cookies.
    Browser,
    /// An API client that gets its tokens from `POST /token`.
    Client,
}

impl SessionKind {
    /// Returns the name stored in the database: `browser` or `client`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::Client => "client",
        }
    }

    /// Returns the kind with a stored name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Browser, Self::Client].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Reason for the end of a session.
///
/// A session expires by its times alone; the purge records the reason later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The absolute lifetime is over.
    AbsoluteExpired,
    /// The session was the oldest beyond `session.max_per_user`.
    Displaced,
    /// The generation reached its maximum.
    Exhausted,
    /// The session was not used within the idle lifetime.
    IdleExpired,
    /// The user signed out.
    LoggedOut,
    /// The password was changed.
    PasswordChanged,
    /// A second client used the tokens of the session.
    ReuseDetected,
    /// An operator revoked the session.
    Revoked,
    /// The role of the user was changed.
    RoleChanged,
    /// The user was deleted.
    UserDeleted,
    /// The user was disabled.
    UserDisabled,
}

impl EndReason {
    /// All reasons.
    pub const ALL: [Self; 11] = [
        Self::AbsoluteExpired,
        Self::Displaced,
        Self::Exhausted,
        Self::IdleExpired,
        Self::LoggedOut,
        Self::PasswordChanged,
        Self::ReuseDetected,
        Self::Revoked,
        Self::RoleChanged,
        Self::UserDeleted,
        Self::UserDisabled,
    ];

    /// Returns the corresponding session event.
    #[must_use]
    pub const fn event(self) -> SessionEvent {
        match self {
            Self::AbsoluteExpired => SessionEvent::AbsoluteExpired,
            Self::Displaced => SessionEvent::Displaced,
            Self::Exhausted => SessionEvent::Exhausted,
            Self::IdleExpired => SessionEvent::IdleExpired,
            Self::LoggedOut => SessionEvent::LoggedOut,
            Self::PasswordChanged => SessionEvent::PasswordChanged,
            Self::ReuseDetected => SessionEvent::ReuseDetected,
            Self::Revoked => SessionEvent::Revoked,
            Self::RoleChanged => SessionEvent::RoleChanged,
            Self::UserDeleted => SessionEvent::UserDeleted,
            Self::UserDisabled => SessionEvent::UserDisabled,
        }
    }

    /// Returns the name stored in the database, which is that of the event.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.event().as_str()
    }

    /// Returns the reason with a stored name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// Time and reason of the end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// Time of the end.
    pub at: OffsetDateTime,
    /// Reason for the end.
    pub reason: EndReason,
}

/// Reference to an access token in the row of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessTokenRef {
    /// Id (`jti`).
    pub id: TokenId,
    /// Time of issue (`iat`), truncated to seconds. The token was issued up to a second later.
    pub issued_at: OffsetDateTime,
}

impl AccessTokenRef {
    /// Returns `true` if the token was certainly older than `limit` at the time `at`.
    #[must_use]
    pub fn older_than(&self, limit: Duration, at: OffsetDateTime) -> bool {
        at > self.older_than_from(limit)
    }

    /// Returns the time after which the token is certainly [older than](Self::older_than) `limit`.
    #[must_use]
    pub fn older_than_from(&self, limit: Duration) -> OffsetDateTime {
        // The time of issue is truncated to seconds.
        self.issued_at + Duration::from_secs(1) + limit
    }
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Id, the primary key.
    pub id: SessionId,
    /// User.
    pub subject: Subject,
    /// Kind.
    pub kind: SessionKind,
    /// Email address of the user, copied so that a refresh reads no other row.
    pub email: String,
    /// Roles of the user. A change of role terminates the session.
    pub roles: Roles,
    /// Current generation, from 1.
    pub generation: u32,
    /// Number of the key that signs the current refresh token.
    pub key_number: u8,
    /// Time of the sign-in.
    pub created_at: OffsetDateTime,
    /// Time of the last rotation.
    pub rotated_at: OffsetDateTime,
    /// Access token that accompanied the refresh token in the request for the current generation.
    pub asked_by: Option<AccessTokenRef>,
    /// Access token of the current generation that was seen in confirmed use.
    pub settled_by: Option<TokenId>,
    /// Number of rotations.
    pub rotations: u64,
    /// Number of replayed refresh tokens.
    pub replays: u64,
    /// Expiry without further use: the last use plus the access and idle lifetimes.
    pub idle_expires_at: OffsetDateTime,
    /// Expiry of the absolute lifetime, which refreshes do not extend.
    pub absolute_expires_at: OffsetDateTime,
    /// Termination, if the session was terminated.
    pub end: Option<SessionEnd>,
    /// Client that requested the current generation.
    pub client: ClientInfo,
    /// The application's own claims, which the next access token carries.
    pub claims: Claims,
}

impl Session {
    /// Returns the time at which the session expires unless it is used or terminated.
    #[must_use]
    pub fn expires_at(&self) -> OffsetDateTime {
        self.idle_expires_at.min(self.absolute_expires_at)
    }

    /// Returns the reason and time of the end of the session. Returns `None` while it is active.
    #[must_use]
    pub fn termination(&self, now: OffsetDateTime) -> Option<(SessionEvent, OffsetDateTime)> {
        let end = self.end.or_else(|| self.expiry(now))?;
        Some((end.reason.event(), end.at))
    }

    /// Returns the end of the session by its expiry, if it has expired. Ignores an earlier termination.
    #[must_use]
    pub fn expiry(&self, now: OffsetDateTime) -> Option<SessionEnd> {
        let reason = if self.absolute_expires_at <= self.idle_expires_at {
            EndReason::AbsoluteExpired
        } else {
            EndReason::IdleExpired
        };
        (self.expires_at() <= now).then_some(SessionEnd { at: self.expires_at(), reason })
    }
}

#[cfg(test)]
impl Session {
    /// Returns a browser session that was created and rotated at `now`.
    pub(crate) fn example(now: OffsetDateTime) -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            id: SessionId(Uuid::from_u128(1)),
            subject: Uuid::from_u128(2).into(),
            kind: SessionKind::Browser,
            email: "taro@example.jp".to_owned(),
            roles: Roles::default(),
            generation: 7,
            key_number: 1,
            created_at: now,
            rotated_at: now,
            asked_by: None,
            settled_by: None,
            rotations: 0,
            replays: 0,
            idle_expires_at: now + DAY,
            absolute_expires_at: now + 8 * DAY,
            end: None,
            client: ClientInfo::default(),
            claims: Claims::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_reasons_are_listed_in_order() {
        for (index, reason) in EndReason::ALL.into_iter().enumerate() {
            assert_eq!(EndReason::from_word(reason.as_str()), Some(reason));
            assert_eq!(reason as usize, index, "{reason:?}");
        }
        assert_eq!(EndReason::ALL.last(), Some(&EndReason::UserDisabled), "ALL lacks a reason");
    }
}
