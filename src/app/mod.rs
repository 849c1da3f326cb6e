//! The composition root: builds the application from the configuration. The only module that may use all others.
//!
//! | file | contents |
//! |---|---|
//! | `stack.rs` | the public stack, outermost layer first |
//! | `dispatcher.rs` | the choice between built-in router and proxy |
//! | `admission.rs` | the shares of clients and routes in the limits of the server |
//! | `proxy_stacks.rs` | the proxy behind the session layer |
//! | `builtin.rs`, `routes.rs` | the endpoints of `server.builtin`, and the routes to upstreams |
//! | `browser_errors.rs` | the redirects and pages that people get for errors |
//! | `pages.rs` | the pages for people |
//! | `forward_auth.rs` | the stack behind `verify.listen` |
//! | `reload.rs` | replaces the stacks when the configuration changes |
//! | `lifecycle.rs` | start and stop: checks, background tasks |

mod admission;
mod body_deadline;
mod browser_errors;
mod builtin;
mod catch_panic;
mod client_address;
mod conditional;
mod cors_csrf;
mod csrf_log;
mod dispatcher;
mod error;
mod forward_auth;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod lifecycle;
mod pages;
mod proxy_stacks;
mod reload;
mod request_recorder;
mod routes;
mod shared_runtime;
mod stack;
mod upgrade_origin;
mod upstream_tokens;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;

use self::client_address::{PublicAuthority, TrustedProxies};
pub use self::error::AppError;
pub use self::forward_auth::ForwardAuthService;
use self::forward_auth::ForwardAuthStack;
pub use self::lifecycle::{RunningApp, StartError, check_keys, check_replica, start_session_time};
pub use self::pages::check_pages;
use self::pages::{build_pages, pages_state};
use self::proxy_stacks::ProxyStacks;
pub use self::reload::PublicService;
use self::reload::ReloadableStacks;
use self::request_recorder::RecorderConfig;
pub use self::routes::check_routes;
use self::shared_runtime::SharedRuntime;
use self::stack::{ReloadableConfig, StackBuilder};
use crate::backend::db::Stores;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::layer::{CookiePolicy, CookiePolicyError, OnStoreLoss, SilentRefreshLayer};
use crate::long_lived_streams::LongLivedStreams;
pub use crate::pages::DemoCredentials;
use crate::pages::{SharedPages, SignInTarget};
use crate::proxy::{Proxy, ReservedCookies, Routes};
use crate::routers::health::ShutdownFlag;
use crate::routers::pages::Demo;
use crate::routers::{AuthState, health};
use crate::server::ClientShares;
use crate::services::auth::Auth;
use crate::services::jwt::{AccessTokens, JwtSettings};
use crate::services::keys::SharedKeys;
use crate::services::movies::Movies;
use crate::services::password::{PasswordHasher, PasswordSettings};
use crate::services::token::{SessionSettings, Tokens};
use crate::services::users::Users;
use crate::sessions::Sessions;
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::HttpMetrics;

/// The parts that an [`App`] is built from.
pub struct AppDependencies<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The origin under which browsers reach the gateway.
    pub public_origin: config::Origin,
    /// The databases.
    pub stores: Stores,
    /// The signing keys.
    pub keys: Arc<SharedKeys>,
    /// The source of the current time.
    pub clock: Arc<dyn Clock>,
    /// Overrides the default of [`SilentRefreshLayer::with_refresh_timeout`].
    pub refresh_timeout: Option<Duration>,
    /// The recorder that `/metrics` renders. Without one, `/metrics` is empty.
    pub metrics: Option<PrometheusHandle>,
    /// The access log and the span exporter. `log.access` switches the access log.
    pub telemetry: Telemetry,
    /// The credentials that the demo's sign-in page shows. Without them, there is no demo page.
    pub sample: Option<DemoCredentials>,
}

