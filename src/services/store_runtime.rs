//! The tokio runtime that runs the store's work.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::JoinError;

use super::store::StoreError;
use crate::request_context::with_current_context;

/// The runtime on which [`Tokens`](super::token::Tokens) were built, if there was one.
///
/// Database connections are registered with the runtime that opened them. Store calls therefore run
/// on this runtime rather than on the worker threads that serve requests.
#[derive(Clone, Debug)]
pub(super) struct StoreRuntime(Option<Handle>);

impl StoreRuntime {
    /// The current runtime, or none outside of a runtime.
    pub(super) fn current() -> Self {
        Self(Handle::try_current().ok())
    }

    /// Runs `work` on this runtime, and in place if it is the current one.
    ///
    /// # Errors
    ///
    /// If the runtime is shutting down, or `work` panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, JoinError> {
        match &self.0 {
            Some(runtime) if Handle::current().id() != runtime.id() => {
                runtime.spawn(with_current_context(work)).await
            }
            _ => Ok(work.await),
        }
    }

    /// The runtime for background tasks: this one, or else the current one.
    pub(super) fn handle(&self) -> Option<Handle> {
        self.0.clone().or_else(|| Handle::try_current().ok())
    }
}

/// Runs `work` to completion, also if the returned future is dropped.
///
/// A change that the store has committed must reach this process's own state too.
pub(super) async fn run_detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::spawn(with_current_context(work)).await.map_err(StoreError::unavailable)?
}
