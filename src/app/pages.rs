//! Builds the pages from the configuration.

use std::sync::Arc;

use super::error::AppError;
use crate::config::{Config, Origin};
use crate::pages::{DemoCredentials, Pages, SharedPages, SignIn, SignInTarget, Site};
use crate::routers::AuthState;
use crate::routers::pages::PagesState;

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
    let site = Site { host, auth_prefix, serves_pages: config.server.serves_pages };
    Ok(Pages::new(&config.pages, site)?)
}

/// Returns the state of the routes of pages.
pub(super) fn pages_state(
    config: &Config,
    origin: &Origin,
    auth: AuthState,
    pages: SharedPages,
    sample: Option<DemoCredentials>,
) -> PagesState {
    let auth_prefix = config.server.auth_prefix.as_str();
    let own_sign_in = match &config.pages.sign_in {
        own @ SignIn::Url(_) => SignInTarget::new(own, origin.as_str(), auth_prefix),
        SignIn::Builtin | SignIn::Off => None,
    };
    PagesState {
        auth,
        pages,
        auth_prefix: auth_prefix.into(),
        public_origin: origin.as_str().into(),
        own_sign_in: own_sign_in.map(Arc::new),
        min_password_length: config.login.password_min_length as usize,
        sample: sample.map(Arc::new),
    }
}
