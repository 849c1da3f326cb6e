//! The runtime for work that worker threads share: database, passwords, the revocation poller.
//!
//! Each worker thread has its own single-threaded runtime, which also proxies requests. The built-in router
//! runs on the shared runtime instead, so that worker threads wait for sockets alone and database connections
//! belong to one runtime.

use std::convert::Infallible;
use std::future::Future;

use axum::body::Body;
use axum::response::IntoResponse;
use http::Response;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::request_context::with_current_context;
use crate::routers::ApiError;

/// Handle of the runtime that the application was built on. Outside of a runtime there is none, and work
/// runs where it is called.
#[derive(Clone)]
pub(super) struct SharedRuntime(Option<Handle>);

impl SharedRuntime {
    /// Returns the current runtime.
    pub(super) fn current() -> Self {
        Self(Handle::try_current().ok())
    }

    /// Runs `response` on the shared runtime. Dropping the returned future cancels it.
    pub(super) async fn run_on<F>(self, response: F) -> Result<Response<Body>, Infallible>
    where
        F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    {
        match self.0 {
            Some(runtime) if Handle::current().id() != runtime.id() => {
                // A `JoinSet` aborts its tasks on drop.
                let mut task = JoinSet::new();
                task.spawn_on(with_current_context(response), &runtime);
                // Panics become responses inside the task, so a failed task means that the runtime shuts down.
                let result = task.join_next().await.and_then(Result::ok);
                result.unwrap_or_else(|| Ok(ApiError::Busy.into_response()))
            }
            _ => response.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime")
    }

    fn current_in(runtime: &tokio::runtime::Runtime) -> SharedRuntime {
        let _entered = runtime.enter();
        SharedRuntime::current()
    }

    /// Returns the id of the runtime that it runs on.
    async fn runtime_id() -> Result<Response<Body>, Infallible> {
        Ok(Response::new(Body::from(Handle::current().id().to_string())))
    }

    #[test]
    fn responses_are_built_on_the_shared_runtime() {
        let shared = runtime();
        let other = runtime();
        let handle = current_in(&shared);
        let response = other.block_on(handle.run_on(runtime_id())).expect("infallible");
        let body = other.block_on(axum::body::to_bytes(response.into_body(), 100)).expect("a body");
        assert_eq!(body, shared.handle().id().to_string());
    }

    #[test]
    fn response_is_503_after_runtime_shutdown() {
        let shared = runtime();
        let other = runtime();
        let handle = current_in(&shared);
        drop(shared);
        let response = other.block_on(handle.run_on(runtime_id())).expect("infallible");
        assert_eq!(response.status(), http::StatusCode::SERVICE_UNAVAILABLE);
    }
}
