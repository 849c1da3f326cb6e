//! How the public side is put together: of what stays as long as the process runs, and of what a
//! configuration says at a time.

use std::sync::Arc;

use axum::Router;

use super::bearer::BearerMinter;
use super::client_address::TrustedProxies;
use super::cross_origin::{self, CrossOrigin, UpgradeGuard};
use super::entrance::{Desk, Entrance};
use super::gateway::{Faces, Gateway, Proxied};
use super::home::Home;
use super::public::Stack;
use super::verify::Asking;
use super::{AppError, routes};
use crate::backend::config::{Config, Origin, PathPrefix, Route, RouteAuth};
use crate::layer::CookiePolicy;
use crate::proxy::Routes;

/// What stays.
pub(super) struct Plan {
    /// Where the program's own answers are made.
    pub(super) home: Home,
    /// The paths that the program answers itself, and by which number they are counted.
    pub(super) own_paths: Vec<(PathPrefix, u32)>,
    /// The program's own answers.
    pub(super) own: Router,
    /// What answers where no route does, if anything.
    pub(super) otherwise: Option<(Router, u32)>,
    /// Signs tokens for upstreams.
    pub(super) minter: BearerMinter,
    pub(super) cookies: Arc<CookiePolicy>,
    pub(super) public_origin: Origin,
    /// The paths that a page of another origin could sign a victim in at.
    pub(super) sign_in: Vec<String>,
    /// How other proxies ask, if they may.
    pub(super) asking: Option<Asking>,
    /// What the entrance needs to know, but for what [`Terms`] say.
    pub(super) desk: Desk,
}

/// What a configuration says, checked.
pub(super) struct Terms {
    pub(super) routes: Routes,
    /// Whom each route lets through, and by which number it is counted, in the configuration's order.
    rules: Vec<(RouteAuth, u32)>,
    cross_origin: cross_origin::Rules,
    upgrades: Arc<UpgradeGuard>,
    desk: Desk,
    pub(super) verify: Option<Router>,
}

impl Plan {
    /// The terms of `config`, with all that is known of the upstreams of `previous` routes.
    pub(super) fn terms(&self, config: &Config, previous: &Routes) -> Result<Terms, AppError> {
        let (server, cookies) = (&config.server, &self.cookies);
        let rule = |route: &Route| (route.auth, self.desk.meters.route(route.path.as_str()));
        let (allowed, ours) = (&server.allowed_origins, &self.public_origin);
        let upgrades = Arc::new(UpgradeGuard::new(Arc::clone(cookies), allowed, ours));
        let desk = self.desk_for(config);
        let verify = self.asking.as_ref().map(|asking| {
            let origins: Vec<_> = allowed.iter().chain([ours]).collect();
            asking.router(&origins, cookies, Arc::clone(&upgrades), &desk)
        });
        Ok(Terms {
            routes: routes(config, |audience| self.minter.for_audience(audience), previous)?,
            rules: config.routes.iter().map(rule).collect(),
            cross_origin: cross_origin::Rules::new(allowed, ours, Arc::clone(cookies), &self.sign_in)?,
            upgrades,
            verify: verify.transpose()?,
            desk,
        })
    }

    /// The stack of a thread that has this way to upstreams.
    pub(super) fn stack(&self, terms: &Terms, proxied: Proxied) -> Stack {
        let gateway = Gateway::new(Faces {
            home: self.home.clone(),
            own_paths: self.own_paths.clone(),
            own: self.own.clone(),
            routes: terms.routes.clone(),
            rules: terms.rules.clone(),
            proxied,
            otherwise: self.otherwise.clone(),
            upgrades: Arc::clone(&terms.upgrades),
        });
        Entrance::new(CrossOrigin::new(terms.cross_origin.clone(), gateway), terms.desk.clone())
    }

    fn desk_for(&self, config: &Config) -> Desk {
        let mut desk = self.desk.clone();
        desk.trusted = TrustedProxies::new(config.server.trusted_proxies.clone());
        desk.telemetry.access.take_if(|_| !config.log.access);
        desk
    }
}
