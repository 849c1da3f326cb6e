//! Metrics and log lines about connections that are refused.

use parking_lot::Mutex;
use tokio::time::Instant;

use super::admission::{self, Client, ConnectionRefused, Holder, Limit};
use super::socket::PeerAddr;
use crate::client_info::client_network;
use crate::log_interval;

/// Records that a connection from `peer` would exceed a limit.
pub(super) fn record_limit(refused: ConnectionRefused, peer: PeerAddr) {
    match (refused, peer.ip()) {
        (ConnectionRefused::Client, Some(address)) => {
            let client = || Holder::Client(Client::Address(client_network(address)));
            admission::record_share(Limit::ClientConnections, client);
        }
        _ => admission::record(Limit::Connections),
    }
}

/// Logs that a connection without a valid header of the PROXY protocol was refused, at most once a minute.
pub(super) fn report_proxy_header(peer: PeerAddr, reason: &str) {
    static LOGGED_AT: Mutex<Option<Instant>> = Mutex::new(None);
    let now = Instant::now();
    let mut logged_at = LOGGED_AT.lock();
    if log_interval::is_due(*logged_at, now) {
        *logged_at = Some(now);
        tracing::warn!(%peer, reason, "connection refused by server.proxy_protocol");
    }
}
