//! Taking connections from a listening socket.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower::Service;

use super::connection::serve_connection;
use super::connection_registry::{ConnectionPermit, ConnectionRegistry};
use super::reject::RejectReason;
use super::tls::Certificate;

/// What one thread takes from a listening socket, which it may share with others.
pub(super) struct Acceptor<S> {
    pub(super) certificate: Option<Arc<Certificate>>,
    pub(super) service: S,
    pub(super) sharers: AcceptGroup,
}

/// The threads that accept from one socket.
pub(super) struct AcceptGroup {
    /// Which of them this is.
    pub(super) mine: usize,
    pub(super) connections: Arc<[Arc<ConnectionRegistry>]>,
    /// For what another of them accepted and this one is to serve.
    pub(super) given: mpsc::UnboundedReceiver<TransferredConnection>,
    pub(super) others: Vec<mpsc::UnboundedSender<TransferredConnection>>,
}

/// A connection that another thread accepted.
pub(super) struct TransferredConnection {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    slot: ConnectionPermit,
}

impl AcceptGroup {
    /// Nobody but these.
    pub(super) fn none(connections: &Arc<ConnectionRegistry>) -> Self {
        let (_, given) = mpsc::unbounded_channel();
        Self { mine: 0, connections: [Arc::clone(connections)].into(), given, others: Vec::new() }
    }

    /// Who is to serve the next connection: this thread, unless it has more than twice as many as the
    /// one with the fewest.
    fn next(&self) -> usize {
        let open = |thread: usize| self.connections[thread].open();
        let fewest = (0..self.connections.len()).min_by_key(|thread| open(*thread)).unwrap_or(self.mine);
        if open(self.mine) > 2 * open(fewest) + 1 { fewest } else { self.mine }
    }
}

impl<S> Acceptor<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    /// Accepts until `stop` is ready, and then whoever is in the queue already.
    pub(super) async fn run(mut self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.dispatch(stream, peer),
                    Err(error) => backoff(&error).await,
                },
                Some(given) = self.sharers.given.recv() => self.adopt(given),
            }
        }
        self.drain_backlog(listener);
        // Each gives the others nothing from here on, and so takes what they gave it before.
        self.sharers.others.clear();
        while let Some(given) = self.sharers.given.recv().await {
            self.adopt(given);
        }
    }

    fn dispatch(&mut self, stream: TcpStream, peer: SocketAddr) {
        let thread = self.sharers.next();
        let Some(slot) = self.sharers.connections[thread].try_acquire() else {
            return refuse(stream, self.certificate.is_some());
        };
        match self.sharers.others.get(thread).filter(|_| thread != self.sharers.mine) {
            Some(other) => transfer(other, stream, peer, slot),
            None => self.serve(stream, peer, slot),
        }
    }

    fn adopt(&self, TransferredConnection { stream, peer, slot }: TransferredConnection) {
        match TcpStream::from_std(stream) {
            Ok(stream) => self.serve(stream, peer, slot),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a connection was lost");
            }
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, slot: ConnectionPermit) {
        let connection = serve_connection(stream, peer, slot, self.certificate.clone(), self.service.clone());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a connection broke");
            }
        });
    }

    /// Their clients believe that they are connected. Whoever comes after this is told that nobody
    /// listens, unless another process shares the port.
    fn drain_backlog(&mut self, listener: TcpListener) {
        // Asks the system each time, for what tokio knows of the queue may be of a moment ago.
        let Ok(listener) = listener.into_std() else { return };
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    if let Ok(stream) = stream {
                        self.dispatch(stream, peer);
                    }
                }
                // Of one whose client has gone meanwhile; behind it there may be others.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(_) => return,
            }
        }
    }
}

fn transfer(
    other: &mpsc::UnboundedSender<TransferredConnection>,
    stream: TcpStream,
    peer: SocketAddr,
    slot: ConnectionPermit,
) {
    tracing::debug!(%peer, "handed over to a thread with fewer connections");
    metrics::counter!("sekisho_connections_handed_over_total").increment(1);
    if let Ok(stream) = stream.into_std() {
        // One that has ended has let go of its connections, too.
        let _ = other.send(TransferredConnection { stream, peer, slot });
    }
}

/// At once, and whatever it was going to ask. Behind TLS there is no way to say so that is cheap.
fn refuse(mut stream: TcpStream, is_secured: bool) {
    metrics::counter!("sekisho_connections_refused_total").increment(1);
    if is_secured || BEING_REFUSED.fetch_add(1, Relaxed) >= BEING_REFUSED_MOST {
        if !is_secured {
            BEING_REFUSED.fetch_sub(1, Relaxed);
        }
        return;
    }
    tokio::spawn(async move {
        // The client must have the answer before its request meets a closed socket: that would reset
        // the connection, and the answer be lost.
        let answer = async {
            stream.write_all(&RejectReason::Overloaded.bytes()).await?;
            stream.shutdown().await?;
            let mut unread = [0; 1024];
            while stream.read(&mut unread).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(REFUSAL_TIMEOUT, answer).await;
        BEING_REFUSED.fetch_sub(1, Relaxed);
    });
}

/// Out of file descriptors, most likely: accepting again at once would only spin.
async fn backoff(error: &io::Error) {
    tracing::error!(error = error as &dyn std::error::Error, "no connection could be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// How many are told why they are refused; the others are just closed.
const BEING_REFUSED_MOST: usize = 256;
static BEING_REFUSED: AtomicUsize = AtomicUsize::new(0);
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
