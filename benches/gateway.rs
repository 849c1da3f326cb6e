//! What the gateway costs: `cargo bench`.
//!
//! | group | |
//! |---|---|
//! | `request` | a bare handler, and the same behind the layer with a good access token: the difference is the layer |
//! | `check` | checking an access token, ours and `jsonwebtoken`'s own of the same token |
//! | `renewal` | one renewal, each with its rotation, on every store |
//! | `admission` | counting a request for its address, and for its address and then its user, until its end |
//! | `entrance` | a path that no route has, straight from the proxy and through all that stands before it: the difference is the entrance, with and without log, metrics and spans |
//! | `proxied` | one request over a kept-alive loopback connection, straight to an upstream and through the gateway |
//!
//! PostgreSQL takes part when `SEKISHO_TEST_POSTGRES` names a server. Compare figures of one run alone:
//! they are of one machine at one time.

use std::convert::Infallible;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{DecodingKey, Validation};
use secrecy::ExposeSecret;
use sekisho::app::{App, AppDependencies};
use sekisho::backend::db::Stores;
use sekisho::clock::{Clock, ManualClock, SystemClock};
use sekisho::config::{Config, Sources};
use sekisho::identity::{Roles, Subject};
use sekisho::layer::{CookiePolicy, RefreshRequest, RefreshedSession, SilentRefreshLayer, TokenService};
use sekisho::proxy::{ProxyError, Routes};
use sekisho::server::{self, Client, ClientShares, Peer, ServerLimits, WorkerThreads};
use sekisho::services::crypto;
use sekisho::services::jwt::AccessTokens;
use sekisho::services::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys};
use sekisho::services::store::SessionStore;
use sekisho::services::token::{SessionRequest, SessionSettings, Tokens};
use sekisho::session_event::SessionEvent;
use sekisho::telemetry::{self, LogFormat, LogGuard, SpanSender, Telemetry};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tower::{Layer, Service, service_fn};

#[path = "../tests/it/support/db.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "the tests' own, of which this needs a part")]
mod db;

criterion_group!(benches, request, check, renewal, admission, entrance, proxied);
criterion_main!(benches);

const USER: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

fn request(c: &mut Criterion) {
    let runtime = runtime();
    let tokens = must(Tokens::in_memory());
    let issued = runtime.block_on(signed_in(&tokens));
    let bare = service_fn(|request: Request<()>| async move { Ok::<_, Infallible>(answer(&request)) });
    let mut layered = SilentRefreshLayer::new(Arc::new(tokens), CookiePolicy::default()).layer(bare);
    let mut bare = bare;
    let request = || browser_request(&CookiePolicy::default(), &issued).map(drop);

    let mut group = c.benchmark_group("request");
    group.bench_function("bare", |b| {
        b.iter_batched(request, |request| bare.call(request).now_or_never(), BatchSize::SmallInput);
    });
    group.bench_function("layer, valid HS256", |b| {
        b.iter_batched(request, |request| layered.call(request).now_or_never(), BatchSize::SmallInput);
    });
    group.finish();
}

fn answer(request: &Request<()>) -> Response<usize> {
    Response::new(request.uri().path().len())
}

fn check(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("check");
    for algorithm in [Algorithm::Hs256, Algorithm::Es256, Algorithm::EdDsa] {
        let material = must(KeyMaterial::generate(1, algorithm, SystemClock.now()));
        let (token, keys) = token(&runtime, &material);
        let (access, now) = (AccessTokens::default(), SystemClock.now());
        group.bench_function(format!("sekisho, {}", algorithm.as_str()), |b| {
            b.iter(|| access.verify(&keys, black_box(&token), now));
        });
        if algorithm == Algorithm::Hs256 {
            group.bench_function("jsonwebtoken, HS256", jsonwebtoken_s_own(&material, token));
        }
    }
    group.finish();
}

fn token(runtime: &Runtime, material: &KeyMaterial) -> (String, KeyRing) {
    let keys = || must(KeyRing::from_material(material));
    let store = Stores::in_memory().sessions;
    let tokens = tokens(store, SharedKeys::new(keys()), Arc::new(SystemClock));
    (runtime.block_on(signed_in(&tokens)).access_token, keys())
}

