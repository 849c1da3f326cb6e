//! The rules: no SQL, no HTTP.

#[cfg(feature = "server")]
pub mod password;
pub mod store;
