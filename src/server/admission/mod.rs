//! Admission: the process-wide limits on what clients may hold.
//!
//! Every limit that the worker threads share is counted here.
//!
//! | limit | unit | taken | given back | when it is reached |
//! |---|---|---|---|---|
//! | [`connections`](ServerLimits::connections) | open connection | when it is accepted | when it is closed | 503, over TLS the connection is closed |
//! | [`connections_per_client`](ServerLimits::connections_per_client) | connection of a client; in the last tenth of `connections`, no more than an equal share | when it is accepted | when it is closed | the connection is closed |
//! | [`max_open`](ServerLimits::max_open) | request | when its head is complete | at the end of its response | 503 `overloaded` |
//! | [`in_flight`](ServerLimits::in_flight) | request that waits for its response | when its head is complete | at the response head, and while the service waits for its body | 503 `overloaded` |
//! | of these a tenth, the reserve | request while the others are taken | like a request in flight | like a request in flight | 503 `overloaded`; the gateway leaves the reserve to built-in routes |
//! | [`open_per_client`](ServerLimits::open_per_client) | request of a client, tunnels included; at most half of what is free | when its head is complete | at the end of its response or tunnel | 429 `client_busy` |
//! | [`in_flight_per_client`](ServerLimits::in_flight_per_client) | request of a client that waits for its response; at most half of what is free | when its head is complete | at the response head, and while the service waits for its body | 429 `client_busy` |
//! | a route, as many as are free; for a client without others in flight up to half of all, while an eighth is free | request to the upstreams of a route, queued or waiting for its response | when its route is known | at the response head, and while its body is awaited from the client | 503 `upstream_busy` |
//! | [`unfinished_heads`](ServerLimits::unfinished_heads) | 4 KiB of a head, beyond its first 8 KiB | when it is received | when the head is complete | the connection is closed |
//!
//! A place among the requests in flight is held while the gateway or an upstream works, not at the pace of a client. A
//! request whose body has arrived takes its place again only while half of the places are free. Otherwise it continues
//! without one, so that bodies which arrive at the same time leave places to other clients.
//! A client is an address (IPv6: a /64 network), or the user of a valid session; see [`ClientShares`].

mod client;
mod clients;
mod places;
mod report;
mod request_places;
mod shares;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use ipnet::IpNet;

pub use self::client::Client;
use self::clients::ClientConnections;
use self::places::Places;
pub(super) use self::report::flush as flush_report;
pub(crate) use self::report::{Holder, Limit, record, record_front_proxy, record_share};
pub use self::request_places::FreePlaces;
pub(super) use self::request_places::Held;
use self::request_places::RequestPlaces;
pub use self::shares::{ClientBusy, ClientShares};
use super::limits::ServerLimits;

/// The process-wide limits, as one worker thread sees them.
pub(super) struct ThreadAdmission {
    shared: Arc<Admission>,
    thread: usize,
}

/// A connection that is counted.
pub(super) struct ConnectionPlace {
    /// `None` for an exempt peer, and for that of a Unix socket.
    client: Option<IpAddr>,
}

/// The limit that a connection would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionRefused {
    /// Limit on all connections.
    All,
    /// Limit on the connections of its client.
    Client,
}

struct Admission {
    connections: Places,
    clients: ClientConnections,
    connections_per_client: AtomicUsize,
    requests: Arc<RequestPlaces>,
    head_units: Places,
}

impl Admission {
    fn new(threads: usize, limits: &ServerLimits) -> Arc<Self> {
        Arc::new(Self {
            connections: Places::new(limits.connections, threads),
            clients: ClientConnections::default(),
            connections_per_client: AtomicUsize::new(limits.connections_per_client),
            requests: RequestPlaces::new(threads, limits),
            head_units: Places::new(limits.unfinished_heads / HEAD_UNIT, threads),
        })
    }
}

impl Admission {
    /// Returns the limit of a client while there are `clients`. The last tenth of all connections is for clients with
    /// less than an equal share, so that many clients cannot leave none for another one.
    fn max_connections_of_client(&self, clients: usize) -> usize {
        let per_client = self.connections_per_client.load(Relaxed);
        let limit = self.connections.limit();
        if self.connections.free() < limit / 10 { per_client.min(limit / (clients + 1)) } else { per_client }
    }
}

impl ThreadAdmission {
    /// Creates the limits of a server on one runtime.
    pub(super) fn single(limits: &ServerLimits) -> Self {
        Self { shared: Admission::new(1, limits), thread: 0 }
    }

