use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::cookies::CookiePolicy;

/// Handling of a valid access token when an early refresh finds the session store unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStoreLoss {
    /// The request continues. Until the token expires, its session cannot be terminated.
    #[default]
    Serve,
    /// The request is rejected as [`Unavailable`](super::RejectionKind::Unavailable).
    Refuse,
}

/// Settings of [`SilentRefreshLayer`](super::SilentRefreshLayer), shared with its services.
pub(super) struct Settings<T, R> {
    pub(super) tokens: Arc<T>,
    pub(super) cookies: Arc<CookiePolicy>,
    pub(super) on_reject: R,
    pub(super) refresh_timeout: Duration,
    pub(super) on_store_loss: OnStoreLoss,
    /// True once the log has named an outer layer with other cookies. Shared by all clones of the layer.
    pub(super) is_policy_reported: Arc<AtomicBool>,
}

// Not derived: a derive would require `T: Clone`.
impl<T, R: Clone> Clone for Settings<T, R> {
    fn clone(&self) -> Self {
        Self {
            tokens: Arc::clone(&self.tokens),
            cookies: Arc::clone(&self.cookies),
            on_reject: self.on_reject.clone(),
            refresh_timeout: self.refresh_timeout,
            on_store_loss: self.on_store_loss,
            is_policy_reported: Arc::clone(&self.is_policy_reported),
        }
    }
}
