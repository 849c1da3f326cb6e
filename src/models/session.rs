//! A signed-in session: one row, updated in place, however often it is renewed.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::user::UserId;
use crate::client_info::ClientInfo;
use crate::identity::Roles;
pub use crate::identity::SessionId;
use crate::session_event::SessionEvent;

/// An access token's id (`jti`): 16 random bytes, written as a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(pub Uuid);

/// What a session was made for. Each refresh token works only in its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionKind {
    /// A browser, which holds cookies.
    Browser,
    /// A client of `POST /token`, which holds the tokens themselves.
    Client,
}

impl SessionKind {
    /// The word in the database: `browser` or `client`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::Client => "client",
        }
    }

    /// The kind of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Browser, Self::Client].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Why a session ended. (One that has expired is over by its times; the purge writes that down later.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// At the end of its absolute lifetime.
    AbsoluteExpired,
    /// Beyond `session.max_per_user`, and the oldest.
    Displaced,
    /// No generation was left.
    Exhausted,
    /// Not renewed for too long.
    IdleExpired,
    /// By the user.
    LoggedOut,
    /// By a change of password.
    PasswordChanged,
    /// By a second client that held the session's tokens.
    ReuseDetected,
    /// By an operator.
    Revoked,
    /// By a change of role.
    RoleChanged,
    /// With its user.
    UserDeleted,
    /// With its user's right to sign in.
    UserDisabled,
}

impl EndReason {
    /// All of them.
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

    /// The event that says so.
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

    /// The word in the database, that of its event.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.event().as_str()
    }

    /// The reason of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// That a session was ended, when and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// When.
    pub at: OffsetDateTime,
    /// Why.
    pub reason: EndReason,
}

/// One access token, as a row remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessTokenRef {
    /// Its `jti`.
    pub id: TokenId,
    /// Its `iat`. A JWT's times are whole seconds, so it was issued up to a second later.
    pub issued_at: OffsetDateTime,
}

impl AccessTokenRef {
    /// Whether the token was certainly more than `limit` old at `at`.
    #[must_use]
    pub fn older_than(&self, limit: Duration, at: OffsetDateTime) -> bool {
        at > self.older_than_from(limit)
    }

    /// The moment after which it is [`older_than`](Self::older_than) that.
    #[must_use]
    pub fn older_than_from(&self, limit: Duration) -> OffsetDateTime {
        // The time of its issue is cut to whole seconds.
        self.issued_at + Duration::from_secs(1) + limit
    }
}

/// One signed-in session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id, the row's only key.
    pub id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// What it was made for.
    pub kind: SessionKind,
    /// The user's address, so that a renewal touches no other row.
    pub email: String,
    /// The user's roles; a change of role ends the session.
    pub roles: Roles,
    /// The current generation, from 1.
    pub generation: u32,
    /// The number of the key that signs the current refresh token.
    pub key_number: u8,
    /// When the user signed in.
    pub created_at: OffsetDateTime,
    /// When the current generation came to be.
    pub rotated_at: OffsetDateTime,
    /// The access token that lay beside the refresh token that asked for the current generation.
    pub asked_by: Option<AccessTokenRef>,
    /// The access token of the current generation that was seen in lasting use.
    pub settled_by: Option<TokenId>,
    /// How often it was rotated.
    pub rotations: u64,
    /// How often a refresh token was replayed.
    pub replays: u64,
    /// When it expires unless it is renewed: the last renewal plus access and idle lifetime.
    pub idle_expires_at: OffsetDateTime,
    /// When it expires whatever happens.
    pub absolute_expires_at: OffsetDateTime,
    /// Whether, when and why it was ended.
    pub end: Option<SessionEnd>,
    /// Who asked for the current generation.
    pub client: ClientInfo,
}

impl Session {
    /// When the session expires unless it is renewed or ended.
    #[must_use]
    pub fn expires_at(&self) -> OffsetDateTime {
        self.idle_expires_at.min(self.absolute_expires_at)
    }

    /// Why and since when the session is over; `None` while it lives.
    #[must_use]
    pub fn termination(&self, now: OffsetDateTime) -> Option<(SessionEvent, OffsetDateTime)> {
        if let Some(end) = self.end {
            return Some((end.reason.event(), end.at));
        }
        if self.expires_at() > now {
            return None;
        }
        let event = if self.absolute_expires_at <= self.idle_expires_at {
            SessionEvent::AbsoluteExpired
        } else {
            SessionEvent::IdleExpired
        };
        Some((event, self.expires_at()))
    }
}
