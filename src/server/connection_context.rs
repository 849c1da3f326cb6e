//! State shared by the IO object, the service and the driver of one connection.

use std::sync::Arc;

use super::admission::HEAD_UNIT;
use super::connection_registry::{ConnectionPermit, ConnectionSettings};
use super::connection_state::ConnectionState;
use super::socket::PeerAddr;

/// Client address, state and settings of one connection.
pub(super) struct ConnectionContext {
    pub(super) peer: PeerAddr,
    pub(super) is_tls: bool,
    /// True if the service responds to rejected requests.
    pub(super) passes_rejections: bool,
    pub(super) state: Arc<ConnectionState>,
    /// Settings in force when the connection was accepted.
    pub(super) settings: Arc<ConnectionSettings>,
    pub(super) permit: ConnectionPermit,
}

impl ConnectionContext {
    /// Reserves memory for an unfinished head of this size; returns `false` if too many heads are unfinished.
    ///
    /// A small head needs no reservation.
    pub(super) fn reserve_head(&self, size: usize) -> bool {
        // A longer one is rejected.
        let size = size.min(self.settings.limits.header_bytes);
        let needed = size.saturating_sub(FREE_HEAD_SIZE).div_ceil(HEAD_UNIT);
        let needed = u32::try_from(needed).unwrap_or(u32::MAX);
        for held in self.state.head_units()..needed {
            if !self.permit.registry.admission.try_take_head_unit() {
                return false;
            }
            self.state.set_head_units(held + 1);
        }
        true
    }

    /// Releases the reservation of a head that is complete.
    pub(super) fn release_head(&self) {
        let held = self.state.head_units();
        if held > 0 {
            self.state.set_head_units(0);
            for _ in 0..held {
                self.permit.registry.admission.give_back_head_unit();
            }
        }
    }
}

impl Drop for ConnectionContext {
    fn drop(&mut self) {
        self.release_head();
    }
}

/// Size of a head that needs no reservation: that of hyper's first buffer. Most heads are smaller.
const FREE_HEAD_SIZE: usize = 8 * 1024;
