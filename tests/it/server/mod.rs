//! The server over real sockets: what it accepts, what it refuses, and how it ends.

mod client_disconnect;
mod drain;
mod hostile;
mod http2;
mod idle_connections;
mod limits;
mod raw_http2;
mod threads;
mod tls;
