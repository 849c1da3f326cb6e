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

use super::layer::Settings;
use super::reject::{OnReject, Rejection};
use super::response::{ResponseAction, clear_cookies};
use super::service::{RefreshOutcome, refresh_outcome};
use super::token::{RefreshError, RefreshedSession, SessionActiveFuture, TokenService};
use crate::identity::Identity;
use crate::request_context::RequestContext;
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
    // All but a call is rare, and in a box: the future is no larger than the inner one, and moved as fast.
    #[project = StateProj]
    enum State<S, T, R, B>
    where
        S: Service<Request<B>>,
        T: TokenService,
    {
        Refreshing { refreshing: Pin<Box<Refreshing<S, T, R, B>>> },
        Calling { #[pin] future: S::Future, after: Option<Box<ResponseAction>> },
        Asking { asking: Pin<Box<CheckingSession<S::Response>>> },
        Answered { response: Option<Box<S::Response>> },
    }
}

pin_project! {
    struct Refreshing<S, T, R, B>
    where
        T: TokenService,
    {
        #[pin]
        refresh: T::Refresh,
        // Only beside a still valid access token: without one there is nothing to go on with.
        #[pin]
        patience: Option<Sleep>,
        waiting: Option<PendingRequest<S, T, R, B>>,
    }
}

pin_project! {
    struct CheckingSession<A> {
        still_lives: SessionActiveFuture,
        #[pin]
        patience: Option<Sleep>,
        answer: Option<(A, Box<ResponseAction>)>,
    }
}

/// What a renewal holds up.
struct PendingRequest<S, T, R, B> {
    inner: S,
    request: Request<B>,
    held: Option<Identity>,
    settings: Arc<Settings<T, R>>,
}

impl<S, T, R, B, RB> ResponseFuture<S, T, R, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    T: TokenService,
    R: OnReject<RB>,
{
    pub(super) fn passthrough(future: S::Future) -> Self {
        Self { state: State::Calling { future, after: None } }
    }

    pub(super) fn refreshing(
        refresh: T::Refresh,
        held: Option<Identity>,
        inner: S,
        request: Request<B>,
        settings: Arc<Settings<T, R>>,
    ) -> Self {
        let patience = held.as_ref().map(|_| tokio::time::sleep(settings.patience));
        let waiting = Some(PendingRequest { inner, request, held, settings });
        let refreshing = Box::pin(Refreshing { refresh, patience, waiting });
        Self { state: State::Refreshing { refreshing } }
    }

    pub(super) fn rejected(
        rejection: Rejection,
        inner: &mut S,
        request: Request<B>,
        settings: &Settings<T, R>,
    ) -> Self {
        Self { state: reject(rejection, inner, request, settings) }
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
                    let answer = ready!(poll_with_timeout(refreshing.refresh, refreshing.patience, cx));
                    let waiting = refreshing.waiting.take().expect("ResponseFuture polled after a panic");
                    let next = waiting.resume(answer);
                    state.set(next);
                }
                StateProj::Calling { future, after } => {
                    let mut response = ready!(future.poll(cx))?;
                    let Some(after) = after.take() else { return Poll::Ready(Ok(response)) };
                    let Some(still_lives) = after.session_check() else {
                        after.apply(&mut response);
                        return Poll::Ready(Ok(response));
                    };
                    let patience = Some(tokio::time::sleep(SESSION_CHECK_TIMEOUT));
                    let asking = CheckingSession { still_lives, patience, answer: Some((response, after)) };
                    state.set(State::Asking { asking: Box::pin(asking) });
                }
                StateProj::Asking { asking } => {
                    let asking = asking.as_mut().project();
                    let lives = ready!(poll_with_timeout(asking.still_lives.as_mut(), asking.patience, cx));
                    let (mut response, mut after) =
                        asking.answer.take().expect("ResponseFuture polled after completion");
                    if lives != Some(true) {
                        after.withhold_cookies();
                    }
                    after.apply(&mut response);
                    return Poll::Ready(Ok(response));
                }
                StateProj::Answered { response } => {
                    let response = response.take().expect("ResponseFuture polled after completion");
                    return Poll::Ready(Ok(*response));
                }
            }
        }
    }
}

