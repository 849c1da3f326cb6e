//! The server over real sockets: what it accepts, what it refuses, and how it ends.

mod drain;
mod hostile;
mod http2;
mod leaving;
mod limits;
mod raw;
mod rest;
mod threads;
mod tls;
