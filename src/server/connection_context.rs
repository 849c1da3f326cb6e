//! State shared by the IO object, the service and the driver of one connection.

use std::net::SocketAddr;
use std::sync::Arc;

use super::connection_registry::{ConnectionPermit, ConnectionSettings};
use super::connection_state::ConnectionState;

/// Client address, state and settings of one connection.
pub(super) struct ConnectionContext {
    pub(super) peer: SocketAddr,
    pub(super) is_tls: bool,
    pub(super) state: Arc<ConnectionState>,
    /// Settings in force when the connection was accepted.
    pub(super) settings: Arc<ConnectionSettings>,
    pub(super) permit: ConnectionPermit,
}