/// The application: the services of all listeners, and what runs beside them.
#[derive(Clone)]
pub struct App {
    /// The service of `server.listen`.
    pub public: PublicService,
    /// The service of `admin.listen`.
    pub admin: Router,
    /// The service of `verify.listen`, if that is configured.
    pub forward_auth: Option<ForwardAuthService>,
    /// The session tokens.
    pub tokens: Tokens,
    /// The users.
    pub users: Users,
    /// The shares of clients in the limits of `server.listen`.
    pub shares: ClientShares,
    /// The open WebSockets and event streams.
    pub streams: LongLivedStreams,
    stacks: Arc<ReloadableStacks>,
    shutdown: ShutdownFlag,
}

/// A checked configuration that [`App::apply`] puts into force.
pub struct PreparedReload(ReloadableConfig);

impl App {
    /// Builds the application.
    ///
    /// # Errors
    ///
    /// Returns an [`AppError`] that names the invalid setting.
    pub fn build(dependencies: AppDependencies<'_>) -> Result<Self, AppError> {
        let config = dependencies.config;
        let cookies = Arc::new(cookie_policy(&config.cookies)?);
        let tokens = tokens(&dependencies);
        let passwords = Arc::new(PasswordHasher::new(password_settings(&config.login))?);
        let clock = Arc::clone(&dependencies.clock);
        let user_store = Arc::clone(&dependencies.stores.users);
        let users = Users::new(Arc::clone(&user_store), Arc::clone(&passwords), Arc::clone(&clock));
        let auth = Auth::new(user_store, passwords, users.clone(), tokens.clone(), config.login.registration);
        let mut session = SilentRefreshLayer::new(Arc::new(tokens.clone()), Arc::clone(&cookies))
            .with_on_store_loss(config.session.on_store_loss);
        if let Some(timeout) = dependencies.refresh_timeout {
            session = session.with_refresh_timeout(timeout);
        }
        let streams = LongLivedStreams::new(Arc::new(tokens.clone()));
        let reserved = ReservedCookies { names: cookies.names().map(str::to_owned).to_vec() };
        let proxy = Proxy::new(reserved, streams.clone())
            .with_upstream_tokens(Arc::new(tokens.clone()))
            .with_session_uses(Arc::new(tokens.clone()));
        let shares = ClientShares::new(&config.server.limits);
        let proxies = ProxyStacks::new(session.clone(), shares.clone(), proxy);
        let sessions = Sessions::new(tokens.clone(), cookies);
        let state = AuthState { auth, sessions, clock };
        let pages = SharedPages::new(build_pages(config, dependencies.public_origin.host())?);
        let builder = stack_builder(&dependencies, &session, &shares, state, &streams, pages);
        let reloadable = builder.prepare(config, &Routes::default())?;
        let stacks = ReloadableStacks::new(builder, reloadable);
        let metrics = metrics_renderer(dependencies.metrics, dependencies.telemetry);
        let shutdown = ShutdownFlag::default();
        let readiness = dependencies.stores.readiness().clone();
        let sessions = dependencies.stores.sessions;
        Ok(Self {
            public: stacks.new_thread_stack(proxies),
            admin: health::router(sessions, readiness, tokens.clone(), metrics, shutdown.clone()),
            forward_auth: stacks.forward_auth(),
            tokens,
            users,
            shares,
            streams,
            stacks,
            shutdown,
        })
    }

    /// Returns the routes in force. Their upstreams need
    /// [health checks](Routes::run_health_checks) in a task of their own.
    #[must_use]
    pub fn routes(&self) -> Routes {
        self.stacks.routes()
    }

    /// Checks the reloadable settings of `config`: routes, allowed origins, trusted proxies and
    /// `log.access`. Changes nothing.
    ///
    /// # Errors
    ///
    /// Returns an [`AppError`] that names the invalid setting.
    pub fn prepare(&self, config: &Config) -> Result<PreparedReload, AppError> {
        self.stacks.prepare(config).map(PreparedReload)
    }

    /// Puts a checked configuration into force. Requests in flight keep the previous one.
    pub fn apply(&self, reload: PreparedReload) {
        self.stacks.apply(reload.0);
    }

    /// Makes `/readyz` report the shutdown. Requests are still served.
    pub fn begin_shutdown(&self) {
        self.shutdown.set();
    }
}

