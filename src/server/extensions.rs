//! Values that the server inserts into the extensions of every request.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Extensions;

use super::connection_context::ConnectionContext;
use super::request_place::RequestPlace;
use super::socket::PeerAddr;
use crate::request_context::RequestContext;

/// Address of the client's end of the TCP connection, or the client's address in a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Inserts the values of the connection.
pub(super) fn insert_connection(extensions: &mut Extensions, context: &ConnectionContext) {
    insert_peer(extensions, context.peer);
    if context.is_tls {
        extensions.insert(TlsConnection);
    }
}

/// Inserts the peer of a connection.
pub(super) fn insert_peer(extensions: &mut Extensions, peer: PeerAddr) {
    match peer {
        PeerAddr::Ip(address) => _ = extensions.insert(Peer(address)),
        PeerAddr::Unix => _ = extensions.insert(UnixPeer),
    }
}

/// Marks requests that were received on a Unix socket, whose other end has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixPeer;

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

/// The place of a request with a body, which is suspended while the service waits for the body.
///
/// A service that counts the requests of each client should [attach](Self::attach) the request's context, so that the
/// request's [share](RequestContext::share) is suspended too.
#[derive(Clone)]
pub struct BodyPlace(pub(super) Arc<RequestPlace>);

impl BodyPlace {
    /// Suspends the share in `request` together with the place. The first call wins.
    pub fn attach(&self, request: RequestContext) {
        self.0.attach(request);
    }
}

impl fmt::Debug for BodyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyPlace").finish_non_exhaustive()
    }
}
