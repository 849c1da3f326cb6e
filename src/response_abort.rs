//! Ending an answer whose client takes nothing of it.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// A way to end an answer that is under way, for one who has nobody else to tell: a body isn't asked for
/// more, and so can't say that there is none, while its client takes nothing.
///
/// Whoever answers puts it among the response's extensions. The server that sends the answer takes it out
/// and says [`on_abort`](Self::on_abort) it hangs up. Other servers don't, and nothing happens then.
///
/// ```
/// use sekisho::response_abort::ResponseAbortHandle;
///
/// let hang_up = HangUp::default();
/// let mut response = http::Response::new(());
/// response.extensions_mut().insert(hang_up.clone());
///
/// // The server:
/// let (tell, told) = std::sync::mpsc::channel();
/// let taken: Option<HangUp> = response.extensions_mut().remove();
/// taken.expect("one").how(move || _ = tell.send("hung up"));
///
/// hang_up.now();
/// assert_eq!(told.try_recv(), Ok("hung up"));
/// ```
#[derive(Clone, Default)]
pub struct ResponseAbortHandle(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl ResponseAbortHandle {
    /// Says what is done. Only the first who says so counts.
    pub fn on_abort(&self, hang_up: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(hang_up));
    }

    /// Ends the answer, however far it has come. What was sent of it may not arrive either.
    pub fn abort(&self) {
        if let Some(hang_up) = self.0.get() {
            hang_up();
        }
    }
}

impl fmt::Debug for ResponseAbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HangUp").field("is_served", &self.0.get().is_some()).finish()
    }
}
