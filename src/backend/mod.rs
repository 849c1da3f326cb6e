//! Databases: migrations, and the stores over SQLite and PostgreSQL.
//!
//! A program opens [`SqliteStore`](sqlite::SqliteStore) or [`PostgresStore`](postgres::PostgresStore) for its
//! sessions. The gateway opens [`db::Stores`], which also have its users.

#[cfg(feature = "server")]
mod database;
#[cfg(feature = "server")]
pub mod db;
#[cfg(feature = "server")]
mod instrumented;
mod migrations;
mod namespace;
mod open_error;
#[cfg(feature = "postgres")]
pub mod postgres;
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use self::migrations::{MigrationError, PendingMigration};
pub use self::namespace::{Namespace, NamespaceError};
pub use self::open_error::OpenError;
