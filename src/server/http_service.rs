//! The signature of the services that the server can run.

use std::convert::Infallible;

use axum::body::Body;
use http::{Request, Response};
use tower::Service;

/// Service that the server can run, such as an axum [`Router`](axum::Router).
///
/// Implemented for all services of this signature.
pub trait HttpService:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> HttpService for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}
