//! The whole program in this process: the real stores, no sockets, and a clock moved by hand.

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
use sekisho::services::users::{HashedUser, NewUser};
use sekisho::telemetry::Telemetry;
use tokio::net::TcpListener;
use tower::{Service, ServiceExt};

use super::browser::Browser;
use super::db::{self, TestDatabase};
use super::http::Answer;

/// What browsers call the program.
pub(crate) const ORIGIN: &str = "https://app.example.com";

/// A password that is good enough.
pub(crate) const PASSWORD: &str = "tall umbrellas sing at noon";

/// The lifetimes of the defaults. (The tests' access tokens live that long to the second.)
pub(crate) const ACCESS_TTL: Duration = Duration::from_secs(15 * 60);
pub(crate) const GRACE: Duration = Duration::from_secs(60);
pub(crate) const IDLE_TTL: Duration = Duration::from_secs(14 * 86_400);
pub(crate) const ABSOLUTE_TTL: Duration = Duration::from_secs(90 * 86_400);
const LEEWAY: Duration = Duration::from_secs(5);

/// Past the grace, also by the whole seconds of a token's times.
pub(crate) const PAST_GRACE: Duration = Duration::from_secs(62);

/// The program over a database of its own.
pub(crate) struct TestApp {
    pub(crate) app: App,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) fresh: TestDatabase,
    setup: Setup,
}

/// What stays the same over a restart.
struct Setup {
    config: Config,
    keys: Arc<SharedKeys>,
    sample: Option<DemoCredentials>,
}

impl TestApp {
    /// The program as the defaults have it, over this database.
    pub(crate) async fn with_database(fresh: TestDatabase) -> Self {
        Self::with(fresh, &[]).await
    }

    /// The program with these settings besides, over this database.
    pub(crate) async fn with(fresh: TestDatabase, flags: &[(&str, &str)]) -> Self {
        Self::build(fresh, config(flags, None), None)
    }

