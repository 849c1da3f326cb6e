//! Creates sessions and issues their tokens.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::crypto;
use super::jwt::{AccessToken, AccessTokens, MAX_NEW_LENGTH};
use super::keys::SharedKeys;
use super::refresh_token;
use super::rotation::confirmation_age;
use super::session_settings::SessionSettings;
use super::store::StoreError;
use crate::client_info::ClientInfo;
use crate::clock::{Clock, duration_micros, micros};
use crate::identity::{Claims, Identity, InvalidClaims, Roles, Subject};
use crate::layer::{IllegalToken, RefreshedSession};
use crate::models::session::{Session, SessionId, SessionKind, TokenId};
use crate::session_event::SessionEvent;

/// Issues access and refresh tokens, without any I/O.
pub(super) struct TokenIssuer {
    pub(super) keys: Arc<SharedKeys>,
    pub(super) access: AccessTokens,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: SessionSettings,
}

/// An authenticated user for whom a session is to be created.
#[derive(Clone, Debug)]
pub struct SessionRequest<'a> {
    /// The user.
    pub subject: Subject,
    /// The user's email address.
    pub email: &'a str,
    /// The user's roles.
    pub roles: Roles,
    /// The application's own claims, which access tokens carry. See [`with_claims`](Self::with_claims).
    pub claims: Claims,
    /// The kind of client that holds the session.
    pub kind: SessionKind,
    /// The client that signs in.
    pub client: ClientInfo,
    /// Hash that the password was checked against. If given, the session is created only while the
    /// user still has this hash and is enabled. Applications with a user database of their own give
    /// none.
    pub hashed_password: Option<&'a SecretString>,
    /// Session whose tokens came with the sign-in. It is terminated.
    pub replaces: Option<SessionId>,
}

impl<'a> SessionRequest<'a> {
    /// Creates a request for a browser session of a user without roles. Set further fields with
    /// `SessionRequest { roles, ..SessionRequest::new(subject, email) }`.
    ///
    /// Integers and UUIDs are subjects. Make one of text with [`Subject::new`].
    #[must_use]
    pub fn new(subject: impl Into<Subject>, email: &'a str) -> Self {
        Self {
            subject: subject.into(),
            email,
            roles: Roles::default(),
            claims: Claims::default(),
            kind: SessionKind::Browser,
            client: ClientInfo::default(),
            hashed_password: None,
            replaces: None,
        }
    }
}

impl SessionRequest<'_> {
    /// Sets the application's own claims, from a value that serializes as a JSON object.
    ///
    /// ```
    /// use sekisho::services::token::SessionRequest;
    ///
    /// #[derive(serde::Serialize)]
    /// struct Plan {
    ///     plan: &'static str,
    /// }
    ///
    /// let user_id = 42_i64;
    /// let request = SessionRequest::new(user_id, "ann@example.org").with_claims(&Plan { plan: "team" })?;
    /// assert_eq!(request.subject.as_str(), "42");
    /// assert_eq!(request.claims.as_json(), Some(r#"{"plan":"team"}"#));
    /// # Ok::<(), sekisho::identity::InvalidClaims>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidClaims`] if the value is not an object of at most [`Claims::MAX_LEN`] bytes.
    pub fn with_claims<C: Serialize + ?Sized>(self, claims: &C) -> Result<Self, InvalidClaims> {
        Ok(Self { claims: Claims::new(claims)?, ..self })
    }
}

/// A session's row and fresh tokens for it.
#[derive(Clone, Debug)]
pub struct IssuedSession {
    /// The row.
    pub session: Session,
    /// The tokens, and the event that issued them. After a sign-in it is
    /// [`SessionEvent::Rotated`].
    pub tokens: RefreshedSession,
}

