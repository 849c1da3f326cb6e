//! Connections and listening sockets, over TCP or Unix sockets.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix;
use std::pin::Pin;
use std::task::{Context, Poll};
#[cfg(target_os = "linux")]
use std::time::Duration;

use rustix::net::{RecvFlags, recv, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// The socket of a connection.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket that belongs to no runtime.
pub(super) enum DetachedSocket {
    Tcp(std::net::TcpStream),
    Unix(unix::net::UnixStream),
}

/// The client's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerAddr {
    Ip(SocketAddr),
    /// That of a Unix socket, which has no address.
    Unix,
}

/// A listening socket, with how its connections begin and whether rejected requests reach the service.
///
/// ```
/// use sekisho::server::Listener;
///
/// let listener = Listener::from(std::net::TcpListener::bind("127.0.0.1:0")?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    socket: ListeningSocket,
    pub(super) has_proxy_protocol: bool,
    pub(super) passes_rejections: bool,
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(std::net::TcpListener),
    Unix(unix::net::UnixListener),
}

/// A listening socket that belongs to a runtime.
pub(super) enum RuntimeListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Expects a header of the PROXY protocol at the start of each connection, which only a trusted proxy may make.
    #[must_use]
    pub fn with_proxy_protocol(self, has_proxy_protocol: bool) -> Self {
        Self { has_proxy_protocol, ..self }
    }

    /// Passes the requests that the server rejects to the service too, with [`Rejected`](super::Rejected) in their
    /// extensions. The service responds to them.
    #[must_use]
    pub fn with_rejections(self) -> Self {
        Self { passes_rejections: true, ..self }
    }

    fn new(socket: ListeningSocket) -> Self {
        Self { socket, has_proxy_protocol: false, passes_rejections: false }
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            ListeningSocket::Tcp(listener) => ListeningSocket::Tcp(listener.try_clone()?),
            ListeningSocket::Unix(listener) => ListeningSocket::Unix(listener.try_clone()?),
        };
        Ok(Self { socket, ..*self })
    }

    /// Registers the socket with the current runtime.
    pub(super) fn register(self) -> io::Result<RuntimeListener> {
        match self.socket {
            ListeningSocket::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(RuntimeListener::Tcp)
            }
            ListeningSocket::Unix(listener) => {
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(RuntimeListener::Unix)
            }
        }
    }

    /// Accepts a connection without waiting.
    pub(super) fn accept(&self) -> io::Result<(Socket, PeerAddr)> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                Ok((DetachedSocket::Tcp(stream).register()?, PeerAddr::Ip(address)))
            }
            ListeningSocket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                Ok((DetachedSocket::Unix(stream).register()?, PeerAddr::Unix))
            }
        }
    }
}

impl From<std::net::TcpListener> for Listener {
    fn from(listener: std::net::TcpListener) -> Self {
        Self::new(ListeningSocket::Tcp(listener))
    }
}

impl From<unix::net::UnixListener> for Listener {
    fn from(listener: unix::net::UnixListener) -> Self {
        Self::new(ListeningSocket::Unix(listener))
    }
}

impl RuntimeListener {
    pub(super) async fn accept(&self) -> io::Result<(Socket, PeerAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Socket::Tcp(stream), PeerAddr::Ip(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), PeerAddr::Unix))
            }
        }
    }

    /// Removes the socket from its runtime.
    pub(super) fn detach(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => listener.into_std().map(Listener::from),
            Self::Unix(listener) => listener.into_std().map(Listener::from),
        }
    }
}

impl PeerAddr {
    /// Returns the IP address, if there is one.
    pub(super) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl DetachedSocket {
    /// Registers the socket with the current runtime.
    pub(super) fn register(self) -> io::Result<Socket> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream).map(Socket::Tcp)
            }
            Self::Unix(stream) => {
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Socket::Unix)
            }
        }
    }
}

impl Socket {
    /// Removes the socket from its runtime.
    pub(super) fn detach(self) -> io::Result<DetachedSocket> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(DetachedSocket::Tcp),
            Self::Unix(stream) => stream.into_std().map(DetachedSocket::Unix),
        }
    }

    pub(super) fn set_options(&self) {
        let Self::Tcp(stream) = self else { return };
        // Nagle's algorithm would delay a small response until the client acknowledges the previous one.
        let _ = stream.set_nodelay(true);
        // Keepalive probes detect the loss of a client that has a silent tunnel open, such as a WebSocket.
        let _ = sockopt::set_socket_keepalive(stream, true);
        #[cfg(target_os = "linux")]
        let _ = sockopt::set_tcp_keepidle(stream, TCP_KEEPALIVE_TIME);
    }

    /// Discards unsent data when the socket is closed. A Unix socket has none: it is in the buffer of the peer.
    pub(super) fn set_zero_linger(&self) {
        if let Self::Tcp(stream) = self {
            let _ = stream.set_zero_linger();
        }
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Waits until a byte has arrived, or the end of the stream.
    pub(super) async fn readable(&self) -> io::Result<()> {
        loop {
            poll_fn(|cx| self.poll_read_ready(cx)).await?;
            // Readiness may be out of date.
            let peeked = self.try_io(Interest::READABLE, || {
                recv(self, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
                Ok(())
            });
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                peeked => return peeked,
            }
        }
    }

    pub(super) fn try_io<R>(
        &self,
        interest: Interest,
        operation: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, operation),
            Self::Unix(stream) => stream.try_io(interest, operation),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Neither kind of socket has anything to flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Idle time before the first TCP keepalive probe.
#[cfg(target_os = "linux")]
const TCP_KEEPALIVE_TIME: Duration = Duration::from_secs(60);
