//! Secrets in the log at every level.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response};
use sekisho::models::movie::{Movie, MovieDetails, MovieId};
use sekisho::models::user::Role;
use sekisho::services::keys::Algorithm;
use sekisho::services::store::{MovieQuery, MovieStore, StoreError};
use tracing::Level;

use crate::support::gateway::{
    EMAIL, PASSWORD, SessionCookies, TestGateway, TestGatewayBuilder, get, post, route,
};
use crate::support::http::TestResponse;
use crate::support::upstream::Upstream;

/// Captures the log of the whole process, since other threads log too.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().with_max_level(Level::TRACE).with_ansi(false);
        lines.with_writer(move || writer.clone()).init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A movie store that panics.
struct PanickingStore;

#[async_trait]
impl MovieStore for PanickingStore {
    async fn list_movies(&self, _: &MovieQuery) -> Result<(Vec<Movie>, u64), StoreError> {
        panic!("on purpose")
    }

    async fn find_movie(&self, _: MovieId) -> Result<Option<Movie>, StoreError> {
        panic!("on purpose")
    }

    async fn insert_movies(&self, _: &[MovieDetails]) -> Result<Vec<Movie>, StoreError> {
        panic!("on purpose")
    }

    async fn update_movie(&self, _: &Movie) -> Result<bool, StoreError> {
        panic!("on purpose")
    }

    async fn delete_movie(&self, _: MovieId) -> Result<bool, StoreError> {
        panic!("on purpose")
    }
}

fn gateway_with_panicking_movies() -> TestGatewayBuilder {
    setup("").with_stores(|mut stores| {
        stores.movies = Arc::new(PanickingStore);
        stores
    })
}

fn setup(routes: &str) -> TestGatewayBuilder {
    let server = "[server]\nbuiltin = [\"auth\", \"token\", \"movies\", \"docs\"]\n";
    let tokens = "[tokens]\nalgorithm = \"ES256\"\n";
    TestGatewayBuilder::new(format!("{server}{tokens}{routes}")).signing(Algorithm::Es256)
}

/// The secrets that a test has sent or received.
#[derive(Default)]
struct Secrets(Vec<String>);

impl Secrets {
    /// Returns a unique text.
    fn create(&mut self, what: &str) -> String {
        let secret = format!("canary-{what}-{}-walks", self.0.len());
        self.0.push(secret.clone());
        secret
    }

    /// Adds both tokens. Payload and signature of the JWT count separately; its header is public.
    fn add_tokens(&mut self, cookies: &SessionCookies) {
        self.0.extend(cookies.access.split('.').skip(1).map(str::to_owned));
        self.0.push(cookies.refresh.clone());
    }

    fn assert_not_in(&self, log: &str) {
        for secret in &self.0 {
            let line = log.lines().find(|line| line.contains(secret.as_str()));
            assert_eq!(line, None, "{secret}");
        }
    }
}

#[tokio::test]
async fn secrets_are_not_logged_at_any_level() {
    let log = Log::start();
    let mut secrets = Secrets(vec![PASSWORD.to_owned()]);
    let upstream = Upstream::responding_with(|_| {
        Response::builder().header("set-cookie", "theirs=canary-upstream").body(Body::empty()).unwrap()
    })
    .await;
    secrets.0.push("canary-upstream".to_owned());
    let routes = route("/bearer", &upstream.url(), "bearer = \"films\"")
        + &route("/open", &upstream.url(), "auth = \"none\"\npass_authorization = true")
        + &route("/gone", "http://127.0.0.1:1", "auth = \"optional\"")
        + &route("/", &upstream.url(), "");
    let gateway = setup(&routes).start().await;
    let cookies = gateway.signed_in(Role::Admin).await;
    secrets.add_tokens(&cookies);
    send_secret_requests(&gateway, &cookies, &mut secrets).await;
    send_secret_bodies(&gateway, &mut secrets).await;
    run_session_lifecycle(&gateway, cookies, &mut secrets).await;
    trigger_panic(&mut secrets).await;

    let log = log.text();
    for expected in ["session refreshed", "a replaced refresh token was presented", "on purpose", "DEBUG"] {
        assert!(log.contains(expected), "missing in the log: {expected}");
    }
    assert!(log.contains("store unavailable"), "the errors are missing");
    secrets.assert_not_in(&log);
}

/// Sends secrets in queries and headers, to each kind of route.
async fn send_secret_requests(gateway: &TestGateway, cookies: &SessionCookies, secrets: &mut Secrets) {
    for path in
        ["/x", "/open", "/bearer", "/gone", "/auth/session", "/auth/unknown", "/movies", "/docs", "/a/../b"]
    {
        let query = secrets.create("query");
        let uri = format!("{path}?access_token={query}&sort={query}");
        let (theirs, value) = (secrets.create("cookie"), secrets.create("value"));
        gateway.ask(get(&uri).header("cookie", format!("{}; theirs={theirs}", cookies.line()))).await;
        for authorization in ["Bearer", "Basic", "Digest"] {
            let secret = secrets.create(authorization);
            let request = get(&uri).header("authorization", format!("{authorization} {secret}"));
            gateway.ask(request.header("proxy-authorization", &value).header("x-api-key", &value)).await;
        }
        for name in ["__Host-access_token", "__Host-refresh_token"] {
            let secret = secrets.create("token");
            gateway.ask(get(&uri).header("cookie", format!("{name}={secret}"))).await;
            gateway.ask(get(&uri).header("cookie", format!("{name}={secret}; {name}={secret}"))).await;
            let request = Request::post(&uri).header("cookie", format!("{name}={secret}"));
            gateway.ask(request.header("origin", "https://evil.example").header("host", "a")).await;
        }
    }
}

