//! Connecting to an upstream: DNS, happy eyeballs, TLS and the HTTP handshake.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, UnixStream};

use super::connection::Connection;
use super::dns::{DnsCache, PeerAddr};
use super::error::UpstreamConfigError;
use super::http1::{Http1Connection, MaybeTlsStream};
use super::http2::Http2Stream;
use super::origin::Origin;
use super::settings::{HeaderCase, UpstreamHttp, UpstreamSettings};
use super::tls::{TlsClient, TrustAnchors};
use crate::unix_socket::UnixSocketAddr;

/// The reason why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("cannot resolve the upstream's host name")]
    Dns(#[source] io::Error),
    #[error("HTTP/2 handshake failed")]
    Http(#[source] hyper::Error),
    #[error("cannot connect to {address}")]
    Tcp {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("timeout while connecting")]
    Timeout,
    #[error("TLS handshake with {address} failed")]
    Tls {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot connect to {address}{}", unix_remedy(source))]
    Unix {
        address: UnixSocketAddr,
        #[source]
        source: io::Error,
    },
}

/// Makes connections to one upstream.
pub(super) struct Connector {
    pub(super) addresses: DnsCache,
    /// Replaces the addresses.
    socket: Option<UnixSocketAddr>,
    tls: Option<TlsClient>,
    header_case: HeaderCase,
}

impl Connector {
    pub(super) fn new(
        origin: &Origin,
        settings: &UpstreamSettings,
        trust_anchors: &mut TrustAnchors,
    ) -> Result<Self, UpstreamConfigError> {
        let tls = if origin.is_https() {
            let roots = trust_anchors.get(settings.ca.as_deref())?;
            Some(TlsClient::new(origin, roots, settings)?)
        } else {
            None
        };
        let addresses = DnsCache::new(origin, settings.resolver.clone(), settings.dns_refresh);
        Ok(Self { addresses, socket: origin.socket.clone(), tls, header_case: settings.header_case })
    }

    /// Connects to one of the upstream's addresses, or to its Unix socket.
    ///
    /// An HTTP/2 connection is driven by a task of the current runtime. `stall_timeout` limits how long the
    /// upstream may leave sent data unacknowledged.
    pub(super) async fn connect(
        &self,
        offered: UpstreamHttp,
        stall_timeout: Duration,
    ) -> Result<Connection, ConnectError> {
        if let Some(socket) = &self.socket {
            let unix = connect_unix(socket).await?;
            let peer = PeerAddr { address: None, generation: self.addresses.generation() };
            return self.handshake(MaybeTlsStream::Unix(unix), offered, peer).await;
        }
        let addresses = self.addresses.connect_order().await.map_err(ConnectError::Dns)?;
        let generation = self.addresses.generation();
        let (tcp, address) = connect_happy_eyeballs(&addresses).await?;
        set_socket_options(&tcp, stall_timeout).map_err(|source| ConnectError::Tcp { address, source })?;
        let peer = PeerAddr { address: Some(address), generation };
        match &self.tls {
            None => self.handshake(MaybeTlsStream::Plain(tcp), offered, peer).await,
            Some(tls) => {
                let connected = tls.connect(tcp, offered).await;
                let (tls, negotiated) = connected.map_err(|source| ConnectError::Tls { address, source })?;
                self.handshake(MaybeTlsStream::Tls(Box::new(tls)), negotiated, peer).await
            }
        }
    }

    async fn handshake(
        &self,
        io: MaybeTlsStream,
        protocol: UpstreamHttp,
        peer: PeerAddr,
    ) -> Result<Connection, ConnectError> {
        match protocol {
            UpstreamHttp::Http1 => {
                let connection = Http1Connection::new(io, self.header_case);
                Ok(Connection::Http1(Box::new(connection), peer))
            }
            UpstreamHttp::Http2 => {
                let stream = Http2Stream::connect(io, peer).await.map_err(ConnectError::Http)?;
                Ok(Connection::Http2(stream))
            }
        }
    }
}

/// Tries the addresses in order, as in "happy eyeballs" (RFC 8305, section 5): the next attempt starts when
/// one has failed, or when [`ATTEMPT_DELAY`] has passed.
async fn connect_happy_eyeballs(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let mut attempts = FuturesUnordered::new();
    let mut rest = addresses.iter().copied();
    loop {
        attempts.extend(rest.next().map(connect_tcp));
        let is_last = rest.len() == 0;
        let delay = async {
            if is_last {
                std::future::pending().await
            } else {
                tokio::time::sleep(ATTEMPT_DELAY).await;
            }
        };
        tokio::select! {
            biased;
            Some(result) = attempts.next() => match result {
                Err(_) if !(is_last && attempts.is_empty()) => {}
                result => return result,
            },
            () = delay => {}
        }
    }
}

async fn connect_tcp(address: SocketAddr) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let connected = TcpStream::connect(address).await;
    connected.map(|tcp| (tcp, address)).map_err(|source| ConnectError::Tcp { address, source })
}

/// Connects to a Unix socket. Waits while its backlog is full, as a connection over TCP does.
async fn connect_unix(address: &UnixSocketAddr) -> Result<UnixStream, ConnectError> {
    loop {
        match UnixStream::connect(address.path()).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(BACKLOG_CHECK_INTERVAL).await;
            }
            connected => {
                return connected.map_err(|source| ConnectError::Unix { address: address.clone(), source });
            }
        }
    }
}

/// Returns the remedy for a failed connection to a Unix socket.
fn unix_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ", on which no program listens: start the application",
        io::ErrorKind::NotFound => ", which does not exist: start the application, or correct the path",
        io::ErrorKind::PermissionDenied => {
            ": give the user of the gateway write access to the socket and search access to its directories"
        }
        _ => "",
    }
}

fn set_socket_options(tcp: &TcpStream, stall_timeout: Duration) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    // Detects an upstream that has vanished while a WebSocket is silent.
    rustix::net::sockopt::set_socket_keepalive(tcp, true)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
    // Detects an upstream that has sent its response, but neither reads the rest of the request body nor
    // closes.
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(
        tcp,
        u32::try_from(stall_timeout.as_millis()).unwrap_or(u32::MAX),
    )?;
    #[cfg(not(target_os = "linux"))]
    let _ = stall_timeout;
    Ok(())
}

/// The Connection Attempt Delay of RFC 8305, section 8.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Interval of attempts to connect to a Unix socket whose backlog is full, which the kernel does not queue.
const BACKLOG_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Silence after which TCP keep-alive probes are sent.
#[cfg(target_os = "linux")]
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
