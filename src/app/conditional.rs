//! A layer that applies to some requests only.

use std::task::{Context, Poll, ready};

use futures_util::future::Either;
use http::Request;
use tower::{Layer, Service};

/// Applies a layer to the requests for which `condition` returns `true`. Others bypass it.
#[derive(Clone)]
pub(super) struct ConditionalLayer<L, P> {
    layer: L,
    condition: P,
}

impl<L, P> ConditionalLayer<L, P> {
    pub(super) fn new(layer: L, condition: P) -> Self {
        Self { layer, condition }
    }
}

impl<S: Clone, L: Layer<S>, P: Clone> Layer<S> for ConditionalLayer<L, P> {
    type Service = Conditional<L::Service, S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Conditional {
            layered: self.layer.layer(inner.clone()),
            bypass: inner,
            condition: self.condition.clone(),
        }
    }
}

/// Service of [`ConditionalLayer`].
#[derive(Clone)]
pub(super) struct Conditional<L, S, P> {
    layered: L,
    bypass: S,
    condition: P,
}

impl<L, S, P, B> Service<Request<B>> for Conditional<L, S, P>
where
    L: Service<Request<B>>,
    S: Service<Request<B>, Response = L::Response, Error = L::Error>,
    P: Fn(&Request<B>) -> bool,
{
    type Response = L::Response;
    type Error = L::Error;
    type Future = Either<L::Future, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), L::Error>> {
        ready!(self.layered.poll_ready(cx))?;
        self.bypass.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if (self.condition)(&request) {
            Either::Left(self.layered.call(request))
        } else {
            Either::Right(self.bypass.call(request))
        }
    }
}
