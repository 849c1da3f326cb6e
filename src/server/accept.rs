//! Accepting connections from a listening socket.

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tower::ServiceExt;

use super::admission::ConnectionRefused;
use super::connection::{Accepted, ConnectionError, serve_connection};
use super::connection_registry::{ConnectionPermit, ConnectionRegistry};
use super::extensions::insert_peer;
use super::http_service::HttpService;
use super::refusal;
use super::reject::{RejectReason, Rejected};
use super::socket::{DetachedSocket, PeerAddr, RuntimeListener, Socket};
use super::tls::Certificate;

/// Accept loop of one worker thread.
pub(super) struct Acceptor<S> {
    pub(super) certificate: Option<Arc<Certificate>>,
    pub(super) service: S,
    /// True if the service responds to rejected requests.
    pub(super) passes_rejections: bool,
    pub(super) group: AcceptGroup,
    /// True if connections begin with a header of the PROXY protocol.
    pub(super) has_proxy_protocol: bool,
}

/// One worker thread's view of the threads that accept from the same socket.
pub(super) struct AcceptGroup {
    /// This thread's position in `registries` and `senders`.
    pub(super) index: usize,
    pub(super) registries: Arc<[Arc<ConnectionRegistry>]>,
    /// Connections that other threads accepted and transferred to this one.
    pub(super) transferred: mpsc::UnboundedReceiver<TransferredConnection>,
    pub(super) senders: Vec<mpsc::UnboundedSender<TransferredConnection>>,
}

/// Connection that another worker thread accepted.
pub(super) struct TransferredConnection {
    socket: DetachedSocket,
    peer: PeerAddr,
    permit: ConnectionPermit,
}

impl AcceptGroup {
    /// Creates a group of one thread.
    pub(super) fn single(registry: &Arc<ConnectionRegistry>) -> Self {
        let (_, transferred) = mpsc::unbounded_channel();
        Self { index: 0, registries: [Arc::clone(registry)].into(), transferred, senders: Vec::new() }
    }

    /// Selects the thread for the next connection.
    ///
    /// This is the current thread, unless it has more than twice as many connections as the least loaded one.
    fn select_thread(&self) -> usize {
        let open = |index: usize| self.registries[index].open();
        let least_loaded = (0..self.registries.len()).min_by_key(|index| open(*index)).unwrap_or(self.index);
        if open(self.index) > 2 * open(least_loaded) + 1 { least_loaded } else { self.index }
    }
}

impl<S: HttpService> Acceptor<S> {
    /// Accepts connections until `stop` completes, then those left in the backlog.
    pub(super) async fn run(mut self, listener: RuntimeListener, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => self.dispatch(socket, peer),
                    Err(error) => backoff(&error).await,
                },
                Some(connection) = self.group.transferred.recv() => self.adopt(connection),
            }
        }
        self.drain_backlog(listener);
        // The channel closes once every thread of the group has dropped its senders.
        self.group.senders.clear();
        while let Some(connection) = self.group.transferred.recv().await {
            self.adopt(connection);
        }
    }

    fn dispatch(&mut self, socket: Socket, peer: PeerAddr) {
        let thread = self.group.select_thread();
        let registry = &self.group.registries[thread];
        if self.has_proxy_protocol && !registry.admission.is_front_proxy(peer.ip()) {
            return refusal::report_proxy_header(peer, "the peer is not in server.trusted_proxies");
        }
        let permit = match registry.try_acquire(peer.ip()) {
            Ok(permit) => permit,
            Err(refused) => return self.reject(socket, peer, refused),
        };
        match self.group.senders.get(thread).filter(|_| thread != self.group.index) {
            Some(sender) => transfer(sender, socket, peer, permit),
            None => self.serve(socket, peer, permit),
        }
    }

    fn adopt(&self, TransferredConnection { socket, peer, permit }: TransferredConnection) {
        match socket.register() {
            Ok(socket) => self.serve(socket, peer, permit),
            Err(error) => {
                tracing::error!(%peer, error = &error as &dyn std::error::Error, "cannot adopt connection");
            }
        }
    }

    fn serve(&self, socket: Socket, peer: PeerAddr, permit: ConnectionPermit) {
        let accepted = Accepted { socket, peer, permit, has_proxy_protocol: self.has_proxy_protocol };
        let certificate = self.certificate.clone();
        let service = self.service.clone();
        let connection = serve_connection(accepted, certificate, service, self.passes_rejections);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                if let ConnectionError::ProxyHeader(error) = &error {
                    refusal::report_proxy_header(peer, &error.to_string());
                }
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "connection failed");
            }
        });
    }

    /// Rejects a connection over a limit: with a 503 response, or by closing it over TLS and if its client has too many.
    ///
    /// A response over TLS would need a handshake, which is too expensive under overload.
    fn reject(&self, socket: Socket, peer: PeerAddr, refused: ConnectionRefused) {
        refusal::record_limit(refused, peer);
        if self.certificate.is_some() || refused == ConnectionRefused::Client {
            return;
        }
        let Ok(permit) = REJECTION_PERMITS.try_acquire() else { return };
        // A header of the PROXY protocol would precede the request.
        let passes_rejections = self.passes_rejections && !self.has_proxy_protocol;
        let service = passes_rejections.then(|| self.service.clone());
        let builder = self.group.registries[self.group.index].settings().builders.http1.clone();
        tokio::spawn(async move {
            let responding = respond_to_rejected(socket, peer, builder, service);
            let _ = tokio::time::timeout(REJECT_TIMEOUT, responding).await;
            drop(permit);
        });
    }

    /// Accepts the connections that the kernel has already established for the listener.
    ///
    /// Later ones are refused by the kernel, unless another process shares the port.
    fn drain_backlog(&mut self, listener: RuntimeListener) {
        // Calls `accept` directly, because tokio's readiness may be out of date.
        let Ok(listener) = listener.detach() else { return };
        loop {
            match listener.accept() {
                Ok((socket, peer)) => self.dispatch(socket, peer),
                // The client closed this connection; others may follow in the backlog.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(_) => return,
            }
        }
    }
}

