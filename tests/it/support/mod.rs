//! Fixtures shared by the integration tests.

pub(crate) mod app;
pub(crate) mod authority;
pub(crate) mod browser;
pub(crate) mod chaos_proxy;
pub(crate) mod db;
pub(crate) mod fair_clock;
pub(crate) mod front_proxy;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod iterations;
pub(crate) mod library;
pub(crate) mod log;
pub(crate) mod paused_clock;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod previous_version;
pub(crate) mod process;
pub(crate) mod proxy_server;
pub(crate) mod raw_http2;
pub(crate) mod socket_browser;
pub(crate) mod test_server;
pub(crate) mod upstream;
pub(crate) mod websocket;
pub(crate) mod wsgi_server;
