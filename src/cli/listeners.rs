//! The sockets that `sekisho serve` listens on.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, lookup_host};

use super::error::CliError;
use crate::config::{Config, ListenAddr, Origin};

/// One for each face.
pub(super) struct Listeners {
    /// What browsers and other clients reach.
    pub(super) public: TcpListener,
    /// The operators'.
    pub(super) admin: TcpListener,
    /// That of other proxies, if there is to be one.
    pub(super) verify: Option<TcpListener>,
}

impl Listeners {
    /// A port in use is an error, unless both that use it say `server.reuse_port`.
    pub(super) async fn bind(config: &Config) -> Result<Self, CliError> {
        let reuse_port = config.server.reuse_port;
        let public = bind("server.listen", &config.server.listen, reuse_port).await?;
        let admin = bind("admin.listen", &config.admin.listen, reuse_port).await?;
        let verify = match &config.verify {
            Some(verify) => Some(bind("verify.listen", &verify.listen, reuse_port).await?),
            None => None,
        };
        Ok(Self { public, admin, verify })
    }

    /// Says in the log where they are: the system may have picked the ports.
    pub(super) fn log_addresses(&self, origin: &Origin) -> Result<(), CliError> {
        if let Some(verify) = &self.verify {
            tracing::info!(verify = %local_addr(verify)?, "listening for other proxies");
        }
        let (public, admin) = (local_addr(&self.public)?, local_addr(&self.admin)?);
        tracing::info!(%public, %admin, origin = origin.as_str(), "serving");
        Ok(())
    }
}

/// Where that is.
pub(super) fn local_addr(listener: &TcpListener) -> Result<SocketAddr, CliError> {
    listener.local_addr().map_err(|error| CliError::failed("can't tell the listener's address", error))
}

async fn bind(key: &str, listen: &ListenAddr, reuse_port: bool) -> Result<TcpListener, CliError> {
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::AddrInUse {
            return CliError::Refused(format!(
                "{key} = {listen} is in use: stop the program that has it, or choose another port"
            ));
        }
        CliError::failed(format!("can't listen on {key} = {listen}"), error)
    };
    let mut addresses: Vec<_> = lookup_host((listen.host(), listen.port())).await.map_err(failed)?.collect();
    // A name such as localhost has two; what knows only one knows IPv4.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match bind_to(address, reuse_port) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn bind_to(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the last connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

const BACKLOG: u32 = 1024;
