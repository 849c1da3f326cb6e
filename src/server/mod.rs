//! Accepting connections, speaking HTTP, and ending with grace.
//!
//! # The life of a connection
//!
//! 1. One of the [`WorkerThreads`] accepts it, and serves it or, if it has far more than another, hands
//!    it over. Where there are as many as there may be it is answered with 503 and closed.
//! 2. TLS is agreed on where there is a [`Certificate`], and with it the protocol: HTTP/2 or HTTP/1.1.
//!    Without TLS a client may begin with HTTP/2 at once (prior knowledge).
//! 3. Every request is checked: for one host, the length of its target, the number of its fields. What
//!    HTTP/2 says in its own way is said as HTTP/1.1 says it: `:authority` in `Host` (a `Host` beside it
//!    that differs is 400), and the cookies in one field. Then the service gets it, with a [`Peer`] and,
//!    over TLS, the [`TlsConnection`] marker among its extensions.
//! 4. Where as many requests wait for an answer as may, the next one gets 503 at once, not a queue.
//! 5. Answers over TLS tell browsers to come back over TLS only (`Strict-Transport-Security`), unless
//!    they say something of that already.
//!
//! A connection of HTTP/1.1 that has been idle for a second gives its buffers back until its next request.
//! A client that leaves before its answer is noticed, and nobody works for it any longer: through TLS by
//! hyper's reading ahead, otherwise by a look at the socket (`wire.rs`).
//! An answer that must end although its client takes nothing of it ends by its
//! [`HangUp`](crate::response_abort::ResponseAbortHandle): the connection of HTTP/1.1, the stream of HTTP/2.
//!
//! A connection has no timers of its own (but for the pings of HTTP/2, and a stream of HTTP/2 of which nothing
//! is taken, which is reset when that has lasted [`ServerLimits::write_timeout`]): it notes what it does, and once
//! in a while somebody looks whether it has
//! moved. So timeouts are kept to about a second.
//!
//! # The end
//!
//! When the server is told to stop, connections in the queue of the listening socket are still accepted.
//! Then HTTP/1.1 answers carry `Connection: close`, and HTTP/2 clients are sent a GOAWAY. A connection
//! without a request stays open for another second, for a client that is about to ask, and is closed
//! once a last look finds nothing in its socket. A request of which a byte has come is answered, within
//! [`ServerLimits::drain`]. What can still be cut: a request that is on its way when its idle connection
//! closes, which HTTP/1.1 clients must expect (RFC 9112, section 9.6); one behind another that it was
//! sent together with, after `Connection: close`; one of which no more than a part of a TLS record has
//! come; and a connection that comes between the last look at the queue and the closing of the socket,
//! unless another process shares the port.
//!
//! # What hyper decides
//!
//! A header timeout closes the connection without an answer. A bare LF ends a line. `Content-Length`
//! beside `Transfer-Encoding` is dropped. A head that is refused before it is understood (400, 431) gets an
//! answer without a body; so does a target that is longer than all headers may be, as 431. Interim answers but 100 don't exist. None of these
//! lets anything go on to an upstream in more than one meaning.
//!
//! ```
//! # async fn example() -> std::io::Result<()> {
//! use sekisho::server::{ServerLimits, serve};
//! use axum::{Router, routing::get};
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let service = Router::new().route("/", get("welcome"));
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let serving = serve(listener, service, ServerLimits::default(), async { _ = stopped.await });
//! # stop.send(()).unwrap();
//! serving.await;
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod accept;
mod connection;
mod connection_registry;
mod connection_state;
mod http2_executor;
mod io;
mod limits;
mod reject;
mod service;
mod tls;
mod workers;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use axum::body::Body;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::Service;

use self::accept::{AcceptGroup, Acceptor};
use self::connection_registry::ConnectionRegistry;
pub use self::limits::{ServerLimits, raise_file_limit};
pub use self::tls::{Certificate, CertificateError};
pub use self::workers::WorkerThreads;

/// The other end of a connection, put into every request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Among the extensions of every request that came over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsConnection;

/// Serves on the runtime of the caller until `stop` is ready, then lets what is under way end.
pub async fn serve<S>(listener: TcpListener, service: S, limits: ServerLimits, stop: impl Future<Output = ()>)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    serve_with_limits(listener, service, watch::channel(limits).1, stop).await;
}

/// As [`serve`], under limits that may change, as [`WorkerThreads::set_limits`] has it.
pub async fn serve_with_limits<S>(
    listener: TcpListener,
    service: S,
    mut limits: watch::Receiver<ServerLimits>,
    stop: impl Future<Output = ()>,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let first = *limits.borrow_and_update();
    let connections = ConnectionRegistry::new("shared", first, 1, Arc::new(AtomicUsize::new(0)));
    tokio::spawn(ConnectionRegistry::run_reaper(Arc::downgrade(&connections)));
    let acceptor = Acceptor { certificate: None, service, sharers: AcceptGroup::none(&connections) };
    let mut accepting = pin!(acceptor.run(listener, stop));
    loop {
        tokio::select! {
            () = &mut accepting => break,
            Ok(()) = limits.changed() => connections.set_limits(*limits.borrow_and_update()),
        }
    }
    connections.drain().await;
}
