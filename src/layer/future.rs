use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http::{Method, Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::decision::{RefreshOutcome, refresh_outcome};
use super::reject::{OnReject, RejectedRequest, Rejection};
use super::response::{ResponseAction, clear_cookies};
use super::settings::Settings;
use super::token::{RefreshError, RefreshedSession, SessionActiveFuture, TokenService};
use crate::identity::Identity;
use crate::session_event::SessionEvent;

pin_project! {
    /// Response future of [`SilentRefresh`](super::SilentRefresh).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, T, R, B>
    where
        S: Service<Request<B>>,
        T: TokenService,
    {
        #[pin]
        state: State<S, T, R, B>,
    }
}

pin_project! {
    // All states but `Calling` are rare and boxed, which keeps the future as small as the inner one.
    #[project = StateProj]
    enum State<S, T, R, B>
    where
        S: Service<Request<B>>,
        T: TokenService,
    {
        Refreshing { refreshing: Pin<Box<Refreshing<S, T, R, B>>> },
        Calling { #[pin] future: S::Future, action: Option<Box<ResponseAction<T>>> },
        CheckingSession { checking: Pin<Box<CheckingSession<S::Response, T>>> },
        Ready { response: Option<Box<S::Response>> },
    }
}

pin_project! {
    struct Refreshing<S, T, R, B>
    where
        T: TokenService,
    {
        #[pin]
        refresh: T::Refresh,
        // Only with a still valid access token: without one the request cannot continue.
        #[pin]
        timeout: Option<Sleep>,
        pending: Option<PendingRequest<S, T, R, B>>,
    }
}

pin_project! {
    struct CheckingSession<A, T> {
        is_active: SessionActiveFuture,
        #[pin]
        timeout: Option<Sleep>,
        response: Option<(A, Box<ResponseAction<T>>)>,
    }
}

/// A request that waits for the refresh of its session.
struct PendingRequest<S, T, R, B> {
    inner: S,
    request: Request<B>,
    current: Option<Identity>,
    settings: Arc<Settings<T, R>>,
}

impl<S, T, R, B, RB> ResponseFuture<S, T, R, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    T: TokenService,
    R: OnReject<RB>,
{
    pub(super) fn passthrough(future: S::Future) -> Self {
        Self { state: State::Calling { future, action: None } }
    }

    pub(super) fn refreshing(
        refresh: T::Refresh,
        current: Option<Identity>,
        inner: S,
        request: Request<B>,
        settings: Arc<Settings<T, R>>,
    ) -> Self {
        let timeout = current.as_ref().map(|_| tokio::time::sleep(settings.refresh_timeout));
        let pending = Some(PendingRequest { inner, request, current, settings });
        let refreshing = Box::pin(Refreshing { refresh, timeout, pending });
        Self { state: State::Refreshing { refreshing } }
    }

    pub(super) fn rejected(
        rejection: Rejection,
        inner: &mut S,
        mut request: Request<B>,
        settings: &Settings<T, R>,
    ) -> Self {
        log_rejection(&rejection);
        let state = match settings.on_reject.on_reject(&RejectedRequest::new(rejection, &request)) {
            Some(mut response) => {
                rejection.insert_headers(&mut response);
                clear_cookies(&mut response, &rejection, &settings.cookies);
                State::Ready { response: Some(Box::new(response)) }
            }
            None => {
                // An outer layer with other sessions may have accepted the request. Here it is anonymous.
                request.extensions_mut().remove::<Identity>();
                request.extensions_mut().insert(rejection);
                let action = ResponseAction::Anonymous { rejection, policy: Arc::clone(&settings.cookies) };
                State::Calling { future: inner.call(request), action: Some(Box::new(action)) }
            }
        };
        Self { state }
    }
}

impl<S, T, R, B, RB> Future for ResponseFuture<S, T, R, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    T: TokenService,
    R: OnReject<RB>,
{
    type Output = Result<Response<RB>, S::Error>;

    #[expect(clippy::expect_used, reason = "polling again is the caller's mistake")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Refreshing { refreshing } => {
                    let refreshing = refreshing.as_mut().project();
                    let result = ready!(poll_with_timeout(refreshing.refresh, refreshing.timeout, cx));
                    let pending = refreshing.pending.take().expect("ResponseFuture polled after a panic");
                    let next = pending.resume(result);
                    state.set(next);
                }
                StateProj::Calling { future, action } => {
                    let mut response = ready!(future.poll(cx))?;
                    let Some(action) = action.take() else { return Poll::Ready(Ok(response)) };
                    let Some(is_active) = action.session_check() else {
                        action.apply(&mut response);
                        return Poll::Ready(Ok(response));
                    };
                    let timeout = Some(tokio::time::sleep(SESSION_CHECK_TIMEOUT));
                    let response = Some((response, action));
                    let checking = Box::pin(CheckingSession { is_active, timeout, response });
                    state.set(State::CheckingSession { checking });
                }
                StateProj::CheckingSession { checking } => {
                    let checking = checking.as_mut().project();
                    let is_active =
                        ready!(poll_with_timeout(checking.is_active.as_mut(), checking.timeout, cx));
                    let (mut response, mut action) =
                        checking.response.take().expect("ResponseFuture polled after completion");
                    if is_active != Some(true) {
                        action.withhold_cookies();
                    }
                    action.apply(&mut response);
                    return Poll::Ready(Ok(response));
                }
                StateProj::Ready { response } => {
                    let response = response.take().expect("ResponseFuture polled after completion");
                    return Poll::Ready(Ok(*response));
                }
            }
        }
    }
}

