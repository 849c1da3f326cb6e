//! The rules: no SQL, no HTTP.

pub mod rotation;
pub mod store;
