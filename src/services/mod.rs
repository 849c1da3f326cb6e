//! The rules: no SQL, no HTTP.

mod flights;
mod notes;
pub mod rotation;
pub mod store;
