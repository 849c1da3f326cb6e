//! Architecture of the gateway, for readers of the code.
//!
//! `README.md` and `docs/` explain how to use and operate it. The [front page](crate) is for users of the layer.
//!
//! # Life of a request
//!
//! A request to an upstream, with a session whose access token has expired:
//!
//! 1. [`WorkerThreads::serve`](crate::server::WorkerThreads::serve): a worker thread accepts the connection, reads
//!    the request and enforces [`ServerLimits`](crate::server::ServerLimits).
//! 2. [`PublicService`](crate::app::PublicService): loads the thread's stack, as `app/stack.rs` lists it. The
//!    outermost layer assigns the request id and the [`RequestContext`](crate::request_context::RequestContext),
//!    the next one applies CORS and CSRF protection.
//! 3. [`Routes::find`](crate::proxy::Routes::find): finds the route by path. The paths of the built-in
//!    [`routers`](crate::routers) take precedence.
//! 4. [`SilentRefreshLayer`](crate::SilentRefreshLayer): reads the cookies and
//!    [verifies](crate::layer::TokenService::verify) the access token, without I/O. Only an expired token takes the
//!    next three steps.
//! 5. [`TokenService::refresh`](crate::layer::TokenService::refresh) of [`Tokens`](crate::Tokens): checks the MAC
//!    of the refresh token, and joins concurrent requests with the same token (single flight).
//! 6. [`SessionStore::rotate`](crate::services::store::SessionStore::rotate): rotates the token with one
//!    conditional `UPDATE`, in [`backend::sqlite`](crate::backend::sqlite) or
//!    [`backend::postgres`](crate::backend::postgres).
//! 7. [`rotation::decide`](crate::services::rotation::decide): if no row was updated, decides from the row why:
//!    replay, token reuse, a terminated or expired session, or a database that lost its last writes.
//! 8. [`Proxy`](crate::proxy::Proxy): receives the request with the [`Identity`](crate::Identity) in its
//!    extensions, removes reserved headers, adds the user's, sends the request once, and streams the response. A
//!    built-in handler receives [`CurrentUser`](crate::CurrentUser) instead.
//! 9. [`SilentRefresh`](crate::layer::SilentRefresh), on the response: sets the new cookies, unless the session has
//!    been terminated meanwhile, and [`X-Session-Event`](crate::layer::SESSION_EVENT_HEADER).
//! 10. [`AccessLog`](crate::telemetry::AccessLog): gets an entry once the response body has been sent.
//!
//! WebSockets, event streams and gRPC streams are [closed](crate::long_lived_streams::LongLivedStreams) when their
//! session ends.
//!
//! # Threads
//!
//! Each [worker thread](crate::server::WorkerThreads) has its own runtime, its own connections to clients and
//! upstreams, and its own cache of verified tokens. A request without a refresh involves no other thread. Work on
//! shared resources (databases, password hashing, the revocation poller, health checks, reloads) runs on the shared
//! runtime that [`cli`](crate::cli) starts. So do the built-in handlers and refreshes.
//!
//! # Layout
//!
//! | module | contents |
//! |---|---|
//! | [`identity`](crate::identity), [`session_event`](crate::session_event), [`request_context`](crate::request_context), [`client_info`](crate::client_info), [`client_share`](crate::client_share), [`long_lived_streams`](crate::long_lived_streams), [`unix_socket`](crate::unix_socket) | the terms that all modules share |
//! | [`navigation`](crate::navigation), [`next`](crate::next) | navigations of people, and the path to which they return after sign-in |
//! | [`models`](crate::models) | sessions, users, audit entries, movies |
//! | [`layer`](crate::layer) | the tower layer: cookies, verification, refresh, guards |
//! | [`sessions`](crate::sessions) | sign-in and sign-out for handlers |
//! | [`services`](crate::services) | tokens, rotation, sign-in, users, and the traits of the stores |
//! | [`backend`](crate::backend) | the stores on SQLite and PostgreSQL |
//! | [`proxy`](crate::proxy) | the reverse proxy: routes, headers, upstreams, WebSockets |
//! | [`routers`](crate::routers), [`schemas`](crate::schemas) | the built-in HTTP endpoints and their JSON types |
//! | [`pages`](crate::pages) | the pages for people |
//! | [`server`](crate::server) | the HTTP server: worker threads, connections, TLS |
//! | [`config`](crate::config), [`database_url`](crate::database_url), [`key_store`](crate::key_store), [`secret`](crate::secret) | settings, the URL of the database, signing keys, secrets in files |
//! | [`telemetry`](crate::telemetry) | log, metrics, traces |
//! | [`app`](crate::app) | the composition root: builds the stacks from the configuration |
//! | [`cli`](crate::cli) | the commands, one file for each |
//!
//! `tests/it/source_rules/imports.rs` defines, and tests, which module may import which.
//!
//! # Where to start
//!
//! [`services::rotation`](crate::services::rotation) decides every refresh, in one pure function.
//! [`services::store`](crate::services::store) is the contract of the database. [`layer`](crate::layer) has the
//! rules for cookies and responses, with examples.
//!
//! | to change | look at |
//! |---|---|
//! | the headers of proxied requests | `write_headers` in `src/proxy/request.rs`, and `NAMES` in `src/proxy/reserved_headers.rs`, so that clients and routes cannot set the same header. For one route, without code: `routes.set_request_headers` |
//! | the reasons for the end of a session | [`EndReason`](crate::models::session::EndReason) and [`SessionEvent`](crate::session_event::SessionEvent), each with its `ALL`; then the texts in `src/routers/error.rs` and `src/cli/session/row.rs`, and the table in `docs/troubleshooting.md` |
//! | the configuration keys | [`config`](crate::config), which lists the steps |
//! | the layers around all requests | `src/app/stack.rs` |
//! | the built-in endpoints | [`routers`](crate::routers); `src/app/builtin.rs` mounts them |
//! | the metrics | [`telemetry::metrics::METRICS`](crate::telemetry::metrics::METRICS) |
