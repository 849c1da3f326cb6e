//! The connections of each client.

use std::collections::HashMap;
use std::net::IpAddr;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use parking_lot::Mutex;

use crate::client_info::client_network;

/// Counts connections by the address of the peer.
///
/// The lock is taken when a connection is accepted and when it is closed, not for requests.
#[derive(Default)]
pub(super) struct ClientConnections {
    counts: Mutex<HashMap<IpAddr, usize>>,
    /// Networks of front proxies, whose connections carry requests of many clients.
    exempt: ArcSwap<Vec<IpNet>>,
}

impl ClientConnections {
    pub(super) fn set_exempt(&self, networks: Vec<IpNet>) {
        self.exempt.store(networks.into());
    }

    /// Returns the client that a peer counts for, or `None` if it is exempt.
    pub(super) fn client(&self, peer: IpAddr) -> Option<IpAddr> {
        let peer = peer.to_canonical();
        let is_exempt = self.exempt.load().iter().any(|network| network.contains(&peer));
        (!is_exempt).then(|| client_network(peer))
    }

    /// Counts a connection; returns `false` if the client has `max` already, which depends on the number of clients.
    pub(super) fn try_add(&self, client: IpAddr, max: impl FnOnce(usize) -> usize) -> bool {
        let mut counts = self.counts.lock();
        let held = counts.get(&client).copied().unwrap_or(0);
        let others = counts.len() - usize::from(held > 0);
        let is_allowed = held < max(others + 1);
        if is_allowed {
            counts.insert(client, held + 1);
        }
        is_allowed
    }

    pub(super) fn remove(&self, client: IpAddr) {
        let mut counts = self.counts.lock();
        match counts.get_mut(&client) {
            Some(held) if *held > 1 => *held -= 1,
            _ => _ = counts.remove(&client),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_client() {
        let clients = ClientConnections::default();
        let one = IpAddr::from([192, 0, 2, 1]);
        let other = IpAddr::from([192, 0, 2, 2]);
        assert!(clients.try_add(one, |count| count) && !clients.try_add(one, |count| count));
        // There are two clients then.
        assert!(clients.try_add(other, |count| count) && clients.try_add(other, |count| count));
        for client in [one, other, other] {
            clients.remove(client);
        }
        assert!(clients.counts.lock().is_empty());
    }

    #[test]
    fn front_proxies_are_exempt() {
        let clients = ClientConnections::default();
        clients.set_exempt(vec!["10.0.0.0/8".parse().expect("a network")]);
        assert_eq!(clients.client([10, 0, 0, 1].into()), None);
        assert_eq!(clients.client("::ffff:10.0.0.1".parse().expect("an address")), None);
        assert_eq!(clients.client([192, 0, 2, 1].into()), Some([192, 0, 2, 1].into()));
    }
}
