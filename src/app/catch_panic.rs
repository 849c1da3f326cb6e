//! A panic costs the request in which it happens, and no other.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::IntoResponse;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use crate::routers::ApiError;

/// Calls a service, and answers 500 where it panics, now or later.
pub(super) fn catch_panic<F>(call: impl FnOnce() -> F) -> CatchPanicFuture<F> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(future) => CatchPanicFuture::Running { future },
        Err(cause) => CatchPanicFuture::Panicked { answer: Some(Box::new(panic_response(&*cause))) },
    }
}

/// Answers 500 where the service below panics.
#[derive(Clone)]
pub(super) struct CatchPanic<S>(pub(super) S);

impl<S> Service<Request<Body>> for CatchPanic<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = CatchPanicFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        catch_panic(|| self.0.call(request))
    }
}

pin_project! {
    /// Response future of [`CatchPanic`] and [`catch_panic`].
    #[project = CaughtProj]
    pub(super) enum CatchPanicFuture<F> {
        Running { #[pin] future: F },
        Panicked { answer: Option<Box<Response<Body>>> },
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for CatchPanicFuture<F> {
    type Output = Result<Response<Body>, Infallible>;

    #[expect(clippy::expect_used, reason = "polling again is the caller's mistake")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            CaughtProj::Running { future } => catch_unwind(AssertUnwindSafe(|| future.poll(cx)))
                .unwrap_or_else(|cause| Poll::Ready(Ok(panic_response(&*cause)))),
            CaughtProj::Panicked { answer } => {
                Poll::Ready(Ok(*answer.take().expect("Caught polled after completion")))
            }
        }
    }
}

fn panic_response(cause: &(dyn Any + Send)) -> Response<Body> {
    let text =
        cause.downcast_ref::<&str>().copied().or_else(|| cause.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("of unknown kind"), "a request panicked");
    ApiError::Panicked.into_response()
}