    /// Creates the limits that `threads` worker threads share, one value for each thread.
    pub(super) fn for_threads(threads: usize, limits: &ServerLimits) -> Vec<Self> {
        let shared = Admission::new(threads, limits);
        (0..threads).map(|thread| Self { shared: Arc::clone(&shared), thread }).collect()
    }

    /// Replaces the limits of all threads. What is held beyond a lower limit is not taken away.
    pub(super) fn set_limits(&self, limits: &ServerLimits) {
        self.shared.connections.set_limit(limits.connections);
        self.shared.connections_per_client.store(limits.connections_per_client, Relaxed);
        self.shared.requests.set_limits(limits);
        self.shared.head_units.set_limit(limits.unfinished_heads / HEAD_UNIT);
    }

    /// Exempts front proxies from the limit of a client, for the threads together.
    pub(super) fn set_exempt_peers(&self, networks: Vec<IpNet>) {
        self.shared.clients.set_exempt(networks);
    }

    /// Returns `true` for a front proxy; the peer of a Unix socket (`None`) is one.
    pub(super) fn is_front_proxy(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|peer| self.shared.clients.client(peer).is_none())
    }

    /// Counts a connection from `peer`.
    pub(super) fn try_begin_connection(
        &self,
        peer: Option<IpAddr>,
    ) -> Result<ConnectionPlace, ConnectionRefused> {
        let Admission { connections, clients, .. } = &*self.shared;
        if !connections.try_take(self.thread) {
            return Err(ConnectionRefused::All);
        }
        let client = peer.and_then(|peer| clients.client(peer));
        if client.is_none_or(|client| self.try_add_client(client)) {
            return Ok(ConnectionPlace { client });
        }
        connections.give_back(self.thread);
        Err(ConnectionRefused::Client)
    }

    /// Counts a connection for `client` instead of the proxy that has made it.
    pub(super) fn set_client(
        &self,
        place: &mut ConnectionPlace,
        client: IpAddr,
    ) -> Result<(), ConnectionRefused> {
        let clients = &self.shared.clients;
        let client = clients.client(client);
        if !client.is_none_or(|client| self.try_add_client(client)) {
            return Err(ConnectionRefused::Client);
        }
        if let Some(previous) = std::mem::replace(&mut place.client, client) {
            clients.remove(previous);
        }
        Ok(())
    }

    fn try_add_client(&self, client: IpAddr) -> bool {
        self.shared.clients.try_add(client, |count| self.shared.max_connections_of_client(count))
    }

    pub(super) fn end_connection(&self, place: &ConnectionPlace) {
        self.shared.connections.give_back(self.thread);
        if let Some(client) = place.client {
            self.shared.clients.remove(client);
        }
    }

    /// Counts a request that waits for its response; returns `None` at the limit.
    pub(super) fn try_begin_request(&self) -> Option<Held> {
        self.shared.requests.try_begin(self.thread)
    }

    /// Counts a request again whose body has arrived; returns `false` if it must continue without a place.
    pub(super) fn try_resume_request(&self) -> bool {
        self.shared.requests.try_resume(self.thread)
    }

    /// Ends the count of a request whose response has started, which waits for its client, or which was dropped.
    pub(super) fn end_request(&self, held: Held) {
        self.shared.requests.end(held, self.thread);
    }

    /// Counts a request until its response has ended; returns `false` at the limit.
    pub(super) fn try_open_request(&self) -> bool {
        self.shared.requests.try_open(self.thread)
    }

    pub(super) fn close_request(&self) {
        self.shared.requests.close(self.thread);
    }

    /// Returns the free places of all threads, for [`ClientShares`].
    pub(super) fn free_places(&self) -> FreePlaces {
        self.shared.requests.free()
    }

    /// Sets the gauges of all threads together.
    pub(super) fn record_gauges(&self) {
        if self.thread == 0 {
            self.shared.requests.record_gauges();
            self.shared.connections.record_gauge("connections");
            self.shared.head_units.record_gauge("head_units");
        }
    }

    /// Takes a unit of the memory for unfinished heads; returns `false` if none is left.
    pub(super) fn try_take_head_unit(&self) -> bool {
        self.shared.head_units.try_take(self.thread)
    }

    pub(super) fn give_back_head_unit(&self) {
        self.shared.head_units.give_back(self.thread);
    }
}

/// Unit in which the memory for unfinished heads is counted, in bytes.
pub(super) const HEAD_UNIT: usize = 4 * 1024;
