use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::cookies::CookiePolicy;
use super::policies;
use super::reject::ContinueAnonymous;
use super::service::SilentRefresh;
use super::settings::{OnStoreLoss, Settings};

/// Layer that applies [`SilentRefresh`].
///
/// See the [module docs](crate::layer) for its rules and examples.
#[must_use]
pub struct SilentRefreshLayer<T, R = ContinueAnonymous> {
    settings: Settings<T, R>,
}

impl<T> SilentRefreshLayer<T> {
    /// Creates a layer that checks and refreshes sessions with `tokens` and carries them in the cookies
    /// of `cookies`. Requests without a session continue as anonymous.
    pub fn new(tokens: Arc<T>, cookies: impl Into<Arc<CookiePolicy>>) -> Self {
        let cookies = cookies.into();
        policies::register(&cookies);
        let settings = Settings {
            tokens,
            cookies,
            on_reject: ContinueAnonymous,
            refresh_timeout: DEFAULT_REFRESH_TIMEOUT,
            on_store_loss: OnStoreLoss::Serve,
            is_policy_reported: Arc::default(),
        };
        Self { settings }
    }
}

impl<T, R> SilentRefreshLayer<T, R> {
    /// Sets the handling of requests without a valid session: any [`OnReject`](super::OnReject), such as
    /// [`Reject401`](super::Reject401) or a closure. The default is [`ContinueAnonymous`].
    pub fn with_on_reject<R2>(self, on_reject: R2) -> SilentRefreshLayer<T, R2> {
        let Settings { tokens, cookies, refresh_timeout, on_store_loss, is_policy_reported, .. } =
            self.settings;
        SilentRefreshLayer {
            settings: Settings {
                tokens,
                cookies,
                on_reject,
                refresh_timeout,
                on_store_loss,
                is_policy_reported,
            },
        }
    }

    /// Sets the timeout of a refresh while the access token is still valid: 100 ms by default.
    ///
    /// After the timeout the request continues, and a later one carries the new cookies.
    pub fn with_refresh_timeout(mut self, timeout: Duration) -> Self {
        self.settings.refresh_timeout = timeout;
        self
    }

    /// Sets the handling of a valid access token when a refresh finds the store unavailable. The default
    /// is [`OnStoreLoss::Serve`].
    pub fn with_on_store_loss(mut self, on_store_loss: OnStoreLoss) -> Self {
        self.settings.on_store_loss = on_store_loss;
        self
    }
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
            .field("refresh_timeout", &self.settings.refresh_timeout)
            .field("on_store_loss", &self.settings.on_store_loss)
            .finish_non_exhaustive()
    }
}

const DEFAULT_REFRESH_TIMEOUT: Duration = Duration::from_millis(100);
