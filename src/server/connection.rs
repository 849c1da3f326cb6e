//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tower::Service;

use super::connection_registry::{ConnectionPermit, ConnectionSettings};
use super::connection_state::{CloseMode, ConnectionState};
use super::http2_executor::Http2Executor;
use super::io::{MaybeTlsStream, MonitoredIo};
use super::limits::ServerLimits;
use super::service::ConnectionService;
use super::tls::{Certificate, HandshakeError, speaks_http2};

/// The other end of a connection: who it is, what it does, and its place among the others.
pub(super) struct ConnectionContext {
    pub(super) peer: SocketAddr,
    pub(super) is_secured: bool,
    pub(super) activity: Arc<ConnectionState>,
    pub(super) terms: Arc<ConnectionSettings>,
    pub(super) slot: ConnectionPermit,
}

/// How HTTP is spoken.
pub(super) struct HttpBuilders {
    http1: http1::Builder,
    /// The same, through TLS.
    http1_secured: http1::Builder,
    http2: http2::Builder<Http2Executor>,
}

/// Why a connection ended in another way than by a last answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("HTTP was not kept to")]
    Http(#[from] hyper::Error),
    #[error("it broke between two requests")]
    Rest(#[source] std::io::Error),
    #[error("it closed before it said anything")]
    Sniff(#[source] std::io::Error),
    #[error("TLS was not agreed on")]
    Tls(#[from] HandshakeError),
}

impl HttpBuilders {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        let mut plain = http1(limits);
        // Otherwise hyper reads ahead to see whether the client leaves, into a buffer that it makes for that.
        // The wire sees it without one; but through TLS it can't.
        plain.half_close(true);
        Self { http1: plain, http1_secured: http1(limits), http2: http2(limits) }
    }
}

/// Serves a connection to its end.
pub(super) async fn serve_connection<S>(
    stream: TcpStream,
    peer: SocketAddr,
    slot: ConnectionPermit,
    certificate: Option<Arc<Certificate>>,
    service: S,
) -> Result<(), ConnectionError>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    // Small answers should not wait for the client's acknowledgement of the last ones.
    let _ = stream.set_nodelay(true);
    // A WebSocket may be silent for long: a client that is gone without a word must be noticed.
    let _ = sockopt::set_socket_keepalive(&stream, true);
    #[cfg(target_os = "linux")]
    let _ = sockopt::set_tcp_keepidle(&stream, KEEP_ALIVE);
    let terms = slot.connections().terms();
    let stream = match &certificate {
        Some(certificate) => {
            let patience = terms.limits.header_timeout;
            MaybeTlsStream::Tls(Box::new(Box::pin(certificate.handshake(stream, patience)).await?))
        }
        None => MaybeTlsStream::Plain(stream),
    };
    let agreed = match &stream {
        MaybeTlsStream::Tls(stream) => Some(speaks_http2(stream)),
        MaybeTlsStream::Plain(_) => None,
    };
    let activity = Arc::new(ConnectionState::default());
    slot.connections().track(&activity);
    let is_secured = agreed.is_some();
    let client = Arc::new(ConnectionContext { peer, is_secured, activity, terms: Arc::clone(&terms), slot });
    let mut wire = MonitoredIo::new(stream, Arc::clone(&client));
    let is_http2 = match agreed {
        Some(agreed) => agreed,
        None => wire.detect_http2_preface().await.map_err(ConnectionError::Sniff)?,
    };
    let protocols = &terms.protocols;
    if is_http2 {
        client.activity.set_http2();
        let activity = Arc::clone(&client.activity);
        let http2 =
            protocols.http2.serve_connection(TokioIo::new(wire), ConnectionService::new(service, client));
        // In a box: it is large, and most connections are none.
        drive_http2(Box::pin(http2), &activity).await?;
    } else {
        let front = ConnectionService::new(service, Arc::clone(&client));
        let http1 = if client.is_secured { &protocols.http1_secured } else { &protocols.http1 };
        serve_http1(http1, wire, front, &client.activity).await?;
    }
    Ok(())
}

/// Serves HTTP/1.1. Its buffers are large beside everything else, and most connections are idle: so one
/// that has been so for a moment gives them back, until it begins another request.
async fn serve_http1<S>(
    http: &http1::Builder,
    mut wire: MonitoredIo,
    mut front: ConnectionService<S>,
    activity: &ConnectionState,
) -> Result<(), ConnectionError>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    loop {
        // With its box it is gone before the wait.
        (wire, front) = {
            let mut http1 = Box::new(http.serve_connection(TokioIo::new(wire), front));
            let next = poll_fn(|cx| match Pin::new(&mut *http1).poll(cx) {
                Poll::Ready(ended) => Poll::Ready(ended.map(|()| Http1Outcome::End)),
                Poll::Pending if activity.is_asked_for_upgrade() => Poll::Ready(Ok(Http1Outcome::Upgrade)),
                Poll::Pending if activity.should_release_buffers() => Poll::Ready(Ok(Http1Outcome::Rest)),
                Poll::Pending => Poll::Pending,
            });
            match next.await? {
                Http1Outcome::End => return Ok(()),
                Http1Outcome::Upgrade => {
                    activity.becomes_upgradeable();
                    return Ok(Box::pin(http1.with_upgrades()).await?);
                }
                Http1Outcome::Rest => into_io_and_service(*http1),
            }
        };
        if !wire.wait_for_next_request().await.map_err(ConnectionError::Rest)? {
            // It may be gone altogether.
            let _ = wire.shutdown().await;
            return Ok(());
        }
    }
}