/// Sends secrets in the bodies of all endpoints that accept passwords or tokens.
async fn send_secret_bodies(gateway: &TestGateway, secrets: &mut Secrets) {
    let form = "application/x-www-form-urlencoded";
    let json = "application/json";
    for (path, kind, before, after) in [
        ("/auth/login", form, "email=taro@example.jp&password=", ""),
        ("/auth/login", form, "email=nobody@example.jp&password=", "&password=x"),
        ("/auth/login", json, "{\"email\":\"taro@example.jp\",\"password\":\"", "\"}"),
        ("/auth/login", json, "{\"email\":\"taro@example.jp\",\"password\":\"", "\",}"),
        ("/auth/login", json, "{\"email\":7,\"password\":[\"", "\"]}"),
        ("/auth/register", json, "{\"email\":\"new@example.jp\",\"password\":\"", "\"}"),
        ("/token", form, "username=taro@example.jp&password=", ""),
        ("/token", form, "grant_type=refresh_token&refresh_token=", ""),
        ("/token", form, "grant_type=password&client_secret=", ""),
        ("/token", json, "{\"password\":\"", "\"}"),
    ] {
        let body = format!("{before}{}{after}", secrets.create("body"));
        let request = post(path).header("content-type", kind);
        let basic = request.header("authorization", format!("Basic {}", secrets.create("basic")));
        let response = gateway.send(basic.body(Body::from(body)).unwrap()).await;
        assert!(response.status.is_client_error(), "{path} {before} {}", response.status);
    }
    let form = format!("username={EMAIL}&password={PASSWORD}");
    let request = post("/token").header("content-type", "application/x-www-form-urlencoded");
    let tokens = gateway.send(request.body(Body::from(form)).unwrap()).await.json();
    let token = |name: &str| tokens[name].as_str().unwrap().to_owned();
    secrets.add_tokens(&SessionCookies { access: token("access_token"), refresh: token("refresh_token") });
    let form = format!("grant_type=refresh_token&refresh_token={}", token("refresh_token"));
    let request = post("/token").header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(gateway.send(request.body(Body::from(form)).unwrap()).await.status, 200);
}

/// Refreshes a session, changes the password, replays old tokens, and closes the database.
async fn run_session_lifecycle(gateway: &TestGateway, first: SessionCookies, secrets: &mut Secrets) {
    let mut cookies = first.clone();
    for _ in 0..2 {
        gateway.expire();
        let response = gateway.ask(get("/bearer?x=1").header("cookie", cookies.line())).await;
        cookies = SessionCookies::of(&response).unwrap();
        secrets.add_tokens(&cookies);
    }
    let new = secrets.create("password");
    let body = format!("{{\"current_password\":\"{PASSWORD}\",\"new_password\":\"{new}\"}}");
    let request = post("/auth/password").header("content-type", "application/json");
    let request = request.header("cookie", cookies.line()).body(Body::from(body)).unwrap();
    assert_eq!(gateway.send(request).await.status, 200);
    // The replayed tokens are two generations old.
    gateway.clock.advance(Duration::from_secs(120));
    let response = gateway.ask(get("/x").header("cookie", first.line())).await;
    response.problem(401, "reuse_detected");
    let form = format!("email={EMAIL}&password={new}");
    let request = post("/auth/login").header("content-type", "application/x-www-form-urlencoded");
    let response: TestResponse = gateway.send(request.body(Body::from(form)).unwrap()).await;
    let cookies = SessionCookies::of(&response).unwrap();
    secrets.add_tokens(&cookies);
    gateway.expire();
    gateway.database.stores.close().await;
    for request in [get("/x?y"), post("/auth/refresh"), post("/auth/logout"), get("/gone")] {
        gateway.ask(request.header("cookie", cookies.line())).await.problem(503, "store_unavailable");
    }
}

async fn trigger_panic(secrets: &mut Secrets) {
    let gateway = gateway_with_panicking_movies().start().await;
    let cookies = gateway.signed_in(Role::Admin).await;
    secrets.add_tokens(&cookies);
    gateway.expire();
    let query = secrets.create("query");
    let request = get(&format!("/movies?title={query}")).header("cookie", cookies.line());
    let response = gateway.ask(request).await;
    response.problem(500, "internal");
    secrets.add_tokens(&SessionCookies::of(&response).unwrap());
}

#[tokio::test]
async fn panic_is_500_with_fresh_cookies() {
    let gateway = gateway_with_panicking_movies().start().await;
    let cookies = gateway.signed_in(Role::Admin).await;
    gateway.expire();
    let response = gateway.ask(get("/movies").header("cookie", cookies.line())).await;
    response.problem(500, "internal");
    assert_eq!(response.header("x-session-event"), Some("rotated"));
    let fresh = SessionCookies::of(&response).unwrap();
    assert_eq!(gateway.ask(get("/auth/session").header("cookie", fresh.line())).await.status, 200);
}
