//! The rules: no SQL, no HTTP.

#[cfg(feature = "server")]
pub mod films;
mod flights;
#[cfg(feature = "server")]
pub mod movies;
mod notes;
#[cfg(feature = "server")]
pub mod password;
pub mod rotation;
pub mod store;
