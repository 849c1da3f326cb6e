//! Admission: the process-wide limits on what clients may hold.
//!
//! Every limit that the worker threads share is counted here.
//!
//! | limit | unit | taken | given back | when it is reached |
//! |---|---|---|---|---|
//! | [`connections`](ServerLimits::connections) | open connection | when it is accepted | when it is closed | 503, over TLS the connection is closed |
//! | [`connections_per_client`](ServerLimits::connections_per_client) | connection of a client; in the last tenth of `connections`, no more than an equal share | when it is accepted | when it is closed | the connection is closed |
//! | [`in_flight`](ServerLimits::in_flight) | request that waits for its response | when its head is complete | at the response head, and while the service waits for its body | 503 `overloaded` |
//! | of these a tenth, the reserve | request while the others are taken | like a request in flight | like a request in flight | 503 `overloaded`; the gateway leaves the reserve to built-in routes |
//! | [`BODY_WAITS`] times `in_flight` | request that waits for its body | when the service waits for the body | when more of the body arrives | the request counts as in flight |
//! | [`unfinished_heads`](ServerLimits::unfinished_heads) | 4 KiB of a head with HTTP/1.1, beyond its first 8 KiB | when it is received | when the head is complete | the connection is closed |
//!
//! A place among the requests in flight is held while the gateway or an upstream works, not at the pace of a client.

mod clients;
mod places;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use ipnet::IpNet;

use self::clients::ClientConnections;
use self::places::Places;
use super::limits::ServerLimits;

/// The process-wide limits, as one worker thread sees them.
pub(super) struct ThreadAdmission {
    shared: Arc<Admission>,
    thread: usize,
}

/// A connection that is counted.
pub(super) struct ConnectionPlace {
    /// `None` for an exempt peer.
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

/// The limit that counts a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Limit on all requests, without the reserve.
    Place,
    /// The reserve, because the other places were taken.
    Reserve,
}

struct Admission {
    connections: Places,
    clients: ClientConnections,
    connections_per_client: AtomicUsize,
    /// Requests in flight, without the reserve.
    in_flight: Places,
    reserve: Places,
    body_waits: Places,
    head_units: Places,
}

impl Admission {
    fn new(threads: usize, limits: &ServerLimits) -> Arc<Self> {
        Arc::new(Self {
            connections: Places::new(limits.connections, threads),
            clients: ClientConnections::default(),
            connections_per_client: AtomicUsize::new(limits.connections_per_client),
            in_flight: Places::new(limits.in_flight - reserve(limits), threads),
            reserve: Places::new(reserve(limits), threads),
            body_waits: Places::new(max_body_waits(limits), threads),
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
        self.shared.in_flight.set_limit(limits.in_flight - reserve(limits));
        self.shared.reserve.set_limit(reserve(limits));
        self.shared.body_waits.set_limit(max_body_waits(limits));
        self.shared.head_units.set_limit(limits.unfinished_heads / HEAD_UNIT);
    }

    /// Exempts front proxies from the limit of a client, for the threads together.
    pub(super) fn set_exempt_peers(&self, networks: Vec<IpNet>) {
        self.shared.clients.set_exempt(networks);
    }

    /// Counts a connection from `peer`.
    pub(super) fn try_begin_connection(&self, peer: IpAddr) -> Result<ConnectionPlace, ConnectionRefused> {
        let Admission { connections, clients, .. } = &*self.shared;
        if !connections.try_take(self.thread) {
            return Err(ConnectionRefused::All);
        }
        let client = clients.client(peer);
        let is_allowed =
            |client| clients.try_add(client, |count| self.shared.max_connections_of_client(count));
        if client.is_none_or(is_allowed) {
            return Ok(ConnectionPlace { client });
        }
        connections.give_back(self.thread);
        Err(ConnectionRefused::Client)
    }

    pub(super) fn end_connection(&self, place: &ConnectionPlace) {
        self.shared.connections.give_back(self.thread);
        if let Some(client) = place.client {
            self.shared.clients.remove(client);
        }
    }

    /// Counts a request that waits for its response; returns `None` at the limit.
    pub(super) fn try_begin_request(&self) -> Option<Held> {
        if self.shared.in_flight.try_take(self.thread) {
            return Some(Held::Place);
        }
        self.shared.reserve.try_take(self.thread).then_some(Held::Reserve)
    }

    /// Counts a request again whose body has arrived, even at the limit.
    pub(super) fn resume_request(&self) {
        self.shared.in_flight.take_beyond_limit(self.thread);
    }

    /// Ends the count of a request whose response has started, which waits for its client, or which was dropped.
    pub(super) fn end_request(&self, held: Held) {
        match held {
            Held::Place => self.shared.in_flight.give_back(self.thread),
            Held::Reserve => self.shared.reserve.give_back(self.thread),
        }
    }

    /// Counts a request that waits for its body; returns `false` at the limit.
    pub(super) fn try_begin_body_wait(&self) -> bool {
        self.shared.body_waits.try_take(self.thread)
    }

    pub(super) fn end_body_wait(&self) {
        self.shared.body_waits.give_back(self.thread);
    }

    /// Takes a unit of the memory for unfinished heads; returns `false` if none is left.
    pub(super) fn try_take_head_unit(&self) -> bool {
        self.shared.head_units.try_take(self.thread)
    }

    pub(super) fn give_back_head_unit(&self) {
        self.shared.head_units.give_back(self.thread);
    }
}

/// Returns the number of requests in flight that are reserved.
fn reserve(limits: &ServerLimits) -> usize {
    limits.in_flight / 10
}

fn max_body_waits(limits: &ServerLimits) -> usize {
    limits.in_flight.saturating_mul(BODY_WAITS)
}

/// Number of requests that may wait for their bodies, for each that may be in flight.
const BODY_WAITS: usize = 8;

/// Unit in which the memory for unfinished heads is counted, in bytes.
pub(super) const HEAD_UNIT: usize = 4 * 1024;
