//! Sekisho keeps browser users signed in.

#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod backend;
#[cfg(feature = "server")]
pub mod cli;
pub mod clock;
pub mod identity;
pub mod layer;
pub mod models;
#[cfg(feature = "server")]
pub mod proxy;
#[cfg(feature = "server")]
pub mod routers;
#[cfg(feature = "server")]
pub mod schemas;
#[cfg(feature = "server")]
pub mod server;
pub mod services;
#[cfg(feature = "server")]
pub mod telemetry;