/// The same claims, checked with the same cryptography.
fn jsonwebtoken_s_own(material: &KeyMaterial, token: String) -> impl FnMut(&mut criterion::Bencher<'_>) {
    #[derive(serde::Deserialize)]
    #[expect(dead_code, reason = "read from the token, as an application would")]
    struct Claims {
        sub: String,
        exp: i64,
        iat: i64,
        jti: uuid::Uuid,
        sid: uuid::Uuid,
        email: String,
        roles: Vec<String>,
    }
    crypto::install();
    let key = must(DecodingKey::from_secret(material.signing.expose_secret()));
    let mut validation = Validation::new(jsonwebtoken::Algorithm::HS256);
    validation.set_audience(&["sekisho"]);
    validation.set_issuer(&["sekisho"]);
    must(jsonwebtoken::decode::<Claims>(&token, &key, &validation));
    move |b| b.iter(|| jsonwebtoken::decode::<Claims>(black_box(&token), &key, &validation))
}

fn renewal(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("renewal");
    let stores = [
        ("memory", runtime.block_on(db::memory())),
        ("SQLite", runtime.block_on(db::sqlite())),
        ("PostgreSQL", runtime.block_on(db::postgres())),
    ];
    for (name, fresh) in &stores {
        // The one that is missing has said so.
        let Some(fresh) = fresh else { continue };
        let clock = Arc::new(ManualClock::default());
        let keys = must(KeyRing::generate(Algorithm::Hs256, clock.now()));
        let tokens = tokens(Arc::clone(&fresh.stores.sessions), SharedKeys::new(keys), clock.clone());
        let mut jar = runtime.block_on(signed_in(&tokens));
        group.bench_function(*name, |b| {
            b.iter_custom(|times| runtime.block_on(renew(&tokens, &clock, &mut jar, times)));
        });
    }
    group.finish();
}

async fn renew(tokens: &Tokens, clock: &ManualClock, jar: &mut RefreshedSession, times: u64) -> Duration {
    let began = Instant::now();
    for _ in 0..times {
        // Beyond the grace: every one of them rotates.
        clock.advance(Duration::from_secs(62));
        let request = RefreshRequest {
            refresh_token: jar.refresh_token.clone(),
            access_token: Some(jar.access_token.clone()),
            ..RefreshRequest::default()
        };
        *jar = must(tokens.refresh(request).await);
        assert_eq!(jar.event, SessionEvent::Rotated);
    }
    began.elapsed()
}

fn admission(c: &mut Criterion) {
    let limits = ServerLimits::default();
    let threads = must(WorkerThreads::start(4, limits));
    let shares = ClientShares::new(&limits);
    threads.free_places().into_iter().for_each(|free| shares.set_free_places(free));
    let address = Client::Address([192, 0, 2, 7].into());
    let user = Client::User(must(Subject::new(USER)));
    let mut group = c.benchmark_group("admission");
    group.bench_function("address", |b| {
        b.iter(|| must(shares.try_begin(&address, false)).end_in_flight());
    });
    group.bench_function("address, then user", |b| {
        b.iter(|| {
            let of_address = must(shares.try_begin(&address, false));
            let of_user = must(shares.try_begin(&user, false));
            drop(of_address);
            of_user.end_in_flight();
        });
    });
    group.finish();
}

fn entrance(c: &mut Criterion) {
    let runtime = runtime();
    let _here = runtime.enter();
    let issued = runtime.block_on(signed_in(&must(Tokens::in_memory())));
    let request = || {
        let mut request = browser_request(&CookiePolicy::default(), &issued);
        request.extensions_mut().insert(Peer(SocketAddr::from(([192, 0, 2, 7], 4711))));
        request
    };
    let mut group = c.benchmark_group("entrance");
    let routes = Routes::default();
    group.bench_function("none", |b| {
        let answer = |request: Request<Body>| {
            let found = routes.find(request.uri());
            drop(found.is_ok_and(|route| route.is_none()).then(|| ProxyError::NoRoute.into_response()));
        };
        b.iter(|| answer(request()));
    });
    let json = LogGuard::to(std::io::sink(), LogFormat::Json);
    let text = LogGuard::to(std::io::sink(), LogFormat::Text);
    let (spans, exporting) = must(SpanSender::start("http://127.0.0.1:1", 1.0));
    let log = |log: &LogGuard| Telemetry { access: Some(log.access()), ..Telemetry::default() };
    let mut through = |name: &str, telemetry: Telemetry| {
        let mut public = app("", telemetry).public;
        group.bench_function(name, |b| {
            // The answer's end is part of it.
            let mut answer = |request| drop(public.call(request).now_or_never());
            b.iter(|| answer(request()));
        });
    };
    through("nothing on", Telemetry::default());
    // From here on they are counted.
    let _metrics = telemetry::metrics::install();
    through("metrics", Telemetry::default());
    through("metrics, JSON log", log(&json));
    through("metrics, text log", log(&text));
    through("metrics, spans", Telemetry { spans: Some(spans), ..Telemetry::default() });
    runtime.block_on(exporting.stop());
    group.finish();
}