    /// The program in front of this upstream, for signed-in users.
    pub(crate) async fn in_front_of(upstream: &str, fresh: TestDatabase) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sekisho.toml");
        std::fs::write(&file, format!("[[routes]]\npath = \"/\"\nupstreams = [\"{upstream}\"]\n")).unwrap();
        Self::build(fresh, config(&[], Some(file)), None)
    }

    /// The program as this file has it, with these settings besides.
    pub(crate) async fn from_file(file: PathBuf, flags: &[(&str, &str)]) -> Self {
        let fresh = db::sqlite().await.expect("SQLite needs no server");
        Self::build(fresh, config(flags, Some(file)), None)
    }

    /// The program as the demo has it.
    pub(crate) async fn demo() -> Self {
        let fresh = db::sqlite().await.expect("SQLite needs no server");
        let sample =
            DemoCredentials { email: "otama@example.com".to_owned(), password: "let me through".to_owned() };
        Self::build(fresh, config(&[], None), Some(sample))
    }

    fn build(fresh: TestDatabase, config: Config, sample: Option<DemoCredentials>) -> Self {
        let clock = Arc::new(ManualClock::default());
        let KeySource::Secret(secret) = &config.tokens.keys else { panic!("no tokens.secret") };
        let ring = KeyMaterial::from_secret(secret).and_then(|key| KeyRing::from_material(&key)).unwrap();
        let setup = Setup { keys: Arc::new(SharedKeys::new(ring)), config, sample };
        let app = setup.start(&fresh.stores, &clock);
        Self { app, clock, fresh, setup }
    }

    /// Ends the program and starts it again, with the database and keys that it had.
    pub(crate) async fn restart(self) -> Self {
        let Self { clock, fresh, setup, .. } = self;
        let fresh = fresh.reopen().await;
        Self { app: setup.start(&fresh.stores, &clock), clock, fresh, setup }
    }

    /// Another replica: the same database, by connections of its own, the same clock and keys, and
    /// nothing remembered.
    pub(crate) async fn replica(&self) -> App {
        self.replica_over(&self.fresh.open_again().await)
    }

    /// Another replica, with a way of its own to the same database.
    pub(crate) fn replica_over(&self, stores: &Stores) -> App {
        self.setup.start(stores, &self.clock)
    }

    /// Makes a user with [`PASSWORD`].
    pub(crate) async fn user(&self, email: &str) -> User {
        self.user_as(email, Role::User).await
    }

    /// Makes a user of this role, with [`PASSWORD`].
    pub(crate) async fn user_as(&self, email: &str, role: Role) -> User {
        let new =
            NewUser { email: email.to_owned(), name: None, role, password: SecretString::from(PASSWORD) };
        self.app.users.create(new).await.unwrap()
    }

    /// Takes over a user with a hash of another program's.
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

    /// A browser that has never been here.
    pub(crate) fn browser(&self) -> Browser {
        Browser::new(self.app.public.clone(), Arc::clone(&self.clock))
    }

    /// A browser in which a new user of this address has signed in.
    pub(crate) async fn signed_in(&self, email: &str) -> Browser {
        self.user(email).await;
        let mut browser = self.browser();
        browser.sign_in(email).await;
        browser
    }

    /// Listens on a port of its own.
    pub(crate) async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ServerLimits::default();
        tokio::spawn(serve(listener, self.app.public.clone(), limits, std::future::pending()));
        address
    }

    /// Sends a request of somebody who is no browser.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        send(&self.app, request).await
    }

    /// Moves the clock until the access tokens of now have expired, and nothing else.
    pub(crate) fn expire(&self) {
        self.clock.advance(ACCESS_TTL + LEEWAY);
    }

    /// The session's row.
    pub(crate) async fn row(&self, id: SessionId) -> Session {
        self.fresh.stores.sessions.find_session(id).await.unwrap().expect("the session is there")
    }

    /// Has what was noted off the requests' path written, until the row shows it.
    #[track_caller]
    pub(crate) fn flush_until(
        &self,
        id: SessionId,
        shows: impl Fn(&Session) -> bool,
    ) -> impl Future<Output = Session> {
        let asked_at = std::panic::Location::caller();
        async move {
            // The program's own writer may have taken the notes and be writing them right now.
            for _ in 0..1_000 {
                self.app.tokens.flush_deferred().await.unwrap();
                let row = self.row(id).await;
                if shows(&row) {
                    return row;
                }
            }
            panic!("the row at {asked_at} never showed it: {:?}", self.row(id).await)
        }
    }

    /// Runs a statement on the database. `{sessions}` and `{users}` are the tables' names.
    pub(crate) async fn sql(&self, sql: &str) {
        let url = self.fresh.url();
        if url.starts_with("sqlite") {
            db::run_sqlite(url, &sql.replace(['{', '}'], "")).await;
        } else {
            db::run(url, &sql.replace('{', "myapi.").replace('}', "")).await;
        }
    }

    /// From now on no session or user can be read or written.
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
            metrics: None,
            telemetry: Telemetry::default(),
            sample: self.sample.clone(),
        };
        App::build(parts).unwrap()
    }
}

fn config(flags: &[(&str, &str)], file: Option<PathBuf>) -> Config {
    let usual = [
        ("server.public_origin", ORIGIN),
        ("login.bcrypt_cost", "4"),
        ("tokens.access_ttl_jitter", "0"),
        ("tokens.secret", "of more than 32 bytes, and for the tests alone"),
    ];
    let flags = usual.iter().chain(flags).map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    Config::load(&Sources { flags, file, ..Sources::default() }).unwrap().config
}

/// Sends a request to the public listener, from an address of the documentation's.
pub(crate) async fn send(app: &App, request: Request<Body>) -> Answer {
    send_from([192, 0, 2, 7], app.public.clone(), request).await
}

/// Sends a request from this address, and reads the answer to its end.
pub(crate) async fn send_from<S>(address: [u8; 4], listener: S, mut request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    request.extensions_mut().insert(Peer(SocketAddr::from((address, 40_000))));
    let Ok(response) = listener.oneshot(request).await;
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body").to_vec();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// Makes one test of each rule for each database.
macro_rules! on_each_database {
    ($($rule:ident)*) => {
        on_each_database!(@on sqlite: $($rule)*);
        on_each_database!(@on postgres: $($rule)*);
    };
    (@on $database:ident: $($rule:ident)*) => {
        mod $database {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $rule() {
                    if let Some(fresh) = crate::support::db::$database().await {
                        super::$rule(fresh).await;
                    }
                }
            )*
        }
    };
}
pub(crate) use on_each_database;
