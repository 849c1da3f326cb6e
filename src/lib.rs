//! Sessions for axum applications: browser users stay signed in, and no script sees a token.
//!
//! Two `HttpOnly` cookies carry a short-lived access token (a JWT) and a rotating refresh token. When the access token has
//! expired, [a tower layer](SilentRefreshLayer) refreshes the session within the same request, passes the request on, and sets the
//! new cookies on the response. A browser gets a 401 only when its session has ended.
//!
//! Sekisho is also a gateway in front of other applications, with users and pages of its own: see `README.md` and `docs/`.
//! [`architecture`] describes its code.
//!
//! # Ten lines
//!
//! ```
//! use axum::{Router, routing::get};
//! use sekisho::layer::RequireUser;
//! use sekisho::{CookiePolicy, CurrentUser, Sessions, Tokens};
//!
//! fn app(sessions: &Sessions) -> Router {
//!     Router::new()
//!         .route("/account", get(async |user: CurrentUser| user.email.to_string()))
//!         .route_layer(RequireUser)
//!         .layer(sessions.layer())
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sessions = Sessions::new(Tokens::in_memory()?, CookiePolicy::default());
//! let app = app(&sessions);
//! # let _: Router = app;
//! # Ok(()) }
//! ```
//!
//! # With users of your own
//!
//! Your application has the users and checks their passwords. It tells [`Sessions`] who has signed in, and Sekisho keeps the
//! sessions: here in the application's own SQLite database, with the feature `sqlite`.
//!
//! ```toml
//! [dependencies]
//! axum = "0.8"
//! sekisho = { path = "../sekisho", default-features = false, features = ["sqlite"] }
//! serde = { version = "1", features = ["derive"] }
//! sqlx = { version = "0.9", features = ["runtime-tokio", "sqlite"] }
//! tokio = { version = "1", features = ["full"] }
//! tower-http = { version = "0.7", features = ["csrf"] }
//! ```
//!
//! ```
//! # #[cfg(not(feature = "sqlite"))]
//! # fn main() {}
//! # #[cfg(feature = "sqlite")]
//! # fn main() {
//! #     example::run();
//! # }
//! # #[cfg(feature = "sqlite")]
//! # mod example {
//! use std::sync::Arc;
//!
//! use axum::extract::{Form, Query, State};
//! use axum::http::{StatusCode, request::Parts};
//! use axum::response::{Html, Redirect};
//! use axum::{Router, routing::{get, post}};
//! use sekisho::identity::Roles;
//! use sekisho::layer::{RedirectToSignIn, RequireRole};
//! use sekisho::next::Next;
//! use sekisho::{CookiePolicy, CurrentUser, SessionRequest, Sessions, SignIn, SignOut, SqliteStore, Tokens};
//! use tower_http::csrf::CsrfLayer;
//!
//! #[derive(serde::Deserialize)]
//! struct Credentials {
//!     email: String,
//!     password: String,
//! }
//!
//! #[derive(serde::Deserialize)]
//! struct WayBack {
//!     #[serde(default)]
//!     next: String,
//! }
//!
//! /// The form of `/sign-in?next=…` is sent to the same address, so that `next` comes back with it.
//! async fn sign_in_page() -> Html<&'static str> {
//!     Html(r#"<form method="post"><input name="email"><input name="password" type="password"><button>Sign in</button></form>"#)
//! }
//!
//! async fn sign_in(
//!     State(sessions): State<Sessions>,
//!     Query(way_back): Query<WayBack>,
//!     request: Parts,
//!     Form(form): Form<Credentials>,
//! ) -> Result<(SignIn, Redirect), StatusCode> {
//!     // Find the user and check the password here. Ids are numbers, UUIDs, or text for `Subject::new`.
//!     let user_id = if form.password == "correct horse battery" { 42 } else { return Err(StatusCode::UNAUTHORIZED) };
//!     let roles = Roles::new(["admin"]).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
//!     let new = SessionRequest { roles, ..SessionRequest::new(user_id, &form.email) };
//!     let signed_in = sessions.sign_in(&request, new).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
//!     // Checked, since the value comes from the browser: `None` unless it is a path of this site.
//!     let next = Next::parse(&way_back.next);
//!     Ok((signed_in, Redirect::to(next.as_ref().map_or("/account", Next::as_str))))
//! }
//!
//! async fn sign_out(State(sessions): State<Sessions>, request: Parts) -> Result<(SignOut, Redirect), StatusCode> {
//!     let signed_out = sessions.sign_out(&request).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
//!     Ok((signed_out, Redirect::to("/")))
//! }
//!
//! async fn account(user: CurrentUser) -> String {
//!     format!("You are user {}, {}.", user.subject, user.email)
//! }
//!
//! fn app(sessions: Sessions) -> Result<Router, Box<dyn std::error::Error>> {
//!     Ok(Router::new()
//!         .route("/reports", get(async || "For administrators."))
//!         .route_layer(RequireRole::any(["admin"])?)
//!         .route("/account", get(account))
//!         // A page that a person opens is redirected to `/sign-in?next=…`. Scripts and programs get a 401.
//!         .route_layer(sessions.layer().with_on_reject(RedirectToSignIn::new("/sign-in")?))
//!         // Added after the layer: no session is needed.
//!         .route("/sign-in", get(sign_in_page).post(sign_in))
//!         .route("/sign-out", post(sign_out))
//!         .with_state(sessions)
//!         // Protects all routes, sign-in included, against requests of other sites.
//!         .layer(CsrfLayer::new()))
//! }
//!
//! /// Call `sessions.tokens().stop()` before the program exits.
//! async fn open(pool: &sqlx::SqlitePool, secret: String) -> Result<Sessions, Box<dyn std::error::Error>> {
//!     let store = SqliteStore::open(pool).await?;
//!     store.migrate().await?;
//!     // At least 32 random bytes, from `openssl rand -base64 32`.
//!     let tokens = Tokens::builder().secret(secret).open(Arc::new(store)).await?;
//!     // On plain http://, in development: `CookiePolicy::insecure_for_loopback()`.
//!     Ok(Sessions::new(tokens, CookiePolicy::default()))
//! }
//! #
//! # pub fn run() {
//! #     let secret = "PF3V1b1zYcXcJ8mS0dWqkN6tRhLxGuEa4o7yKZ2QwTs".to_owned();
//! #     let runtime = tokio::runtime::Runtime::new().expect("a runtime");
//! #     let directory = tempfile::tempdir().expect("a directory");
//! #     runtime.block_on(async {
//! #         let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.path().join("app.db"));
//! #         let pool = sqlx::SqlitePool::connect_with(options.create_if_missing(true)).await.expect("a pool");
//! #         let sessions = open(&pool, secret).await.expect("the example to open its store");
//! #         app(sessions).expect("the example to build its routes");
//! #     });
//! # }
//! # }
//! ```
//!
//! `examples/axum_app.rs` is this application with a table of users, claims and tests. `docs/layer.md` explains each part.
//!
//! # Tests across an expiry
//!
//! A [`ManualClock`](clock::ManualClock) takes the place of the system's. An access token lives for 15 minutes, or up to 5 %
//! less, and is refreshed a little before.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use axum::{Router, body::Body, response::Response, routing::{get, post}};
//! use http::{Request, StatusCode, header::SET_COOKIE, request::Parts};
//! use sekisho::clock::ManualClock;
//! use sekisho::{CookiePolicy, CurrentUser, SessionRequest, Sessions, Tokens};
//! use tower::ServiceExt;
//!
//! /// Returns the `Cookie` that a browser sends after this response.
//! fn cookies(response: &Response) -> String {
//!     let set = response.headers().get_all(SET_COOKIE).iter().filter_map(|line| line.to_str().ok());
//!     set.filter_map(|line| line.split(';').next()).collect::<Vec<_>>().join("; ")
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let clock = Arc::new(ManualClock::default());
//! let sessions = Sessions::new(Tokens::builder().clock(clock.clone()).build()?, CookiePolicy::default());
//! # let handler_sessions = sessions.clone();
//! # let sign_in = async move |request: Parts| {
//! #     let signed_in = handler_sessions.sign_in(&request, SessionRequest::new(42, "ann@example.org")).await;
//! #     signed_in.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
//! # };
//! let app = Router::new()
//!     .route("/account", get(async |user: CurrentUser| user.email.to_string()))
//!     .route("/sign-in", post(sign_in))
//!     .layer(sessions.layer());
//!
//! let signed_in = app.clone().oneshot(Request::post("/sign-in").body(Body::empty())?).await?;
//! clock.advance(Duration::from_secs(16 * 60));
//! let request = Request::get("/account").header("cookie", cookies(&signed_in)).body(Body::empty())?;
//! let response = app.oneshot(request).await?;
//! assert_eq!(response.status(), StatusCode::OK);
//! assert_eq!(response.headers()["x-session-event"], "rotated");
//! # Ok(()) }
//! ```
//!
//! # Rules
//!
//! - The layer, sign-in and sign-out share one [`Sessions`], and so the names of the cookies.
//! - Protection against cross-site requests is [one line](layer#deployment), outside the layer and around sign-in too.
//! - Timeouts, and everything else that may drop a response, belong inside the layer.
//! - A session ends at once in this process and within a second in all others that share the store, access tokens
//!   included.
//! - No session ends because of a lost response, concurrent requests of several tabs, a crashed browser or a failing store.
//!   Two browsers with copies of the same cookies do end it: see [`services::rotation`].
//!
//! [`layer`] has the rules in full.
//!
//! # Why is the response a 401?
//!
//! `X-Session-Event` on the response, and the log, name the reason.
//!
//! | event | reason |
//! |---|---|
//! | `missing` | The browser sent no cookies. Are they `Secure` on plain `http://`? Does the page have another host than sign-in? Does `fetch` lack `credentials: "include"` towards another origin? Is sign-in's [`CookiePolicy`] the layer's? |
//! | `malformed` | The cookies are of another application, or one of them occurs twice. |
//! | `unknown_key` | The key has changed. `Tokens::in_memory()` makes a new one at each start. |
//! | `unknown_session` | The store has no such session. With [`MemoryStore`] a restart loses all of them. |
//! | `logged_out`, `revoked`, `displaced`, … | The session has ended, by this cause. |
//! | `idle_expired`, `absolute_expired` | The session has expired. |
//! | `reuse_detected` | Two clients used the same cookies. The audit log has both of them. |
//!
//! A 500 with a log line that names [`SilentRefreshLayer`] means that the handler's route is outside the layer.
//!
//! # Compared with axum-login and tower-sessions
//!
//! | | sekisho | axum-login with tower-sessions |
//! |---|---|---|
//! | a request of a signed-in user | verifies a signature or a cache entry, without I/O | reads the session and the user from the database |
//! | writes | one row, at each refresh and shortly after, every 15 minutes | the session, whenever it changes or its expiry moves |
//! | the cookie | two tokens, replaced at each refresh | one session id for the whole session |
//! | a stolen cookie | is detected when both copies are used, and the session ends | is valid as long as the session |
//! | the end of a session | at once here, within a second elsewhere, with its reason | at once, by its deletion |
//! | data in the session | the user's id, address, roles, and [claims](identity::Claims) of up to 512 bytes | anything |
//! | tests | across expiries, with an injected clock | with a short expiry and a wait |
//!
//! Use tower-sessions for shopping carts and other data that changes with each request. Both can be used in one application.
//!
//! To move from axum-login: the users stay, and so does the check of the password.
//!
//! | axum-login, tower-sessions | sekisho |
//! |---|---|
//! | `AuthnBackend::authenticate` | a function of your own, called before [`Sessions::sign_in`] |
//! | `auth_session.login(&user)` | `sessions.sign_in(&request, SessionRequest::new(user.id, &user.email))`, and the result as part of the response |
//! | `auth_session.logout()` | [`Sessions::sign_out`], likewise |
//! | `auth_session.user`, `AuthUser` | [`CurrentUser`], with the subject; read the row of the user where a handler needs more |
//! | `login_required!`, `permission_required!` | [`RequireUser`](layer::RequireUser), [`RequireRole`](layer::RequireRole), [`RedirectToSignIn`](layer::RedirectToSignIn) |
//! | `session_auth_hash` | [`Tokens::end_all`] where the password is changed; and after a sign-in a second look at the user, whose password may have been changed since it was checked |
//! | `SessionStore` | [`SqliteStore`], [`PostgresStore`], or another [`SessionStore`](services::store::SessionStore) |
//!
//! Users sign in once more, because the cookies are others.
//!
//! # Features
//!
//! - none: the layer, [`Tokens`] and [`MemoryStore`], without SQL, axum's server and password hashing.
//! - `sqlite`, `postgres`: [`SqliteStore`] and [`PostgresStore`] for the sessions of an application; with `server`, its
//!   databases.
//! - `server`: the gateway, with proxy, built-in endpoints, configuration and commands. Its program needs both databases.
//!
//! All three are enabled by default, because `cargo install` and `cargo run` build the gateway. Applications choose theirs
//! with `default-features = false`. Features are additive. `docs/layer.md` lists what each pulls in.

