//! Values that the server inserts into the extensions of every request.

use std::net::SocketAddr;

/// Address of the client's end of the TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Marks requests that were received over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsConnection;