fn cookie_policy(cookies: &config::Cookies) -> Result<CookiePolicy, CookiePolicyError> {
    let config::Cookies { access_name, refresh_name, same_site, secure, partitioned } = cookies;
    CookiePolicy::new(&**access_name, &**refresh_name, *same_site, *secure)?.with_partitioned(*partitioned)
}

/// Collects the parts of the stacks that last as long as the process.
fn stack_builder(
    dependencies: &AppDependencies<'_>,
    session: &SilentRefreshLayer<Tokens>,
    shares: &ClientShares,
    state: AuthState,
    streams: &LongLivedStreams,
    pages: SharedPages,
) -> StackBuilder {
    let config = dependencies.config;
    let metrics = Arc::new(HttpMetrics::new());
    let public_origin = dependencies.public_origin.clone();
    let auth_prefix = config.server.auth_prefix.as_str();
    let sample = dependencies.sample.clone();
    let demo = sample.is_some().then_some(Demo { access_ttl: config.tokens.access_ttl });
    let cookies = Arc::clone(state.sessions.cookies());
    let tokens = state.auth.tokens().clone();
    let builtin = builtin::router(
        &config.server,
        session,
        shares.clone(),
        streams.clone(),
        Movies::new(Arc::clone(&dependencies.stores.movies)),
        pages_state(config, &public_origin, state, pages.clone(), sample),
        demo,
    );
    StackBuilder {
        sign_in: SignInTarget::new(&config.pages.sign_in, public_origin.as_str(), auth_prefix),
        shares: shares.clone(),
        tokens,
        shared_runtime: SharedRuntime::current(),
        builtin_paths: builtin::paths(&config.server, &metrics),
        // The demo page and its files.
        fallback: demo.map(|_| (builtin.clone(), metrics.route("builtin:pages"))),
        login_paths: builtin::login_paths(&config.server),
        forward_auth: ForwardAuthStack::new(config, session, &cookies),
        cookies,
        builtin,
        pages,
        recorder: RecorderConfig {
            trusted_proxies: TrustedProxies::default(),
            public_authority: PublicAuthority::new(&public_origin),
            server_name: public_origin.host().into(),
            clock: Arc::clone(&dependencies.clock),
            metrics,
            telemetry: dependencies.telemetry.clone(),
        },
        public_origin,
    }
}

/// Returns a closure that renders `/metrics`.
fn metrics_renderer(recorder: Option<PrometheusHandle>, telemetry: Telemetry) -> health::MetricsRenderer {
    Arc::new(move || {
        if let Some(dropped) = &telemetry.lost_lines {
            metrics::counter!("sekisho_log_lines_lost_total").absolute(dropped.count());
        }
        recorder.as_ref().map(PrometheusHandle::render).unwrap_or_default()
    })
}

fn tokens(dependencies: &AppDependencies<'_>) -> Tokens {
    let tokens = &dependencies.config.tokens;
    let session = &dependencies.config.session;
    let access_tokens = AccessTokens::new(JwtSettings {
        issuer: tokens.issuer.clone(),
        audience: tokens.audience.clone(),
        leeway: tokens.leeway,
        future_iat: session.grace / 4,
        access_ttl: tokens.access_ttl,
        access_ttl_jitter: tokens.access_ttl_jitter,
    });
    let settings = SessionSettings {
        access_ttl: tokens.access_ttl,
        idle_ttl: session.idle_ttl,
        absolute_ttl: session.absolute_ttl,
        grace: session.grace,
        max_per_user: session.max_per_user,
        refuse_on_store_loss: session.on_store_loss == OnStoreLoss::Refuse,
    };
    let store = Arc::clone(&dependencies.stores.sessions);
    let keys = Arc::clone(&dependencies.keys);
    Tokens::new(store, keys, access_tokens, settings, Arc::clone(&dependencies.clock))
}

pub(crate) fn password_settings(login: &config::Login) -> PasswordSettings {
    PasswordSettings {
        bcrypt_cost: login.bcrypt_cost,
        min_length: login.password_min_length as usize,
        ..PasswordSettings::default()
    }
}
