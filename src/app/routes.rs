//! Builds the proxy's routes from the configuration.

use super::error::AppError;
use crate::config::{Config, ValueSource};
use crate::proxy::Routes;

/// Checks the routes against the rules of the proxy, such as which headers are reserved.
///
/// # Errors
///
/// Returns [`AppError::Route`] for the first invalid route.
pub fn check_routes(config: &Config) -> Result<(), AppError> {
    build_routes(config, &Routes::default()).map(drop)
}

/// Builds the routes of `config`. Upstreams that are also in `previous` keep their state.
pub(super) fn build_routes(config: &Config, previous: &Routes) -> Result<Routes, AppError> {
    let specs = config.routes.iter().map(|route| route.spec.clone());
    Routes::rebuild_from(specs, previous).map_err(|source| {
        let invalid = config.routes.iter().find(|route| route.path.as_str() == source.path());
        AppError::Route {
            place: invalid.map_or(ValueSource::BuiltIn, |route| route.place.clone()),
            source: source.into(),
        }
    })
}
