//! Sekisho keeps browser users signed in.

pub mod clock;
pub mod identity;
pub mod layer;
pub mod models;
pub mod services;