/// Polls `future`. Returns `None` once `timeout` has elapsed.
fn poll_with_timeout<F: Future + ?Sized>(
    future: Pin<&mut F>,
    timeout: Pin<&mut Option<Sleep>>,
    cx: &mut Context<'_>,
) -> Poll<Option<F::Output>> {
    if let Poll::Ready(output) = future.poll(cx) {
        return Poll::Ready(Some(output));
    }
    match timeout.as_pin_mut() {
        Some(timeout) => timeout.poll(cx).map(|()| None),
        None => Poll::Pending,
    }
}

impl<S, T, R, B, RB> PendingRequest<S, T, R, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    T: TokenService,
    R: OnReject<RB>,
{
    fn resume(mut self, result: Option<Result<RefreshedSession, RefreshError>>) -> State<S, T, R, B> {
        let had_expired = self.current.is_none();
        match refresh_outcome(result, self.current.take(), self.settings.on_store_loss) {
            RefreshOutcome::Refreshed(refreshed) => {
                tracing::info!(
                    session_event = %refreshed.event,
                    session = %refreshed.identity.session,
                    user = %refreshed.identity.subject,
                    "session refreshed"
                );
                if had_expired {
                    strip_conditional_headers(&mut self.request);
                }
                let cookies = Arc::clone(&self.settings.cookies);
                let tokens = Arc::clone(&self.settings.tokens);
                let action = ResponseAction::set_cookies(&refreshed, cookies, tokens);
                self.call_with_identity(refreshed.identity, Some(action))
            }
            RefreshOutcome::Kept(identity, event) => {
                if let Some(event) = event {
                    let session = identity.session;
                    tracing::warn!(session_event = %event, %session, "session refresh postponed");
                }
                self.call_with_identity(identity, event.map(ResponseAction::Report))
            }
            RefreshOutcome::Rejected(rejection) => {
                ResponseFuture::rejected(rejection, &mut self.inner, self.request, &self.settings).state
            }
        }
    }

    fn call_with_identity(
        mut self,
        identity: Identity,
        action: Option<ResponseAction<T>>,
    ) -> State<S, T, R, B> {
        self.request.extensions_mut().insert(identity);
        State::Calling { future: self.inner.call(self.request), action: action.map(Box::new) }
    }
}

/// Timeout of the check that a session is still active: the time that a termination may take to reach
/// all replicas.
const SESSION_CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Removes the validators of a `GET` or `HEAD`, so that the response is not a 304, which cannot set
/// cookies.
fn strip_conditional_headers<B>(request: &mut Request<B>) {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        request.headers_mut().remove(IF_NONE_MATCH);
        request.headers_mut().remove(IF_MODIFIED_SINCE);
    }
}

fn log_rejection(rejection: &Rejection) {
    let event = rejection.event;
    let bearer = rejection.bearer;
    match event {
        // Any client can cause these at will.
        SessionEvent::Missing | SessionEvent::Malformed => {
            tracing::debug!(session_event = %event, bearer, "no session");
        }
        SessionEvent::StoreUnavailable => {
            tracing::warn!(session_event = %event, bearer, "session check failed");
        }
        _ => tracing::info!(session_event = %event, bearer, "session rejected"),
    }
}
