use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, ORIGIN};
use http::{Method, Request, Response};
use tower_service::Service;

use super::bearer;
use super::cookies::{CookiePolicy, CookieValue, DuplicateCookie};
use super::future::ResponseFuture;
use super::layer::{OnStoreLoss, Settings};
use super::reject::{ContinueAnonymous, OnReject, Rejection};
use super::token::{RefreshError, RefreshRequest, RefreshedSession, TokenService, Verified, VerifyError};
use crate::client_info::ClientInfo;
use crate::identity::Identity;
use crate::request_context::RequestContext;
use crate::session_event::SessionEvent;

/// Middleware that puts an [`Identity`] into requests and renews their session on the way.
///
/// See the [module docs](crate::layer) for its rules and examples.
pub struct SilentRefresh<S, T, R = ContinueAnonymous> {
    inner: S,
    settings: Arc<Settings<T, R>>,
}

impl<S, T, R> SilentRefresh<S, T, R> {
    pub(super) fn new(inner: S, settings: Arc<Settings<T, R>>) -> Self {
        Self { inner, settings }
    }
}

impl<S, T, R, B, RB> Service<Request<B>> for SilentRefresh<S, T, R>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    T: TokenService,
    R: OnReject<RB>,
{
    type Response = Response<RB>;
    type Error = S::Error;
    type Future = ResponseFuture<S, T, R, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match decide(&*self.settings.tokens, &self.settings.cookies, &request) {
            Decision::Trust(identity) => {
                RequestContext::with_current(|scope| scope.set_identity(&identity));
                request.extensions_mut().insert(identity);
                ResponseFuture::passthrough(self.inner.call(request))
            }
            Decision::Renew { refresh, held } => {
                let clone = self.inner.clone();
                // The clone need not be ready; the one that was polled is.
                let ready = mem::replace(&mut self.inner, clone);
                let refresh = self.settings.tokens.refresh(refresh);
                ResponseFuture::refreshing(refresh, held, ready, request, Arc::clone(&self.settings))
            }
            Decision::Reject(rejection) => {
                ResponseFuture::rejected(rejection, &mut self.inner, request, &self.settings)
            }
        }
    }
}

impl<S: Clone, T, R> Clone for SilentRefresh<S, T, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), settings: Arc::clone(&self.settings) }
    }
}

impl<S: fmt::Debug, T, R> fmt::Debug for SilentRefresh<S, T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SilentRefresh")
            .field("inner", &self.inner)
            .field("cookies", &self.settings.cookies)
            .finish_non_exhaustive()
    }
}

/// What to do with a request.
enum Decision {
    /// Its access token is good.
    Trust(Identity),
    /// Ask for a renewal; `held` is what the access token is still good for.
    Renew { refresh: RefreshRequest, held: Option<Identity> },
    /// It brings no good session.
    Reject(Rejection),
}

fn decide<T: TokenService, B>(tokens: &T, policy: &CookiePolicy, request: &Request<B>) -> Decision {
    if is_preflight(request) {
        return Decision::Reject(Rejection::new(SessionEvent::Missing));
    }
    let client = || ClientInfo::from_request_parts(request.extensions(), request.headers());
    let (access, refresh) = match policy.find(request.headers()) {
        Ok([None, None]) => return decide_by_bearer(tokens, request.headers(), &client),
        Ok([access, refresh]) => (CookieValue::of(access), refresh),
        Err(DuplicateCookie) => return Decision::Reject(Rejection::new(SessionEvent::Malformed)),
    };
    let verified = match verify(tokens, access, &client) {
        // Most need no more than this: the other cookie isn't read.
        Ok(Verified { identity, renew: false }) => return Decision::Trust(identity),
        verified => verified,
    };
    let renew = |refresh_token: &str, held: Option<Identity>| Decision::Renew {
        refresh: RefreshRequest {
            refresh_token: refresh_token.to_owned(),
            access_token: access.token().map(str::to_owned),
            of: held.as_ref().map(|identity| identity.session),
            client: client(),
        },
        held,
    };
    match (verified, CookieValue::of(refresh)) {
        (Ok(verified), CookieValue::Token(token)) => renew(token, Some(verified.identity)),
        (Ok(verified), _) => Decision::Trust(verified.identity),
        // Asking the store could only say the same, later.
        (Err(VerifyError::Ended(event)), _) => Decision::Reject(Rejection::new(event)),
        (Err(VerifyError::Unavailable), _) => Decision::Reject(Rejection::unavailable()),
        (Err(_), CookieValue::Token(token)) => renew(token, None),
        (Err(_), CookieValue::Unusable) => Decision::Reject(Rejection::new(SessionEvent::Malformed)),
        (Err(error), CookieValue::Absent) => Decision::Reject(Rejection::new(event_of(error))),
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
        Ok(verified) => Decision::Trust(verified.identity),
        Err(VerifyError::Unavailable) => Decision::Reject(Rejection::unavailable()),
        Err(error) => Decision::Reject(Rejection::of_bearer(event_of(error))),
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

fn event_of(error: VerifyError) -> SessionEvent {
    match error {
        VerifyError::Ended(event) => event,
        VerifyError::Expired => SessionEvent::Missing,
        VerifyError::Malformed => SessionEvent::Malformed,
        VerifyError::Unavailable => SessionEvent::StoreUnavailable,
        VerifyError::UnknownKey => SessionEvent::UnknownKey,
    }
}

/// How a renewal came out for the request that asked for it.
pub(super) enum RefreshOutcome {
    /// It goes on with fresh tokens.
    Renewed(RefreshedSession),
    /// It goes on with what its access token is still good for.
    Kept(Identity, Option<SessionEvent>),
    /// Its session is over, or that can't be told.
    Rejected(Rejection),
}

/// Decides on the answer to a renewal; `None` when it did not come in time.
pub(super) fn refresh_outcome(
    answer: Option<Result<RefreshedSession, RefreshError>>,
    held: Option<Identity>,
    on_store_loss: OnStoreLoss,
) -> RefreshOutcome {
    match (answer, held) {
        (Some(Ok(renewal)), _) => RefreshOutcome::Renewed(renewal),
        (None, Some(identity)) => RefreshOutcome::Kept(identity, None),
        (Some(Err(RefreshError::Unavailable)), Some(identity)) if on_store_loss == OnStoreLoss::Serve => {
            RefreshOutcome::Kept(identity, Some(SessionEvent::StoreUnavailable))
        }
        // Nothing is wrong with the session itself: the valid access token decides alone.
        (Some(Err(RefreshError::Over { event, .. })), Some(identity)) if !is_terminal(event) => {
            RefreshOutcome::Kept(identity, None)
        }
        (Some(Err(RefreshError::Over { event, clear })), _) => RefreshOutcome::Rejected(Rejection {
            clear_cookies: clear && is_terminal(event),
            ..Rejection::new(event)
        }),
        (Some(Err(RefreshError::Unavailable)), _) | (None, None) => {
            RefreshOutcome::Rejected(Rejection::unavailable())
        }
    }
}

/// Whether the word says that the session itself has ended.
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

/// A CORS preflight, as the Fetch standard makes them: it carries no credentials, and a browser
/// ignores the cookies that its answer sets.
fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}
