//! The reverse proxy: sends requests to upstreams and their answers back, streaming both ways.
//!
//! It knows `http` and [`Identity`](crate::identity::Identity), and nothing of tokens, cookies or
//! sessions: who the user is has been settled before a request gets here.
//!
//! # The life of a proxied request
//!
//! 1. The application finds the route by the path alone ([`Routes::find`], `path.rs`) and puts it
//!    among the request's extensions; a path with more than one reading is refused there.
//! 2. `service.rs` admits it: one of the route's methods (never `CONNECT` or `TRACE`), not forwarded by
//!    us before, one of the route's roles, a body within the limit.
//! 3. `request.rs` makes the request ours, and tells its fields one after the other to whoever writes them
//!    down in the upstream's protocol. What the client may not say is passed over (`hop_by_hop.rs`,
//!    `reserved.rs`, `cookies.rs`), and what the operator's [`HeaderEdits`] change; then comes what they
//!    set, and last what we say: who the user is ([`IdentityHeaders`]), [`Forwarded`],
//!    `Via`. The upstream sees the `Host` that the client asked for, unless the route sets another, and
//!    the client's path and query byte for byte. What a route may change is checked once (`rules.rs`).
//! 4. `upstream/` chooses one of the route's upstreams, takes a connection to it, sends the request and
//!    waits for the answer. `body.rs` streams the body, as fast as the upstream takes it, and watches
//!    that it doesn't stand still.
//! 5. `response.rs` makes the answer ours: hop-by-hop headers go (of HTTP/1.1 where its head is read), and cookies and headers that
//!    only we may set; then the operator's edits are made.
//! 6. The answer's body is streamed as it comes. One that breaks off breaks the client's
//!    connection, so that nobody takes half an answer for the whole. Before that point
//!    `error.rs` answers for what went wrong.
//!
//! # One framing
//!
//! Requests and answers that can be read in two ways end here: 400 and the connection closes, or 502.
//! hyper reads the requests, and in some things leaves no choice; answers of HTTP/1.1 are read by
//! `upstream/http1/`, in the same way where RFC 9112 leaves it to the recipient. What goes on is plain all
//! the same:
//!
//! - A line feed alone ends a line, too. It goes on as CR LF.
//! - Beside `Transfer-Encoding: chunked` a `Content-Length` is dropped, and so is what extends a chunk.
//!   Any other transfer coding is 501, or 502 from an upstream: nobody here would undo it. An upstream's
//!   connection isn't used again after an answer that said both.
//! - A `Content-Length` that is repeated, or has zeros before it, goes on as one plain number.
//! - Of interim answers none is handed on. 100 the client gets from us, once somebody reads its body.
//! - A head that doesn't come in time closes the connection without an answer.
//!
//! # What stays open
//!
//! A request may ask for another protocol (RFC 9110, section 7.8): `Connection`, which is read as a list,
//! names `upgrade`, and `Upgrade` a protocol that the route allows, by default `websocket` alone. The
//! request goes through the same steps, and where the upstream agrees, the answer is its `101`; from
//! then on `tunnel.rs` passes bytes. What may not be is no error: `Upgrade` stops here, and the request
//! goes on without. A protocol that takes requests of its own (`h2c`) is never allowed, for nobody would
//! check those. Whether a page may upgrade in the user's name is settled before, by its `Origin`.
//!
//! Whoever was let in by a session stays in no longer than it: [`LongLivedStreams`] are told of its end, and end
//! with it, whatever end that is.
//!
//! - For a WebSocket `websocket.rs` follows where frames begin, and changes none. At the next such point
//!   the client gets a Close 4401 whose reason is the event (`logged_out`), and the upstream a Close
//!   1001; nothing else passes any more, and both have a second to answer. Where that point doesn't
//!   come soon, the connection closes as it is.
//! - Any other tunnel breaks off.
//! - An event stream (`text/event-stream`) breaks off, so that nobody takes it for complete; an
//!   `EventSource` comes back by itself, and is then answered with 401. A client that reads nothing of it
//!   doesn't keep it open: the server hangs up ([`HangUp`](crate::response_abort::ResponseAbortHandle)).
//!
//! Of other answers the session is not asked again, however long they take.
//!
//! ```no_run
//! use axum::extract::Request;
//! use axum::middleware::{Next, from_fn_with_state};
//! use axum::response::Response;
//! use sekisho::proxy::{Proxy, ProxyError, ReservedCookies, RouteSpec, Routes, Streams};
//!
//! async fn find_route(
//!     axum::extract::State(routes): axum::extract::State<Routes>,
//!     mut request: Request,
//!     next: Next,
//! ) -> Response {
//!     match routes.find(request.uri()) {
//!         Ok(Some(route)) => _ = request.extensions_mut().insert(route),
//!         Ok(None) => {}
//!         Err(bad_path) => return ProxyError::from(bad_path).into_response(),
//!     }
//!     next.run(request).await
//! }
//!
//! let routes = Routes::new([RouteSpec::new("/", ["http://127.0.0.1:3000"])])?;
//! let proxy = Proxy::new(ReservedCookies::default(), Streams::default());
//! let app: axum::Router =
//!     axum::Router::new().fallback_service(proxy).layer(from_fn_with_state(routes, find_route));
//! # Ok::<(), sekisho::proxy::RouteError>(())
//! ```

mod body;
mod content_length;
mod cookies;
mod error;
mod forwarded;
mod header_edits;
mod header_policy;
mod header_writer;
mod hop_by_hop;
mod identity_headers;
mod long_lived;
mod path;
mod request;
mod request_head;
mod reserved_headers;
mod response;
mod route_error;
mod route_spec;
mod routes;
mod service;
mod settings;
mod stream_error;
mod tunnel;
mod upgrade;
mod upload_progress;
mod upstream;
mod upstream_tokens;
mod via;
mod websocket;

pub use cookies::ReservedCookies;
pub use error::ProxyError;
pub use forwarded::Forwarded;
pub use header_edits::HeaderEdits;
pub use identity_headers::IdentityHeaders;
pub use long_lived::LongLivedStreams;
pub use path::{BadPath, check as check_path};
pub use route_error::RouteError;
pub use route_spec::RouteSpec;
pub use routes::{MatchedRoute, Routes};
pub use service::Proxy;
pub use upgrade::asks_for_upgrade;
pub use upstream::{HealthCheck, Resolve, UpstreamConfigError, UpstreamHttp, UpstreamSettings};
pub use upstream_tokens::UpstreamTokens;
