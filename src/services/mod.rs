//! The rules: no SQL, no HTTP.

pub mod memory;
pub mod store;