/// Reason why no session was created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignInError {
    /// The user was deleted or disabled, or has another password than the one that was checked.
    #[error("the user is no longer allowed to sign in")]
    Refused,
    /// A token cannot be the value of a cookie.
    #[error(transparent)]
    Cookie(#[from] IllegalToken),
    /// The operating system returned no random bytes.
    #[error("cannot read random bytes")]
    Random,
    /// No cookie could hold the access token. The value is its length in bytes.
    #[error(
        "the access token would have {0} bytes, but cookies hold {MAX_NEW_LENGTH}: use fewer roles or claims"
    )]
    TokenTooLong(usize),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TokenIssuer {
    /// Returns a new session's first row.
    pub(super) fn new_session(
        &self,
        request: &SessionRequest<'_>,
        now: OffsetDateTime,
    ) -> Result<Session, SignInError> {
        let absolute_expires_at = now + self.settings.absolute_ttl;
        Ok(Session {
            id: SessionId(random_id()?),
            subject: request.subject.clone(),
            kind: request.kind,
            email: request.email.to_owned(),
            roles: request.roles.clone(),
            generation: 1,
            key_number: self.signing_key_number(now),
            created_at: now,
            rotated_at: now,
            asked_by: None,
            settled_by: None,
            rotations: 0,
            replays: 0,
            idle_expires_at: self.settings.idle_expiry(now).min(absolute_expires_at),
            absolute_expires_at,
            end: None,
            client: request.client.clone(),
            claims: request.claims.clone(),
        })
    }

    /// Issues the tokens of a session as [`issue`](Self::issue), unless the access token is too long for a
    /// cookie.
    pub(super) fn issue_checked(
        &self,
        session: &Session,
        now: OffsetDateTime,
    ) -> Result<RefreshedSession, SignInError> {
        let tokens = self.issue(session, SessionEvent::Rotated, now)?;
        match tokens.access_token.len() {
            0..=MAX_NEW_LENGTH => Ok(tokens),
            len => Err(SignInError::TokenTooLong(len)),
        }
    }

    /// Issues a new access token and the refresh token of the session's current generation.
    pub(super) fn issue(
        &self,
        session: &Session,
        event: SessionEvent,
        now: OffsetDateTime,
    ) -> Result<RefreshedSession, SignInError> {
        let keys = self.keys.load();
        let signing_key = keys.signing(self.signing_time(now));
        let id = TokenId(random_id()?);
        let minted = self.access.mint(signing_key, session, id, now);
        let (access_token, expires_at) = minted.map_err(|_| SignInError::Random)?;
        let refresh_key = keys.by_number(session.key_number).unwrap_or(signing_key);
        Ok(RefreshedSession {
            identity: identity(session, expires_at),
            access_token,
            refresh_token: refresh_token::mint(refresh_key, session.id, session.generation),
            max_age: cookie_lifetime(session, now),
            // The cookies must reach the browser's disk before the generation can be confirmed. Half
            // a minute of the grace is for the disk and a quarter for clock skew. A sixth leaves time
            // for the transfer; the model shows that a quarter does not.
            delivery_timeout: self.settings.grace / 6,
            event,
        })
    }

    /// Reads an access token of this service, whatever its times.
    pub(super) fn read_access(&self, access_token: &str) -> Option<AccessToken> {
        self.access.read(&self.keys.load(), access_token)
    }

    /// Returns the number of the key that signs at `now`.
    pub(super) fn signing_key_number(&self, now: OffsetDateTime) -> u8 {
        self.keys.load().signing(self.signing_time(now)).number()
    }

    /// Returns the time that decides which key signs. New keys are dated by wall clocks, which may be ahead of
    /// session time. The later time keeps a key active when its clock steps back.
    pub(super) fn signing_time(&self, now: OffsetDateTime) -> OffsetDateTime {
        now.max(self.clock.wall())
    }

    /// Returns `true` if the clock was set less than the grace period before `now`, so that the time since
    /// earlier rotations is uncertain. Sessions are replayed then instead of rotated.
    pub(super) fn is_clock_uncertain(&self, now: OffsetDateTime) -> bool {
        micros(now).saturating_sub(self.clock.set_at_micros()) < duration_micros(self.settings.grace)
    }

    /// Returns `true` if the clock was set less than the confirmation age before `now`, in [`micros`], so that
    /// tokens may be younger than they seem.
    pub(super) fn is_confirmation_uncertain(&self, now: i64) -> bool {
        let age = confirmation_age(self.settings.grace) + Duration::from_secs(1);
        now.saturating_sub(self.clock.set_at_micros()) <= duration_micros(age)
    }
}

/// Returns the lifetime of a session's cookies: a day beyond its absolute expiry.
///
/// The row decides when a session ends. A browser that dropped its cookies at the idle expiry would get `missing`
/// instead of `idle_expired`, and would lose a session whose idle expiry was postponed without new cookies.
fn cookie_lifetime(session: &Session, now: OffsetDateTime) -> Duration {
    const DAY: Duration = Duration::from_secs(86_400);
    let remaining: Duration = (session.absolute_expires_at - now).try_into().unwrap_or_default();
    remaining.saturating_add(DAY)
}

pub(super) fn identity(session: &Session, expires_at: OffsetDateTime) -> Identity {
    Identity {
        subject: session.subject.clone(),
        session: session.id,
        email: session.email.as_str().into(),
        roles: session.roles.clone(),
        claims: session.claims.clone(),
        expires_at,
    }
}

fn random_id() -> Result<Uuid, SignInError> {
    crypto::random_id().map_err(|_| SignInError::Random)
}
