//! How the public side is put together: of what stays as long as the process runs, and of what a
//! configuration says at a time.

use std::sync::Arc;

use axum::Router;

use super::client_address::TrustedProxies;
use super::cors_csrf::{self, CorsCsrf, WebSocketOriginCheck};
use super::dispatcher::{Dispatcher, DispatcherInner, ProxyStacks};
use super::forward_auth::ForwardAuthStack;
use super::public::PublicStack;
use super::request_recorder::{RecorderConfig, RequestRecorder};
use super::shared_runtime::SharedRuntime;
use super::upstream_tokens::UpstreamTokenIssuer;
use super::{AppError, routes};
use crate::config::{Config, Origin, PathPrefix, Route, RouteAuth};
use crate::layer::CookiePolicy;
use crate::proxy::Routes;

/// What stays.
pub(super) struct StackBuilder {
    /// Where the program's own answers are made.
    pub(super) home: SharedRuntime,
    /// The paths that the program answers itself, and by which number they are counted.
    pub(super) own_paths: Vec<(PathPrefix, u32)>,
    /// The program's own answers.
    pub(super) own: Router,
    /// What answers where no route does, if anything.
    pub(super) otherwise: Option<(Router, u32)>,
    /// Signs tokens for upstreams.
    pub(super) minter: UpstreamTokenIssuer,
    pub(super) cookies: Arc<CookiePolicy>,
    pub(super) public_origin: Origin,
    /// The paths that a page of another origin could sign a victim in at.
    pub(super) sign_in: Vec<String>,
    /// How other proxies ask, if they may.
    pub(super) asking: Option<ForwardAuthStack>,
    /// What the entrance needs to know, but for what [`ReloadableConfig`] say.
    pub(super) desk: RecorderConfig,
}

/// What a configuration says, checked.
pub(super) struct ReloadableConfig {
    pub(super) routes: Routes,
    /// Whom each route lets through, and by which number it is counted, in the configuration's order.
    rules: Vec<(RouteAuth, u32)>,
    cross_origin: cors_csrf::CorsCsrfPolicy,
    upgrades: Arc<WebSocketOriginCheck>,
    desk: RecorderConfig,
    pub(super) verify: Option<Router>,
}

impl StackBuilder {
    /// The terms of `config`, with all that is known of the upstreams of `previous` routes.
    pub(super) fn prepare(&self, config: &Config, previous: &Routes) -> Result<ReloadableConfig, AppError> {
        let (server, cookies) = (&config.server, &self.cookies);
        let rule = |route: &Route| (route.auth, self.desk.meters.route(route.path.as_str()));
        let (allowed, ours) = (&server.allowed_origins, &self.public_origin);
        let upgrades = Arc::new(WebSocketOriginCheck::new(Arc::clone(cookies), allowed, ours));
        let desk = self.recorder_config(config);
        let verify = self.asking.as_ref().map(|asking| {
            let origins: Vec<_> = allowed.iter().chain([ours]).collect();
            asking.router(&origins, cookies, Arc::clone(&upgrades), &desk)
        });
        Ok(ReloadableConfig {
            routes: routes(config, |audience| self.minter.for_audience(audience), previous)?,
            rules: config.routes.iter().map(rule).collect(),
            cross_origin: cors_csrf::CorsCsrfPolicy::new(allowed, ours, Arc::clone(cookies), &self.sign_in)?,
            upgrades,
            verify: verify.transpose()?,
            desk,
        })
    }

    /// The stack of a thread that has this way to upstreams.
    pub(super) fn build_stack(&self, terms: &ReloadableConfig, proxied: ProxyStacks) -> PublicStack {
        let gateway = Dispatcher::new(DispatcherInner {
            home: self.home.clone(),
            own_paths: self.own_paths.clone(),
            own: self.own.clone(),
            routes: terms.routes.clone(),
            rules: terms.rules.clone(),
            proxied,
            otherwise: self.otherwise.clone(),
            upgrades: Arc::clone(&terms.upgrades),
        });
        RequestRecorder::new(CorsCsrf::new(terms.cross_origin.clone(), gateway), terms.desk.clone())
    }

    fn recorder_config(&self, config: &Config) -> RecorderConfig {
        let mut desk = self.desk.clone();
        desk.trusted = TrustedProxies::new(config.server.trusted_proxies.clone());
        desk.telemetry.access.take_if(|_| !config.log.access);
        desk
    }
}
