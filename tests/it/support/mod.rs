//! What the tests share.

pub(crate) mod app;
pub(crate) mod authority;
pub(crate) mod browser;
pub(crate) mod db;
pub(crate) mod fair_clock;
pub(crate) mod front;
pub(crate) mod frozen;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod log;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod recipe;
pub(crate) mod rounds;
pub(crate) mod serving;
pub(crate) mod upstream;
pub(crate) mod websocket;
pub(crate) mod wire;
pub(crate) mod wire_browser;
