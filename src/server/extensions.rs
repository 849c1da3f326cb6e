//! Values that the server inserts into the extensions of every request.

use std::net::SocketAddr;

/// Address of the client's end of the TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Marks requests that were received over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsConnection;

/// Present in requests that are in flight only because a tenth of [`ServerLimits::in_flight`] is reserved.
///
/// A service that has requests of its own, such as sign-in, should reject all others that have this extension,
/// with [`overloaded_response`].
///
/// [`ServerLimits::in_flight`]: super::ServerLimits::in_flight
/// [`overloaded_response`]: super::overloaded_response
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InReserve;
