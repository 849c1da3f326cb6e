//! The gateway in the test's process, with real stores, no sockets and a manual clock.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use secrecy::SecretString;
use sekisho::app::{App, AppDependencies, DemoCredentials};
use sekisho::backend::db::Stores;
use sekisho::clock::{Clock, ManualClock};
use sekisho::config::{Config, KeySource, Sources};
use sekisho::models::session::{Session, SessionId};
use sekisho::models::user::{Role, User};
use sekisho::server::{Peer, ServerLimits, serve};
use sekisho::services::keys::{KeyMaterial, KeyRing, SharedKeys};
use sekisho::services::sample_movies::sample_movies;
use sekisho::services::users::{HashedUser, NewUser};
use sekisho::telemetry::Telemetry;
use tokio::net::TcpListener;
use tower::{Service, ServiceExt};

use super::browser::Browser;
use super::db::{self, TestDatabase};
use super::http::TestResponse;

/// The gateway's public origin.
pub(crate) const ORIGIN: &str = "https://app.example.com";

/// A password that the password policy accepts.
pub(crate) const PASSWORD: &str = "tall umbrellas sing at noon";

/// The user of the demo.
pub(crate) const DEMO_EMAIL: &str = "otama@example.com";

/// Default lifetimes. The jitter of the access token lifetime is off in these tests.
pub(crate) const ACCESS_TTL: Duration = Duration::from_secs(15 * 60);
pub(crate) const GRACE: Duration = Duration::from_secs(60);
pub(crate) const IDLE_TTL: Duration = Duration::from_secs(14 * 86_400);
pub(crate) const ABSOLUTE_TTL: Duration = Duration::from_secs(90 * 86_400);
const LEEWAY: Duration = Duration::from_secs(5);

/// Longer than the grace period and the confirmation age, by more than a second, since token times are whole
/// seconds.
pub(crate) const PAST_GRACE: Duration = Duration::from_secs(102);

/// A gateway with a database of its own.
pub(crate) struct TestApp {
    pub(crate) app: App,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) fresh: TestDatabase,
    setup: Setup,
}

/// The parts that a restart keeps.
#[derive(Clone)]
struct Setup {
    config: Config,
    keys: Arc<SharedKeys>,
    sample: Option<DemoCredentials>,
}

impl TestApp {
    /// Starts a gateway with the default configuration.
    pub(crate) async fn with_database(fresh: TestDatabase) -> Self {
        Self::with(fresh, &[]).await
    }

    /// Starts a gateway with the default configuration, changed by `flags`.
    pub(crate) async fn with(fresh: TestDatabase, flags: &[(&str, &str)]) -> Self {
        Self::build(fresh, config(flags, None), None)
    }

    /// Starts a gateway that forwards signed-in users to `upstream`.
    pub(crate) async fn with_upstream(upstream: &str, fresh: TestDatabase) -> Self {
        Self::with_upstream_and_flags(upstream, fresh, &[]).await
    }

    /// As [`with_upstream`](Self::with_upstream), with the configuration changed by `flags`.
    pub(crate) async fn with_upstream_and_flags(
        upstream: &str,
        fresh: TestDatabase,
        flags: &[(&str, &str)],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sekisho.toml");
        std::fs::write(&file, format!("[[routes]]\npath = \"/\"\nupstreams = [\"{upstream}\"]\n")).unwrap();
        Self::build(fresh, config(flags, Some(file)), None)
    }

    /// Starts a gateway with the configuration of `file`, changed by `flags`.
    pub(crate) async fn from_file(file: PathBuf, flags: &[(&str, &str)]) -> Self {
        let fresh = db::sqlite().await.expect("SQLite needs no server");
        Self::build(fresh, config(flags, Some(file)), None)
    }

    /// Starts a gateway with the demo's page, movies and user, an administrator.
    pub(crate) async fn demo() -> Self {
        Self::demo_with(&[]).await
    }

