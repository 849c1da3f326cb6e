//! Operations of a database other than those of its stores.

use async_trait::async_trait;
use sqlx::migrate::{AppliedMigration, MigrateError, Migrator};

use super::migrations::Migrate;
use crate::services::memory::MemoryStore;
use crate::services::store::{PersistentStore, StoreError};

/// A database that [`Stores`](super::db::Stores) can open, migrate and close.
#[async_trait]
pub(super) trait Database: Migrate + PersistentStore {
    /// Returns `true` if the database belongs to this process and no other replica shares it.
    fn is_embedded(&self) -> bool;

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

#[async_trait]
impl Migrate for MemoryStore {
    fn migrator(&self) -> Migrator {
        Migrator::DEFAULT
    }

    async fn applied(&self) -> Result<Vec<AppliedMigration>, MigrateError> {
        Ok(Vec::new())
    }

    async fn apply_migrations(&self) -> Result<(), MigrateError> {
        Ok(())
    }
}

#[async_trait]
impl Database for MemoryStore {
    fn is_embedded(&self) -> bool {
        true
    }

    async fn close(&self) {}
}