fn poll_with_timeout<F: Future + ?Sized>(
    refresh: Pin<&mut F>,
    patience: Pin<&mut Option<Sleep>>,
    cx: &mut Context<'_>,
) -> Poll<Option<F::Output>> {
    if let Poll::Ready(answer) = refresh.poll(cx) {
        return Poll::Ready(Some(answer));
    }
    match patience.as_pin_mut() {
        Some(patience) => patience.poll(cx).map(|()| None),
        None => Poll::Pending,
    }
}

impl<S, T, R, B, RB> PendingRequest<S, T, R, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    T: TokenService,
    R: OnReject<RB>,
{
    fn resume(mut self, answer: Option<Result<RefreshedSession, RefreshError>>) -> State<S, T, R, B> {
        let expired = self.held.is_none();
        match refresh_outcome(answer, self.held.take(), self.settings.on_store_loss) {
            RefreshOutcome::Renewed(renewal) => {
                tracing::info!(
                    session_event = %renewal.event,
                    session = %renewal.identity.session,
                    user = %renewal.identity.subject,
                    "session renewed"
                );
                if expired {
                    strip_conditional_headers(&mut self.request);
                }
                let settings = &self.settings;
                let after = ResponseAction::set_cookies(
                    &renewal,
                    Arc::clone(&settings.cookies),
                    Arc::clone(&settings.tokens),
                );
                self.call_with_identity(renewal.identity, Some(after))
            }
            RefreshOutcome::Kept(identity, event) => {
                if let Some(event) = event {
                    tracing::warn!(session_event = %event, session = %identity.session, "session not renewed yet");
                }
                self.call_with_identity(identity, event.map(ResponseAction::Note))
            }
            RefreshOutcome::Rejected(rejection) => {
                reject(rejection, &mut self.inner, self.request, &self.settings)
            }
        }
    }

    fn call_with_identity(mut self, identity: Identity, after: Option<ResponseAction>) -> State<S, T, R, B> {
        RequestContext::with_current(|scope| scope.set_identity(&identity));
        self.request.extensions_mut().insert(identity);
        State::Calling { future: self.inner.call(self.request), after: after.map(Box::new) }
    }
}

/// How long an answer waits to be told whether the session still lives: as long as what has ended may
/// take to be known everywhere.
const SESSION_CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Without its validators a request gets no 304, which could carry no cookies.
fn strip_conditional_headers<B>(request: &mut Request<B>) {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        request.headers_mut().remove(IF_NONE_MATCH);
        request.headers_mut().remove(IF_MODIFIED_SINCE);
    }
}

fn reject<S, T, R, B, RB>(
    rejection: Rejection,
    inner: &mut S,
    mut request: Request<B>,
    settings: &Settings<T, R>,
) -> State<S, T, R, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    T: TokenService,
    R: OnReject<RB>,
{
    report(&rejection);
    match settings.on_reject.on_reject(&rejection) {
        Some(mut response) => {
            rejection.insert_headers(&mut response);
            clear_cookies(&mut response, &rejection, &settings.cookies);
            State::Answered { response: Some(Box::new(response)) }
        }
        None => {
            request.extensions_mut().insert(rejection);
            let after = ResponseAction::Forget { rejection, cookies: Arc::clone(&settings.cookies) };
            State::Calling { future: inner.call(request), after: Some(Box::new(after)) }
        }
    }
}

fn report(rejection: &Rejection) {
    let (event, bearer) = (rejection.event, rejection.bearer);
    match event {
        // Anybody can cause these, as often as they like.
        SessionEvent::Missing | SessionEvent::Malformed => {
            tracing::debug!(session_event = %event, bearer, "no session");
        }
        SessionEvent::StoreUnavailable => {
            tracing::warn!(session_event = %event, bearer, "session can't be checked");
        }
        _ => tracing::info!(session_event = %event, bearer, "session refused"),
    }
}