/// What is left of a connection without its buffers.
fn into_io_and_service<S>(
    http1: http1::Connection<TokioIo<MonitoredIo>, ConnectionService<S>>,
) -> (MonitoredIo, ConnectionService<S>)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    let http1::Parts { io, read_buf, service, .. } = http1.into_parts();
    let mut wire = io.into_inner();
    // Of a request that was sent together with the last one, and whose rest hasn't come.
    wire.unread(&read_buf);
    (wire, service)
}

/// What becomes of a connection of HTTP/1.1.
enum Http1Outcome {
    End,
    Rest,
    /// It may, if the answer says so.
    Upgrade,
}

type Http2<S> = http2::Connection<TokioIo<MonitoredIo>, ConnectionService<S>, Http2Executor>;

/// HTTP/2 can tell its client that no further requests are taken, while those that are open go on.
async fn drive_http2<S>(mut http2: Pin<Box<Http2<S>>>, activity: &ConnectionState) -> Result<(), hyper::Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut is_told = false;
    poll_fn(move |cx| {
        if !is_told && activity.close_requested(CloseMode::Draining) {
            is_told = true;
            http2.as_mut().graceful_shutdown();
        }
        http2.as_mut().poll(cx)
    })
    .await
}

/// Without timers of hyper's: see [`ConnectionState`].
fn http1(limits: &ServerLimits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.header_read_timeout(None)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(BUFFER));
    // That many have room on the stack; any other number costs an allocation for each request.
    if limits.header_fields != 100 {
        http.max_headers(limits.header_fields);
    }
    http
}

fn http2(limits: &ServerLimits) -> http2::Builder<Http2Executor> {
    let mut http = http2::Builder::new(Http2Executor);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        // A client that opens streams only to reset them at once (CVE-2023-44487), or that makes us
        // reset them (CVE-2025-8671), is sent away.
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(RESET_STREAMS)
        // What a client may send before anybody reads it, of one request and of all.
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // What is kept of an answer that the client doesn't take.
        .max_send_buf_size(BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    http
}

/// What is read ahead and kept back of one connection or stream, in bytes.
const BUFFER: usize = 64 * 1024;
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
const RESET_STREAMS: usize = 20;
/// A client that is gone without a word is noticed by that.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// After how much silence of a connection the other end is asked whether it is there.
#[cfg(target_os = "linux")]
const KEEP_ALIVE: Duration = Duration::from_secs(60);
