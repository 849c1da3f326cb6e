//! The rules: no SQL, no HTTP.

pub mod store;
