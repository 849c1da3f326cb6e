//! Sekisho keeps browser users signed in.

pub mod clock;
pub mod identity;
pub mod layer;
pub mod models;
#[cfg(feature = "server")]
pub mod proxy;
pub mod services;
