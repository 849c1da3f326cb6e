//! What the program stands on: its configuration, its secrets, its keys and its databases.

mod database;
pub mod db;
mod instrumented;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;
