//! What the tests share.

pub(crate) mod browser;
pub(crate) mod db;
pub(crate) mod front;
pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod upstream;
