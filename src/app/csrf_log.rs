//! Log of requests that the CSRF layer rejects.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::ORIGIN;
use http::{HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tower_http::csrf::ProtectionError;

/// Layer that logs the rejections of `csrf`, with the origin of the request and those that are trusted.
#[derive(Clone)]
pub(super) struct CsrfLogLayer<L> {
    csrf: L,
    trusted_origins: Arc<str>,
}

impl<L> CsrfLogLayer<L> {
    pub(super) fn new(csrf: L, trusted_origins: Arc<str>) -> Self {
        Self { csrf, trusted_origins }
    }
}

impl<S, L: Layer<S>> Layer<S> for CsrfLogLayer<L> {
    type Service = CsrfLog<L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        CsrfLog { inner: self.csrf.layer(inner), trusted_origins: Arc::clone(&self.trusted_origins) }
    }
}

/// Service of [`CsrfLogLayer`].
#[derive(Clone)]
pub(super) struct CsrfLog<S> {
    inner: S,
    trusted_origins: Arc<str>,
}

impl<S, B, R> Service<Request<B>> for CsrfLog<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = CsrfLogFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let origin = request.headers().get(ORIGIN).cloned();
        let site = request.headers().get("sec-fetch-site").cloned();
        let trusted_origins = Arc::clone(&self.trusted_origins);
        CsrfLogFuture { future: self.inner.call(request), origin, site, trusted_origins }
    }
}

pin_project! {
    /// Response future of [`CsrfLog`].
    pub(super) struct CsrfLogFuture<F> {
        #[pin]
        future: F,
        origin: Option<HeaderValue>,
        site: Option<HeaderValue>,
        trusted_origins: Arc<str>,
    }
}

impl<F, R, E> Future for CsrfLogFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        if response.extensions().get::<ProtectionError>().is_some() {
            let text = |value: &Option<HeaderValue>| {
                let value =
                    value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                value.unwrap_or_else(|| "none".to_owned())
            };
            tracing::info!(
                origin = text(this.origin),
                sec_fetch_site = text(this.site),
                trusted_origins = &**this.trusted_origins,
                "cross-site request rejected"
            );
        }
        Poll::Ready(Ok(response))
    }
}
