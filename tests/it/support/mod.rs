//! What the tests share.

pub(crate) mod db;
pub(crate) mod http;
