//! The gateway in the test's process, on a SQLite file and a manual clock, with any configuration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::{Request, Response};
use secrecy::SecretString;
use sekisho::app::{App, AppDependencies, AppError};
use sekisho::backend::db::Stores;
use sekisho::clock::{Clock, ManualClock};
use sekisho::config::{Config, Origin, Sources};
use sekisho::models::user::Role;
use sekisho::server::{Peer, ServerLimits, serve};
use sekisho::services::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys};
use sekisho::services::users::NewUser;
use sekisho::telemetry::Telemetry;
use tokio::net::TcpListener;
use tower::ServiceExt;

use super::db::{self, TestDatabase};
use super::http::TestResponse;

/// A gateway with its database and clock.
pub(crate) struct TestGateway {
    pub(crate) app: App,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) database: TestDatabase,
    /// The initial signing key.
    pub(crate) key: KeyMaterial,
}

/// Builds a [`TestGateway`].
pub(crate) struct TestGatewayBuilder {
    toml: String,
    algorithm: Algorithm,
    prepare: Box<dyn FnOnce(Stores) -> Stores + Send>,
}

impl TestGatewayBuilder {
    /// Starts with this configuration, in TOML.
    pub(crate) fn new(toml: impl AsRef<str>) -> Self {
        let toml = format!("{}\n[login]\nbcrypt_cost = 4\n", toml.as_ref());
        Self { toml, algorithm: Algorithm::Hs256, prepare: Box::new(|stores| stores) }
    }

    /// Signs with this algorithm.
    pub(crate) fn signing(self, algorithm: Algorithm) -> Self {
        Self { algorithm, ..self }
    }

    /// Replaces or wraps the stores of the database.
    pub(crate) fn with_stores(self, prepare: impl FnOnce(Stores) -> Stores + Send + 'static) -> Self {
        Self { prepare: Box::new(prepare), ..self }
    }

    pub(crate) async fn build(self) -> Result<TestGateway, AppError> {
        let database = db::sqlite().await.unwrap();
        let clock = Arc::new(ManualClock::default());
        let key = KeyMaterial::generate(1, self.algorithm, clock.now()).unwrap();
        let config = config(&self.toml);
        let app = App::build(AppDependencies {
            config: &config,
            public_origin: ORIGIN.parse::<Origin>().unwrap(),
            stores: (self.prepare)(database.stores.clone()),
            keys: Arc::new(SharedKeys::new(KeyRing::from_material(&key).unwrap())),
            clock: clock.clone(),
            refresh_timeout: None,
            metrics: None,
            telemetry: Telemetry::default(),
            sample: None,
        })?;
        Ok(TestGateway { app, clock, database, key })
    }

    pub(crate) async fn start(self) -> TestGateway {
        self.build().await.unwrap()
    }
}

fn config(toml: &str) -> Config {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sekisho.toml");
    std::fs::write(&file, toml).unwrap();
    Config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap().config
}

/// Returns the TOML of a route to `upstream`, with further keys in `more`.
pub(crate) fn route(path: &str, upstream: &str, more: &str) -> String {
    format!("[[routes]]\npath = \"{path}\"\nupstreams = [\"{upstream}\"]\n{more}\n")
}

impl TestGateway {
    /// Sends a request without a body from [`PEER`] and reads the whole response.
    pub(crate) async fn ask(&self, request: http::request::Builder) -> TestResponse {
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> TestResponse {
        let (parts, body) = self.call(request).await.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
        TestResponse { status: parts.status, headers: parts.headers, body }
    }

    /// Sends a request and returns the response with its body unread.
    pub(crate) async fn call(&self, mut request: Request<Body>) -> Response<Body> {
        request.extensions_mut().insert(Peer(PEER.parse().unwrap()));
        self.app.public.clone().oneshot(request).await.unwrap()
    }

    /// Creates a user with this role and signs in.
    pub(crate) async fn signed_in(&self, role: Role) -> SessionCookies {
        let user = NewUser {
            email: EMAIL.to_owned(),
            name: None,
            role,
            password: SecretString::from(PASSWORD.to_owned()),
        };
        self.app.users.create(user).await.unwrap();
        self.signed_in_again().await
    }

    /// Signs the user of [`signed_in`](Self::signed_in) in.
    pub(crate) async fn signed_in_again(&self) -> SessionCookies {
        let form = format!("email={EMAIL}&password={PASSWORD}");
        let request = post("/auth/login").header("content-type", "application/x-www-form-urlencoded");
        let response = self.send(request.body(Body::from(form)).unwrap()).await;
        assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
        SessionCookies::of(&response).unwrap()
    }

    /// Advances the clock past the expiry of the access token.
    pub(crate) fn expire(&self) {
        self.clock.advance(Duration::from_secs(16 * 60));
    }

    /// Serves the public listener on a free port.
    pub(crate) async fn listen(&self, limits: ServerLimits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, self.app.public.clone(), limits, std::future::pending()));
        address
    }
}

/// The two session cookies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionCookies {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

impl SessionCookies {
    /// Returns the session cookies that a response sets, which must be both or none.
    pub(crate) fn of(response: &TestResponse) -> Option<Self> {
        let lines = response.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap());
        let lines: Vec<_> = lines.filter(|line| line.starts_with("__Host-")).collect();
        if lines.is_empty() {
            return None;
        }
        assert_eq!(lines.len(), 2, "{lines:?}");
        let [access, refresh] = NAMES.map(|name| {
            let values = lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            values.map(|rest| rest.split(';').next().unwrap()).next().unwrap().to_owned()
        });
        Some(Self { access, refresh })
    }

    /// Returns the value of the `Cookie` header.
    pub(crate) fn line(&self) -> String {
        format!("{}={}; {}={}", NAMES[0], self.access, NAMES[1], self.refresh)
    }
}

pub(crate) fn get(uri: &str) -> http::request::Builder {
    Request::get(uri).header("host", "app.example")
}

pub(crate) fn post(uri: &str) -> http::request::Builder {
    Request::post(uri).header("host", "app.example")
}

pub(crate) const EMAIL: &str = "taro@example.jp";
pub(crate) const PASSWORD: &str = "violet-kettle-orbit-29";
pub(crate) const NAMES: [&str; 2] = ["__Host-access_token", "__Host-refresh_token"];
/// The client address of requests.
pub(crate) const PEER: &str = "192.0.2.7:4711";
const ORIGIN: &str = "http://127.0.0.1:8080";
/// The host of the public origin.
pub(crate) const PUBLIC_HOST: &str = "127.0.0.1:8080";
