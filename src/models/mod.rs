//! Plain data of the stores. The types of the HTTP API are in `schemas`.

pub mod audit;
pub mod movie;
pub mod session;
pub mod user;
