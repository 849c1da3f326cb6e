//! Databases: migrations, and the stores over SQLite and PostgreSQL.

mod database;
pub mod db;
mod instrumented;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
