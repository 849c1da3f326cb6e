//! The runtime of the shared work: the database, passwords, the feed.
//!
//! Requests are served by threads of their own, each with a runtime for itself. What they pass on to an
//! upstream stays with its thread; what the program answers itself is done here, so that the threads
//! wait for nothing but sockets, and the database's connections live in one runtime alone.

use std::convert::Infallible;
use std::future::Future;

use axum::body::Body;
use axum::response::IntoResponse;
use http::Response;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::request_context::with_current_context;
use crate::routers::ApiError;

/// Where the program was built.
#[derive(Clone)]
pub(super) struct SharedRuntime(Option<Handle>);

impl SharedRuntime {
    /// This runtime.
    pub(super) fn current() -> Self {
        Self(Handle::try_current().ok())
    }

    /// Makes an answer at home, wherever it is asked for. A request that is dropped drops its answer.
    pub(super) async fn run_on<F>(self, answer: F) -> Result<Response<Body>, Infallible>
    where
        F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    {
        match self.0 {
            Some(home) if Handle::current().id() != home.id() => {
                let mut task = JoinSet::new();
                task.spawn_on(with_current_context(answer), &home);
                // Panics are answered inside; so this is a runtime that is going away.
                let answered = task.join_next().await.and_then(Result::ok);
                answered.unwrap_or_else(|| Ok(ApiError::Busy.into_response()))
            }
            _ => answer.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime")
    }

    /// Says in which runtime it was made.
    async fn told() -> Result<Response<Body>, Infallible> {
        Ok(Response::new(Body::from(Handle::current().id().to_string())))
    }

    #[test]
    fn answers_are_made_at_home() {
        let (home, elsewhere) = (runtime(), runtime());
        let here = {
            let _home = home.enter();
            SharedRuntime::current()
        };
        let response = elsewhere.block_on(here.run_on(told())).expect("infallible");
        let body = elsewhere.block_on(axum::body::to_bytes(response.into_body(), 100)).expect("a body");
        assert_eq!(body, home.handle().id().to_string());
    }

    #[test]
    fn a_home_that_is_gone_is_no_panic() {
        let (home, elsewhere) = (runtime(), runtime());
        let here = {
            let _home = home.enter();
            SharedRuntime::current()
        };
        drop(home);
        let response = elsewhere.block_on(here.run_on(told())).expect("infallible");
        assert_eq!(response.status(), http::StatusCode::SERVICE_UNAVAILABLE);
    }
}
