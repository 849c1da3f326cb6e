//! HTTP server: accepts connections, enforces limits and timeouts, and shuts down gracefully.
//!
//! # Life of a connection
//!
//! 1. One of the [`WorkerThreads`] accepts the connection. It serves the connection itself, or transfers it
//!    to a thread with far fewer connections. Over the connection limit the response to its first request is 503.
//! 2. With the PROXY protocol (`proxy_protocol.rs`), the connection of a trusted proxy begins with the address of its
//!    client. If there is a [`Certificate`], the TLS handshake negotiates HTTP/2 or HTTP/1.1. Without TLS, a client
//!    may start with HTTP/2 by prior knowledge.
//! 3. Each request is checked: exactly one valid host, the length of the target, the number of header
//!    fields. HTTP/2 requests are normalized to the form of HTTP/1.1: `:authority` becomes `Host` (a
//!    different `Host` beside it is rejected with 400), and cookies are joined into one field.
//! 4. The service gets the request, with [`Peer`] or [`UnixPeer`] and, over TLS, [`TlsConnection`] in its extensions.
//!    Over the limit of requests in flight the response is 503; requests are not queued. A request whose body
//!    has not arrived is not counted while the service waits for it.
//! 5. A request that is rejected goes to the service with [`Rejected`] in its extensions, if the service responds to
//!    those. Otherwise the response is a problem.
//! 6. If the service has not read the whole body, the rest is discarded as far as it has arrived (`unread_body.rs`).
//!    If more is to come, an HTTP/1.1 response carries `Connection: close`, and the connection ends with it.
//! 7. Responses over TLS get a `Strict-Transport-Security` field, unless they have one.
//!
//! An HTTP/1.1 connection that is idle for a second releases its buffers until the next request. A client
//! that closes its connection before the response cancels its request: over TLS hyper reads ahead to detect
//! the close, otherwise `io.rs` peeks at the socket.
//!
//! A response can be ended while its client is not reading, with a
//! [`ResponseAbortHandle`](crate::response_abort::ResponseAbortHandle): HTTP/1.1 resets the connection,
//! HTTP/2 the stream.
//!
//! # Timeouts
//!
//! Connections record their progress, and one task per thread checks them about once a second. Timeouts are
//! accurate to that interval. Only HTTP/2 pings have timers, and HTTP/2 streams whose client does not open
//! its window, which are reset after [`ServerLimits::write_timeout`]; and request bodies that are awaited.
//!
//! # Shutdown
//!
//! A stopping server still accepts the connections in the backlog of the listening socket. HTTP/1.1 responses
//! then carry `Connection: close`, and HTTP/2 clients get a GOAWAY. An idle connection stays open for
//! another second, in case a request is on its way, and is closed after a last look at its socket. A request
//! of which at least one byte has arrived is completed, within [`ServerLimits::drain`].
//!
//! Requests can still be lost in four cases:
//!
//! - The request is on its way when its idle connection closes, which HTTP/1.1 clients must expect (RFC 9112
//!   section 9.6).
//! - The request is pipelined behind one whose response carries `Connection: close`.
//! - Only part of its first TLS record has arrived.
//! - Its connection is established between the last look at the backlog and the close of the listening
//!   socket, unless another process shares the port.
//!
//! # Behavior of hyper
//!
//! - A header timeout closes the connection without a response.
//! - A bare LF ends a line.
//! - `Content-Length` beside `Transfer-Encoding` is dropped.
//! - hyper responds itself to a head that it cannot parse (400, 414, 431). Over HTTP/1.1 its response is replaced by that
//!   of a rejected request. A target longer than the limit for all header fields gets 431.
//! - An HTTP/2 head more than 64 KiB over the limit gets a 431 response without a body, and a malformed one a reset of
//!   its stream.
//! - 100 is the only interim response.
//!
//! In all of these cases an upstream sees the same request as the gateway.
//!
//! ```
//! # async fn example() -> std::io::Result<()> {
//! use sekisho::server::{ServerLimits, serve};
//! use axum::{Router, routing::get};
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let service = Router::new().route("/", get("welcome"));
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let server = serve(listener, service, ServerLimits::default(), async { _ = stopped.await });
//! # stop.send(()).unwrap();
//! server.await;
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod accept;
mod admission;
mod body_pace;
mod connection;
mod connection_context;
mod connection_registry;
mod connection_state;
mod extensions;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod header_block;
mod http2_executor;
mod http2_input;
mod http_builders;
mod http_service;
mod io;
mod limits;
mod malformed_head;
mod proxy_protocol;
mod refusal;
mod reject;
mod request_body;
mod request_head;
mod request_place;
mod serve;
mod service;
mod socket;
mod tls;
mod unread_body;
mod workers;

pub use self::admission::{Client, ClientBusy, ClientShares, FreePlaces};
pub(crate) use self::admission::{Holder, Limit, record_front_proxy, record_share};
pub use self::extensions::{BodyPlace, InReserve, Peer, TlsConnection, UnixPeer};
pub use self::http_service::HttpService;
pub use self::limits::{ServerLimits, raise_file_limit};
pub use self::reject::{Rejected, overloaded_response};
pub use self::serve::{serve, serve_with_limits};
pub use self::socket::Listener;
pub use self::tls::{Certificate, CertificateError};
pub use self::workers::WorkerThreads;
