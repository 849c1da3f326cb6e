//! The rules: no SQL, no HTTP.

#[cfg(feature = "server")]
pub mod films;
#[cfg(feature = "server")]
pub mod movies;
pub mod store;
