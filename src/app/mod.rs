//! The composition root: configuration in, services out. The one place that knows all parts.

mod catch_panic;
mod client_address;
mod conditional;
mod cors_csrf;
mod dispatcher;
mod forward_auth;
mod public;
mod reload;
mod request_recorder;
mod shared_runtime;
mod stack;
mod upstream_tokens;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use http::header::{HOST, HeaderValue};
use http::uri::Authority;
use metrics_exporter_prometheus::PrometheusHandle;
use tower::ServiceBuilder;
use tower::layer::layer_fn;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa_axum::router::OpenApiRouter;

use self::catch_panic::CatchPanic;
use self::client_address::TrustedProxies;
use self::dispatcher::ProxyStacks;
pub use self::forward_auth::ForwardAuthService;
use self::forward_auth::ForwardAuthStack;
pub use self::public::{PublicFuture, PublicService};
use self::reload::ReloadableStacks;
use self::request_recorder::RecorderConfig;
use self::shared_runtime::SharedRuntime;
use self::stack::{ReloadableConfig, StackBuilder};
use self::upstream_tokens::UpstreamTokenIssuer;
use crate::backend::db::Stores;
use crate::clock::Clock;
use crate::config::{self, BuiltinRoutes, Config, IdentityPreset, RouteIdentity, ValueSource};
use crate::identity::Identity;
use crate::layer::{CookiePolicy, CookiePolicyError, OnStoreLoss, Reject401, SilentRefreshLayer};
use crate::proxy::{
    BearerTokenSource, Forwarded, HeaderEdits, HealthCheck, IdentityHeaders, LongLivedStreams, Proxy,
    ReservedCookies, RouteError, RouteSpec, Routes, UpstreamHttp, UpstreamSettings,
};
use crate::routers::health::ShutdownFlag;
pub use crate::routers::pages::DemoCredentials;
use crate::routers::{
    AuthState, auth, docs, health, jwks, movies, pages, security_headers, token, with_fallbacks,
};
use crate::server::{Peer, TlsConnection};
use crate::services::auth::Auth;
use crate::services::jwt::{AccessTokens, JwtSettings};
use crate::services::keys::SharedKeys;
use crate::services::movies::Movies;
use crate::services::password::{PasswordError, PasswordHasher, PasswordSettings};
use crate::services::token::{SessionSettings, Tokens};
use crate::services::users::Users;
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::HttpMetrics;

/// What the program is made of.
pub struct AppDependencies<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// What browsers call us.
    pub public_origin: config::Origin,
    /// The databases.
    pub stores: Stores,
    /// The signing keys.
    pub keys: Arc<SharedKeys>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What `/metrics` shows.
    pub metrics: Option<PrometheusHandle>,
    /// Where the lines and spans of requests go. Whether there are lines the configuration decides.
    pub telemetry: Telemetry,
    /// The sample sign-in of the demo page, which is served only with one.
    pub sample: Option<DemoCredentials>,
}

/// The program, ready to be served.
#[derive(Clone)]
pub struct App {
    /// For the public listener.
    pub public: PublicService,
    /// For the operators' listener.
    pub admin: Router,
    /// For the listener of other proxies, if there is one.
    pub verify: Option<ForwardAuthService>,
    /// The sessions' tokens.
    pub tokens: Tokens,
    /// The users.
    pub users: Users,
    /// The long-lived connections to upstreams.
    pub streams: LongLivedStreams,
    live: Arc<ReloadableStacks>,
    stopping: ShutdownFlag,
}

/// What is to change: see [`App::prepare`].
pub struct PreparedReload(ReloadableConfig);

