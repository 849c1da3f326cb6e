//! Sekisho keeps browser users signed in.
//!
//! Two `HttpOnly` cookies carry a short-lived access token and a rotating refresh token. When the
//! access token has expired, the session is renewed inside the same request: the request goes on, and
//! the fresh cookies are on its response. `README.md` says what that is good for and how to run it;
//! this page is for reading the code.
//!
//! # The life of a request
//!
//! In order, for a request to the program with a session that is due for renewal:
//!
//! 1. One of the threads of [`server`] accepts the connection, agrees on TLS and HTTP, and bounds what
//!    the client may cost.
//! 2. [`app`] lets it in: the request gets its id, its place in a trace, and the
//!    [`RequestContext`](crate::request_context::RequestContext) that marks its log lines and knows where it comes from.
//!    Past CORS and the refusal of cross-site requests the path alone says which face answers: a route of
//!    our own or the proxy.
//! 3. [`SilentRefreshLayer`] reads the two cookies and asks a [`TokenService`]
//!    about the access token: [`verify`](layer::TokenService::verify), without I/O. One that was found
//!    good on this thread is known again. A valid one skips the next step.
//! 4. [`refresh`](layer::TokenService::refresh) of [`Tokens`] checks the refresh token's MAC, joins
//!    the requests that present the same one, and tries one conditional update
//!    ([`SessionStore::rotate`](services::store::SessionStore::rotate)). Where nothing was updated,
//!    [`rotation::decide`](services::rotation::decide) reads the row and says why: replay, reuse, over
//!    or caught up. SQL is in [`backend::sqlite`] and [`backend::postgres`], twins in all but how they connect.
//! 5. The [`Identity`] goes into the request's extensions, and the request goes on, body and all:
//!    to a handler of [`routers`], which takes it with [`CurrentUser`], or
//! 6. to the [`proxy`], which removes what only we may say, adds who the user is, sends it once, and
//!    streams the answer back. What stays open after that, a WebSocket or an event stream, ends with its
//!    session, of which it is told ([`SessionEndWatcher`](crate::session_event::SessionEndWatcher)).
//! 7. On the way out the layer adds the fresh cookies, unless the session has ended meanwhile, with
//!    `Cache-Control: private, no-store`, and
//!    [`X-Session-Event`](layer::SESSION_EVENT_HEADER), which says in one word what it did. When the
//!    last byte has gone, the request is counted and has its line in the log.
//!
//! # Two halves
//!
//! Requests are served by [`WorkerThreads`](server::WorkerThreads), one on each core. Each has its own
//! connections with clients and to upstreams, and remembers by itself which tokens it has found good: a
//! request that needs no renewal wakes no other core. All that waits for something shared (the database,
//! passwords, the feed of ended sessions, health checks, reloads) is on the runtime that [`cli`] starts;
//! our own answers and renewals are sent there.
//!
//! # Where to read
//!
//! | first | for |
//! |---|---|
//! | [`identity`], [`models::session`] | the words that everything else uses |
//! | [`services::rotation`] | how a renewal is decided: one pure function |
//! | [`services::token`] | a session's tokens from sign-in to end |
//! | [`services::store`] | what is asked of a database, written as a contract |
//! | [`models::audit`], [`services::purge`] | what is written down of ends, and what is forgotten |
//! | [`layer`] | the rules of the layer, with two examples that run |
//! | [`proxy`] | the life of a proxied request |
//! | [`app`] | how the program is put together: the one place that knows all parts |
//! | [`telemetry`] | log, metrics and traces |
//! | [`config`] | every setting, read and checked |
//! | [`cli`] | the commands, one file for each noun |
//!
//! Who may import whom is a table in `tests/it/layering.rs`, and a test.
//!
//! # Features
//!
//! - `server`: the program, with proxy, routes, configuration and commands.
//! - `sqlite`, `postgres`: its databases. Each includes `server`.
//!
//! All three are on by default. Without them (`default-features = false`) the crate is the layer with
//! our [`Tokens`] and a [`MemoryStore`]: no SQL, no axum server, no passwords. Features add; none
//! changes what another does.

// The page above and that of `services` link to modules of the program, which aren't there without
// it. With all features every link is checked.
#![cfg_attr(not(feature = "server"), allow(rustdoc::broken_intra_doc_links))]

pub mod client_info;
pub mod clock;
mod http_headers;
pub mod identity;
pub mod layer;
pub mod models;
pub mod problem;
pub mod request_context;
pub mod response_abort;
pub mod services;
pub mod session_event;

#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod backend;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod key_store;
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

pub use crate::identity::Identity;
pub use crate::layer::{CookiePolicy, CurrentUser, Reject401, SilentRefreshLayer, TokenService};
pub use crate::services::memory::MemoryStore;
pub use crate::services::token::{SessionRequest, SessionSettings, Tokens};

#[cfg(test)]
mod test_seed;

/// The examples in `README.md` are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
