//! The public stack as one list, and the parts that it is built from.

use std::sync::Arc;

use axum::Router;
use tower::ServiceBuilder;
use tower::layer::layer_fn;

use super::admission::Admission;
use super::browser_errors::{BrowserErrors, ErrorResponses};
use super::client_address::TrustedProxies;
use super::cors_csrf::{CorsCsrf, CorsCsrfLayer};
use super::dispatcher::{Dispatcher, DispatcherInner};
use super::error::AppError;
use super::forward_auth::ForwardAuthStack;
use super::pages::build_pages;
use super::proxy_stacks::ProxyStacks;
use super::request_recorder::{RecorderConfig, RequestRecorder};
use super::routes::build_routes;
use super::shared_runtime::SharedRuntime;
use super::upgrade_origin::WebSocketOriginCheck;
use crate::config::{AllowedOrigin, Config, Origin, PathPrefix, RouteAuth};
use crate::layer::CookiePolicy;
use crate::pages::{Pages, SharedPages, SignInTarget};
use crate::proxy::Routes;
use crate::server::ClientShares;
use crate::services::token::Tokens;

/// The service behind `server.listen`: see [`StackBuilder::build_stack`].
pub(super) type PublicStack = RequestRecorder<BrowserErrors<CorsCsrf<Dispatcher>>>;

/// The parts of the stacks that last as long as the process.
pub(super) struct StackBuilder {
    /// The shares of clients.
    pub(super) shares: ClientShares,
    /// Verifies the tokens of a request whose address has too many.
    pub(super) tokens: Tokens,
    /// Runs the built-in router.
    pub(super) shared_runtime: SharedRuntime,
    /// The path prefixes of the built-in router, each with its route number in the metrics.
    pub(super) builtin_paths: Vec<(PathPrefix, u32)>,
    /// The built-in router.
    pub(super) builtin: Router,
    /// The router for paths without a route, if there is one, and its route number.
    pub(super) fallback: Option<(Router, u32)>,
    pub(super) cookies: Arc<CookiePolicy>,
    pub(super) public_origin: Origin,
    /// Prefixes of the paths that a cross-site request can misuse without cookies.
    pub(super) login_paths: Vec<PathPrefix>,
    /// The stack behind `verify.listen`, if that is configured.
    pub(super) forward_auth: Option<ForwardAuthStack>,
    /// The sign-in page, if there is one.
    pub(super) sign_in: Option<SignInTarget>,
    /// The pages in force.
    pub(super) pages: SharedPages,
    /// The recorder's settings, without those of [`ReloadableConfig`].
    pub(super) recorder: RecorderConfig,
}

/// The parts of the stacks that a reload replaces, checked.
pub(super) struct ReloadableConfig {
    pub(super) routes: Routes,
    pub(super) pages: Pages,
    errors: ErrorResponses,
    /// The required authentication and the route number of each route, in the order of the configuration.
    route_auth: Vec<(RouteAuth, u32)>,
    cors_csrf: CorsCsrfLayer,
    upgrade_origin: Arc<WebSocketOriginCheck>,
    recorder: RecorderConfig,
    pub(super) forward_auth: Option<Router>,
}

impl StackBuilder {
    /// Builds the public stack of one worker thread, outermost layer first.
    pub(super) fn build_stack(&self, config: &ReloadableConfig, proxies: ProxyStacks) -> PublicStack {
        let recorder = config.recorder.clone();
        // Shared by the requests of this thread, not with other threads.
        let errors = Arc::new(config.errors.clone());
        ServiceBuilder::new()
            // Outermost, so that every response is recorded, also those of the layers below: request id,
            // trace context, client address, metrics, access log, and a 500 response for a panic.
            .layer(layer_fn(move |inner| RequestRecorder::new(inner, recorder.clone())))
            // Outside all that reject requests, because people get a redirect or a page for an error of theirs, and
            // programs problem details. Inside the recorder, which records the status that is sent.
            .layer(layer_fn(move |inner| BrowserErrors::new(inner, Arc::clone(&errors))))
            // Before any session is looked up: CORS for the allowed origins, CSRF protection for all others.
            .layer(config.cors_csrf.clone())
            // By path: the built-in router on the shared runtime, or the proxy on this thread. The session
            // layer is inside, because routes differ in whether they require a session: see `ProxyStacks`.
            .service(Dispatcher::new(DispatcherInner {
                admission: self.admission(config.recorder.trusted_proxies.clone()),
                shared_runtime: self.shared_runtime.clone(),
                builtin_paths: self.builtin_paths.clone(),
                builtin: self.builtin.clone(),
                routes: config.routes.clone(),
                route_auth: config.route_auth.clone(),
                proxies,
                fallback: self.fallback.clone(),
                upgrade_origin: Arc::clone(&config.upgrade_origin),
            }))
    }

    /// Checks the reloadable settings of `config`. Upstreams that are also in `previous` keep their state.
    pub(super) fn prepare(&self, config: &Config, previous: &Routes) -> Result<ReloadableConfig, AppError> {
        let allowed = &config.server.allowed_origins;
        let public_origin = AllowedOrigin::from(self.public_origin.clone());
        let trusted_origins: Vec<_> = allowed.iter().chain([&public_origin]).collect();
        let upgrade_origin = Arc::new(WebSocketOriginCheck::new(Arc::clone(&self.cookies), &trusted_origins));
        let recorder = self.recorder_config(config);
        let pages = build_pages(config, self.public_origin.host())?;
        let forward_auth = match &self.forward_auth {
            Some(stack) => {
                let admission = self.admission(recorder.trusted_proxies.clone());
                let redirect = config.verify.as_ref().is_some_and(|verify| verify.redirect);
                let errors = stack.error_responses(self.sign_in.clone(), pages.clone(), redirect);
                let upgrade_origin = Arc::clone(&upgrade_origin);
                Some(stack.build(&trusted_origins, upgrade_origin, &recorder, admission, errors)?)
            }
            None => None,
        };
        let route_auth = config.routes.iter().map(|route| {
            let number = self.recorder.metrics.route(route.path.as_str());
            (route.auth, number)
        });
        Ok(ReloadableConfig {
            routes: build_routes(config, previous)?,
            errors: ErrorResponses::for_public_listener(self.sign_in.clone(), pages.clone()),
            pages,
            route_auth: route_auth.collect(),
            cors_csrf: CorsCsrfLayer::new(
                allowed,
                &trusted_origins,
                Arc::clone(&self.cookies),
                &self.login_paths,
            )?,
            upgrade_origin,
            recorder,
            forward_auth,
        })
    }

    fn admission(&self, trusted_proxies: TrustedProxies) -> Admission {
        Admission::new(self.shares.clone(), trusted_proxies, Arc::clone(&self.cookies), self.tokens.clone())
    }

    fn recorder_config(&self, config: &Config) -> RecorderConfig {
        let mut recorder = self.recorder.clone();
        let server = &config.server;
        recorder.trusted_proxies =
            TrustedProxies::new(server.trusted_proxies.clone(), &server.forwarded_headers);
        recorder.telemetry.access.take_if(|_| !config.log.access);
        recorder
    }
}
