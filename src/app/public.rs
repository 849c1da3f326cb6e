//! The public listener's service, by a name.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::cross_origin::CrossOrigin;
use super::entrance::{Entered, Entrance};
use super::gateway::Gateway;

/// What browsers and other clients reach. Cheap to clone.
#[derive(Clone)]
pub struct Public(pub(super) Entrance<CrossOrigin<Gateway>>);

impl Public {
    /// The same for a thread of its own: with its own connections to upstreams, and nothing that is
    /// counted up and down on every core for every request.
    #[must_use]
    pub fn for_thread(&self) -> Self {
        let (entrance, checks) = (&self.0, self.0.inner());
        Self(entrance.around(checks.before(checks.inner().for_thread())))
    }
}

impl Service<Request<Body>> for Public {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = PublicFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> PublicFuture {
        PublicFuture { answering: self.0.call(request) }
    }
}

pin_project! {
    /// Response future of [`Public`].
    pub struct PublicFuture {
        #[pin]
        answering: Entered<<CrossOrigin<Gateway> as Service<Request<Body>>>::Future>,
    }
}

impl Future for PublicFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().answering.poll(cx)
    }
}