// This page and that of `services` link to modules that need other features. Links are checked with all
// features.
#![cfg_attr(
    not(all(feature = "postgres", feature = "server", feature = "sqlite")),
    allow(rustdoc::broken_intra_doc_links)
)]
// On docs.rs, whose compiler is a nightly one, each item names the feature that it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(doc)]
pub mod architecture;
pub mod client_info;
pub mod client_share;
pub mod clock;
mod duration_format;
#[cfg(feature = "server")]
mod http2_frames;
mod http_headers;
pub mod identity;
pub mod layer;
mod log_interval;
pub mod models;
pub mod navigation;
pub mod next;
#[cfg(feature = "server")]
mod printable;
pub mod problem;
pub mod request_context;
pub mod response_abort;
pub mod services;
pub mod session_event;
pub mod sessions;
#[cfg(feature = "server")]
pub mod user_agent;

#[cfg(feature = "server")]
pub mod app;
#[cfg(any(feature = "postgres", feature = "server", feature = "sqlite"))]
pub mod backend;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod database_url;
#[cfg(all(feature = "server", any(test, fuzzing)))]
pub mod fuzzing;
#[cfg(feature = "server")]
pub mod key_store;
#[cfg(feature = "server")]
pub mod long_lived_streams;
#[cfg(feature = "server")]
pub mod pages;
#[cfg(feature = "server")]
pub mod proxy;
#[cfg(feature = "server")]
pub mod routers;
#[cfg(feature = "server")]
pub mod schemas;
#[cfg(feature = "server")]
pub mod secret;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "server")]
pub mod unix_socket;

#[cfg(feature = "postgres")]
pub use crate::backend::postgres::PostgresStore;
#[cfg(feature = "sqlite")]
pub use crate::backend::sqlite::SqliteStore;
pub use crate::identity::{Claims, Identity, NoClaims, Subject};
pub use crate::layer::{CookiePolicy, CurrentUser, Reject401, SilentRefreshLayer, TokenService};
pub use crate::services::memory::MemoryStore;
pub use crate::services::token::{SessionRequest, SessionSettings, Tokens};
pub use crate::sessions::{Sessions, SignIn, SignOut};

#[cfg(test)]
mod test_seed;

/// Compiles and runs the examples of `README.md`.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Compiles and runs the examples of `README.ja.md`.
#[cfg(doctest)]
#[doc = include_str!("../README.ja.md")]
struct JapaneseReadme;

/// Compiles and runs the examples of `docs/layer.md`, which use the stores of the gateway and its dependencies.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../docs/layer.md")]
struct LayerPage;
