//! Ownership of a connection while its response is in flight.

use std::sync::Arc;

use http_body_util::Either;

use super::connection::UpstreamBody;
use super::deadline_timer::DeadlineTimer;
use super::dns::PeerAddr;
use super::http2::StreamSlot;
use super::permit::Permit;
use super::pool::Pool;

/// Held until the response ends: the request's permit, and the pool that the connection returns to.
pub(in crate::proxy) struct Lease {
    /// Without a pool the connection is closed when the response ends.
    pub(super) pool: Option<Arc<Pool>>,
    pub(super) permit: Permit,
    /// Counts the stream of an HTTP/2 connection.
    pub(super) _slot: Option<StreamSlot>,
    pub(super) peer: PeerAddr,
    /// The connection's timer.
    pub(super) timer: DeadlineTimer,
}

impl Lease {
    /// Counts the request outside the upstream's limit, because the rest of its response is streamed.
    pub(in crate::proxy) fn start_streaming(&mut self) {
        self.permit.start_streaming();
    }

    /// Stops counting the request as in flight, because the response is a long-lived stream.
    pub(in crate::proxy) fn release_permit(&mut self) {
        self.permit.release();
    }

    /// Returns the connection to the pool.
    ///
    /// To be called when both the request and the response are complete. If the lease is dropped instead,
    /// the connection is closed.
    pub(in crate::proxy) fn finish(self, body: UpstreamBody) {
        let connection = match body {
            Either::Left(body) => body.into_connection(),
            Either::Right(_) => None,
        };
        if let (Some(connection), Some(pool)) = (connection, self.pool) {
            pool.put(&self.permit.upstream, connection, self.peer, self.timer);
        }
    }
}
