//! Serving one listener on the caller's runtime.

use std::pin::pin;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::accept::{AcceptGroup, Acceptor};
use super::admission::ThreadAdmission;
use super::connection_registry::ConnectionRegistry;
use super::http_service::HttpService;
use super::limits::ServerLimits;
use super::socket::RuntimeListener;

/// Serves plain HTTP on the caller's runtime until `stop` completes, then drains open connections.
pub async fn serve<S: HttpService>(
    listener: TcpListener,
    service: S,
    limits: ServerLimits,
    stop: impl Future<Output = ()>,
) {
    serve_with_limits(listener, service, watch::channel(limits).1, stop).await;
}

/// Serves like [`serve`], with limits that can change at run time.
///
/// A new value takes effect as described at [`WorkerThreads::set_limits`](super::WorkerThreads::set_limits).
pub async fn serve_with_limits<S: HttpService>(
    listener: TcpListener,
    service: S,
    mut limits: watch::Receiver<ServerLimits>,
    stop: impl Future<Output = ()>,
) {
    let initial = *limits.borrow_and_update();
    let registry = ConnectionRegistry::new("shared", initial, ThreadAdmission::single(&initial));
    tokio::spawn(ConnectionRegistry::run_reaper(Arc::downgrade(&registry)));
    let acceptor = Acceptor {
        certificate: None,
        service,
        passes_rejections: false,
        group: AcceptGroup::single(&registry),
        has_proxy_protocol: false,
    };
    let mut accept_loop = pin!(acceptor.run(RuntimeListener::Tcp(listener), stop));
    loop {
        tokio::select! {
            () = &mut accept_loop => break,
            Ok(()) = limits.changed() => registry.set_limits(*limits.borrow_and_update()),
        }
    }
    registry.drain().await;
}
