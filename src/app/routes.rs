//! Builds the proxy's routes from the configuration.

use super::error::AppError;
use crate::config::{Config, Route, ValueSource};
use crate::proxy::{RouteError, Routes};

/// Checks the routes against the rules of the proxy, such as which headers are reserved.
///
/// Returns [`AppError::Route`] for each invalid route.
#[must_use]
pub fn check_routes(config: &Config) -> Vec<AppError> {
    let mut routes = config.routes.clone();
    let mut errors = Vec::new();
    while let Err(error) = build(&routes, &Routes::default()) {
        let count = routes.len();
        // The others may be invalid too.
        routes.retain(|route| route.path.as_str() != error.path());
        errors.push(route_error(config, error));
        if routes.len() == count {
            break;
        }
    }
    errors
}

/// Builds the routes of `config`. Upstreams that are also in `previous` keep their state.
pub(super) fn build_routes(config: &Config, previous: &Routes) -> Result<Routes, AppError> {
    build(&config.routes, previous).map_err(|error| route_error(config, error))
}

fn build(routes: &[Route], previous: &Routes) -> Result<Routes, RouteError> {
    Routes::rebuild_from(routes.iter().map(|route| route.spec.clone()), previous)
}

fn route_error(config: &Config, source: RouteError) -> AppError {
    let invalid = config.routes.iter().find(|route| route.path.as_str() == source.path());
    AppError::Route {
        place: invalid.map_or(ValueSource::BuiltIn, |route| route.place.clone()),
        source: source.into(),
    }
}
