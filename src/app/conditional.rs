//! A layer for some requests only.

use std::task::{Context, Poll, ready};

use futures_util::future::Either;
use http::Request;
use tower::{Layer, Service};

/// Applies a layer to the requests for which `when` says so; the others pass as if it weren't there.
#[derive(Clone)]
pub(super) struct ConditionalLayer<L, P> {
    layer: L,
    when: P,
}

impl<L, P> ConditionalLayer<L, P> {
    pub(super) fn new(layer: L, when: P) -> Self {
        Self { layer, when }
    }
}

impl<S: Clone, L: Layer<S>, P: Clone> Layer<S> for ConditionalLayer<L, P> {
    type Service = Conditional<L::Service, S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Conditional { layered: self.layer.layer(inner.clone()), plain: inner, when: self.when.clone() }
    }
}

/// Service of [`ConditionalLayer`].
#[derive(Clone)]
pub(super) struct Conditional<A, S, P> {
    layered: A,
    plain: S,
    when: P,
}

impl<A, S, P, B> Service<Request<B>> for Conditional<A, S, P>
where
    A: Service<Request<B>>,
    S: Service<Request<B>, Response = A::Response, Error = A::Error>,
    P: Fn(&Request<B>) -> bool,
{
    type Response = A::Response;
    type Error = A::Error;
    type Future = Either<A::Future, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        ready!(self.layered.poll_ready(cx))?;
        self.plain.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if (self.when)(&request) {
            Either::Left(self.layered.call(request))
        } else {
            Either::Right(self.plain.call(request))
        }
    }
}
