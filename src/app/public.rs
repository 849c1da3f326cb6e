//! The public listener's service, by a name.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::cors_csrf::{CorsCsrf, CorsCsrfFuture};
use super::reload::ThreadStack;
use super::request_recorder::{RecorderFuture, RequestRecorder};

/// What browsers and other clients reach. Cheap to clone.
///
/// Each request meets what is in force when it arrives, to its end. See
/// [`App::apply`](super::App::apply).
#[derive(Clone)]
pub struct PublicService(pub(super) Arc<ThreadStack>);

/// The stack, in the order in which a request passes it: in, past what pages of other origins may not
/// do, and to its face.
pub(super) type PublicStack = RequestRecorder<CorsCsrf>;

impl PublicService {
    /// The same for a thread of its own: with its own connections to upstreams, and nothing that is
    /// counted up and down on every core for every request.
    #[must_use]
    pub fn for_thread(&self) -> Self {
        Self(self.0.for_thread())
    }
}

impl Service<Request<Body>> for PublicService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = PublicFuture;

    /// The stack is always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> PublicFuture {
        PublicFuture { answering: self.0.let_in(request) }
    }
}

pin_project! {
    /// Response future of [`PublicService`].
    pub struct PublicFuture {
        #[pin]
        answering: RecorderFuture<CorsCsrfFuture>,
    }
}

impl Future for PublicFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().answering.poll(cx)
    }
}
