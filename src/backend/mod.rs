//! What the program stands on: its configuration, its secrets and its databases.

pub mod config;
pub mod secret;
