//! What the layer asks of whoever issues the tokens.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::client_info::ClientInfo;
use crate::identity::{Identity, SessionId};
use crate::session_event::SessionEvent;

/// Checks access tokens and renews them.
///
/// [`Tokens`](crate::services::token::Tokens) is ours, over any
/// [`SessionStore`](crate::services::store::SessionStore); implement the trait yourself to put the
/// layer over tokens of another kind.
///
/// The two halves differ in what they may cost: [`verify`](Self::verify) runs on every request and
/// does no I/O; [`refresh`](Self::refresh) runs once an access token's lifetime and asks a store.
pub trait TokenService: Send + Sync + 'static {
    /// The future of [`refresh`](Self::refresh).
    type Refresh: Future<Output = Result<RefreshedSession, RefreshError>> + Send + 'static;

    /// Checks an access token.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] says why the token is of no use.
    fn verify(&self, access_token: &str) -> Result<Verified, VerifyError>;

    /// Checks an access token as [`verify`](Self::verify) does, for a request that comes from `client`,
    /// which is asked only by who wants to know. By default nobody does.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify).
    fn verify_with_client(
        &self,
        access_token: &str,
        _client: &dyn Fn() -> ClientInfo,
    ) -> Result<Verified, VerifyError> {
        self.verify(access_token)
    }

    /// How the session has ended, as far as that is known without I/O: asked before fresh cookies are
    /// handed out, so that an answer which was under way doesn't undo a sign-out. By default nothing
    /// is known.
    fn session_end(&self, _session: SessionId) -> Option<SessionEvent> {
        None
    }

    /// Whether the session has not been ended anywhere: asked for an answer that carries fresh cookies
    /// and took so long that another replica may have ended the session meanwhile. If that can't be
    /// told within a second no cookies are handed out, and the next request is given them again. By
    /// default as [`session_end`](Self::session_end) says.
    fn is_session_active(&self, session: SessionId) -> SessionActiveFuture {
        Box::pin(std::future::ready(self.session_end(session).is_none()))
    }

    /// Renews the session of a refresh token.
    ///
    /// The layer may drop the future before it is done (a client hangs up, or the old access token
    /// is still good and the store slow): what was begun must run to its end all the same.
    ///
    /// # Errors
    ///
    /// [`RefreshError::Over`] when the session can't go on, [`RefreshError::Unavailable`] when that
    /// can't be told now.
    fn refresh(&self, request: RefreshRequest) -> Self::Refresh;
}

/// The answer to [`TokenService::is_session_active`].
pub type SessionActiveFuture = Pin<Box<dyn Future<Output = bool> + Send>>;

/// A valid access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// For whom it speaks.
    pub identity: Identity,
    /// Whether it is so near its expiry that it should be renewed now.
    pub renew: bool,
}

/// Why an access token is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Its session has ended, although the token has not expired.
    #[error("the token's session has ended: {0}")]
    Ended(SessionEvent),
    /// It was one of ours.
    #[error("the token has expired")]
    Expired,
    /// It can't be told whether its session has ended.
    #[error("whether the token's session has ended can't be told")]
    Unavailable,
    /// It isn't one of ours, or was changed.
    #[error("not a token of this service")]
    Malformed,
    /// Its key isn't known here, or not any more.
    #[error("the token's key is not known")]
    UnknownKey,
}

/// A wish to have a session renewed.
#[derive(Clone)]
pub struct RefreshRequest {
    /// The refresh token presented.
    pub refresh_token: String,
    /// The access token presented with it, whatever it is worth.
    pub access_token: Option<String>,
    /// The session of the still valid access token beside it. Only this session may be renewed: a
    /// refresh token of another one is left alone and answered with
    /// [`Malformed`](SessionEvent::Malformed), before any rotation. `None`: the refresh token
    /// decides alone.
    pub of: Option<SessionId>,
    /// Who asks.
    pub client: ClientInfo,
}

/// Fresh tokens.
///
/// As cookie values they may hold only what RFC 6265 calls cookie octets (visible ASCII but for
/// quotes, comma, semicolon and backslash), and with the cookie's name at most 4,096 bytes:
/// browsers drop what is longer.
#[derive(Clone)]
pub struct RefreshedSession {
    /// For whom the new access token speaks.
    pub identity: Identity,
    /// The new access token.
    pub access_token: String,
    /// The refresh token to use from now on.
    pub refresh_token: String,
    /// How long the cookies should live: until the session expires if it is not renewed again.
    pub max_age: Duration,
    /// How long after this answer the tokens may still be handed to the client. A response that takes
    /// longer carries none, and the next request is given them again: cookies that arrive late would
    /// replace others that are in use by then.
    pub fresh_for: Duration,
    /// How it came about: [`Rotated`](SessionEvent::Rotated),
    /// [`Replayed`](SessionEvent::Replayed) or [`CaughtUp`](SessionEvent::CaughtUp).
    pub event: SessionEvent,
}

/// Why a session was not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// The session can't go on, or isn't one.
    #[error("the session is over: {event}")]
    Over {
        /// Why.
        event: SessionEvent,
        /// Whether the cookies should be cleared: only when the session ended so long ago that
        /// no answer that is still under way can carry newer ones.
        clear: bool,
    },
    /// It can't be told now whether the session can go on.
    #[error("the session store is not available")]
    Unavailable,
}

impl std::fmt::Debug for RefreshRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefreshRequest")
            .field("of", &self.of)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RefreshedSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewal")
            .field("identity", &self.identity)
            .field("max_age", &self.max_age)
            .field("event", &self.event)
            .finish_non_exhaustive()
    }
}
