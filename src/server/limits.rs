//! What clients may cost.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What connections and requests may cost. Whoever asks for more is refused, and whoever is too slow is
/// cut off; a limit is for all threads together unless it says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// How many connections there may be. Beyond that a new one is answered with 503 and
    /// closed, or over TLS just closed.
    pub connections: usize,
    /// How many requests an HTTP/2 connection may have open.
    pub streams: u32,
    /// How many requests may wait for the beginning of their answer. Each thread may have its share of
    /// that; beyond it a request is answered with 503 at once.
    pub in_flight: usize,
    /// How long a client may take over a TLS handshake, and over a request's headers from their first
    /// byte (on a new connection: from its beginning).
    pub header_timeout: Duration,
    /// How long a connection may be without a request.
    pub keep_alive: Duration,
    /// How long a client may take nothing of an answer that is there for it.
    pub write_timeout: Duration,
    /// How large a request's line and headers may be together, in bytes.
    pub header_bytes: usize,
    /// How many header fields a request may have.
    pub header_fields: usize,
    /// How long a request's path and query may be, in bytes.
    pub uri_bytes: usize,
    /// How long requests may go on after the server was told to stop.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            streams: 100,
            in_flight: 2_000,
            header_timeout: Duration::from_secs(15),
            keep_alive: Duration::from_secs(75),
            write_timeout: Duration::from_secs(60),
            header_bytes: 64 * 1024,
            header_fields: 100,
            uri_bytes: 8 * 1024,
            drain: Duration::from_secs(30),
        }
    }
}

/// Lets this process have as many files and sockets open as it is allowed to ask for, and returns how
/// many; `None` if there is no limit.
///
/// Most systems start with 1024 for the sake of programs that use `select`.
pub fn raise_file_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    if current == maximum || setrlimit(Resource::Nofile, raised).is_ok() { maximum } else { current }
}
