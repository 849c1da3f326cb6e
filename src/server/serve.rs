//! Serving one listener on the caller's runtime.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use axum::body::Body;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::Service;

use super::accept::{AcceptGroup, Acceptor};
use super::connection_registry::ConnectionRegistry;
use super::limits::ServerLimits;

/// Serves plain HTTP on the caller's runtime until `stop` completes, then drains open connections.
pub async fn serve<S>(listener: TcpListener, service: S, limits: ServerLimits, stop: impl Future<Output = ()>)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    serve_with_limits(listener, service, watch::channel(limits).1, stop).await;
}

/// Serves like [`serve`], with limits that can change at run time.
///
/// A new value takes effect as described at [`WorkerThreads::set_limits`](super::WorkerThreads::set_limits).
pub async fn serve_with_limits<S>(
    listener: TcpListener,
    service: S,
    mut limits: watch::Receiver<ServerLimits>,
    stop: impl Future<Output = ()>,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let initial = *limits.borrow_and_update();
    let registry = ConnectionRegistry::new("shared", initial, 1, Arc::new(AtomicUsize::new(0)));
    tokio::spawn(ConnectionRegistry::run_reaper(Arc::downgrade(&registry)));
    let acceptor = Acceptor { certificate: None, service, group: AcceptGroup::single(&registry) };
    let mut accept_loop = pin!(acceptor.run(listener, stop));
    loop {
        tokio::select! {
            () = &mut accept_loop => break,
            Ok(()) = limits.changed() => registry.set_limits(*limits.borrow_and_update()),
        }
    }
    registry.drain().await;
}