/// Why the parts don't fit together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The cookies can't be set as configured.
    #[error(transparent)]
    Cookies(#[from] CookiePolicyError),
    /// An origin can't be trusted as configured.
    #[error("server.allowed_origins: {0}")]
    Origin(#[from] tower_http::csrf::ConfigError),
    /// Passwords can't be checked as configured.
    #[error(transparent)]
    Passwords(#[from] PasswordError),
    /// The routes don't make a table.
    #[error("the route {place}: {source}")]
    Route {
        /// Where the route stands that is at fault.
        place: ValueSource,
        /// What is wrong with it.
        source: Box<RouteError>,
    },
}

impl App {
    /// Puts the parts together.
    ///
    /// # Errors
    ///
    /// [`AppError`] names the setting at fault.
    pub fn build(parts: AppDependencies<'_>) -> Result<Self, AppError> {
        let config = parts.config;
        let cookies = Arc::new(cookie_policy(&config.cookies)?);
        let tokens = tokens(&parts);
        let passwords = Arc::new(PasswordHasher::new(password_settings(&config.login))?);
        let clock = Arc::clone(&parts.clock);
        let users = Users::new(Arc::clone(&parts.stores.users), Arc::clone(&passwords), Arc::clone(&clock));
        let store = Arc::clone(&parts.stores.users);
        let auth = Auth::new(store, passwords, users.clone(), tokens.clone(), config.login.registration);
        let state = AuthState { auth, cookies: Arc::clone(&cookies), clock };
        let session = SilentRefreshLayer::new(Arc::new(tokens.clone()), CookiePolicy::clone(&cookies))
            .with_on_store_loss(config.session.on_store_loss);
        let plan = stack_builder(&parts, &cookies, &session, state);
        let terms = plan.prepare(config, &Routes::default())?;
        let live = ReloadableStacks::new(plan, terms);
        let streams = LongLivedStreams::new(Arc::new(tokens.clone()));
        let reserved = ReservedCookies { names: cookies.names().map(str::to_owned).to_vec() };
        let proxied = ProxyStacks::new(session, Proxy::new(reserved, streams.clone()));
        let metrics = metrics_renderer(parts.metrics.clone(), parts.telemetry.clone());
        let stopping = ShutdownFlag::default();
        Ok(Self {
            public: PublicService(live.new_thread_stack(proxied)),
            verify: live.verify(),
            admin: health::router(parts.stores.sessions, tokens.clone(), metrics, stopping.clone()),
            tokens,
            users,
            streams,
            live,
            stopping,
        })
    }

    /// What is forwarded where. Its upstreams are to be [watched](Routes::watch) beside the requests.
    #[must_use]
    pub fn routes(&self) -> Routes {
        self.live.routes()
    }

    /// Checks what another configuration has for what can change: routes, allowed origins, trusted proxies
    /// and whether requests are logged. Nothing is changed yet.
    ///
    /// # Errors
    ///
    /// [`AppError`] names the setting at fault.
    pub fn prepare(&self, config: &Config) -> Result<PreparedReload, AppError> {
        self.live.plan().prepare(config, &self.live.routes()).map(PreparedReload)
    }

    /// Puts a change in force for all requests that arrive from now on.
    pub fn apply(&self, change: PreparedReload) {
        self.live.apply(change.0);
    }

    /// From now on `/readyz` says that this process is about to stop. All else goes on.
    pub fn begin_shutdown(&self) {
        self.stopping.begin();
    }
}

/// What stays as long as the process runs.
fn stack_builder(
    parts: &AppDependencies<'_>,
    cookies: &Arc<CookiePolicy>,
    session: &SilentRefreshLayer<Tokens>,
    state: AuthState,
) -> StackBuilder {
    let (meters, prefix) = (Arc::new(HttpMetrics::new()), parts.config.server.auth_prefix.as_str());
    let pages = parts.sample.clone().map(|sample| with_fallbacks(pages::router(Some(sample))));
    StackBuilder {
        home: SharedRuntime::current(),
        own_paths: builtin_paths(&parts.config.server, &meters),
        otherwise: pages.map(|pages| (pages, meters.route("builtin:pages"))),
        minter: UpstreamTokenIssuer { tokens: state.auth.tokens().clone() },
        own: builtin_router(parts, session, state),
        cookies: Arc::clone(cookies),
        public_origin: parts.public_origin.clone(),
        sign_in: vec![format!("{prefix}/login"), format!("{prefix}/register")],
        asking: ForwardAuthStack::new(parts.config, session),
        desk: recorder_config(parts, meters),
    }
}

fn recorder_config(parts: &AppDependencies<'_>, meters: Arc<HttpMetrics>) -> RecorderConfig {
    RecorderConfig {
        trusted: TrustedProxies::default(),
        public_host: public_host(&parts.public_origin),
        name: parts.public_origin.host().into(),
        clock: Arc::clone(&parts.clock),
        meters,
        telemetry: parts.telemetry.clone(),
    }
}

fn builtin_paths(server: &config::Server, meters: &HttpMetrics) -> Vec<(config::PathPrefix, u32)> {
    let counted = |builtin: &BuiltinRoutes| {
        let number = meters.route(&format!("builtin:{}", builtin.as_str()));
        server.paths_of(*builtin).into_iter().map(move |path| (path, number))
    };
    server.builtin.iter().flat_map(counted).collect()
}

/// What `/metrics` shows, at the time that it is asked.
fn metrics_renderer(recorded: Option<PrometheusHandle>, telemetry: Telemetry) -> health::MetricsRenderer {
    Arc::new(move || {
        if let Some(lost) = &telemetry.lost_lines {
            metrics::counter!("sekisho_log_lines_lost_total").absolute(lost.count());
        }
        recorded.as_ref().map(PrometheusHandle::render).unwrap_or_default()
    })
}

/// The program's own routes, as far as `server.builtin` has them.
fn builtin_router(
    parts: &AppDependencies<'_>,
    session: &SilentRefreshLayer<Tokens>,
    state: AuthState,
) -> Router {
    let server = &parts.config.server;
    let (tokens, movies) = (state.auth.tokens().clone(), Movies::new(Arc::clone(&parts.stores.movies)));
    let session = session.clone().with_on_reject(Reject401);
    let signed_in = ServiceBuilder::new().layer(session).layer(layer_fn(CatchPanic));
    let prefix = server.auth_prefix.as_str();
    let mut api = OpenApiRouter::new();
    if server.has(BuiltinRoutes::Auth) {
        let auth = auth::public().merge(auth::signed_in().layer(signed_in.clone()));
        api = api.merge(OpenApiRouter::new().nest(prefix, auth.with_state(state.clone())));
        api = api.merge(jwks::router().with_state(tokens));
    }
    if server.has(BuiltinRoutes::Token) {
        api = api.merge(token::router().with_state(state));
    }
    if server.has(BuiltinRoutes::Movies) {
        api = api.merge(movies::router().with_state(movies).layer(signed_in));
    }
    let (mut router, description) = api.split_for_parts();
    if server.has(BuiltinRoutes::Docs) {
        router = router.merge(docs::router(docs::openapi(description)));
    }
    // Around the fallbacks too. Where pages say more, that stands.
    security_headers::for_api(with_fallbacks(router))
        // A client that stops in the middle of a body must not hold a handler for ever.
        .layer(RequestBodyTimeoutLayer::new(BODY_MAY_STAND_STILL))
}

fn tokens(parts: &AppDependencies<'_>) -> Tokens {
    let (config, session) = (&parts.config.tokens, &parts.config.session);
    let access = AccessTokens::new(JwtSettings {
        issuer: config.issuer.clone(),
        audience: config.audience.clone(),
        leeway: config.leeway,
        future_iat: session.grace / 4,
        access_ttl: config.access_ttl,
        access_ttl_jitter: config.access_ttl_jitter,
    });
    let settings = SessionSettings {
        access_ttl: config.access_ttl,
        idle_ttl: session.idle_ttl,
        absolute_ttl: session.absolute_ttl,
        grace: session.grace,
        max_per_user: session.max_per_user,
        refuse_on_store_loss: session.on_store_loss == OnStoreLoss::Refuse,
    };
    let store = Arc::clone(&parts.stores.sessions);
    Tokens::new(store, Arc::clone(&parts.keys), access, settings, Arc::clone(&parts.clock))
}

fn cookie_policy(cookies: &config::Cookies) -> Result<CookiePolicy, CookiePolicyError> {
    CookiePolicy::new(&*cookies.access_name, &*cookies.refresh_name, cookies.same_site, cookies.secure)
}

pub(crate) fn password_settings(login: &config::Login) -> PasswordSettings {
    PasswordSettings {
        bcrypt_cost: login.bcrypt_cost,
        min_length: login.password_min_length as usize,
        ..PasswordSettings::default()
    }
}

/// Checks what of the routes only the proxy can tell, such as which headers are its own to write.
///
/// # Errors
///
/// [`AppError::Route`], for the first route at fault.
pub fn check_routes(config: &Config) -> Result<(), AppError> {
    routes(config, |_| Arc::new(|_: &Identity| None), &Routes::default()).map(drop)
}

/// The routes that take the place of `previous` ones.
fn routes(
    config: &Config,
    mint: impl Fn(&str) -> Arc<dyn BearerTokenSource>,
    previous: &Routes,
) -> Result<Routes, AppError> {
    let specs = config.routes.iter().map(|route| route_spec(route, &mint));
    Routes::rebuild_from(specs, previous).map_err(|source| {
        let at_fault = config.routes.iter().find(|route| route.path.as_str() == source.path());
        AppError::Route {
            place: at_fault.map_or(ValueSource::BuiltIn, |route| route.place.clone()),
            source: source.into(),
        }
    })
}

fn route_spec(route: &config::Route, mint: impl Fn(&str) -> Arc<dyn BearerTokenSource>) -> RouteSpec {
    RouteSpec {
        roles: route.roles.clone(),
        methods: route.methods.clone(),
        identity: identity_headers(&route.identity),
        request_headers: header_edits(&route.request_headers),
        response_headers: header_edits(&route.response_headers),
        strip_prefix: route.strip_prefix,
        bearer: route.bearer.as_deref().map(mint),
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

/// Notes where the request comes from: for the session, and for upstreams.
///
/// `public_host` stands in for a host that an old client doesn't name: an upstream that is told nothing
/// would take us for the client.
fn resolve_client<B>(
    trusted: &TrustedProxies,
    public_host: Option<&HeaderValue>,
    request: &mut Request<B>,
) -> Option<IpAddr> {
    // Taken out: nobody reads them after this, and extensions of three entries are one small allocation.
    let Peer(peer) = request.extensions_mut().remove()?;
    let is_secured = request.extensions_mut().remove::<TlsConnection>().is_some();
    let origin = trusted.resolve(peer.ip(), request.headers());
    // RFC 9112, section 3.2.2: what an absolute target names goes before the header.
    let named = origin.host.or_else(|| request.uri().authority().map(Authority::as_str));
    let host = named.and_then(|host| HeaderValue::try_from(host).ok());
    // Nearly always the first.
    let header = || request.headers().iter().find_map(|(name, host)| (name == HOST).then_some(host));
    let host = host.as_ref().or_else(header).or(public_host).cloned();
    let forwarded = host.map(|host| Forwarded {
        client: origin.client,
        proto: if origin.https.unwrap_or(is_secured) { "https" } else { "http" },
        host,
        chain: None,
    });
    let client = origin.client;
    if let Some(forwarded) = forwarded {
        request.extensions_mut().insert(forwarded);
    }
    Some(client)
}

fn public_host(origin: &config::Origin) -> Option<HeaderValue> {
    let (_, host) = origin.as_str().split_once("://")?;
    HeaderValue::try_from(host).ok()
}

const BODY_MAY_STAND_STILL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::StatusCode;
    use http::header::{COOKIE, SET_COOKIE};
    use tower::{ServiceExt, service_fn};
    use uuid::Uuid;

    use super::*;
    use crate::clock::ManualClock;
    use crate::layer::SESSION_EVENT_HEADER;
    use crate::models::user::UserId;
    use crate::services::keys::{Algorithm, KeyMaterial, KeyRing};
    use crate::services::memory::MemoryStore;
    use crate::services::token::SessionRequest;

    fn tokens(clock: &Arc<ManualClock>) -> Tokens {
        let key = KeyMaterial::generate(1, Algorithm::Hs256, clock.now()).expect("random bytes");
        let keys = Arc::new(SharedKeys::new(KeyRing::of_one(&key).expect("a key")));
        let store = Arc::new(MemoryStore::default());
        let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
        Tokens::new(store, keys, AccessTokens::default(), SessionSettings::default(), clock)
    }

    async fn refresh_token(tokens: &Tokens) -> String {
        let sign_in = SessionRequest::new(UserId(Uuid::from_u128(1)), "taro@example.jp");
        tokens.sign_in(sign_in).await.expect("a session").tokens.refresh_token
    }

    #[tokio::test]
    async fn a_panic_on_the_way_to_an_upstream_loses_no_cookies() {
        let clock = Arc::new(ManualClock::default());
        let tokens = tokens(&clock);
        let cookie = format!("__Host-refresh_token={}", refresh_token(&tokens).await);
        clock.advance(Duration::from_secs(3_600));
        let session = SilentRefreshLayer::new(Arc::new(tokens), CookiePolicy::default());
        let panics = service_fn(|_| async { panic!("on purpose") });
        let request = Request::get("/").header(COOKIE, cookie).body(Body::empty()).expect("a request");
        let response = dispatcher::with_session(session, panics).oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[SESSION_EVENT_HEADER], "rotated");
        assert_eq!(response.headers().get_all(SET_COOKIE).iter().count(), 2);
    }
}
