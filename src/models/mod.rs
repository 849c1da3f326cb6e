//! Rows: plain data that the stores keep. Never sent over the wire; `schemas` does that.

pub mod audit;
pub mod movie;
pub mod session;
pub mod user;