fn transfer(
    sender: &mpsc::UnboundedSender<TransferredConnection>,
    socket: Socket,
    peer: PeerAddr,
    permit: ConnectionPermit,
) {
    tracing::debug!(%peer, "connection transferred to a less loaded thread");
    metrics::counter!("sekisho_connections_handed_over_total").increment(1);
    if let Ok(socket) = socket.detach() {
        // Fails if the other thread has stopped, which has dropped its other connections as well.
        let _ = sender.send(TransferredConnection { socket, peer, permit });
    }
}

/// Responds to a rejected connection. The service does so, if there is one and a request arrives soon.
async fn respond_to_rejected<S: HttpService>(
    mut socket: Socket,
    peer: PeerAddr,
    builder: http1::Builder,
    service: Option<S>,
) -> io::Result<()> {
    let has_request = match &service {
        Some(_) => tokio::time::timeout(REJECT_TIMEOUT / 2, socket.readable()).await.is_ok(),
        None => false,
    };
    match service.filter(|_| has_request) {
        Some(service) => {
            let responding = respond_by_service(socket, peer, builder, service);
            socket = responding.await.map_err(io::Error::other)?;
        }
        None => socket.write_all(&RejectReason::Overloaded.bytes()).await?,
    }
    socket.shutdown().await?;
    // Closing the socket before the request has arrived would reset the connection, and the client might lose the
    // response.
    let mut discarded = [0; 1024];
    while socket.read(&mut discarded).await? > 0 {}
    Ok(())
}

/// Lets the service respond to the first request of a rejected connection.
async fn respond_by_service<S: HttpService>(
    socket: Socket,
    peer: PeerAddr,
    mut builder: http1::Builder,
    service: S,
) -> Result<Socket, hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(|_| Body::empty());
        insert_peer(request.extensions_mut(), peer);
        request.extensions_mut().insert(Rejected(RejectReason::Overloaded));
        service.clone().oneshot(request)
    });
    let connection = builder.keep_alive(false).serve_connection(TokioIo::new(socket), service);
    Ok(connection.without_shutdown().await?.io.into_inner())
}

/// Waits after a failed `accept`. The usual cause is a lack of file descriptors, which an immediate retry
/// would only hit again.
async fn backoff(error: &io::Error) {
    tracing::error!(error = error as &dyn std::error::Error, "accept failed");
    tokio::time::sleep(ACCEPT_BACKOFF).await;
}

const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Limits concurrent rejections; further connections are closed without a response.
static REJECTION_PERMITS: Semaphore = Semaphore::const_new(256);
const REJECT_TIMEOUT: Duration = Duration::from_secs(1);
