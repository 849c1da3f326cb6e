//! Abortion of a response whose client has stopped reading.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// Aborts a response while its client is not reading.
///
/// A body is not polled in that state, so it cannot end the stream itself.
///
/// The service adds a handle to the response's extensions. The server removes it and registers the action
/// with [`on_abort`](Self::on_abort). With a server that does not support handles, [`abort`](Self::abort)
/// has no effect.
///
/// ```
/// use sekisho::response_abort::ResponseAbortHandle;
///
/// let handle = ResponseAbortHandle::default();
/// let mut response = http::Response::new(());
/// response.extensions_mut().insert(handle.clone());
///
/// // In the server:
/// let (sender, receiver) = std::sync::mpsc::channel();
/// let registered: Option<ResponseAbortHandle> = response.extensions_mut().remove();
/// registered.expect("a handle").on_abort(move || _ = sender.send("aborted"));
///
/// handle.abort();
/// assert_eq!(receiver.try_recv(), Ok("aborted"));
/// ```
#[derive(Clone, Default)]
pub struct ResponseAbortHandle(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl ResponseAbortHandle {
    /// Registers the action. Only the first call has an effect.
    pub fn on_abort(&self, action: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(action));
    }

    /// Aborts the response. Data that was already sent may be lost too.
    pub fn abort(&self) {
        if let Some(action) = self.0.get() {
            action();
        }
    }
}

impl fmt::Debug for ResponseAbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseAbortHandle").field("has_action", &self.0.get().is_some()).finish()
    }
}
