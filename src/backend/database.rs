//! Operations of a database other than those of its stores: migrations, notifications and shutdown.

use async_trait::async_trait;
use sqlx::migrate::{AppliedMigration, MigrateError, Migrator};

use crate::services::memory::MemoryStore;
use crate::services::store::StoreError;

/// A database that [`Stores`](super::db::Stores) can open, migrate and close.
#[async_trait]
pub(super) trait Database: Send + Sync + 'static {
    /// Returns `true` if the database belongs to this process and no other replica shares it.
    fn is_embedded(&self) -> bool;

    /// Returns the migrations compiled into this program.
    fn migrator(&self) -> Migrator;

    /// Returns the migrations already applied to the database. Read-only.
    async fn applied(&self) -> Result<Vec<AppliedMigration>, MigrateError>;

    /// Applies the pending migrations. Concurrent calls by several processes are safe.
    async fn migrate(&self) -> Result<(), MigrateError>;

    /// Describes an error of the database, with the remedy if there is one.
    fn describe(&self, error: &sqlx::Error) -> String {
        error.to_string()
    }

    /// Calls `wake` whenever another process may have terminated sessions.
    ///
    /// Never returns if the database supports notifications, returns at once otherwise.
    async fn listen_for_revocations(&self, _wake: WakeFn) {}

    /// Checks that an embedded database is still the one that was opened.
    fn check_identity(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Checks that the database accepts the writes of requests. Writes more than a sign-in does, and leaves no
    /// trace.
    async fn check_write(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Waits until the connections are idle and closes them.
    async fn close(&self);
}

/// Callback of [`Database::listen_for_revocations`].
pub(super) type WakeFn = Box<dyn Fn() + Send + Sync>;

#[async_trait]
impl Database for MemoryStore {
    fn is_embedded(&self) -> bool {
        true
    }

    fn migrator(&self) -> Migrator {
        Migrator::DEFAULT
    }

    async fn applied(&self) -> Result<Vec<AppliedMigration>, MigrateError> {
        Ok(Vec::new())
    }

    async fn migrate(&self) -> Result<(), MigrateError> {
        Ok(())
    }

    async fn close(&self) {}
}
