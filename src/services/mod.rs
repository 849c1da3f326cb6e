//! The rules: no SQL, no HTTP.

mod flights;
mod notes;
#[cfg(feature = "server")]
pub mod password;
pub mod rotation;
pub mod store;
