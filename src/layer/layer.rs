use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::cookies::CookiePolicy;
use super::reject::ContinueAnonymous;
use super::service::SilentRefresh;

/// Layer that applies [`SilentRefresh`].
///
/// See the [module docs](crate::layer) for its rules and examples.
#[must_use]
pub struct SilentRefreshLayer<T, R = ContinueAnonymous> {
    settings: Settings<T, R>,
}

impl<T> SilentRefreshLayer<T> {
    /// A layer that lets `tokens` decide and keeps them in the cookies of `cookies`. Requests
    /// without a session go on as anonymous.
    pub fn new(tokens: Arc<T>, cookies: CookiePolicy) -> Self {
        let cookies = Arc::new(cookies);
        let (patience, on_store_loss) = (DEFAULT_REFRESH_TIMEOUT, OnStoreLoss::Serve);
        Self { settings: Settings { tokens, cookies, on_reject: ContinueAnonymous, patience, on_store_loss } }
    }
}

impl<T, R> SilentRefreshLayer<T, R> {
    /// Says what becomes of requests that bring no good session, instead of
    /// [`ContinueAnonymous`]: any [`OnReject`](super::OnReject), such as
    /// [`Reject401`](super::Reject401) or a closure.
    pub fn with_on_reject<R2>(self, on_reject: R2) -> SilentRefreshLayer<T, R2> {
        let Settings { tokens, cookies, patience, on_store_loss, .. } = self.settings;
        SilentRefreshLayer { settings: Settings { tokens, cookies, on_reject, patience, on_store_loss } }
    }

    /// Sets how long a renewal may take while the old access token is still good: 100 ms by
    /// default. Then the request goes on, and a later one carries the fresh cookies.
    pub fn with_refresh_timeout(mut self, patience: Duration) -> Self {
        self.settings.patience = patience;
        self
    }

    /// Says what a valid access token is worth where a renewal finds the store unavailable, instead
    /// of [`OnStoreLoss::Serve`].
    pub fn with_on_store_loss(mut self, on_store_loss: OnStoreLoss) -> Self {
        self.settings.on_store_loss = on_store_loss;
        self
    }
}

/// What a valid access token is worth when an early renewal finds the store unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStoreLoss {
    /// The request goes on; until the token expires, its session can't be ended.
    #[default]
    Serve,
    /// Nothing: the request is rejected as [`Unavailable`](super::RejectionKind::Unavailable).
    Refuse,
}

impl<S, T, R: Clone> Layer<S> for SilentRefreshLayer<T, R> {
    type Service = SilentRefresh<S, T, R>;

    fn layer(&self, inner: S) -> Self::Service {
        SilentRefresh::new(inner, Arc::new(self.settings.clone()))
    }
}

impl<T, R: Clone> Clone for SilentRefreshLayer<T, R> {
    fn clone(&self) -> Self {
        Self { settings: self.settings.clone() }
    }
}

impl<T, R> fmt::Debug for SilentRefreshLayer<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SilentRefreshLayer")
            .field("cookies", &self.settings.cookies)
            .field("patience", &self.settings.patience)
            .field("on_store_loss", &self.settings.on_store_loss)
            .finish_non_exhaustive()
    }
}

pub(super) struct Settings<T, R> {
    pub(super) tokens: Arc<T>,
    pub(super) cookies: Arc<CookiePolicy>,
    pub(super) on_reject: R,
    pub(super) patience: Duration,
    pub(super) on_store_loss: OnStoreLoss,
}

// Not derived: that would ask for `T: Clone`.
impl<T, R: Clone> Clone for Settings<T, R> {
    fn clone(&self) -> Self {
        Self {
            tokens: Arc::clone(&self.tokens),
            cookies: Arc::clone(&self.cookies),
            on_reject: self.on_reject.clone(),
            patience: self.patience,
            on_store_loss: self.on_store_loss,
        }
    }
}

const DEFAULT_REFRESH_TIMEOUT: Duration = Duration::from_millis(100);