    /// As [`demo`](Self::demo), with the configuration changed by `flags`.
    pub(crate) async fn demo_with(flags: &[(&str, &str)]) -> Self {
        let fresh = db::sqlite().await.expect("SQLite needs no server");
        let sample = DemoCredentials { email: DEMO_EMAIL.to_owned(), password: Some(PASSWORD.to_owned()) };
        let app = Self::build(fresh, config(flags, None), Some(sample));
        app.fresh.stores.movies.insert_movies(&sample_movies()).await.unwrap();
        app.user_as(DEMO_EMAIL, Role::Admin).await;
        app
    }

    fn build(fresh: TestDatabase, config: Config, sample: Option<DemoCredentials>) -> Self {
        let clock = Arc::new(ManualClock::default());
        let KeySource::Secret(secret) = &config.tokens.keys else { panic!("expected tokens.secret") };
        let ring = KeyMaterial::from_secret(secret).and_then(|key| KeyRing::from_material(&key)).unwrap();
        let setup = Setup { keys: Arc::new(SharedKeys::new(ring)), config, sample };
        let app = setup.start(&fresh.stores, &clock);
        Self { app, clock, fresh, setup }
    }

    /// Restarts the gateway with the same database and keys.
    pub(crate) async fn restart(self) -> Self {
        let Self { clock, fresh, setup, .. } = self;
        let fresh = fresh.reopen().await;
        Self { app: setup.start(&fresh.stores, &clock), clock, fresh, setup }
    }

    /// Starts another replica: same database, clock and keys, its own connections, empty caches.
    pub(crate) async fn replica(&self) -> App {
        self.replica_over(&self.fresh.open_again().await)
    }

    /// Starts another replica with a changed configuration.
    pub(crate) async fn replica_with(&self, change: impl FnOnce(&mut Config)) -> App {
        let mut setup = self.setup.clone();
        change(&mut setup.config);
        setup.start(&self.fresh.open_again().await, &self.clock)
    }

    /// Starts another replica that reaches the same database through `stores`.
    pub(crate) fn replica_over(&self, stores: &Stores) -> App {
        self.setup.start(stores, &self.clock)
    }

    /// Creates a user with [`PASSWORD`].
    pub(crate) async fn user(&self, email: &str) -> User {
        self.user_as(email, Role::User).await
    }

    /// Creates a user with this role and [`PASSWORD`].
    pub(crate) async fn user_as(&self, email: &str, role: Role) -> User {
        let new =
            NewUser { email: email.to_owned(), name: None, role, password: SecretString::from(PASSWORD) };
        self.app.users.create(new).await.unwrap()
    }

    /// Imports a user with a password hash of another program.
    pub(crate) async fn import(&self, email: &str, hash: &str) {
        let user = HashedUser {
            email: email.to_owned(),
            name: None,
            role: Role::User,
            hashed_password: SecretString::from(hash),
            disabled: false,
        };
        self.app.users.import(vec![user]).await.unwrap();
    }

    /// Returns a browser without cookies.
    pub(crate) fn browser(&self) -> Browser {
        Browser::new(self.app.public.clone(), Arc::clone(&self.clock))
    }

    /// Creates a user with this address and returns a browser that has signed in.
    pub(crate) async fn signed_in(&self, email: &str) -> Browser {
        self.user(email).await;
        let mut browser = self.browser();
        browser.sign_in(email).await;
        browser
    }

