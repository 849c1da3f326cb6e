//! The reverse proxy: forwards requests to upstreams and streams the responses back.
//!
//! It does not depend on the session layer, the stores or axum's router. Outer layers handle sessions, tokens
//! and cookies before a request reaches the [`Proxy`]; it receives the [`Identity`](crate::identity::Identity).
//!
//! # The life of a proxied request
//!
//! 1. [`Routes::find`] selects the route by path. An outer layer inserts the [`MatchedRoute`] into the
//!    request's extensions. A path with more than one reading is rejected ([`BadPath`]).
//! 2. [`Proxy::call`](service) checks the method, forwarding loops ([`via`]), the user's roles and the
//!    declared length of the body. [`Upgrade::from_request`](upgrade) extracts a protocol upgrade.
//! 3. [`UpstreamRequest`](request) selects the headers to forward. It leaves out hop-by-hop headers
//!    ([`hop_by_hop`]), [`reserved_headers`], the gateway's [`cookies`] and everything that the route's
//!    [`HeaderEdits`] change.
//! 4. [`UpstreamRequest`](request) then adds the configured headers, the token of [`UpstreamTokens`], the
//!    user ([`IdentityHeaders`]), the client ([`Forwarded`], [`ForwardedPrefix`]) and `Via`. The `Host`, path and
//!    query of the client are preserved unless the route changes them.
//! 5. [`buffered_body`] reads a small body whole, if the route says so. [`upstream::send`] selects an upstream and a
//!    connection, sends the request and awaits the response head. [`request_body`] streams the body at the upstream's
//!    pace within limits of size and idle time.
//! 6. [`response::prepare_response`] removes hop-by-hop headers, reserved headers and reserved cookies from
//!    the response, and applies the route's edits.
//! 7. [`response_body`] streams the body. If the upstream aborts it, the client's connection is aborted too,
//!    so that a partial response is never taken for a complete one.
//!
//! A failure before step 7 becomes a response in [`error`].
//!
//! The headers that a route may change are checked once, when the table is built ([`header_policy`]).
//!
//! # Message framing
//!
//! An ambiguous request is rejected with 400 and its connection is closed; an ambiguous response becomes 502.
//! hyper parses the requests, [`upstream`] the HTTP/1.1 responses. Where RFC 9112 leaves a choice to the
//! recipient, both choose alike, and the forwarded message is canonical:
//!
//! - A bare line feed ends a line. It is forwarded as CR LF.
//! - Next to `Transfer-Encoding: chunked`, `Content-Length` is removed. So are chunk extensions. An upstream
//!   connection that sent both headers is not reused.
//! - An empty body is forwarded as none. Any other body of `GET`, `HEAD`, `DELETE` or `OPTIONS` goes to an HTTP/1.1
//!   upstream on a connection of its own, with `Connection: close` ([`empty_body`]).
//! - Other spellings of framing headers, such as `Transfer_Encoding`, are not forwarded.
//! - Any other transfer coding is rejected with 501, since hyper does not decode it, or 502 in a response with a body.
//! - A `Content-Length` that is repeated or has leading zeros is forwarded as one canonical number.
//! - Interim responses are not forwarded. The gateway sends `100 Continue` itself when the body is read.
//! - A request head that does not arrive in time closes the connection without a response.
//!
//! # Upgrades and event streams
//!
//! A request may ask for another protocol (RFC 9110, section 7.8): `Connection` contains `upgrade`, and
//! `Upgrade` a protocol that the route allows, by default only `websocket`. The request passes the same
//! steps. If the upstream sends `101`, [`tunnel`] copies bytes both ways from then on.
//!
//! - An upgrade that is not allowed is no error: the request is forwarded without `Upgrade`.
//! - Upgrades to HTTP (`h2c`) are never allowed, since the requests inside would bypass all checks.
//! - The `Origin` of a WebSocket handshake is checked by an outer layer.
//!
//! A stream that was opened in a session ends with the session, for any reason ([`LongLivedStreams`](crate::long_lived_streams::LongLivedStreams)):
//!
//! - [`websocket`] tracks the frame boundaries. At the next boundary the client receives a Close frame with
//!   code 4401 and the event (`logged_out`) as its reason, and the upstream one with code 1001. Both have a
//!   second to reply. If there is no boundary within 0.4 seconds, the connection is closed as it is.
//! - Any other tunnel is closed at once.
//! - An event stream (`text/event-stream`) is aborted, so that it is not taken for complete. A browser's
//!   `EventSource` reconnects and receives 401. If the client does not read, the server closes the
//!   connection ([`ResponseAbortHandle`](crate::response_abort::ResponseAbortHandle)).
//! - A gRPC call that has lasted for a second ends with the status `UNAUTHENTICATED` and the event as its message.
//!
//! The session is not checked again during any other response, however long it takes.
//!
//! Data that a client sends in its session uses it, which postpones the idle expiry ([`session_use`]): data frames
//! of a WebSocket, all bytes of any other tunnel, and the data of a request body that takes long.
//!
//! ```no_run
//! use axum::extract::Request;
//! use axum::middleware::{Next, from_fn_with_state};
//! use axum::response::Response;
//! use sekisho::long_lived_streams::LongLivedStreams;
//! use sekisho::proxy::{Proxy, ProxyError, ReservedCookies, RouteSpec, Routes};
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
//! let proxy = Proxy::new(ReservedCookies::default(), LongLivedStreams::default());
//! let app: axum::Router =
//!     axum::Router::new().fallback_service(proxy).layer(from_fn_with_state(routes, find_route));
//! # Ok::<(), sekisho::proxy::RouteError>(())
//! ```

#![allow(rustdoc::private_intra_doc_links, reason = "the list above leads through private modules")]

mod buffered_body;
mod content_length;
mod cookies;
mod empty_body;
mod error;
mod event_stream;
mod forwarded;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod grpc_response;
mod header_edits;
mod header_policy;
mod header_writer;
mod hop_by_hop;
mod identity_headers;
mod idle_timer;
mod path;
mod path_pattern;
mod prefixed_body;
mod preflight;
mod request;
mod request_body;
mod request_head;
mod reserved_headers;
mod response;
mod response_body;
mod route_error;
mod route_spec;
mod routes;
mod service;
mod session_use;
mod settings;
mod stream_error;
#[cfg(test)]
mod test_support;
mod trailers;
mod tunnel;
mod upgrade;
mod upload_progress;
mod upstream;
mod upstream_tokens;
mod via;
mod websocket;

pub use cookies::ReservedCookies;
pub use error::ProxyError;
pub use forwarded::{Forwarded, ForwardedPrefix};
pub use header_edits::HeaderEdits;
pub use identity_headers::IdentityHeaders;
pub use path::{BadPath, check as check_path, check_request_path};
pub(crate) use path::{NormalizedPath, is_at_or_below, may_be_respelled};
pub use path_pattern::literal_prefix;
pub use route_error::RouteError;
pub use route_spec::RouteSpec;
pub use routes::{MatchedRoute, Routes};
pub use service::Proxy;
pub use upgrade::is_upgrade_request;
pub use upstream::{
    ClientCertificate, HeaderCase, HealthCheck, Resolve, UpstreamConfigError, UpstreamHttp, UpstreamSettings,
};
pub use upstream_tokens::UpstreamTokens;
