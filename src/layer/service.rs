use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::decision::{Decision, decide};
use super::future::ResponseFuture;
use super::policies;
use super::reject::{ContinueAnonymous, OnReject};
use super::settings::Settings;
use super::token::TokenService;

/// Middleware that adds an [`Identity`](crate::identity::Identity) to requests and refreshes their
/// session.
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
        let Settings { cookies, is_policy_reported, .. } = &*self.settings;
        policies::check(cookies, is_policy_reported, request.extensions_mut());
        match decide(&*self.settings.tokens, &self.settings.cookies, &request) {
            Decision::Accept(identity) => {
                request.extensions_mut().insert(identity);
                ResponseFuture::passthrough(self.inner.call(request))
            }
            Decision::Refresh { refresh, current } => {
                let clone = self.inner.clone();
                // The clone need not be ready. The service that was polled is.
                let inner = mem::replace(&mut self.inner, clone);
                let refresh = self.settings.tokens.refresh(refresh);
                ResponseFuture::refreshing(refresh, current, inner, request, Arc::clone(&self.settings))
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
