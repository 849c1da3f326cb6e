//! The error of building the application.

use tower_http::csrf;

use crate::config::ValueSource;
use crate::layer::CookiePolicyError;
use crate::pages::PagesError;
use crate::proxy::RouteError;
use crate::services::password::PasswordError;

/// Error of [`App::build`](super::App::build) and [`App::prepare`](super::App::prepare): settings that
/// are well formed but cannot be used together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The cookie settings are invalid.
    #[error(transparent)]
    Cookies(#[from] CookiePolicyError),
    /// An origin cannot be trusted for cross-site requests.
    #[error("server.allowed_origins: {0}")]
    Origin(#[from] csrf::ConfigError),
    /// A file of the pages cannot be used.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// The password settings are invalid.
    #[error(transparent)]
    Passwords(#[from] PasswordError),
    /// A route is invalid or conflicts with another one.
    #[error("the route {place}: {source}")]
    Route {
        /// Position of the route in the configuration.
        place: ValueSource,
        /// The cause.
        source: Box<RouteError>,
    },
}
