//! Builds the pages from the configuration.

use super::error::AppError;
use crate::config::{BuiltinRoutes, Config};
use crate::pages::{Pages, SignIn, Site};

/// Checks the files of the pages.
///
/// # Errors
///
/// Returns [`AppError::Pages`] for the first file that cannot be used.
pub fn check_pages(config: &Config) -> Result<(), AppError> {
    let host = config.server.public_origin.as_ref().map_or("localhost", |origin| origin.host());
    build_pages(config, host).map(drop)
}

/// Builds the pages for the service at `host`.
pub(super) fn build_pages(config: &Config, host: &str) -> Result<Pages, AppError> {
    let auth_prefix = config.server.auth_prefix.as_str();
    let site = Site { host, auth_prefix, serves_pages: serves_pages(config) };
    Ok(Pages::new(&config.pages, site)?)
}

/// Returns `true` if the built-in router serves the pages.
pub(super) fn serves_pages(config: &Config) -> bool {
    config.server.has(BuiltinRoutes::Auth) && config.pages.sign_in != SignIn::Off
}
