//! The interface between the layer and the issuer of tokens.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::client_info::ClientInfo;
use crate::identity::{Identity, SessionId};
use crate::session_event::SessionEvent;

/// Verifies access tokens and refreshes sessions.
///
/// [`Tokens`](crate::services::token::Tokens) implements it over any
/// [`SessionStore`](crate::services::store::SessionStore). Implement it yourself to use the layer with
/// another kind of token.
///
/// [`verify`](Self::verify) runs on every request and must not do I/O. [`refresh`](Self::refresh) runs once
/// per access token lifetime and may access a store.
pub trait TokenService: Send + Sync + 'static {
    /// Future of [`refresh`](Self::refresh).
    type Refresh: Future<Output = Result<RefreshedSession, RefreshError>> + Send + 'static;

    /// Verifies an access token.
    ///
    /// # Errors
    ///
    /// Returns a [`VerifyError`] if the token is not valid.
    fn verify(&self, access_token: &str) -> Result<Verified, VerifyError>;

    /// Verifies an access token of a request from `client`, which is of use for an audit log.
    ///
    /// The layer calls this method. `client` is evaluated lazily because it copies headers, which would cost
    /// every request two allocations. The default implementation ignores it and calls
    /// [`verify`](Self::verify).
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

    /// Returns how the session has ended, as far as that is known without I/O.
    ///
    /// The layer calls this before it sets new cookies, so that a response in flight does not undo a
    /// sign-out. The default implementation returns `None`.
    fn session_end(&self, _session: SessionId) -> Option<SessionEvent> {
        None
    }

    /// Resolves to `true` if the session has not ended at any replica.
    ///
    /// The layer calls this before it sets new cookies on a response that took so long that another replica
    /// may have terminated the session. If there is no result within a second, the cookies are withheld and
    /// the next request gets them. The default implementation uses [`session_end`](Self::session_end).
    fn is_session_active(&self, session: SessionId) -> SessionActiveFuture {
        Box::pin(std::future::ready(self.session_end(session).is_none()))
    }

    /// Refreshes the session of a refresh token.
    ///
    /// The layer may drop the future before it completes: when the client disconnects, or when the store is
    /// slow and the access token still valid. A rotation that has started must complete all the same.
    ///
    /// # Errors
    ///
    /// Returns [`RefreshError::SessionEnded`] if the session has ended, and [`RefreshError::Unavailable`] if its
    /// state cannot be determined at the moment.
    fn refresh(&self, request: RefreshRequest) -> Self::Refresh;
}

/// Future of [`TokenService::is_session_active`].
pub type SessionActiveFuture = Pin<Box<dyn Future<Output = bool> + Send>>;

/// A valid access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The user and session of the token.
    pub identity: Identity,
    /// True if the token expires so soon that the session should be refreshed.
    pub refresh_due: bool,
}

/// Reason why an access token is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The session has ended, although the token has not expired.
    #[error("the token's session has ended: {0}")]
    Ended(SessionEvent),
    /// The token was valid and has expired.
    #[error("the token has expired")]
    Expired,
    /// The token is valid, but it is unknown whether its session has ended.
    #[error("cannot check whether the token's session has ended")]
    Unavailable,
    /// The token was not issued by this service, or was modified.
    #[error("not a token of this service")]
    Malformed,
    /// The token's key is unknown or no longer accepted.
    #[error("unknown token key")]
    UnknownKey,
}

/// A request to refresh a session.
#[derive(Clone, Default)]
pub struct RefreshRequest {
    /// The refresh token.
    pub refresh_token: String,
    /// The access token sent with it, valid or not.
    pub access_token: Option<String>,
    /// The session of the access token, if that is still valid.
    ///
    /// A refresh token of another session must then be left untouched and rejected as
    /// [`Malformed`](SessionEvent::Malformed). With `None` the refresh token alone decides.
    pub expected_session: Option<SessionId>,
    /// The client that sent the request.
    pub client: ClientInfo,
}

/// New tokens of a session.
///
/// Tokens are cookie values, so they may contain only cookie octets (RFC 6265 section 4.1.1: visible ASCII
/// except quotes, comma, semicolon and backslash). Together with the cookie's name they may have at most
/// 4,096 bytes, because browsers drop longer cookies.
#[derive(Clone)]
pub struct RefreshedSession {
    /// The user and session of the new access token.
    pub identity: Identity,
    /// The new access token.
    pub access_token: String,
    /// The new refresh token.
    pub refresh_token: String,
    /// Lifetime of the cookies, at most 400 days. It should exceed that of the session: for the cookies of an
    /// expired session, the response has the reason.
    pub max_age: Duration,
    /// Time during which the tokens may be sent to the client.
    ///
    /// A response that takes longer carries no cookies, because they could replace newer ones. The next
    /// request gets the tokens again.
    pub delivery_timeout: Duration,
    /// The kind of refresh: [`Rotated`](SessionEvent::Rotated), [`Replayed`](SessionEvent::Replayed) or
    /// [`CaughtUp`](SessionEvent::CaughtUp).
    pub event: SessionEvent,
}

/// Reason why a session was not refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// The session has ended or does not exist.
    #[error("the session has ended: {event}")]
    SessionEnded {
        /// The reason.
        event: SessionEvent,
        /// True if the cookies should be cleared: only if the session ended so long ago that no response in
        /// flight can carry newer ones.
        clear_cookies: bool,
    },
    /// The state of the session cannot be determined at the moment.
    #[error("the session store is not available")]
    Unavailable,
}

impl std::fmt::Debug for RefreshRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefreshRequest")
            .field("expected_session", &self.expected_session)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RefreshedSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefreshedSession")
            .field("identity", &self.identity)
            .field("max_age", &self.max_age)
            .field("event", &self.event)
            .finish_non_exhaustive()
    }
}
