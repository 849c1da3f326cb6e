//! The decisions of the layer, without I/O: what a request's tokens allow, and how to continue after a
//! refresh.

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, ORIGIN};
use http::{Method, Request};

use super::bearer;
use super::cookies::{CookiePolicy, CookieValue, DuplicateCookie};
use super::reject::Rejection;
use super::settings::OnStoreLoss;
use super::token::{RefreshError, RefreshRequest, RefreshedSession, TokenService, Verified, VerifyError};
use crate::client_info::ClientInfo;
use crate::identity::Identity;
use crate::session_event::SessionEvent;

/// Handling of a request, decided by its tokens.
pub(crate) enum Decision {
    /// The access token is valid.
    Accept(Identity),
    /// The session has to be refreshed. `current` is the identity of a still valid access token.
    Refresh { refresh: RefreshRequest, current: Option<Identity> },
    /// The request has no valid session.
    Reject(Rejection),
}

pub(crate) fn decide<T: TokenService, B>(
    tokens: &T,
    policy: &CookiePolicy,
    request: &Request<B>,
) -> Decision {
    if is_preflight(request) {
        return Decision::Reject(Rejection::new(SessionEvent::Missing));
    }
    let client = || ClientInfo::from_request_parts(request.extensions(), request.headers());
    let (access, refresh) = match policy.find(request.headers()) {
        Ok([None, None]) => return decide_by_bearer(tokens, request.headers(), &client),
        Ok([access, refresh]) => (CookieValue::from_bytes(access), refresh),
        Err(DuplicateCookie) => return Decision::Reject(Rejection::new(SessionEvent::Malformed)),
    };
    let verified = match verify(tokens, access, &client) {
        // The common case returns before the refresh token is validated.
        Ok(Verified { identity, refresh_due: false }) => return Decision::Accept(identity),
        verified => verified,
    };
    let refresh_with = |refresh_token: &str, current: Option<Identity>| Decision::Refresh {
        refresh: RefreshRequest {
            refresh_token: refresh_token.to_owned(),
            access_token: access.token().map(str::to_owned),
            expected_session: current.as_ref().map(|identity| identity.session),
            client: client(),
        },
        current,
    };
    match (verified, CookieValue::from_bytes(refresh)) {
        (Ok(verified), CookieValue::Token(token)) => refresh_with(token, Some(verified.identity)),
        (Ok(verified), _) => Decision::Accept(verified.identity),
        // The store would give the same result.
        (Err(VerifyError::Ended(event)), _) => Decision::Reject(Rejection::new(event)),
        (Err(VerifyError::Unavailable), _) => Decision::Reject(Rejection::unavailable()),
        (Err(_), CookieValue::Token(token)) => refresh_with(token, None),
        (Err(_), CookieValue::Unusable) => Decision::Reject(Rejection::new(SessionEvent::Malformed)),
        (Err(error), CookieValue::Absent) => Decision::Reject(Rejection::new(event_for(error))),
    }
}

fn decide_by_bearer<T: TokenService>(
    tokens: &T,
    headers: &HeaderMap,
    client: &dyn Fn() -> ClientInfo,
) -> Decision {
    let token = match bearer::from_headers(headers) {
        None => return Decision::Reject(Rejection::new(SessionEvent::Missing)),
        Some(token) => token.map_or(CookieValue::Unusable, CookieValue::Token),
    };
    match verify(tokens, token, client) {
        Ok(verified) => Decision::Accept(verified.identity),
        Err(VerifyError::Unavailable) => Decision::Reject(Rejection::unavailable()),
        Err(error) => Decision::Reject(Rejection::for_bearer(event_for(error))),
    }
}

fn verify<T: TokenService>(
    tokens: &T,
    access_token: CookieValue<'_>,
    client: &dyn Fn() -> ClientInfo,
) -> Result<Verified, VerifyError> {
    match access_token {
        CookieValue::Absent => Err(VerifyError::Expired),
        CookieValue::Unusable => Err(VerifyError::Malformed),
        CookieValue::Token(token) => tokens.verify_with_client(token, client),
    }
}

fn event_for(error: VerifyError) -> SessionEvent {
    match error {
        VerifyError::Ended(event) => event,
        VerifyError::Expired => SessionEvent::Missing,
        VerifyError::Malformed => SessionEvent::Malformed,
        VerifyError::Unavailable => SessionEvent::StoreUnavailable,
        VerifyError::UnknownKey => SessionEvent::UnknownKey,
    }
}

/// Handling of a request after its refresh.
pub(super) enum RefreshOutcome {
    /// The request continues with new tokens.
    Refreshed(RefreshedSession),
    /// The request continues with the identity of its still valid access token.
    Kept(Identity, Option<SessionEvent>),
    /// The session has ended, or its state is unknown.
    Rejected(Rejection),
}

/// Evaluates the result of a refresh. `result` is `None` after a timeout.
pub(super) fn refresh_outcome(
    result: Option<Result<RefreshedSession, RefreshError>>,
    current: Option<Identity>,
    on_store_loss: OnStoreLoss,
) -> RefreshOutcome {
    match (result, current) {
        (Some(Ok(refreshed)), _) => RefreshOutcome::Refreshed(refreshed),
        (None, Some(identity)) => RefreshOutcome::Kept(identity, None),
        (Some(Err(RefreshError::Unavailable)), Some(identity)) if on_store_loss == OnStoreLoss::Serve => {
            RefreshOutcome::Kept(identity, Some(SessionEvent::StoreUnavailable))
        }
        // Only the refresh token is bad, so the valid access token decides.
        (Some(Err(RefreshError::SessionEnded { event, .. })), Some(identity)) if !is_terminal(event) => {
            RefreshOutcome::Kept(identity, None)
        }
        (Some(Err(error)), _) => RefreshOutcome::Rejected(error.into()),
        (None, None) => RefreshOutcome::Rejected(Rejection::unavailable()),
    }
}

impl From<RefreshError> for Rejection {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::SessionEnded { event, clear_cookies } => {
                Self { clear_cookies: clear_cookies && is_terminal(event), ..Self::new(event) }
            }
            RefreshError::Unavailable => Self::unavailable(),
        }
    }
}

/// Returns `true` if the event means that the session itself has ended.
fn is_terminal(event: SessionEvent) -> bool {
    match event {
        SessionEvent::AbsoluteExpired
        | SessionEvent::Displaced
        | SessionEvent::Exhausted
        | SessionEvent::IdleExpired
        | SessionEvent::LoggedOut
        | SessionEvent::PasswordChanged
        | SessionEvent::ReuseDetected
        | SessionEvent::Revoked
        | SessionEvent::RoleChanged
        | SessionEvent::UserDeleted
        | SessionEvent::UserDisabled => true,
        SessionEvent::CaughtUp
        | SessionEvent::Malformed
        | SessionEvent::Missing
        | SessionEvent::Replayed
        | SessionEvent::Rotated
        | SessionEvent::StoreUnavailable
        | SessionEvent::UnknownKey
        | SessionEvent::UnknownSession => false,
    }
}

/// Returns `true` for a CORS preflight (Fetch standard).
///
/// It carries no credentials, and browsers ignore cookies set by its response.
fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}
