//! Sekisho keeps browser users signed in.
//!
//! Two `HttpOnly` cookies carry a short-lived access token (a JWT) and a rotating refresh token. When the
//! access token has expired, the session is refreshed within the request, and the response sets the new
//! cookies. `README.md` and `docs/` explain how to use and operate the gateway. This page is for readers of the code.
//!
//! # Life of a request
//!
//! A request to an upstream, with a session whose access token has expired:
//!
//! 1. [`WorkerThreads::serve`](server::WorkerThreads::serve): a worker thread accepts the connection, reads
//!    the request and enforces [`ServerLimits`](server::ServerLimits).
//! 2. [`PublicService`](app::PublicService): loads the thread's stack, as `app/stack.rs` lists it. The outermost
//!    layer assigns the request id and the [`RequestContext`](request_context::RequestContext), the next
//!    one applies CORS and CSRF protection.
//! 3. [`Routes::find`](proxy::Routes::find): finds the route by path. The paths of the built-in [`routers`] take
//!    precedence.
//! 4. [`SilentRefreshLayer`]: reads the cookies and [verifies](layer::TokenService::verify) the access token,
//!    without I/O. Only an expired token takes the next three steps.
//! 5. [`TokenService::refresh`] of [`Tokens`]: checks the MAC of the refresh token,
//!    and joins concurrent requests with the same token (single flight).
//! 6. [`SessionStore::rotate`](services::store::SessionStore::rotate): rotates the token with one conditional
//!    `UPDATE`, in [`backend::sqlite`] or [`backend::postgres`].
//! 7. [`rotation::decide`](services::rotation::decide): if no row was updated, decides from the row why:
//!    replay, token reuse, a terminated or expired session, or a database that lost its last writes.
//! 8. [`Proxy`](proxy::Proxy): receives the request with the [`Identity`] in its extensions, removes reserved
//!    headers, adds the user's, sends the request once, and streams the response. A built-in handler receives
//!    [`CurrentUser`] instead.
//! 9. [`SilentRefresh`](layer::SilentRefresh), on the response: sets the new cookies, unless the session has
//!    been terminated meanwhile, and [`X-Session-Event`](layer::SESSION_EVENT_HEADER).
//! 10. [`AccessLog`](telemetry::AccessLog): gets an entry once the response body has been sent.
//!
//! WebSockets, event streams and gRPC streams are [closed](long_lived_streams::LongLivedStreams) when their session ends.
//!
//! # Threads
//!
//! Each [worker thread](server::WorkerThreads) has its own runtime, its own connections to clients and
//! upstreams, and its own cache of verified tokens. A request without a refresh involves no other thread.
//! Work on shared resources (databases, password hashing, the revocation poller, health checks, reloads) runs
//! on the shared runtime that [`cli`] starts. So do the built-in handlers and refreshes.
//!
//! # Layout
//!
//! | module | contents |
//! |---|---|
//! | [`identity`], [`session_event`], [`request_context`], [`client_info`], [`client_share`], [`long_lived_streams`], [`unix_socket`] | the terms that all modules share |
//! | [`navigation`], [`next`] | navigations of people, and the path to which they return after sign-in |
//! | [`models`] | sessions, users, audit entries, movies |
//! | [`layer`] | the tower layer: cookies, verification, refresh, guards |
//! | [`sessions`] | sign-in and sign-out for handlers |
//! | [`services`] | tokens, rotation, sign-in, users, and the traits of the stores |
//! | [`backend`] | the stores on SQLite and PostgreSQL |
//! | [`proxy`] | the reverse proxy: routes, headers, upstreams, WebSockets |
//! | [`routers`], [`schemas`] | the built-in HTTP endpoints and their JSON types |
//! | [`pages`] | the pages for people |
//! | [`server`] | the HTTP server: worker threads, connections, TLS |
//! | [`config`], [`database_url`], [`key_store`], [`secret`] | settings, the URL of the database, signing keys, secrets in files |
//! | [`telemetry`] | log, metrics, traces |
//! | [`app`] | the composition root: builds the stacks from the configuration |
//! | [`cli`] | the commands, one file for each |
//!
//! `tests/it/source_rules/imports.rs` defines, and tests, which module may import which.
//!
//! # Where to start
//!
//! [`services::rotation`] decides every refresh, in one pure function. [`services::store`] is the contract of the
//! database. [`layer`] has the rules for cookies and responses, with examples.
//!
//! | to change | look at |
//! |---|---|
//! | the headers of proxied requests | `write_headers` in `src/proxy/request.rs`, and `NAMES` in `src/proxy/reserved_headers.rs`, so that clients and routes cannot set the same header. For one route, without code: `routes.set_request_headers` |
//! | the reasons for the end of a session | [`EndReason`](models::session::EndReason) and [`SessionEvent`](session_event::SessionEvent), each with its `ALL`; then the texts in `src/routers/error.rs` and `src/cli/session/row.rs`, and the table in `docs/troubleshooting.md` |
//! | the configuration keys | [`config`], which lists the steps |
//! | the layers around all requests | `src/app/stack.rs` |
//! | the built-in endpoints | [`routers`]; `src/app/builtin.rs` mounts them |
//! | the metrics | [`telemetry::metrics::METRICS`] |
//!
//! # Features
//!
//! - `server`: the gateway, with proxy, built-in endpoints, configuration and commands.
//! - `sqlite`, `postgres`: [`SqliteStore`] and [`PostgresStore`] for the sessions of an application; with `server`, its
//!   databases.
//!
//! All three are enabled by default, for `cargo install`. With `default-features = false` the crate is the layer,
//! [`Tokens`] and [`MemoryStore`], without SQL, axum's server and password hashing; add the feature of a store.
//! Features are additive. `docs/layer.md` lists what each pulls in.

// This page and that of `services` link to modules that need other features. Links are checked with all
// features.
#![cfg_attr(
    not(all(feature = "postgres", feature = "server", feature = "sqlite")),
    allow(rustdoc::broken_intra_doc_links)
)]

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
