//! Drives one connection from its first byte to its close.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::connection_context::ConnectionContext;
use super::connection_registry::ConnectionPermit;
use super::connection_state::{CloseMode, ConnectionState};
use super::http_service::HttpService;
use super::http2_executor::Http2Executor;
use super::io::{MaybeTlsStream, MonitoredIo};
use super::malformed_head;
use super::proxy_protocol::{self, ProxyHeaderError};
use super::refusal;
use super::service::ConnectionService;
use super::socket::{PeerAddr, Socket};
use super::tls::{Certificate, HandshakeError, negotiated_http2};

/// Reason why a connection did not end with a complete response.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("connection closed before the first request")]
    BeforeFirstRequest(#[source] std::io::Error),
    #[error("connection failed between two requests")]
    BetweenRequests(#[source] std::io::Error),
    #[error("HTTP protocol error")]
    Http(#[from] hyper::Error),
    #[error("PROXY protocol failed")]
    ProxyHeader(#[from] ProxyHeaderError),
    #[error("TLS handshake failed")]
    Tls(#[from] HandshakeError),
    #[error("too many connections of the client")]
    TooMany,
}

/// An accepted connection.
pub(super) struct Accepted {
    pub(super) socket: Socket,
    pub(super) peer: PeerAddr,
    pub(super) permit: ConnectionPermit,
    /// True if it begins with a header of the PROXY protocol.
    pub(super) has_proxy_protocol: bool,
}

impl Accepted {
    /// Receives the header, and counts the connection for the client that it names.
    async fn receive_proxy_header(&mut self) -> Result<(), ConnectionError> {
        let time_limit = self.permit.registry.settings().limits.header_timeout;
        let Some(client) = proxy_protocol::read_header(&mut self.socket, time_limit).await? else {
            return Ok(());
        };
        self.peer = PeerAddr::Ip(client);
        self.permit.set_client(client.ip()).map_err(|refused| {
            refusal::record_limit(refused, self.peer);
            ConnectionError::TooMany
        })
    }
}

/// Serves a connection until it is closed.
pub(super) async fn serve_connection<S: HttpService>(
    mut accepted: Accepted,
    certificate: Option<Arc<Certificate>>,
    service: S,
    passes_rejections: bool,
) -> Result<(), ConnectionError> {
    accepted.socket.set_options();
    if accepted.has_proxy_protocol {
        Box::pin(accepted.receive_proxy_header()).await?;
    }
    let Accepted { socket, peer, permit, .. } = accepted;
    let settings = permit.registry.settings();
    let (stream, alpn) = match &certificate {
        Some(certificate) => {
            let handshake = certificate.handshake(socket, settings.limits.header_timeout);
            let stream = Box::new(Box::pin(handshake).await?);
            let is_http2 = negotiated_http2(&stream);
            (MaybeTlsStream::Tls(stream), Some(is_http2))
        }
        None => (MaybeTlsStream::Plain(socket), None),
    };
    let state = Arc::new(ConnectionState::default());
    permit.registry.track(&state);
    let context = Arc::new(ConnectionContext {
        peer,
        is_tls: alpn.is_some(),
        passes_rejections,
        state,
        settings: Arc::clone(&settings),
        permit,
    });
    let mut io = MonitoredIo::new(stream, Arc::clone(&context));
    let is_http2 = match alpn {
        Some(is_http2) => is_http2,
        None => io.detect_http2_preface().await.map_err(ConnectionError::BeforeFirstRequest)?,
    };
    let state = Arc::clone(&context.state);
    let builders = &settings.builders;
    if is_http2 {
        state.set_http2();
        let service = ConnectionService { inner: service, context };
        let connection = builders.http2.serve_connection(TokioIo::new(io), service);
        // Boxed: the future is large, and most connections are HTTP/1.1.
        drive_http2(Box::pin(connection), &state).await?;
    } else {
        let builder = if context.is_tls { &builders.http1_over_tls } else { &builders.http1 };
        let service = ConnectionService { inner: service, context };
        serve_http1(builder, io, service, &state).await?;
    }
    Ok(())
}

/// Serves HTTP/1.1.
///
/// Read and write buffers dominate the memory of a connection, and most connections are idle. An idle
/// connection therefore drops hyper's connection with its buffers, and creates another one when the next
/// request arrives.
async fn serve_http1<S: HttpService>(
    builder: &http1::Builder,
    mut io: MonitoredIo,
    mut service: ConnectionService<S>,
    state: &ConnectionState,
) -> Result<(), ConnectionError> {
    loop {
        // The block drops the box before the wait for the next request.
        (io, service) = {
            let mut connection = Box::new(builder.serve_connection(TokioIo::new(io), service));
            let outcome = poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
                Poll::Ready(result) => Poll::Ready(result.map(|()| Http1Outcome::Closed)),
                Poll::Pending if state.is_upgrade_requested() => Poll::Ready(Ok(Http1Outcome::Upgrade)),
                Poll::Pending if state.should_release_buffers() => Poll::Ready(Ok(Http1Outcome::Idle)),
                Poll::Pending => Poll::Pending,
            });
            match outcome.await {
                Ok(Http1Outcome::Upgrade) => {
                    state.enable_upgrade();
                    return Ok(Box::pin(connection.with_upgrades()).await?);
                }
                Ok(Http1Outcome::Idle) => into_io_and_service(*connection),
                Ok(Http1Outcome::Closed) => return Ok(Box::pin(close_http1(connection, Ok(()))).await?),
                Err(error) => return Ok(Box::pin(close_http1(connection, Err(error))).await?),
            }
        };
        if !io.wait_for_next_request().await.map_err(ConnectionError::BetweenRequests)? {
            // Fails if the client has closed the connection entirely.
            let _ = io.shutdown().await;
            return Ok(());
        }
    }
}

/// Ends a connection that hyper has finished with this result.
///
/// A response that was withheld is replaced if it was hyper's own, to a head that it cannot parse.
async fn close_http1<S: HttpService>(
    connection: Box<http1::Connection<TokioIo<MonitoredIo>, ConnectionService<S>>>,
    result: hyper::Result<()>,
) -> hyper::Result<()> {
    let http1::Parts { io, read_buf, service, .. } = connection.into_parts();
    let mut io = io.into_inner();
    if let Some(mut response) = io.take_withheld() {
        if result.is_err() {
            let mut head = io.last_head(&read_buf).to_vec();
            io.read_rest_of_head(&mut head).await;
            response = malformed_head::response(service, &response, &head).await;
        }
        // Fails if the client has closed the connection.
        let _ = io.finish(response).await;
    }
    result
}

/// Takes a connection apart and drops its buffers.
fn into_io_and_service<S: HttpService>(
    connection: http1::Connection<TokioIo<MonitoredIo>, ConnectionService<S>>,
) -> (MonitoredIo, ConnectionService<S>) {
    let http1::Parts { io, read_buf, service, .. } = connection.into_parts();
    let mut io = io.into_inner();
    // The buffer may hold part of a pipelined request.
    io.unread(&read_buf);
    (io, service)
}

/// State in which an HTTP/1.1 connection leaves hyper's plain driver.
enum Http1Outcome {
    Closed,
    /// Idle for long enough to release its buffers.
    Idle,
    /// A request asks for an upgrade, which only `with_upgrades` supports.
    Upgrade,
}

type Http2Connection<S> = http2::Connection<TokioIo<MonitoredIo>, ConnectionService<S>, Http2Executor>;

/// Drives HTTP/2, and sends a GOAWAY when the connection drains.
async fn drive_http2<S: HttpService>(
    mut connection: Pin<Box<Http2Connection<S>>>,
    state: &ConnectionState,
) -> Result<(), hyper::Error> {
    let mut is_draining = false;
    poll_fn(move |cx| {
        if !is_draining && state.is_close_requested(CloseMode::Drain) {
            is_draining = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await
}
