//! Sekisho keeps browser users signed in.

#[cfg(feature = "server")]
pub mod backend;
pub mod clock;
pub mod identity;
pub mod layer;
pub mod models;
pub mod services;
