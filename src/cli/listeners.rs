//! The sockets that `sekisho serve` listens on.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, lookup_host};

use super::error::CliError;
use super::unix_listener::{self, SocketFile};
use crate::config::{Config, ListenAddr, Origin, PublicListenAddr};
use crate::server::Listener;
use crate::unix_socket::UnixSocketAddr;

/// The bound listeners.
pub(super) struct Listeners {
    /// `server.listen`, for clients.
    pub(super) public: PublicListener,
    /// `admin.listen`, for operators.
    pub(super) admin: TcpListener,
    /// `verify.listen`, for forward auth requests.
    pub(super) verify: Option<TcpListener>,
}

/// The bound public listener.
pub(super) enum PublicListener {
    Tcp(TcpListener, SocketAddr),
    Unix(std::os::unix::net::UnixListener, UnixSocketAddr, SocketFile),
}

impl PublicListener {
    async fn bind(config: &Config) -> Result<Self, CliError> {
        let key = "server.listen";
        match &config.server.listen {
            PublicListenAddr::Tcp(listen) => {
                let listener = bind(key, listen, config.server.reuse_port).await?;
                let address = local_addr(&listener)?;
                Ok(Self::Tcp(listener, address))
            }
            PublicListenAddr::Unix(socket) => {
                let bound = unix_listener::bind(socket.path(), config.server.socket_mode, BACKLOG).await;
                let (listener, file) = bound
                    .map_err(|error| CliError::failed(format!("cannot listen on {key} = {socket}"), error))?;
                Ok(Self::Unix(listener, socket.clone(), file))
            }
        }
    }

    /// Returns the port; `None` for a Unix socket.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(_, address) => Some(address.port()),
            Self::Unix(..) => None,
        }
    }

    /// Returns the listener for the worker threads, and the file to remove at the end.
    pub(super) fn into_parts(self) -> io::Result<(Listener, Option<SocketFile>)> {
        match self {
            Self::Tcp(listener, _) => Ok((listener.into_std()?.into(), None)),
            Self::Unix(listener, _, file) => Ok((listener.into(), Some(file))),
        }
    }
}

impl fmt::Display for PublicListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(_, address) => address.fmt(f),
            Self::Unix(_, socket, _) => socket.fmt(f),
        }
    }
}

impl Listeners {
    /// Binds all configured listeners.
    ///
    /// A port in use is an error, unless both processes set `server.reuse_port`.
    pub(super) async fn bind(config: &Config) -> Result<Self, CliError> {
        let reuse_port = config.server.reuse_port;
        let public = PublicListener::bind(config).await?;
        let admin = bind("admin.listen", &config.admin.listen, reuse_port).await?;
        let verify = match &config.verify {
            Some(verify) => Some(bind("verify.listen", &verify.listen, reuse_port).await?),
            None => None,
        };
        Ok(Self { public, admin, verify })
    }

    /// Logs the addresses. For port 0 the system has chosen one.
    pub(super) fn log_addresses(&self, origin: &Origin) -> Result<(), CliError> {
        if let Some(verify) = &self.verify {
            tracing::info!(verify = %local_addr(verify)?, "listening for forward auth requests");
        }
        let admin = local_addr(&self.admin)?;
        tracing::info!(public = %self.public, %admin, origin = origin.as_str(), "serving");
        Ok(())
    }
}

/// Returns the address of a listener.
fn local_addr(listener: &TcpListener) -> Result<SocketAddr, CliError> {
    listener.local_addr().map_err(|error| CliError::failed("cannot read the address of a listener", error))
}

async fn bind(key: &str, listen: &ListenAddr, reuse_port: bool) -> Result<TcpListener, CliError> {
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::AddrInUse {
            return CliError::Refused(format!(
                "{key} = {listen} is in use: stop the program that has it, or choose another port{}",
                if key == "server.listen" { " (--listen)" } else { "" }
            ));
        }
        CliError::failed(format!("cannot listen on {key} = {listen}"), error)
    };
    let mut addresses: Vec<_> = lookup_host((listen.host(), listen.port())).await.map_err(failed)?.collect();
    // A name such as localhost has both. IPv4 first: clients that try only one address use that.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match bind_to(address, reuse_port) {
            Ok(listener) => return Ok(listener),
            Err(error) => last_error = error,
        }
    }
    Err(failed(last_error))
}

fn bind_to(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Allows a restart while connections of the previous process are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Length of the accept queue. The kernel drops connection attempts beyond it, and clients try again only after a second.
/// Linux allows as many as `net.core.somaxconn`, 4,096 by default.
const BACKLOG: u32 = 4096;
