//! Builds the proxy's routes from the configuration.

use super::error::AppError;
use crate::config::{self, Config, IdentityPreset, RouteIdentity, ValueSource};
use crate::proxy::{
    HeaderEdits, HealthCheck, IdentityHeaders, RouteSpec, Routes, UpstreamHttp, UpstreamSettings,
};

/// Checks the rules for routes that only the proxy knows, such as which headers are reserved.
///
/// # Errors
///
/// Returns [`AppError::Route`] for the first invalid route.
pub fn check_routes(config: &Config) -> Result<(), AppError> {
    build_routes(config, &Routes::default()).map(drop)
}

/// Builds the routes of `config`. Upstreams that are also in `previous` keep their state.
pub(super) fn build_routes(config: &Config, previous: &Routes) -> Result<Routes, AppError> {
    let specs = config.routes.iter().map(route_spec);
    Routes::rebuild_from(specs, previous).map_err(|source| {
        let invalid = config.routes.iter().find(|route| route.path.as_str() == source.path());
        AppError::Route {
            place: invalid.map_or(ValueSource::BuiltIn, |route| route.place.clone()),
            source: source.into(),
        }
    })
}

fn route_spec(route: &config::Route) -> RouteSpec {
    RouteSpec {
        roles: route.roles.clone(),
        methods: route.methods.clone(),
        identity: identity_headers(&route.identity),
        request_headers: header_edits(&route.request_headers),
        response_headers: header_edits(&route.response_headers),
        strip_prefix: route.strip_prefix,
        token_audience: route.bearer.clone(),
        pass_authorization: route.pass_authorization,
        encoded_slash: route.encoded_slash == config::EncodedSlash::Pass,
        connect_timeout: route.connect_timeout,
        first_byte_timeout: route.first_byte_timeout,
        idle_timeout: route.idle_timeout,
        max_body: route.max_body,
        upgrades: route.upgrades.clone(),
        tunnel_idle_timeout: route.tunnel_idle_timeout,
        upstream_settings: upstream_settings(&route.upstreams),
        ..RouteSpec::new(route.path.as_str(), route.upstreams.origins.iter().map(config::Origin::as_str))
    }
}

fn identity_headers(identity: &RouteIdentity) -> IdentityHeaders {
    match identity {
        RouteIdentity::Custom { user, email, groups } => {
            IdentityHeaders { user: user.clone(), email: email.clone(), groups: groups.clone() }
        }
        RouteIdentity::Preset(IdentityPreset::None) => IdentityHeaders::NONE,
        RouteIdentity::Preset(IdentityPreset::Remote) => IdentityHeaders::REMOTE,
        RouteIdentity::Preset(IdentityPreset::XAuthRequest) => IdentityHeaders::X_AUTH_REQUEST,
        RouteIdentity::Preset(IdentityPreset::XForwarded) => IdentityHeaders::X_FORWARDED,
    }
}

fn header_edits(edits: &config::HeaderEdits) -> HeaderEdits {
    HeaderEdits { remove: edits.remove.clone(), set: edits.set.clone() }
}

fn upstream_settings(upstreams: &config::Upstreams) -> UpstreamSettings {
    let interval = upstreams.health_interval;
    UpstreamSettings {
        http: match upstreams.http {
            config::UpstreamHttp::Http1 => UpstreamHttp::Http1,
            config::UpstreamHttp::Http2 => UpstreamHttp::Http2,
        },
        ca: upstreams.ca.clone(),
        health: upstreams.health_path.clone().map(|path| HealthCheck { path, interval }),
        eject_after: upstreams.eject_after,
        eject_for: upstreams.eject_for,
        slow_start: upstreams.slow_start,
        max_in_flight: upstreams.max_in_flight as usize,
        max_queued: upstreams.max_queued as usize,
        queue_timeout: upstreams.queue_timeout,
        ..UpstreamSettings::default()
    }
}