    /// Serves the public listener on a free port.
    pub(crate) async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ServerLimits::default();
        tokio::spawn(serve(listener, self.app.public.clone(), limits, std::future::pending()));
        address
    }

    /// Sends a request without the headers of a browser.
    pub(crate) async fn send(&self, request: Request<Body>) -> TestResponse {
        send(&self.app, request).await
    }

    /// Advances the clock so that present access tokens expire, but nothing else does.
    pub(crate) fn expire(&self) {
        self.clock.advance(ACCESS_TTL + LEEWAY);
    }

    /// Reads the session's row.
    pub(crate) async fn row(&self, id: SessionId) -> Session {
        self.fresh.stores.sessions.find_session(id).await.unwrap().expect("the session is there")
    }

    /// Flushes the deferred writes until the session's row satisfies `is_written`.
    #[track_caller]
    pub(crate) fn flush_until(
        &self,
        id: SessionId,
        is_written: impl Fn(&Session) -> bool,
    ) -> impl Future<Output = Session> {
        let caller = std::panic::Location::caller();
        async move {
            // The gateway's own flush may be writing them at the same time.
            for _ in 0..1_000 {
                self.app.tokens.flush_deferred().await.unwrap();
                let row = self.row(id).await;
                if is_written(&row) {
                    return row;
                }
            }
            panic!("{caller}: the row was not written: {:?}", self.row(id).await)
        }
    }

    /// Runs a statement on the database, with `{sessions}` and `{users}` for the table names.
    pub(crate) async fn sql(&self, sql: &str) {
        let url = self.fresh.url();
        if url.starts_with("sqlite") {
            db::run_sqlite(url, &sql.replace(['{', '}'], "")).await;
        } else {
            db::run(url, &sql.replace('{', "myapi.").replace('}', "")).await;
        }
    }

    /// Renames the tables of sessions and users, so that every read and write of them fails.
    pub(crate) async fn break_store(&self) {
        for table in ["sessions", "users"] {
            self.sql(&format!("ALTER TABLE {{{table}}} RENAME TO {table}_away")).await;
        }
    }

    /// Undoes [`break_store`](Self::break_store).
    pub(crate) async fn repair_store(&self) {
        for table in ["sessions", "users"] {
            self.sql(&format!("ALTER TABLE {{{table}_away}} RENAME TO {table}")).await;
        }
    }
}

impl Setup {
    fn start(&self, stores: &Stores, clock: &Arc<ManualClock>) -> App {
        let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
        let parts = AppDependencies {
            config: &self.config,
            public_origin: self.config.server.public_origin.clone().unwrap(),
            stores: stores.clone(),
            keys: Arc::clone(&self.keys),
            clock,
            // Not the default, which a busy machine may exceed.
            refresh_timeout: Some(Duration::from_secs(60)),
            metrics: None,
            telemetry: Telemetry::default(),
            sample: self.sample.clone(),
        };
        App::build(parts).unwrap()
    }
}

fn config(flags: &[(&str, &str)], file: Option<PathBuf>) -> Config {
    let defaults = [
        ("server.public_origin", ORIGIN),
        ("login.bcrypt_cost", "4"),
        ("tokens.access_ttl_jitter", "0"),
        ("tokens.secret", "a secret for tests of more than 32 bytes"),
    ];
    let flags =
        defaults.iter().chain(flags).map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    Config::load(&Sources { flags, file, ..Sources::default() }).unwrap().config
}

/// Sends a request to the public listener, from an address of TEST-NET-1 (RFC 5737).
pub(crate) async fn send(app: &App, request: Request<Body>) -> TestResponse {
    send_from([192, 0, 2, 7], app.public.clone(), request).await
}

/// Sends a request from `address` and reads the whole response.
pub(crate) async fn send_from<S>(address: [u8; 4], listener: S, mut request: Request<Body>) -> TestResponse
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    request.extensions_mut().insert(Peer(SocketAddr::from((address, 40_000))));
    let Ok(response) = listener.oneshot(request).await;
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body").to_vec();
    TestResponse { status: parts.status, headers: parts.headers, body }
}

/// Defines one test of each function for each database.
macro_rules! on_each_database {
    ($($test:ident)*) => {
        on_each_database!(@on sqlite: $($test)*);
        on_each_database!(@on postgres: $($test)*);
    };
    (@on $database:ident: $($test:ident)*) => {
        mod $database {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(fresh) = crate::support::db::$database().await {
                        super::$test(fresh).await;
                    }
                }
            )*
        }
    };
}
pub(crate) use on_each_database;
