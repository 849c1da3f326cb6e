//! Making a connection to an upstream.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::connection::Connection;
use super::http1::{Http1Connection, MaybeTlsStream};
use super::{Upstream, UpstreamHttp};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the host's addresses could not be looked up")]
    Address(#[source] io::Error),
    #[error("the handshake failed")]
    Http(#[source] hyper::Error),
    #[error("{address} did not accept a connection")]
    Tcp {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("not connected in time")]
    Timeout,
    #[error("no TLS with {address}")]
    Tls {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// Connects. One of HTTP/2 is in the care of a task of this runtime from then on. `may_stall` is how
/// long the other end may fail to acknowledge what it was sent.
pub(super) async fn connect(
    upstream: &Upstream,
    offered: UpstreamHttp,
    may_stall: Duration,
) -> Result<Connection, ConnectError> {
    let addresses = upstream.addresses.next_order().await.map_err(ConnectError::Address)?;
    let generation = upstream.addresses.generation();
    let (tcp, address) = connect_happy_eyeballs(&addresses).await?;
    set_socket_options(&tcp, may_stall).map_err(|source| ConnectError::Tcp { address, source })?;
    let peer = PeerAddr { address, generation };
    match &upstream.tls {
        None => handshake(MaybeTlsStream::Plain(tcp), offered, peer).await,
        Some(tls) => {
            let connected = tls.connect(tcp, offered).await;
            let (tls, agreed) = connected.map_err(|source| ConnectError::Tls { address, source })?;
            handshake(MaybeTlsStream::Tls(Box::new(tls)), agreed, peer).await
        }
    }
}

/// Who is at the other end, by which state of the upstream's addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerAddr {
    pub(super) address: SocketAddr,
    pub(super) generation: u32,
}

/// Tries the addresses in their order, the next one when one has failed or taken its time (RFC 8305,
/// section 5).
async fn connect_happy_eyeballs(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let mut attempts = FuturesUnordered::new();
    let mut rest = addresses.iter().copied();
    loop {
        attempts.extend(rest.next().map(attempt));
        let is_last = rest.len() == 0;
        let head_start = async {
            if is_last {
                std::future::pending().await
            } else {
                tokio::time::sleep(HEAD_START).await;
            }
        };
        tokio::select! {
            biased;
            Some(done) = attempts.next() => match done {
                Err(_) if !(is_last && attempts.is_empty()) => {}
                done => return done,
            },
            () = head_start => {}
        }
    }
}

async fn attempt(address: SocketAddr) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let connected = TcpStream::connect(address).await;
    connected.map(|tcp| (tcp, address)).map_err(|source| ConnectError::Tcp { address, source })
}

fn set_socket_options(tcp: &TcpStream, may_stall: Duration) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    // A WebSocket may be silent for long: an upstream that is gone without a word must be noticed.
    rustix::net::sockopt::set_socket_keepalive(tcp, true)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_keepidle(tcp, KEEP_ALIVE)?;
    // For an upstream that has answered, and reads neither the rest of the body nor hangs up.
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(
        tcp,
        u32::try_from(may_stall.as_millis()).unwrap_or(u32::MAX),
    )?;
    #[cfg(not(target_os = "linux"))]
    let _ = may_stall;
    Ok(())
}

async fn handshake(
    io: MaybeTlsStream,
    protocol: UpstreamHttp,
    peer: PeerAddr,
) -> Result<Connection, ConnectError> {
    match protocol {
        UpstreamHttp::Http1 => Ok(Connection::Http1(Box::new(Http1Connection::new(io, peer)))),
        UpstreamHttp::Http2 => {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .max_header_list_size(HEADER_LIST)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_INTERVAL);
            let (sender, connection) = http.handshake(TokioIo::new(io)).await.map_err(ConnectError::Http)?;
            tokio::spawn(async move { ended(peer.address, connection.await) });
            Ok(Connection::Http2(sender, peer))
        }
    }
}

/// Of HTTP/2. Whoever waits for an answer is told by hyper.
fn ended(address: SocketAddr, end: hyper::Result<()>) {
    if let Err(error) = end {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(%address, error, "a connection to an upstream broke");
    }
}

/// RFC 8305, section 8.
const HEAD_START: Duration = Duration::from_millis(250);

/// What an upstream may send ahead, for one answer and for all of a connection: enough for a gigabit
/// at 8 ms, and what a slow reader makes us hold.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
const HEADER_LIST: u32 = 64 * 1024;
/// While something is under way.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// After how much silence of a connection the upstream is asked whether it is there.
#[cfg(target_os = "linux")]
const KEEP_ALIVE: Duration = Duration::from_secs(60);