fn proxied(c: &mut Criterion) {
    let runtime = runtime();
    let upstream = runtime
        .block_on(listening(axum::Router::new().fallback(|| async { "An answer as short as many are." })));
    let (gateway, issued) = runtime.block_on(gateway(upstream));
    let cookies = CookiePolicy::insecure_for_loopback();

    let mut group = c.benchmark_group("proxied");
    group.throughput(Throughput::Elements(1));
    for (name, server) in [("straight to the upstream", upstream), ("through the gateway", gateway)] {
        let mut connection = runtime.block_on(connect(server));
        group.bench_function(name, |b| {
            b.iter(|| {
                let request = browser_request(&cookies, &issued);
                runtime.block_on(ask(&mut connection, request));
            });
        });
    }
    group.finish();
}

/// The whole program, but for its commands, in front of this upstream.
async fn gateway(upstream: SocketAddr) -> (SocketAddr, RefreshedSession) {
    let route = format!("[[routes]]\npath = \"/\"\nupstreams = [\"http://{upstream}\"]\n");
    let app = app(&route, Telemetry::default());
    let issued = signed_in(&app.tokens).await;
    (listening(app.public).await, issued)
}

/// The whole program, but for its commands, with these routes.
fn app(routes: &str, telemetry: Telemetry) -> App {
    let dir = must(tempfile::tempdir());
    let file = dir.path().join("sekisho.toml");
    must(std::fs::write(&file, format!("cookies = {{ secure = false }}\n{routes}")));
    let config = must(Config::load(&Sources { file: Some(file), ..Sources::default() })).config;
    let keys = must(KeyRing::generate(Algorithm::Hs256, SystemClock.now()));
    must(App::build(AppDependencies {
        config: &config,
        public_origin: must("http://127.0.0.1:8080".parse()),
        stores: Stores::in_memory(),
        keys: Arc::new(SharedKeys::new(keys)),
        clock: Arc::new(SystemClock),
        refresh_timeout: None,
        metrics: None,
        telemetry,
        sample: None,
    }))
}

async fn listening<S>(app: S) -> SocketAddr
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let listener = must(TcpListener::bind("127.0.0.1:0").await);
    let address = must(listener.local_addr());
    tokio::spawn(server::serve(listener, app, ServerLimits::default(), std::future::pending()));
    address
}

async fn connect(server: SocketAddr) -> http1::SendRequest<Body> {
    let socket = must(TcpStream::connect(server).await);
    must(socket.set_nodelay(true));
    let (sender, connection) = must(http1::handshake(TokioIo::new(socket)).await);
    tokio::spawn(connection);
    sender
}

async fn ask(connection: &mut http1::SendRequest<Body>, request: Request<Body>) {
    must(connection.ready().await);
    let response = must(connection.send_request(request).await);
    assert_eq!(response.status(), 200);
    must(response.into_body().collect().await);
}

/// A request with the headers that browsers send.
fn browser_request(cookies: &CookiePolicy, issued: &RefreshedSession) -> Request<Body> {
    let [access, refresh] = cookies.names();
    let (a, r) = (&issued.access_token, &issued.refresh_token);
    let request = Request::get("/films/7?with=cast")
        .header("host", "app.example")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        .header("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
        .header("accept-language", "ja,en;q=0.5")
        .header("sec-fetch-site", "same-origin")
        .header("cookie", format!("theme=dark; {access}={a}; {refresh}={r}; lang=ja"));
    must(request.body(Body::empty()))
}

fn tokens(store: Arc<dyn SessionStore>, keys: SharedKeys, clock: Arc<dyn Clock>) -> Tokens {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    let settings = SessionSettings { absolute_ttl: CENTURY, ..SessionSettings::default() };
    Tokens::new(store, Arc::new(keys), AccessTokens::default(), settings, clock)
}

async fn signed_in(tokens: &Tokens) -> RefreshedSession {
    let roles = Roles::new(["user", "editor"]).unwrap_or_default();
    let sign_in = SessionRequest {
        roles,
        ..SessionRequest::new(must(Subject::new(USER)), "yamada.taro@example.co.jp")
    };
    must(tokens.sign_in(sign_in).await).tokens
}

fn runtime() -> Runtime {
    must(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build())
}

/// A benchmark that can't begin should stop.
#[track_caller]
fn must<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    #[expect(clippy::expect_used, reason = "a benchmark may panic")]
    result.expect("the benchmark can go on")
}
