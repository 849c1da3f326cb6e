//! Converts panics of the inner service into 500 responses.

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

/// Calls a service. A panic of `call` or of the returned future becomes a 500 response.
pub(super) fn catch_panic<F>(call: impl FnOnce() -> F) -> CatchPanicFuture<F> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(future) => CatchPanicFuture::Running { future },
        Err(cause) => CatchPanicFuture::Panicked { response: Some(Box::new(panic_response(&*cause))) },
    }
}

/// Converts panics of the inner service into 500 responses.
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
    #[project = CatchPanicFutureProj]
    pub enum CatchPanicFuture<F> {
        Running { #[pin] future: F },
        Panicked { response: Option<Box<Response<Body>>> },
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for CatchPanicFuture<F> {
    type Output = Result<Response<Body>, Infallible>;

    #[expect(clippy::expect_used, reason = "polling after completion is a bug of the caller")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            CatchPanicFutureProj::Running { future } => catch_unwind(AssertUnwindSafe(|| future.poll(cx)))
                .unwrap_or_else(|cause| Poll::Ready(Ok(panic_response(&*cause)))),
            CatchPanicFutureProj::Panicked { response } => {
                Poll::Ready(Ok(*response.take().expect("CatchPanicFuture polled after completion")))
            }
        }
    }
}

fn panic_response(cause: &(dyn Any + Send)) -> Response<Body> {
    let message = match cause.downcast_ref::<&str>() {
        Some(message) => Some(*message),
        None => cause.downcast_ref::<String>().map(String::as_str),
    };
    tracing::error!(panic = message.unwrap_or("unknown payload"), "request handler panicked");
    ApiError::Panicked.into_response()
}
