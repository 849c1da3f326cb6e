//! The server on real sockets: protocols, limits, and shutdown.

mod admission;
mod client_disconnect;
mod client_shares;
mod drain;
mod hostile_load;
mod http2;
mod idle_connections;
mod limits;
mod proxy_protocol;
mod slow_clients;
mod tls;
mod unix_listener;
mod unread_bodies;
mod workers;
