//! Limits on connections and requests.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Limits on the resources that clients can use.
///
/// Limits on numbers of connections and requests apply to all worker threads together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Maximum number of open connections.
    ///
    /// Further connections get a 503 response and are closed; over TLS they are closed without a response.
    pub connections: usize,
    /// Maximum number of open connections of a client, by its address, for IPv6 by its /64 network.
    ///
    /// Further ones are closed. The last tenth of [`connections`](Self::connections) is for clients with less than an
    /// equal share. Front proxies can be exempt: [`WorkerThreads::set_exempt_peers`](super::WorkerThreads::set_exempt_peers).
    pub connections_per_client: usize,
    /// Maximum number of open streams on an HTTP/2 connection.
    pub streams: u32,
    /// Maximum number of requests that wait for the start of their response.
    ///
    /// A request does not count while its body is awaited from the client. Further requests get a 503 response immediately. A tenth is a reserve, see
    /// [`InReserve`](super::InReserve).
    pub in_flight: usize,
    /// Maximum number of requests of a client that wait for the start of their response.
    ///
    /// [`ClientShares`](super::ClientShares) enforces it, which the application applies to its requests.
    pub in_flight_per_client: usize,
    /// Maximum number of requests of a client whose response has not ended, including tunnels.
    ///
    /// [`ClientShares`](super::ClientShares) enforces it too.
    pub open_per_client: usize,
    /// Timeout for the TLS handshake, and for the head of a request.
    ///
    /// The time for a head starts with its first byte, and on a new connection when it is opened.
    pub header_timeout: Duration,
    /// Idle timeout of a connection without a request.
    pub keep_alive: Duration,
    /// Timeout for a blocked response write.
    pub write_timeout: Duration,
    /// Minimum rate of a request body in bytes per second, after ten seconds of waiting for it; 0 for none.
    ///
    /// It applies until the response begins, and not to gRPC.
    pub min_body_rate: u32,
    /// Minimum rate at which a client reads while bytes wait to be sent, in bytes per second; 0 for none.
    ///
    /// It applies to connections, once writes were blocked for longer than the write timeout in all. A stream of
    /// HTTP/2 must take each chunk within the write timeout.
    pub min_read_rate: u32,
    /// Maximum size of a request line and its header fields, in bytes.
    pub header_bytes: usize,
    /// Maximum size of all unfinished heads together, in bytes, without the first 8 KiB of each.
    ///
    /// Beyond it a connection that sends more of its head is closed.
    pub unfinished_heads: usize,
    /// Maximum number of header fields in a request.
    pub header_fields: usize,
    /// Maximum length of the path and query of a request, in bytes.
    pub uri_bytes: usize,
    /// Timeout for requests in flight when the server stops.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_client: 1_000,
            streams: 100,
            in_flight: 2_000,
            in_flight_per_client: 200,
            open_per_client: 1_000,
            header_timeout: Duration::from_secs(15),
            keep_alive: Duration::from_secs(75),
            write_timeout: Duration::from_secs(60),
            min_body_rate: 240,
            min_read_rate: 240,
            header_bytes: 64 * 1024,
            unfinished_heads: 64 * 1024 * 1024,
            header_fields: 100,
            uri_bytes: 8 * 1024,
            drain: Duration::from_secs(30),
        }
    }
}

impl ServerLimits {
    /// Returns the number of requests in flight that are reserved.
    #[must_use]
    pub fn reserve(&self) -> usize {
        self.in_flight / 10
    }

    /// Returns the maximum number of requests whose response has not ended: four times those in flight, or one for
    /// each connection if those are more. Further requests get a 503 response.
    #[must_use]
    pub fn max_open(&self) -> usize {
        self.in_flight.saturating_mul(4).max(self.connections)
    }
}

/// Raises the process's limit on open files to the hard limit.
///
/// Returns the limit in force, or `None` if there is none. The usual soft limit of 1024 exists for programs
/// that use `select`.
pub fn raise_file_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    if current == maximum || setrlimit(Resource::Nofile, raised).is_ok() { maximum } else { current }
}
