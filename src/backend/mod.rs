//! What the program stands on: its configuration, its secrets, its keys and its databases.

pub mod config;
pub mod db;
mod instrumented;
pub mod key_files;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod secret;
#[cfg(feature = "sqlite")]
pub mod sqlite;
